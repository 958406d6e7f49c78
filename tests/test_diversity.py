"""The diversity of the best candidates, in results, records, tables and titles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from genscale import load_pipeline, scale
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.numerics.diversity import mean_pairwise_distance, vendi_score
from genscale.results.diversity import Diversity, diversity_of, pixels_of, vendi_title
from genscale.verifiers.clip import ShapesClip
from genscale.verifiers.frames import Frames


def roles(*verifiers):
    return Roles(VerifierSet(tuple(WeightedVerifier(str(k), v) for k, v in enumerate(verifiers))))


class Corner:
    """Embeds an image as its first two channels of a corner."""

    def __call__(self, media, prompts):
        return [0.0] * len(prompts)

    def embed(self, pixels):
        return pixels[..., :2, 0, 0]


def test_it_is_that_of_the_embeddings_of_the_first_verifier_that_has_any():
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = diversity_of(pixels, roles(lambda media, prompts: [0.0], Frames(Corner())))
    seen = pixels[:, :2, 0, 0]
    assert found == Diversity(5, "1", vendi_score(seen), mean_pairwise_distance(seen))


def test_that_of_videos_is_of_the_mean_over_frames():
    pixels = torch.rand(3, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = diversity_of(pixels, roles(Corner()))
    assert found.vendi == pytest.approx(vendi_score(pixels[..., :2, 0, 0].mean(1)))


def test_one_image_or_no_embeddings_have_none():
    assert diversity_of(torch.rand(1, 3, 4, 4), roles(Corner())) is None
    assert diversity_of(torch.rand(3, 3, 4, 4), roles(lambda media, prompts: [0.0])) is None


def test_pixels_of_images_and_videos():
    array = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    images = [Image.fromarray(a) for a in array]
    wanted = torch.from_numpy(array).movedim(-1, -3) / 255
    assert torch.equal(pixels_of(images), wanted)
    assert torch.equal(pixels_of([images, images]), torch.stack([wanted, wanted]))
    assert pixels_of([images[0], Image.new("RGB", (4, 4))]) is None
    assert pixels_of(["a text"]) is None
    assert pixels_of([]) is None


def test_the_title_has_the_mean():
    assert vendi_title([{"diversity": {"vendi": v, "of": 4}} for v in (1.0, 2.0)]) == "Vendi 1.50 of 4"
    assert vendi_title([{"diversity": None}, {}]) == ""


def test_a_run_says_it_in_its_record_its_tables_and_in_python(genscale, tmp_path):
    out = tmp_path / "run"
    words = (
        "a red star",
        "--steps",
        "2",
        "--candidates",
        "5",
        "--images",
        "3",
        "--seed",
        "1",
        "--out",
        str(out),
    )
    code, text, _ = genscale("generate", *words)
    assert code == 0
    [prompt] = json.loads((out / "run.json").read_text())["prompts"]
    told = prompt["diversity"]
    assert (told["of"], told["by"]) == (4, "shapes_clip")  # the best and three runners-up
    assert f"diversity of the 4 best: Vendi {told['vendi']:.2f}" in text
    assert "diversity of the 4 best" in genscale("show", str(out))[1]
    shown = json.loads(genscale("show", str(out), "--json")[1])
    assert shown["prompts"][0]["diversity"] == told


def test_in_python_it_is_of_the_candidates_that_were_kept():
    pipe = load_pipeline("shapes-flow")
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    search = scale(pipe, "best_of_n", "shapes_clip", candidates=4, keep=3).search("a red star", **call)
    found = search.diversity()
    kept = [e for e in search.ranking(0) if e.x is not None]
    assert found.of == len(kept) >= 3
    assert found.vendi == pytest.approx(vendi_score(ShapesClip().embed(search.media(kept).pixels)), rel=1e-4)
