"""The bundled toy models: ordinary folders, loadable by diffusers and transformers alone, and really trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genscale.toy.shapes import PROMPTS, SIZE, fresh_prompts, render, sample_scene
from genscale.verifiers.shapes import Shapes, detect, satisfies

MODELS = Path(__file__).parents[1] / "genscale" / "models"
GENERATORS = {"shapes-flow": "StableDiffusion3Pipeline", "shapes-diffusion": "StableDiffusionPipeline"}

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module", params=GENERATORS)
def pipeline(request: pytest.FixtureRequest) -> Any:
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(MODELS / request.param)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded).__name__ == GENERATORS[request.param]
    return loaded


@pytest.fixture(scope="module")
def clip() -> Any:
    from transformers import AutoProcessor, CLIPModel

    folder = MODELS / "shapes-clip"
    model, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

    @torch.no_grad()
    def scores(pictures: list[Image.Image], texts: list[str]) -> torch.Tensor:
        return model(
            **processor(text=texts, images=pictures, return_tensors="pt", padding=True)
        ).logits_per_image

    return scores


def test_they_are_small_and_safe() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 60e6


def test_they_name_no_machine() -> None:
    for path in MODELS.rglob("*.json"):
        assert not any(name in path.read_text() for name in ("/tmp", "/home", "/work", "://"))


def test_a_plain_call_gives_one_picture_in_float32(pipeline: Any) -> None:
    modules = (part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}
    (image,) = pipeline("a red star", num_inference_steps=4).images
    assert image.size == (SIZE, SIZE)


def test_the_seed_decides(pipeline: Any) -> None:
    def latents(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        call = {"num_inference_steps": 3, "output_type": "latent", "generator": generator}
        return torch.as_tensor(pipeline("a red star", **call).images)

    assert torch.equal(latents(1), latents(1))
    assert not torch.equal(latents(1), latents(2))


def test_single_objects_are_right(pipeline: Any) -> None:
    texts = [prompt.text for prompt in PROMPTS if prompt.category == "single"]
    generator = torch.Generator().manual_seed(0)
    pictures = pipeline(texts, num_inference_steps=20, guidance_scale=3.0, generator=generator).images
    assert Shapes()(pictures, texts).mean() > 0.8


def test_third_text_encoder_is_one_silent_token() -> None:
    from diffusers import DiffusionPipeline

    flow = DiffusionPipeline.from_pretrained(MODELS / "shapes-flow", transformer=None, vae=None)
    tokens = flow.encode_prompt("a red star left of a blue ring", None, None)[0]
    assert tokens.shape[1] == flow.tokenizer.model_max_length + 1
    assert tokens[:, -1].eq(0).all()
    assert not tokens[:, :-1].eq(0).all(-1).any()


def test_every_word_of_the_world_is_one_token(pipeline: Any) -> None:
    for prompt in (*PROMPTS, *fresh_prompts(3, 100)):
        ids = pipeline.tokenizer(prompt.text).input_ids
        assert len(ids) == len(prompt.text.split()) + 2 <= pipeline.tokenizer.model_max_length


def test_clip_tells_right_captions_from_wrong_ones(clip: Any) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    prompts = fresh_prompts(9, 60)
    pictures = [Image.fromarray(pixels) for pixels in render([sample_scene(p, rng) for p in prompts])]
    logits = clip(pictures, [p.text for p in prompts])
    found = [detect(picture) for picture in pictures]
    wrong = torch.tensor([[not satisfies(shapes, p.requirement) for p in prompts] for shapes in found])
    better = logits.diag()[:, None] > logits
    assert better[wrong].float().mean() > 0.9
