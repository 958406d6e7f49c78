"""The bundled toy video model and its learned verifier: loadable by diffusers alone, and really trained."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.media import Media
from genscale.pipelines.loading import EMBEDDED
from genscale.pipelines.scheduler_levels import read_schedule
from genscale.toy.moving_shapes import FRAMES, PROMPTS, SIZE, fresh_prompts, render, sample_scene
from genscale.verifiers.moving_shapes import MovingShapes
from genscale.verifiers.video_clip import ShapesVideoClip

MODELS = Path(genscale.__file__).parent / "models"
CALL = {"height": SIZE, "width": SIZE, "num_frames": FRAMES, "num_inference_steps": 12, "guidance_scale": 2.0}

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(MODELS / "shapes-video")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def drawn(n: int, seed: int) -> tuple[list[str], torch.Tensor]:
    """Captions, both categories in equal parts, and a right clip of each, [n, frames, 3, h, w]."""
    rng = np.random.default_rng(seed)
    ones = min(n // 2, 24)
    prompts = [*fresh_prompts(seed, ones, "one"), *fresh_prompts(seed, n - ones, "two")]
    clips = render([sample_scene(p, rng) for p in prompts])
    return [p.text for p in prompts], torch.from_numpy(clips).movedim(-1, 2).float() / 255


def test_they_are_small_and_safe() -> None:
    for name in ("shapes-video", "shapes-video-clip"):
        files = [path for path in (MODELS / name).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}
        assert 1e5 < sum(path.stat().st_size for path in files) < 20e6


def test_it_is_a_wan_pipeline(pipe: Any) -> None:
    assert type(pipe).__name__ == "WanPipeline"
    assert type(pipe.transformer).__name__ == "WanTransformer3DModel"
    assert type(pipe.vae).__name__ == "AutoencoderKLWan"
    modules = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}
    index = json.loads((MODELS / "shapes-video" / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"


def test_its_schedule_is_read(pipe: Any) -> None:
    pipe.scheduler.set_timesteps(6)
    view = read_schedule(pipe.scheduler, pipe.scheduler.timesteps)
    assert view.kind == "flow"
    assert view.schedule.steps == 6


def test_every_word_of_the_world_is_one_token(pipe: Any) -> None:
    for prompt in PROMPTS:
        assert len(pipe.tokenizer(prompt.text).input_ids) == len(prompt.text.split()) + 2


def test_a_plain_call_gives_a_clip_and_the_seed_decides(pipe: Any) -> None:
    def clip(seed: int) -> Any:
        call = CALL | {"num_inference_steps": 2}
        return pipe("a red circle moving left", generator=torch.Generator().manual_seed(seed), **call).frames

    assert clip(1).shape == (1, FRAMES, SIZE, SIZE, 3)
    assert np.array_equal(clip(1), clip(1))
    assert not np.array_equal(clip(1), clip(2))


def test_captions_decide_what_is_seen(pipe: Any) -> None:
    """Far more videos are right by their own captions than by those of their neighbours, none of which fits."""
    texts = [p.text for p in PROMPTS if p.category == "one"]
    generator = torch.Generator().manual_seed(0)
    frames = pipe(texts, generator=generator, max_sequence_length=16, **CALL).frames
    clips = [(clip * 255).round().astype(np.uint8) for clip in frames]
    right = MovingShapes()(clips, texts).mean()
    graded = MovingShapes(graded=True)
    assert right >= RIGHT
    assert graded(clips, texts).mean() > graded(clips, texts[1:] + texts[:1]).mean() + 0.2


RIGHT = 0.7


def test_what_goes_with_it_can_be_loaded() -> None:
    goes_with = EMBEDDED["shapes-video"]
    assert (goes_with.size, goes_with.frames) == (SIZE, FRAMES)
    assert goes_with.verifier == ShapesVideoClip.name
    assert goes_with.held_out == MovingShapes.name


def test_best_of_n_searches_clips(pipe: Any) -> None:
    scaled = genscale.scale(pipe, "best_of_n", ShapesVideoClip(), held_out=MovingShapes(), candidates=3)
    call = CALL | {"num_inference_steps": 3, "max_sequence_length": 16}
    output = scaled("a red circle moving left", generator=torch.Generator().manual_seed(0), **call)
    points = output.search.curve(0)
    assert points[-1]["total"] == max(p["total"] for p in points)
    assert points[-1]["held_out"]["moving_shapes"] in (0.0, 1.0)


def test_the_verifier_tells_right_captions_from_wrong_ones() -> None:
    texts, pixels = drawn(80, 3)
    verifier = ShapesVideoClip()
    right = verifier(Media(pixels), texts)
    for shift in (1, 7, 23):
        wrong = verifier(Media(pixels), texts[shift:] + texts[:shift])
        assert (right > wrong).float().mean() > 0.9
    assert (right > verifier(Media(pixels.flip(1)), texts)).float().mean() > 0.9


def test_the_verifier_is_differentiable_and_takes_other_sizes() -> None:
    texts, pixels = drawn(4, 3)
    pixels.requires_grad_(True)
    verifier = ShapesVideoClip()
    scores = verifier.score_tensor(pixels, texts)
    scores.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.flatten(1).abs().sum(1).gt(0).all()
    large = torch.nn.functional.interpolate(pixels.detach().flatten(0, 1), scale_factor=2).unflatten(
        0, (4, FRAMES)
    )
    twice = large.repeat_interleave(2, 1)
    assert torch.allclose(verifier(Media(large), texts), scores.detach(), atol=1e-5)
    assert verifier(Media(twice), texts).shape == (4,)


def test_the_verifier_refuses_what_it_cannot_read() -> None:
    texts, pixels = drawn(4, 3)
    verifier = ShapesVideoClip()
    with pytest.raises(UsageError, match="'an'"):
        verifier(Media(pixels[:1]), ["an owl moving left"])
    with pytest.raises(UsageError, match="given images"):
        verifier(Media(pixels[0, :1]), texts[:1])
    with pytest.raises(ValueError, match="4 videos and 3 prompts"):
        verifier(Media(pixels), texts[:3])
    assert pickle.loads(pickle.dumps(verifier)) == verifier
