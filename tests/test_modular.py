"""Modular pipelines of diffusers as hosts of a search, on the components of the zoo."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import guiders
from torch import Tensor, nn

import genscale
from genscale import UsageError
from genscale.pipelines import modular_blocks
from genscale.pipelines.call_signature import signature_of
from genscale.plugins.registry import found, load
from tests.quick import NUMBERS, quick
from tests.test_gradient_pipelines import FAR, KINDS, Differences, weighted
from tests.zoo import ZOO, with_scheduler
from tests.zoo_modular import MODULAR, MORE, modular, steps_of

ALL = MODULAR | MORE
GUIDED = (
    "sdxl",
    "wan",
    "ltx",
)  # guided by a guider, with no rule of their own after it; sd3 hears no guidance


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def light(media: Any, prompts: Any) -> Tensor:
    return media.pixels.flatten(1).mean(1)


def call(pipe: Any, name: str, n: int = 1, **more: Any) -> Any:
    given = {"output": ALL[name].media, "output_type": "pt", "generator": seeded()}
    return pipe(**ALL[name].arguments(n) | given | more)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)
    )


# ------------------------------------------------------------------------------------------- the pipeline's own


CALLS = [(name, n) for name in ALL for n in (1, 2)]


@pytest.mark.parametrize(
    ("name", "n"), quick(CALLS, [*((m, 2) for m in MODULAR), ("sdxl_inpaint", 1)], sets=True)
)
def test_one_candidate_is_the_pipeline_bit_for_bit(name: str, n: int) -> None:
    pipe = ALL[name].build()
    for kind in ALL[name].types or (("pil", "np", "pt") if name in ("flux", "ltx") else ("pt",)):
        alone = call(pipe, name, n, output_type=kind)
        output = call(genscale.scale(pipe, candidates=1), name, n, output_type=kind)
        assert same(alone, output)
        assert type(alone) in type(output).__mro__
        assert len(output.search.searches) == n
    assert same(alone, call(pipe, name, n, output_type=kind))  # it is as before


@pytest.mark.parametrize("name", quick(ALL, ("flux",)))
def test_candidates_do_not_depend_on_their_batch(name: str) -> None:
    pipe = ALL[name].build()
    kind = "pt" if ALL[name].types is None else ALL[name].types[0]
    totals = []
    for size in (1, 4, 16):
        scaled = genscale.scale(pipe, verifier=light, candidates=3, batch_size=size)
        search = call(scaled, name, 2, output_type=kind).search
        totals.append([e.total for p in (0, 1) for e in search.ranking(p)])
    assert len(totals[0]) == 6
    assert totals[1] == pytest.approx(totals[0], abs=5e-3 if kind == "pil" else 1e-5)
    assert totals[2] == pytest.approx(totals[0], abs=5e-3 if kind == "pil" else 1e-5)
    assert len(set(totals[0])) == 6


@pytest.mark.parametrize(
    "name", quick([n for n in MODULAR if n != "sdxl"], ("flux",))
)  # sdxl scales `latents`
def test_best_of_n_is_the_best_of_separate_calls(name: str) -> None:
    pipe = ALL[name].build()
    output = call(genscale.scale(pipe, verifier=light, candidates=3), name)
    for entry in output.search.ranking():
        latents = output.search.searches[0].process.start([entry.candidate]).x
        alone = call(pipe, name, latents=latents.float())
        assert float(alone.mean()) == pytest.approx(entry.total, abs=1e-5)
    assert float(output.mean()) == pytest.approx(output.search.best.total, abs=1e-5)


def test_several_of_the_best_come_back_best_first() -> None:
    for name, count in (("sd3", "num_images_per_prompt"), ("ltx", "num_videos_per_prompt")):
        scaled = genscale.scale(ALL[name].build(), verifier=light, candidates=4)
        means = call(scaled, name, 2, **{count: 3}).flatten(1).mean(1).tolist()
        assert len(means) == 6
        assert means == [*sorted(means[:3], reverse=True), *sorted(means[3:], reverse=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_sampler_runs(name: str) -> None:
    pipe = ALL[name].build()
    types = ALL[name].types
    for sampler in found("sampler"):
        cls = load("sampler", sampler)
        gradients = "gradient" in cls.needs or getattr(cls(), "gradient", "none") != "none"
        no_branches = {"nlg", "zigzag"} if name.startswith(("flux", "z_image")) else set()
        if name in (
            "sdxl_inpaint",
            "qwen_inpaint",
        ):  # its loop edits latents between the calls for the two branches
            no_branches = {"zigzag"}
        if sampler in {"fkc", *no_branches} or (gradients and types is not None):
            continue
        scaled = genscale.scale(
            pipe, sampler, light, batch_size=3, budget="3images", **NUMBERS.get(sampler, {})
        )
        search = call(scaled, name, **({} if types is None else {"output_type": types[0]})).search
        assert search.best.total == max(e.total for e in search.ranking())


@pytest.mark.parametrize("sampler", ["smc", "beam"])
def test_particles_and_trees(sampler: str) -> None:
    pipe = ALL["flux"].build()
    output = call(genscale.scale(pipe, sampler, light, budget="6images"), "flux", 2)
    alone = call(pipe, "flux", 2).flatten(1).mean(1)
    for p in (0, 1):
        assert output.search.ranking(p)[0].total >= float(alone[p]) - 1e-5
        assert float(output[p].mean()) == pytest.approx(output.search.ranking(p)[0].total, abs=1e-5)


# ------------------------------------------------------------------------------------------- what comes back


def test_what_is_asked_for_comes_back_with_the_search() -> None:
    pipe = ALL["sd3"].build()
    scaled = genscale.scale(pipe, verifier=light, candidates=2)
    state = call(scaled, "sd3", output=None)
    assert type(state).__name__ == "PipelineState"
    assert torch.equal(state.images, call(scaled, "sd3"))
    assert state.search.best.total == pytest.approx(float(state.images.mean()), abs=1e-5)
    assert type(state.timesteps) is Tensor
    again = copy.deepcopy(state)
    assert again.search.best.total == state.search.best.total
    again.set("latents", None)
    again.set("generator", seeded())
    assert torch.equal(pipe(state=again, output="images"), call(pipe, "sd3"))
    both = call(scaled, "sd3", output=["images", "latents"])
    assert set(both) == {"images", "latents"}
    assert both.search.best.total == state.search.best.total
    assert isinstance(call(scaled, "sd3", output_type="pil"), list)
    assert call(scaled, "sd3", output_type="np").search.best.total == state.search.best.total
    assert call(scaled, "sd3", output="num_inference_steps") == 3  # a number has no room for the search
    assert scaled.search(**ALL["sd3"].arguments(1), generator=seeded()).best.total == state.search.best.total


def test_a_state_gives_the_inputs_that_it_holds() -> None:
    pipe = ALL["sdxl"].build()
    state = call(pipe, "sdxl", 2, output=None)
    begun = type(state)(
        {k: v for k, v in state.values.items() if k not in ("latents", "images")}, state.kwargs_mapping
    )
    begun.set("generator", seeded())
    alone = pipe(state=begun, output="images")
    begun.set("generator", seeded())
    output = genscale.scale(pipe, verifier=light, candidates=1)(begun, output="images")
    assert torch.equal(alone, output)
    assert [s.prompt for s in output.search.searches] == ALL["sdxl"].arguments(2)["prompt"]


def test_embeddings_of_an_earlier_pipeline() -> None:
    """A pipeline without the blocks that encode: the state holds what they made, and the prompts."""
    blocks, parts = diffusers.StableDiffusionXLAutoBlocks(), ALL["sdxl"].components_of()
    encoded = modular(blocks.sub_blocks.pop("text_encoder"), parts)(prompt=ALL["sdxl"].arguments(2)["prompt"])
    given = {k: v for k, v in ALL["sdxl"].arguments(2).items() if k != "prompt"}
    scaled = genscale.scale(modular(blocks, parts), verifier=light, candidates=3)
    output = scaled(state=encoded, **given, generator=seeded(), output="images", output_type="pt")
    wanted = call(genscale.scale(ALL["sdxl"].build(), verifier=light, candidates=3), "sdxl", 2)
    assert torch.allclose(output, wanted, atol=1e-5)
    assert [s.prompt for s in output.search.searches] == ALL["sdxl"].arguments(2)["prompt"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd3", "wan", "flux", "ltx"])
def test_other_schedulers(name: str) -> None:
    for scheduler in ZOO[ALL[name].components].schedulers:
        parts = with_scheduler(ALL[name].classic(), scheduler).components
        pipe = modular(ALL[name].blocks, parts)
        assert torch.equal(call(pipe, name, 2), call(genscale.scale(pipe, candidates=1), name, 2))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"promt": "x"}, r"takes no argument 'promt' \(did you mean 'prompt'\?\)"),
        ({"guidance": 3}, "takes no argument 'guidance'"),
        ({"output": "image"}, r"makes no output 'image' \(did you mean 'images'\?\)"),
        ({"output": ["images", 3]}, "must be a name, or a list of names"),
        ({"state": {"prompt": "x"}}, "must be the PipelineState of an earlier call"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be"),
    ],
)
def test_wrong_calls_are_one_sentence(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        call(genscale.scale(ALL["sd3"].build(), candidates=1), "sd3", **more)
    assert "\n" not in str(refused.value)


def test_missing_components_are_one_sentence() -> None:
    blocks = diffusers.StableDiffusion3AutoBlocks()
    with pytest.raises(UsageError, match="has no scheduler yet"):
        call(genscale.scale(blocks.init_pipeline(), candidates=1), "sd3")
    pipe = ALL["flux"].build()
    pipe.update_components(tokenizer_2=None)
    with pytest.raises(UsageError, match=r"lacks a component for this call .* not loaded: tokenizer_2"):
        call(genscale.scale(pipe, candidates=1), "flux")


def test_the_callback_sees_every_step_and_may_change_latents() -> None:
    """Modular pipelines have no callbacks: at the end of a loop made of blocks a search calls them."""
    pipe, steps = ALL["sdxl"].build(), []

    def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return {"latents": tensors["latents"] * 0}

    output = call(genscale.scale(pipe, candidates=1), "sdxl", callback_on_step_end=callback)
    assert steps == [0, 1, 2]
    zero = call(pipe, "sdxl", output="latents", latents=call(pipe, "sdxl", output="latents") * 0)
    assert not torch.equal(output, call(pipe, "sdxl"))
    assert zero.shape[0] == 1
    black = pipe.vae.decode(torch.zeros_like(zero)).sample / 2 + 0.5
    assert torch.allclose(output, black.clamp(0, 1), atol=1e-5)


def test_an_interrupt_from_the_callback_gives_the_best_so_far() -> None:
    calls = []

    def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        calls.append(step)
        p._interrupt = len(calls) == 8
        return {}

    scaled = genscale.scale(ALL["flux"].build(), "zero_order", light, rounds=50, neighbours=2)
    output = call(scaled, "flux", callback_on_step_end=callback)
    assert output.search.stopped == "interrupted"
    assert output.shape[0] == 1
    assert len(output.search.entries) < 20


class OneBlock(diffusers.ModularPipelineBlocks):  # type: ignore[misc]
    """A loop in a single block, as somebody may write it."""

    def __init__(self, loop: Any) -> None:
        super().__init__()
        self.loop = loop

    inputs = property(lambda self: self.loop.inputs)
    intermediate_outputs = property(lambda self: self.loop.intermediate_outputs)
    expected_components = property(lambda self: self.loop.expected_components)

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> Any:
        within = self.get_block_state(state)
        within.num_warmup_steps = 0
        for i, t in enumerate(within.timesteps):
            for part in self.loop.sub_blocks.values():
                components, within = part(components, within, i=i, t=t)
        self.set_block_state(state, within)
        return components, state


def test_a_loop_in_a_block_of_ones_own() -> None:
    pipe = modular(with_loop(OneBlock), ALL["flux"].components_of())
    assert torch.equal(call(pipe, "flux", 2), call(ALL["flux"].build(), "flux", 2))
    scaled = genscale.scale(pipe, verifier=light, candidates=3)
    wanted = call(genscale.scale(ALL["flux"].build(), verifier=light, candidates=3), "flux", 2)
    assert torch.equal(call(scaled, "flux", 2), wanted)
    with pytest.raises(UsageError, match="takes no argument 'callback_on_step_end'"):
        call(scaled, "flux", callback_on_step_end=print)


class TwoLoops(OneBlock):
    def __call__(self, components: Any, state: Any) -> Any:
        super().__call__(components, state)
        components.scheduler._step_index = None
        return super().__call__(components, state)


class TwoSchedulers(OneBlock):
    """Steps other latents, say of sound, with a copy of the scheduler."""

    def __call__(self, components: Any, state: Any) -> Any:
        within = self.get_block_state(state)
        sound, scheduler = torch.zeros_like(within.latents), copy.deepcopy(components.scheduler)
        for i, t in enumerate(within.timesteps):
            for part in self.loop.sub_blocks.values():
                components, within = part(components, within, i=i, t=t)
            sound = scheduler.step(sound, t, sound)[0]
        self.set_block_state(state, within)
        return components, state


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (TwoLoops, "runs more than one loop"),
        (TwoSchedulers, "with a copy of its FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_a_pipeline_whose_loop_cannot_be_followed_is_called_as_a_whole(block: Any, sentence: str) -> None:
    pipe = modular(with_loop(block), ALL["flux"].components_of())
    alone = call(pipe, "flux", output_type="np")
    with pytest.warns(UserWarning, match=sentence):
        found = call(genscale.scale(pipe, candidates=1), "flux", output_type="np")
    picture = np.asarray(found.images[0], np.float32) / 255
    assert np.allclose(picture, np.asarray(alone)[0], atol=1 / 255)


def with_loop(block: Any) -> Any:
    """The blocks of Flux with another loop."""
    blocks = copy.deepcopy(diffusers.FluxAutoBlocks())  # its class shares the blocks inside
    holder = next(b for b in steps_of(blocks) if any(hasattr(p, "loop_step") for p in b.sub_blocks.values()))
    for name, part in list(holder.sub_blocks.items()):
        if hasattr(part, "loop_step"):
            holder.sub_blocks[name] = block(part)
    return blocks


def test_the_pipeline_is_as_before_after_an_exception() -> None:
    pipe = ALL["sdxl"].build()
    call(pipe, "sdxl")
    before, blocks = dict(pipe.__dict__), pipe._blocks
    guider = dict(vars(pipe.guider))

    def broken(media: Any, prompts: Any) -> Any:
        raise RuntimeError("no such luck")

    with pytest.raises(UsageError, match="no such luck"):
        call(genscale.scale(pipe, verifier=broken, candidates=2), "sdxl")
    assert {k: v for k, v in pipe.__dict__.items() if before.get(k) is not v} == {}
    assert pipe.__dict__.keys() == before.keys()
    assert pipe._blocks is blocks
    assert vars(pipe.guider) == guider


def test_a_resumed_call_finds_the_same(tmp_path: Any) -> None:
    pipe = ALL["flux"].build()
    scaled = genscale.scale(pipe, verifier=light, candidates=3, out=tmp_path)
    first = call(scaled, "flux")
    again = call(scaled, "flux")
    assert torch.equal(first, again)
    assert again.search.ledger.evaluations == 0 < first.search.ledger.evaluations
    with pytest.raises(UsageError):  # other blocks are another pipeline
        call(genscale.scale(with_other_blocks(), verifier=light, candidates=3, out=tmp_path), "flux")


def with_other_blocks() -> Any:
    blocks = diffusers.FluxAutoBlocks()

    class Nothing(diffusers.ModularPipelineBlocks):  # type: ignore[misc]
        def __call__(self, components: Any, state: Any) -> Any:
            return components, state

    blocks.sub_blocks.insert("nothing", Nothing(), 0)
    return modular(blocks, ALL["flux"].components_of())


# ------------------------------------------------------------------------------------------- guiders

OWN = {
    "cfg": (lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0), 6),
    "off": (lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0, enabled=False), 3),
    "in the middle": (lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0, start=0.34, stop=0.7), 4),
    "apg": (lambda: guiders.AdaptiveProjectedGuidance(guidance_scale=4.0), 6),
    "zero*": (lambda: guiders.ClassifierFreeZeroStarGuidance(guidance_scale=4.0), 6),
    "seg": (lambda: guiders.SmoothedEnergyGuidance(guidance_scale=4.0, seg_guidance_layers=[0]), 8),
}


@pytest.mark.parametrize("kind", quick(OWN, ("in the middle", "seg")))
def test_the_guiders_model_calls_are_counted(kind: str) -> None:
    """3 steps of as many predictions as the guider asks for in each, times 3 candidates of 2 prompts."""
    make, nfe = OWN[kind]
    alone = call(guided("sd3", make()), "sd3", 2)
    scaled = genscale.scale(guided("sd3", make()), verifier=light, candidates=3, batch_size=4)
    output = call(scaled, "sd3", 2)
    assert output.search.ledger.evaluations == 6 * nfe
    assert same(alone, call(genscale.scale(guided("sd3", make()), candidates=1), "sd3", 2))


def guided(name: str, guider: Any) -> Any:
    pipe = ALL[name].build()
    pipe.update_components(guider=guider)
    return pipe


@pytest.mark.parametrize("name", quick(GUIDED, ("wan",)))
def test_a_guide_is_the_same_as_that_guider(name: str) -> None:
    for make in (guiders.ClassifierFreeGuidance, guiders.AdaptiveProjectedGuidance):
        pipe = ALL[name].build()
        alone = call(guided(name, make(guidance_scale=2.5)), name, 2)
        output = call(genscale.scale(pipe, candidates=1, guide=make(guidance_scale=2.5)), name, 2)
        assert torch.equal(alone, output)
        assert not torch.allclose(alone, call(pipe, name, 2), atol=1e-4)


def test_a_guide_needs_no_guidance_of_the_pipeline() -> None:
    """Z-Image's guider is off, and another one makes three predictions."""
    rule = guiders.ClassifierFreeGuidance
    alone = call(guided("z_image", rule(guidance_scale=4.0)), "z_image")
    assert torch.equal(
        alone, call(genscale.scale(ALL["z_image"].build(), guide=rule(4.0), candidates=1), "z_image")
    )
    alone = call(guided("ltx", rule(guidance_scale=4.0)), "ltx")
    three = guided("ltx", OWN["seg"][0]())
    assert torch.equal(alone, call(genscale.scale(three, guide=rule(4.0), candidates=1), "ltx"))
    with pytest.raises(UsageError, match="no two branches"):
        call(genscale.scale(ALL["flux"].build(), guide=rule(4.0), candidates=1), "flux")


def test_a_guider_that_remembers_is_refused() -> None:
    guider = guiders.AdaptiveProjectedGuidance(guidance_scale=4.0, adaptive_projected_guidance_momentum=-0.5)
    with pytest.raises(UsageError, match=r"the guider of .* keeps values from step to step"):
        call(genscale.scale(guided("sd3", guider), candidates=1), "sd3")


def test_a_model_that_fails_leaves_no_hooks_of_its_guider() -> None:
    """The accelerator's memory runs out in the perturbed call of a batch: it goes on in halves, as without hooks."""
    options = {
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 0.9,
        "skip_layer_guidance_layers": [[0]],
    }
    pipes = [guided("ltx", guiders.SkipLayerGuidance(4.0, **options)) for _ in range(2)]
    wanted = call(genscale.scale(pipes[0], verifier=light, candidates=4), "ltx")
    pipe = pipes[1]
    forward, full = pipe.transformer.forward, []

    def hooks() -> list[Any]:
        found = (getattr(m, "_diffusers_hook", None) for m in pipe.transformer.modules())
        return [hook for registry in found if registry is not None for hook in registry.hooks]

    def out_of_memory(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hooks() and len(hidden_states) > 2:
            full.append(len(hidden_states))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(hidden_states, *args, **kwargs)

    pipe.transformer.forward = out_of_memory
    found = call(genscale.scale(pipe, verifier=light, candidates=4), "ltx")
    assert full == [4]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert hooks() == []


def test_mixes() -> None:
    pipe = ALL["sdxl"].build()
    alone = call(pipe, "sdxl", 2, prompt=["a cat"] * 2)
    assert torch.allclose(
        alone, call(genscale.scale(pipe, candidates=1, mix=["prompt=a cat:1"]), "sdxl", 2), atol=1e-5
    )


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", quick(MODULAR, ("flux",)))
def test_gradients_are_finite_differences(name: str, kind: str) -> None:
    differences, gradient = slopes(name, kind)
    assert abs(differences - gradient) < (4e-3 if name in ("wan", "sdxl") else 1e-3)
    assert gradient > 0.5


def test_decorators_around_blocks_would_cut_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modular_blocks, "_undecorated", lambda cls: cls)
    with pytest.raises(UsageError, match="keeps no graph"):
        slopes("flux", "one call")


def slopes(name: str, kind: str) -> tuple[float, float]:
    pipe = ALL[name].build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in pipe.components.values():
            if isinstance(model, nn.Module):
                nn.Module.to(model, torch.float64)
    sampler = Differences(far=FAR.get(name, 1e-4), **KINDS[kind])
    call(genscale.scale(pipe, sampler, weighted, batch_size=4), name, output_type="np")
    return sampler.slopes[0]


def test_a_gradient_sampler_gains() -> None:
    pipe = ALL["flux"].build()
    search = call(genscale.scale(pipe, "dno", light, candidates=1, iterations=2), "flux").search
    assert search.best.total > search.base().total + 1e-3


# ------------------------------------------------------------------------------------------- presets


def test_a_preset_gets_its_components() -> None:
    alone = call(ALL["sd3"].build(), "sd3")
    parts = ALL["sd3"].components_of()
    for preset in (diffusers.StableDiffusion3AutoBlocks, diffusers.StableDiffusion3AutoBlocks()):
        assert torch.equal(alone, call(genscale.scale(preset, candidates=1, components=parts), "sd3"))
    classic = ALL["sd3"].classic()
    assert torch.equal(alone, call(genscale.scale(preset, candidates=1, components=classic), "sd3"))
    text_only = diffusers.StableDiffusion3AutoBlocks().get_workflow("text2image")
    assert torch.equal(alone, call(genscale.scale(text_only, candidates=1, components=classic), "sd3"))


def test_a_preset_without_components_is_refused() -> None:
    preset = diffusers.StableDiffusion3AutoBlocks
    with pytest.raises(UsageError, match="is a preset of blocks, without models: give components="):
        genscale.scale(preset(), candidates=1)
    with pytest.raises(UsageError, match="takes none of the components engine"):
        genscale.scale(preset(), candidates=1, components={"engine": 1})
    with pytest.raises(UsageError, match="must be a mapping"):
        genscale.scale(preset(), candidates=1, components=3)
    with pytest.raises(UsageError, match="components= goes with blocks"):
        genscale.scale(ALL["sd3"].build(), candidates=1, components={})


def test_the_names_are_those_of_the_blocks() -> None:
    pipe = ALL["sdxl"].build()
    assert {"prompt", "image", "mask_image", "num_images_per_prompt", "output"} <= set(
        signature_of(pipe).names
    )
    import inspect

    assert "mask_image" in inspect.signature(genscale.scale(pipe)).parameters


# ------------------------------------------------------------------------------------------- saved pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved modular pipeline, which has been moved since."""
    made, moved = (tmp_path_factory.mktemp("modular") / name for name in ("made", "moved"))
    ALL["sdxl"].build().save_pretrained(str(made), overwrite_modular_index=True)
    return made.rename(moved)


def test_a_saved_pipeline_is_loaded(folder: Path) -> None:
    pipe = genscale.load_pipeline(str(folder), device="cpu")
    assert type(pipe).__name__ == "StableDiffusionXLModularPipeline"
    assert pipe.unet.dtype == torch.float32
    assert genscale.load_pipeline(folder, device="cpu", dtype="bf16").unet.dtype == torch.bfloat16
    alone = call(pipe, "sdxl")
    assert torch.allclose(alone, call(ALL["sdxl"].build(), "sdxl"), atol=1e-4)
    assert torch.equal(alone, call(genscale.scale(pipe, candidates=1), "sdxl"))


def test_the_command_line_takes_a_saved_pipeline(folder: Path, tmp_path: Path, request: Any) -> None:
    run, out = request.getfixturevalue("genscale"), tmp_path / "out"
    words = ("a red cube", "--model", folder, "--steps", 2, "--size", 16, "--verifier", "compressibility")
    words = (*words, "--held-out", "none", "--device", "cpu", "--seed", 3)
    code, _, err = run("generate", *words, "--candidates", 3, "--sampler", "best_of_n", "--out", out)
    assert code == 0, err
    record = json.loads((out / "run.json").read_text())
    assert record["ledger"]["evaluations"] == 12  # 3 candidates of 2 steps of 2 conditions
    assert (out / "best.png").is_file()
    code, _, err = run(
        "generate", *words, "--guide", "cfg(5)", "--budget", "8nfe", "--out", tmp_path / "guided"
    )
    assert code == 0, err
    code, _, err = run("generate", *words, "--guidance", 5, "--budget", "8nfe")
    assert code == 2
    assert "takes no guidance_scale: leave --guidance out, and give its guider as --guide 'cfg(5)'" in err


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [("unet", "its unet is not in"), ("modular_model_index.json", "it has no model_index.json")],
)
def test_a_damaged_folder_is_one_sentence(folder: Path, tmp_path: Path, lost: str, sentence: str) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn, ignore=shutil.ignore_patterns(lost))
    with pytest.raises(UsageError, match=sentence) as refused:
        genscale.load_pipeline(str(torn), device="cpu")
    assert "\n" not in str(refused.value)


def test_what_places_a_whole_pipeline_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="takes no device_map"):
        genscale.load_pipeline(str(folder), device_map="balanced")


# ------------------------------------------------------------------------------------------- a search as a block


def with_search(name: str, **settings: Any) -> Any:
    blocks = getattr(diffusers, ALL[name].blocks)()
    parts = blocks.sub_blocks
    parts["denoise"] = genscale.SearchBlock(parts["denoise"], parts["decode"], **settings)
    return modular(blocks, ALL[name].components_of())


@pytest.mark.parametrize("name", quick(ALL, ("flux", "sdxl")))
def test_a_search_stands_for_the_denoising_blocks(name: str) -> None:
    types = ALL[name].types
    more: dict[str, Any] = {"texts": ALL[name].arguments(2)["prompt"]} | (
        {} if types is None else {"output_type": types[0]}
    )
    given = {k: v for k, v in more.items() if k != "texts"}
    pipe = ALL[name].build()
    assert same(call(pipe, name, 2, **given), call(with_search(name, candidates=1), name, 2, **more))
    state = call(with_search(name, verifier=light, candidates=3), name, 2, output=None, **more)
    wanted = call(genscale.scale(pipe, verifier=light, candidates=3), name, 2, **given)
    for p in (0, 1):
        totals = [e.total for e in state.search.ranking(p)]
        assert totals == pytest.approx([e.total for e in wanted.search.ranking(p)], abs=1e-5)
    pixels = state.get(ALL[name].media)
    assert torch.allclose(pixels, wanted, atol=1e-5) if isinstance(pixels, Tensor) else same(pixels, wanted)


def test_several_images_of_a_search_block() -> None:
    pipe = with_search("sd3", verifier=light, candidates=4)
    means = call(pipe, "sd3", 2, num_images_per_prompt=2).flatten(1).mean(1).tolist()
    assert len(means) == 4
    assert means == [*sorted(means[:2], reverse=True), *sorted(means[2:], reverse=True)]
    search = call(pipe, "sd3", 2, output="search")
    assert [s.prompt for s in search.searches] == ALL["sd3"].arguments(2)["prompt"]


def test_a_search_block_wants_the_blocks_that_make_the_latents() -> None:
    loop = next(b for b in steps_of(diffusers.FluxAutoBlocks()) if hasattr(b, "loop_step"))
    with pytest.raises(
        UsageError, match="give SearchBlock the blocks from the one that prepares the latents on"
    ):
        genscale.SearchBlock(loop, sampler="best_of_n", candidates=2)
    with pytest.raises(UsageError, match="unknown"):
        genscale.SearchBlock(diffusers.FluxAutoBlocks().sub_blocks["denoise"], sampler="bestofn")
