"""Loops that edit their latents or draw noise are followed for each candidate as the pipeline alone runs them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import genscale
from genscale.errors import UsageError
from genscale.pipelines.latent_decoder import latent_decoder
from genscale.pipelines.probe import Probe
from tests import zoo_parts, zoo_transformers, zoo_unets, zoo_videos
from tests.edited_loops import FORMS, OtherStream, Uniform, build
from tests.quick import quick
from tests.zoo import ZOO, image_arguments, images, masks, video_arguments

CALL = {"prompt": "a red cube", "output_type": "np"}
ONE_PROMPT = ("BeforeReplaced",)  # its rows do not stand for prompts
STOCHASTIC = "EulerAncestralDiscreteScheduler"
QUICK = ("BeforeSoft", "AfterMomentum, no callback", "DrawnTwice")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(p.mean()) for p in media.pixels.double()]


def scores(pipe: Any, sampler: str = "best_of_n", call: dict[str, Any] = CALL, **options: Any) -> list[float]:
    search = genscale.scale(pipe, sampler, brightness, **options)(**call, generator=seeded()).search
    return [e.total for s in search.searches for e in s.finals]


@pytest.mark.parametrize("name", quick(FORMS, QUICK))
def test_one_candidate_is_the_pipeline_itself(name: str) -> None:
    for scheduler in ("DDIMScheduler", STOCHASTIC):
        pipe = build(FORMS[name], scheduler)
        for prompts in ("a red cube", ["a red cube", "one blue ball"]):
            if isinstance(prompts, list) and name.startswith(ONE_PROMPT):
                with pytest.raises(UsageError):
                    genscale.scale(pipe, candidates=1)(**CALL | {"prompt": prompts}, generator=seeded())
                continue
            torch.manual_seed(1)
            alone = pipe(**CALL | {"prompt": prompts}, generator=seeded()).images
            torch.manual_seed(1)
            found = genscale.scale(pipe, candidates=1)(
                **CALL | {"prompt": prompts}, generator=seeded()
            ).images
            assert np.array_equal(alone, found)


@pytest.mark.parametrize("name", quick(FORMS, QUICK))
def test_scores_depend_on_the_generator_alone_and_not_on_the_batch_size(name: str) -> None:
    pipe = build(FORMS[name], STOCHASTIC)
    first, again, other = (scores(pipe, candidates=3, batch_size=n) for n in (1, 1, 3))
    assert first == again
    assert np.allclose(first, other, atol=1e-5)
    assert np.std(first) > 1e-3


@pytest.mark.parametrize("name", quick([n for n in FORMS if "Drawn" not in n], QUICK[:2]))
def test_each_candidate_is_what_the_pipeline_makes_of_its_noise(name: str) -> None:
    pipe = build(FORMS[name])
    output = genscale.scale(pipe, "zero_order", brightness, rounds=2, neighbours=2, keep=9)(
        **CALL, generator=seeded()
    )
    process = output.search.searches[0].process
    for entry in output.search.entries:
        noise = process.noise(entry.candidate)
        if process.origins is not None:
            given = process.origins.of(entry.candidate).noise
            noise = noise if given is None else given
        elif entry.candidate.origin == "neighbour":
            continue
        alone = pipe(**CALL, latents=noise[None]).images
        assert entry.total == pytest.approx(float(alone.astype(np.float64).mean()), abs=1e-5)


@pytest.mark.parametrize("name", quick(FORMS, QUICK))
def test_a_sampler_that_stops_on_the_way_goes_on_as_if_it_had_not(name: str) -> None:
    pipe = build(FORMS[name])
    apart, together = (scores(pipe, "smc", particles=4, batch_size=n) for n in (1, 4))
    assert np.allclose(apart, together, atol=1e-5)


def test_other_random_numbers_in_the_loop_are_refused_before_anything_is_spent() -> None:
    pipe = build(Uniform)
    calls = []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(UsageError, match="'rand'"):
        genscale.scale(pipe, candidates=1)(**CALL, generator=seeded())
    assert not calls


def test_random_numbers_that_are_not_torchs_are_refused() -> None:
    with pytest.raises(UsageError, match="in another way in every call"):
        genscale.scale(build(OtherStream), candidates=1)(**CALL, generator=seeded())


@pytest.mark.parametrize(
    "name", quick(["DrawnTwice", "DrawnBeforeGlobally", "AfterMomentum"], ["DrawnTwice"])
)
def test_a_generator_for_each_prompt(name: str) -> None:
    pipe, call = build(FORMS[name], STOCHASTIC), CALL | {"prompt": ["a red cube", "one blue ball"]}

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 6)]

    torch.manual_seed(1)
    alone = pipe(**call, generator=generators()).images
    torch.manual_seed(1)
    assert np.array_equal(alone, genscale.scale(pipe, candidates=1)(**call, generator=generators()).images)
    found = []
    for batch_size in (1, 5):
        search = genscale.scale(pipe, verifier=brightness, candidates=2, batch_size=batch_size)(
            **call, generator=generators()
        ).search
        found.append([e.total for s in search.searches for e in s.finals])
    assert np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("name", ["AfterSoft", "AfterMomentum", "DrawnTwice"])
def test_a_resumed_run_gives_the_same_picture(name: str, tmp_path: Any) -> None:
    pipe, kept = build(FORMS[name]), []
    for _ in range(2):
        scaled = genscale.scale(pipe, "smc", brightness, particles=3, out=tmp_path)
        kept.append(scaled(**CALL, generator=seeded()).images)
    assert np.array_equal(*kept)


def test_the_global_stream_is_used_as_by_the_pipeline_where_the_user_gives_no_generator() -> None:
    pipe = build(FORMS["DrawnTwice"])
    torch.manual_seed(5)
    alone, following = pipe(**CALL).images, torch.rand(1)
    torch.manual_seed(5)
    found = genscale.scale(pipe, candidates=1)(**CALL).images
    assert np.array_equal(alone, found)
    assert torch.equal(following, torch.rand(1))


def test_with_a_generator_the_global_stream_stays_as_it_was() -> None:
    pipe = build(FORMS["DrawnAfterGlobally"])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    scores(pipe, candidates=2)
    assert torch.equal(expected, torch.rand(1))


def test_given_latents_belong_to_candidate_0() -> None:
    pipe, latents = build(FORMS["After"]), torch.randn(1, 4, 8, 8, generator=seeded())
    alone = pipe(**CALL, latents=latents).images
    output = genscale.scale(pipe, verifier=brightness, candidates=3)(**CALL, latents=latents)
    finals = output.search.searches[0].finals
    assert finals[0].total == pytest.approx(float(alone.astype(np.float64).mean()), abs=1e-6)
    assert np.array_equal(genscale.scale(pipe, candidates=1)(**CALL, latents=latents).images, alone)
    assert len({round(e.total, 6) for e in finals}) == 3


def test_a_probe_that_returns_the_same_latents_at_every_step_sees_no_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broken twin: such a probe takes a loop that keeps a part of the last latents for one that edits nothing."""
    pipe, wanted = build(FORMS["AfterKept"]), scores(build(FORMS["AfterKept"]), candidates=3, batch_size=3)
    monkeypatch.setattr(Probe, "_compare", lambda self, sample: None)
    assert not np.allclose(scores(pipe, candidates=3, batch_size=3), wanted, atol=1e-5)


# ---------------------------------------------------------------- pipelines of diffusers


def ltx_condition() -> Any:
    pipe = zoo_videos.ltx("LTXConditionPipeline")
    pipe.scheduler = zoo_parts.flow()
    return pipe


def inpainting(n: int, **more: Any) -> dict[str, Any]:
    return (
        image_arguments(n, image=images(n), mask_image=masks(n), num_inference_steps=4, strength=1.0) | more
    )


def deepfloyd_if() -> Any:
    config = {"in_channels": 3, "out_channels": 6, "cross_attention_dim": 16, "sample_size": 16}
    return zoo_parts.pipeline(
        "IFInpaintingPipeline",
        tokenizer=zoo_parts.t5_tokenizer(),
        text_encoder=zoo_parts.t5(),
        unet=zoo_unets.unet(**config),
        scheduler=zoo_parts.scheduler("DDPMScheduler", variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def gligen() -> Any:
    return zoo_unets.stable_diffusion(
        "StableDiffusionGLIGENPipeline", unet=zoo_unets.unet(in_channels=9, attention_type="gated")
    )


IF_CALL = {
    "image": images(1) * 2 - 1,
    "mask_image": masks(1),
    "num_inference_steps": 4,
    "clean_caption": False,
}
GLIGEN_CALL = image_arguments(
    1,
    gligen_phrases=["a cat"],
    gligen_boxes=[[0.2, 0.2, 0.7, 0.7]],
    gligen_inpaint_image=to_pil_image(images(1)[0]),
    gligen_scheduled_sampling_beta=1.0,
)
INSTALLED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "ltx_condition": (ltx_condition, video_arguments(1, 32, image=images(1, 32), guidance_scale=1.0)),
    "deepfloyd_if": (deepfloyd_if, {"prompt": "a red cube"} | IF_CALL),
    "gligen": (gligen, GLIGEN_CALL | {"prompt": "a red cube"}),
    "sd_inpaint4": (ZOO["sd_inpaint4"].build, ZOO["sd_inpaint4"].arguments(1)),
    "sd_inpaint_half": (ZOO["sd_inpaint4"].build, ZOO["sd_inpaint4"].arguments(1) | {"strength": 0.6}),
    "sdxl_inpaint": (partial(zoo_unets.sdxl, "StableDiffusionXLInpaintPipeline"), inpainting(1)),
    "flux_inpaint": (
        partial(zoo_transformers.flux, "FluxInpaintPipeline"),
        inpainting(1, max_sequence_length=32),
    ),
}


@pytest.mark.parametrize("name", quick(INSTALLED, ["ltx_condition", "flux_inpaint"]))
def test_pipelines_of_diffusers(name: str) -> None:
    make, call = INSTALLED[name]
    pipe, call = make(), call | {"output_type": "np"}
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    alone = np.asarray(pipe(**call, generator=seeded())[0])
    torch.manual_seed(1)
    found = np.asarray(genscale.scale(pipe, candidates=1)(**call, generator=seeded())[0])
    assert np.array_equal(alone, found)
    first, again, other = (scores(pipe, call=call, candidates=3, batch_size=n) for n in (1, 1, 3))
    assert first == again
    assert np.allclose(first, other, atol=1e-5)
    assert len({round(score, 5) for score in first}) == 3


def test_inpainting_blends_in_the_noise_of_each_candidate() -> None:
    """A candidate's picture is what the pipeline alone makes of these latents; it blends them in as noise, too."""
    entry = ZOO["sd_inpaint4"]
    pipe, call = entry.build(), entry.arguments(1) | {"output_type": "np"}
    search = genscale.scale(pipe, verifier=brightness, candidates=3)(**call, generator=seeded()).search
    process = search.searches[0].process
    for final in search.searches[0].finals[1:]:
        # The generator draws the noise of the encoded image first, as in the search.
        alone = pipe(**call, latents=process.noise(final.candidate)[None], generator=seeded()).images
        assert final.total == pytest.approx(float(alone.astype(np.float64).mean()), abs=1e-6)


@pytest.mark.parametrize("name", ["After", "AfterSoft", "AfterMomentum", "DrawnAfter"])
def test_stored_latents_are_decoded_where_they_decide_the_picture(name: str) -> None:
    pipe = build(FORMS[name])
    search = genscale.scale(pipe, verifier=brightness, candidates=3, keep=3)(
        **CALL, generator=seeded()
    ).search
    finals = search.searches[0].finals
    if name != "After":
        with pytest.raises(UsageError, match="run the search again"):
            latent_decoder(pipe, **CALL, generator=seeded())
        return
    media = latent_decoder(pipe, **CALL, generator=seeded())(torch.stack([e.x for e in finals]), [0] * 3)
    assert np.allclose(brightness(media, []), [e.total for e in finals], atol=1e-6)
