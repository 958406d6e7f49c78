"""Mixes on real pipelines: other prompts, other models and other rules of guidance, under any sampler."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import genscale
from genscale.diffusion.guidance import Cfg
from genscale.diffusion.mixtures import Source, Weighted, autoguidance, compose, negate, rlg
from genscale.errors import UsageError
from genscale.pipelines.guiders import guider
from tests.test_passthrough import equal, pixels
from tests.zoo import ZOO

FAMILIES = (
    "stable_diffusion",
    "sdxl",
    "sd3",
    "flux",
    "flux_true_cfg",
    "hidream",
    "qwen_image",
    "wan",
    "ltx",
    "animatediff",
)
CLOSE = {"rtol": 0, "atol": 3e-4}  # of pixels in [0, 1]; a guidance scale of 7.5 multiplies rounding


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def run(pipe: Any, name: str, n: int = 2, sampler: Any = "best_of_n", **more: Any) -> Any:
    call = {k: more.pop(k) for k in ("guidance_scale", "prompt") if k in more}
    options = {"candidates": 1} if sampler == "best_of_n" and "candidates" not in more else {}
    scaled = genscale.scale(pipe, sampler, **options, **more)
    return scaled(**(ZOO[name].arguments(n) | call), output_type="np", generator=seeded())


def denoiser(pipe: Any) -> tuple[str, torch.nn.Module]:
    name = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
    return name, getattr(pipe, name)


def tuned(pipe: Any) -> torch.nn.Module:
    """A copy of the denoiser with other weights."""
    module = copy.deepcopy(denoiser(pipe)[1])
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * p.std(unbiased=False) * torch.randn(p.shape, generator=g))
    return module


def with_module(pipe: Any, module: torch.nn.Module) -> Any:
    other = copy.copy(pipe)
    other.register_modules(**{denoiser(pipe)[0]: module})
    return other


@pytest.mark.parametrize("name", FAMILIES)
def test_weight_1_is_the_model_bit_for_bit(name: str) -> None:
    pipe = ZOO[name].build()
    alone = pixels(run(pipe, name))
    other = {"weak": tuned(pipe)}
    assert torch.equal(alone, pixels(run(pipe, name, mix=rlg("weak", 1.0), models=other)))
    assert torch.equal(alone, pixels(run(pipe, name, mix=Weighted((Source(),), (1.0,)))))


@pytest.mark.parametrize("name", FAMILIES)
def test_weight_0_is_the_other_model_bit_for_bit(name: str) -> None:
    pipe = ZOO[name].build()
    other = tuned(pipe)
    alone = pixels(run(pipe, name))
    swapped = pixels(run(pipe, name, mix=rlg("weak", 0.0), models={"weak": other}))
    assert not torch.allclose(alone, swapped, atol=1e-3)
    denoise = denoiser(pipe)
    pipe.register_modules(**{denoise[0]: other})
    assert torch.equal(pixels(run(pipe, name)), swapped)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_prompt_alone_is_that_prompt(name: str) -> None:
    """A mix that gives all its weight to another prompt makes what that prompt makes, from the same noise."""
    pipe = ZOO[name].build()
    prompts = ZOO[name].arguments(2)["prompt"]
    swapped = pixels(run(pipe, name, mix=[f"prompt={prompts[1]}:1"], prompt=[prompts[0]] * 2))
    alone = pixels(run(pipe, name, prompt=[prompts[1]] * 2))
    assert not torch.allclose(alone, pixels(run(pipe, name, prompt=[prompts[0]] * 2)), atol=1e-3)
    torch.testing.assert_close(swapped, alone, **CLOSE)


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "wan", "flux_true_cfg", "z_image"])
def test_guidance_by_its_branches_is_the_pipelines_own(name: str) -> None:
    pipe = ZOO[name].build()
    scale = {"stable_diffusion": 7.5, "sd3": 7.0, "wan": 5.0, "flux_true_cfg": 3.0, "z_image": 6.0}[name]
    output = run(pipe, name, guide=f"cfg({scale})")
    torch.testing.assert_close(pixels(run(pipe, name)), pixels(output), **CLOSE)
    torch.testing.assert_close(
        pixels(run(pipe, name, guide=guider(f"classifierfreeguidance({scale})"))), pixels(output), **CLOSE
    )


def test_the_cost_of_a_mix_is_counted() -> None:
    """Three steps of two branches; guidance in the first two of them only; the other prompt costs as much again."""
    pipe = ZOO["stable_diffusion"].build()
    for more, nfe in (
        ({}, 6),
        ({"guide": Cfg(7.5, stop=0.6)}, 5),
        ({"mix": compose(["a cat"])}, 12),
        ({"mix": compose(["a cat"]), "guide": Cfg(7.5, stop=0.6)}, 10),
        ({"mix": rlg("x", 2.0, start=0.5), "models": {"x": tuned(pipe)}}, 8),
        ({"mix": rlg("x", 1.0), "models": {"x": tuned(pipe)}}, 6),
    ):
        output = run(pipe, "stable_diffusion", candidates=4, verifier=equal, budget=f"{3 * nfe}nfe", **more)
        assert [s.spent for s in output.search.searches] == [3 * nfe] * 2, more
        assert output.search.ledger.evaluations == 6 * nfe


@pytest.mark.parametrize("sampler", ["smc", "zero_order", "dts_star", "rollover", "beam"])
def test_with_any_sampler_and_batch_size(sampler: str) -> None:
    pipe = ZOO["stable_diffusion"].build()

    def bright(media: Any, prompts: Any) -> Tensor:
        return media.pixels.mean((1, 2, 3))

    found = [
        run(
            pipe,
            "stable_diffusion",
            sampler=sampler,
            verifier=bright,
            budget="96nfe",
            batch_size=b,
            mix=negate("a dark cellar", 0.5),
        )
        for b in (16, 3)
    ]
    for one, other in zip(found[0].search.searches, found[1].search.searches, strict=True):
        assert one.spent == other.spent <= 96
        assert one.best().candidate == other.best().candidate
        assert one.best().total == pytest.approx(other.best().total, abs=1e-4)


def test_rlg_by_a_lora_is_rlg_by_two_models() -> None:
    peft = pytest.importorskip("peft")
    name = "sd3"
    plain, pipe = ZOO[name].build(), ZOO[name].build()
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="tuned")
    base = with_module(copy.copy(plain), plain.transformer)
    toggled = pixels(run(pipe, name, mix=rlg("base", 1.7)))
    apart = pixels(run(pipe, name, mix=rlg("base", 1.7), models={"base": base}))
    assert torch.equal(toggled, apart)
    own = pixels(run(pipe, name))
    assert not torch.allclose(own, toggled, atol=1e-3)
    assert not torch.allclose(own, pixels(run(plain, name)), atol=1e-3)
    assert torch.equal(own, pixels(run(pipe, name, mix=["adapter:tuned:1", "own:0"])))
    assert torch.equal(pixels(run(plain, name)), pixels(run(pipe, name, mix=rlg("base", 0.0))))
    assert torch.equal(own, pixels(run(pipe, name)))  # and the adapter is on again


def test_an_exception_leaves_the_adapters_on() -> None:
    peft = pytest.importorskip("peft")
    pipe = ZOO["sd3"].build()
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))

    def broken(media: Any, prompts: Any) -> Tensor:
        raise RuntimeError("no")

    before = pixels(run(pipe, "sd3"))
    with pytest.raises(genscale.VerifierError):
        run(pipe, "sd3", verifier=broken, mix=rlg("base", 2.0))
    assert torch.equal(before, pixels(run(pipe, "sd3")))


def test_layer_guidance_of_diffusers_leaves_no_hooks() -> None:
    pipe = ZOO["wan"].build()
    before = pixels(run(pipe, "wan"))
    skipped = run(pipe, "wan", guide="slg(skip_layer_guidance_layers=0, skip_layer_guidance_start=0, "
                                     "skip_layer_guidance_stop=1, guidance_scale=5)")  # fmt: skip
    assert not torch.allclose(before, pixels(skipped), atol=1e-3)
    assert (
        skipped.search.ledger.evaluations == 12 + 2 * 2
    )  # its own range leaves out the first of three steps
    assert torch.equal(before, pixels(run(pipe, "wan")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mix": ["base:-0.5"]}, "none are loaded"),
        ({"mix": ["other:-0.5"]}, "'other', which was not given"),
        ({"mix": ["adapter:x:1"]}, "adapter 'x' is not loaded"),
        ({"mix": ["base"]}, "cannot be read"),
        (
            {"mix": autoguidance("w", 2.0), "models": {"w": 3}},
            "must be a diffusers pipeline or a torch module",
        ),
        ({"guide": "cgf(3)"}, "'cgf' is unknown"),
        ({"guide": "cfg(a)"}, "write numbers"),
        ({"guide": "apg(adaptive_projected_guidance_momentum=-0.5)"}, "depends on earlier steps"),
        ({"guide": "cfg(3)", "guidance_scale": 1.0}, "no two branches"),
    ],
)
def test_refusals(more: dict[str, Any], said: str) -> None:
    pipe = ZOO["stable_diffusion"].build()
    with pytest.raises(UsageError, match=said):
        run(pipe, "stable_diffusion", **more)


def test_models_of_another_latent_space_are_refused() -> None:
    pipe = ZOO["stable_diffusion"].build()
    other = diffusers.UNet2DConditionModel.from_config(pipe.unet.config, in_channels=7)
    with pytest.raises(UsageError, match="do not share a latent space"):
        run(pipe, "stable_diffusion", mix=rlg("x", 2.0), models={"x": other})
