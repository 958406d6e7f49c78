"""Gradients through real pipelines: right for every family, and nothing is left behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import genscale
from benchmarks.gradient_memory import Probe, without_checkpoints
from benchmarks.live_memory import LiveMemory
from genscale.diffusion.kernels import Ddim
from genscale.diffusion.mixtures import Source, Weighted
from genscale.diffusion.prediction import View
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.differentiable_models import DifferentiableModels
from genscale.protocol.answers import Graded
from genscale.protocol.particles import branch, draw
from genscale.protocol.queries import BACKWARD, Gradient, Score, Solve
from tests.quick import quick
from tests.zoo import ZOO, text

FAMILIES = ("flux", "sd3", "sdxl", "wan")  # sdxl is guided, wan makes videos
STEPS = 3
# Directional differences in float64. Wan clamps what it decodes, so that only small steps meet no kink, and computes in
# float32 in places, so that small steps are seen less exactly.
FAR = {"wan": 1e-5, "wan22": 5e-6, "wan_i2v": 2e-5, "qwen_image": 2e-5, "mochi": 5e-6}
TOLERANCE = {"flux": 2e-4, "sd3": 2e-4, "sdxl": 2e-4, "wan": 4e-3}


def weighted(media: Any, prompts: Sequence[str]) -> Tensor:
    """A smooth score of every pixel, with weights that differ."""
    pixels = media.pixels.double()
    weight = 1 + torch.sin(0.7 * torch.arange(pixels[0].numel(), dtype=torch.float64)).reshape(
        pixels.shape[1:]
    )
    return ((pixels - 0.3).square() * weight).flatten(1).sum(1)


@dataclass
class Differences:
    """Asks a gradient at one state, then scores along a direction that has a share of it; keeps both slopes.

    slopes: (by differences, by the gradient), as shares of the product of both norms.
    """

    step: int = 1
    calls: tuple[int, ...] = ()
    through: str = "model"
    far: float = 1e-4
    slopes: list[tuple[float, float]] = field(default_factory=list)

    def search(self, process: Any, key: Key) -> Any:
        particles = process.start([draw(key, i) for i in range(2)])
        particles = replace((yield Solve(particles, self.step, Ddim(0.0))), memory=None, x0=None)
        x = particles.x[:1].float()
        here = replace(particles[:1], x=x)
        graded: Graded = yield Gradient(here, self.calls, through=self.through)
        other = key.fold("direction").normal(tuple(x.shape)).to(x)
        d = graded.gradient / graded.gradient.norm() + other / other.norm()
        step = self.far * x.norm() * d
        # Both ends are of candidate 0: inpainting blends each candidate's own noise into its latents.
        first = particles.candidates[0]
        particles = replace(particles, candidates=(first, branch(key, 2, first, self.step)))
        if self.through == "model":
            ends = replace(particles, x=torch.cat([x + step, x - step]))
            along = ends.x[:1] - ends.x[1:]
            scores = (yield Gradient(ends, self.calls)).scores
        else:  # the noise stays, so the clean estimate moves by 1 / alpha of it
            shift = step / process.schedule.level(self.step).alpha
            ends = replace(particles, x0=torch.cat([graded.x0 + shift, graded.x0 - shift]))
            along = (ends.x0[:1] - ends.x0[1:]) * process.schedule.level(self.step).alpha
            scores = yield Score(ends)
        norm = float(along.double().norm() * graded.gradient.double().norm())
        rise = float(scores.total[0] - scores.total[1])
        self.slopes.append((rise / norm, float((graded.gradient.double() * along).sum()) / norm))
        yield Score((yield Solve(here, kernel=Ddim(0.0))))

    def cost(self, process: Any) -> int | None:
        return None


def called(
    pipe: Any, name: str, sampler: Any, prompts: int = 1, verifier: Any = weighted, **more: Any
) -> Any:
    scaled = genscale.scale(pipe, sampler, verifier, batch_size=more.pop("batch_size", 4))
    generators = [torch.Generator().manual_seed(i) for i in range(prompts)]
    given = ZOO[name].arguments(prompts) | {"generator": generators if prompts > 1 else generators[0]}
    return scaled(**given | {"output_type": "np"} | more)


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = ZOO[name].build()
        for model in pipe.components.values():
            if isinstance(model, nn.Module):
                nn.Module.to(model, dtype)
    return pipe


def slopes(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[float, float]:
    sampler = Differences(**options)
    called(built(name, dtype), name, sampler)
    return sampler.slopes[0]


KINDS: dict[str, dict[str, Any]] = {
    "one call": {"step": 1},
    "the whole run": {"step": 0, "calls": (1, 2)},
    "the decoder": {"step": 1, "through": "decoder"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_finite_differences(name: str, kind: str) -> None:
    differences, gradient = slopes(name, far=FAR.get(name, 1e-4), **KINDS[kind])
    assert abs(differences - gradient) < TOLERANCE[name]
    assert gradient > 0.5  # the direction has a share of it: this is no comparison of nothing


@pytest.mark.parametrize("name", FAMILIES)
def test_a_broken_twin_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the denoiser's answer for constant."""
    pair = View.pair
    monkeypatch.setattr(View, "pair", lambda self, level, output, x: pair(self, level, output.detach(), x))
    differences, gradient = slopes(name, far=FAR.get(name, 1e-4), **KINDS["one call"])
    assert abs(differences - gradient) > 5 * TOLERANCE[name]


FLOAT32 = ("sana",)  # their encoders give NaN in float64
REFUSED = {
    "kandinsky": "decoding gives no tensors of pixels",
    "kandinsky3": "decoding gives no tensors of pixels",
    "hidream": "denoiser is not differentiable",
}
OTHERS = [n for n in ZOO if n not in FAMILIES and n not in REFUSED]
QUICK = (
    "sd_inpaint4",
    "sdxl_controlnet",
    "flux_true_cfg",
    "pixart_sigma",
    "qwen_image",
    "ltx_i2v",
    "animatediff",
)


@pytest.mark.parametrize("name", quick(OTHERS, QUICK))
def test_other_families(name: str) -> None:
    dtype = torch.float32 if name in FLOAT32 else torch.float64
    for kind in ("one call", "the whole run"):
        differences, gradient = slopes(name, dtype, far=FAR.get(name, 1e-4), **KINDS[kind])
        assert abs(differences - gradient) < 2e-3
        assert gradient > 0.5


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_cannot_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[name]):
        called(built(name), name, Differences())


@pytest.mark.parametrize("kind", ["one call", "the whole run"])
def test_gradients_of_mixes(kind: str) -> None:
    """Branches, another prompt and another model in one prediction."""
    other = built("sd3", torch.float64)
    for p in other.transformer.parameters():
        p.data.mul_(0.9)
    mix = Weighted(
        (Source(), Source(prompt="one blue ball"), Source("cond", model="other"), Source("uncond")),
        (0.5, 0.8, 0.3, -0.6),
    )
    sampler, pipe = Differences(**KINDS[kind]), built("sd3", torch.float64)
    frozen = other.transformer.requires_grad_(True)
    scaled = genscale.scale(pipe, sampler, weighted, mix=mix, models={"other": other}, batch_size=4)
    search = scaled(
        **ZOO["sd3"].arguments(1), output_type="np", generator=torch.Generator().manual_seed(0)
    ).search
    differences, gradient = sampler.slopes[0]
    assert abs(differences - gradient) < 1e-3
    assert gradient > 0.5
    assert search.ledger.evaluations + BACKWARD * search.ledger.backwards == search.searches[0].spent
    assert all(p.requires_grad for p in frozen.parameters())


def test_through_the_decoder_a_denoiser_need_not_be_differentiable() -> None:
    differences, gradient = slopes("hidream", torch.float32, far=1e-3, **KINDS["the decoder"])
    assert abs(differences - gradient) < 2e-3
    assert gradient > 0.5


# ---------------------------------------------------------------- batches and prompts


@dataclass
class Keep:
    """One gradient of n rows at a step, the answer kept by prompt."""

    n: int = 3
    step: int = 1
    calls: tuple[int, ...] = ()
    through: str = "model"
    answers: dict[tuple[int, ...], Graded] = field(default_factory=dict)
    modes: list[bool] = field(default_factory=list)

    def search(self, process: Any, key: Key) -> Any:
        particles = process.start([draw(key, i) for i in range(self.n)])
        particles = replace((yield Solve(particles, self.step, Ddim(0.0))), memory=None)
        self.answers[key.path] = yield Gradient(particles, self.calls, through=self.through)
        self.modes.append(torch.is_grad_enabled())
        yield Score((yield Solve(particles[:1], kernel=Ddim(0.0))))

    def cost(self, process: Any) -> int | None:
        return None


def close(a: Tensor, b: Tensor, far: float = 5e-4) -> bool:
    return float((a.double() - b.double()).norm()) < far * float(b.double().norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", quick(FAMILIES, ["flux", "sdxl"]))
def test_rows_and_prompts_together_are_as_alone(name: str, kind: str) -> None:
    pipe = built(name)
    many, few, alone = (Keep(**KINDS[kind]) for _ in range(3))
    search = called(pipe, name, many, prompts=2, batch_size=8).search
    called(pipe, name, few, prompts=2, batch_size=1)
    called(pipe, name, alone, batch_size=8)
    assert len(many.answers) == 2
    for path, graded in many.answers.items():
        assert graded.gradient.dtype == torch.float32
        assert close(graded.gradient, few.answers[path].gradient)
        assert not close(graded.gradient[:1], graded.gradient[1:2], 0.1)
    [(path, graded)] = alone.answers.items()
    assert close(graded.gradient, many.answers[path].gradient)
    ledger = search.ledger
    assert ledger.evaluations + BACKWARD * ledger.backwards == sum(s.spent for s in search.searches)
    assert (ledger.backwards > 0) == (kind != "the decoder")
    assert many.modes == [False, False]


# ---------------------------------------------------------------- what is left behind


def state(pipe: Any) -> Any:
    """All that a gradient might leave behind: attributes and parameters of models, and of the pipeline."""
    models = {k: m for k, m in pipe.components.items() if isinstance(m, nn.Module)}
    attributes = {
        f"{k}.{n}": {a: v if isinstance(v, bool) else type(v) for a, v in part.__dict__.items()}
        for k, m in models.items()
        for n, part in m.named_modules()
    }
    parameters = [
        (n, p.requires_grad, p.grad, p._version) for m in models.values() for n, p in m.named_parameters()
    ]
    return attributes, parameters, {k: id(v) for k, v in pipe.__dict__.items()}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipeline_is_as_before(name: str, mode: bool) -> None:
    pipe = built(name)
    next(iter(pipe.components["vae"].parameters())).requires_grad_(False)  # one that was frozen stays so
    given = ZOO[name].arguments(1) | {"output_type": "np", "num_inference_steps": STEPS}
    first = pipe(**given, generator=torch.Generator().manual_seed(5))[0]
    before = state(pipe)
    with torch.set_grad_enabled(mode):
        called(pipe, name, Keep(step=0, calls=(1, 2)))
        assert torch.is_grad_enabled() == mode
    assert state(pipe) == before
    again = pipe(**given, generator=torch.Generator().manual_seed(5))[0]
    assert (first == again).all()


class Broken(Exception):
    pass


@pytest.mark.parametrize("when", ["in the verifier", "on the way back", "in the denoiser"])
def test_the_pipeline_is_as_before_after_an_error(when: str) -> None:
    pipe = built("flux")
    called(pipe, "flux", Keep())
    before, block = state(pipe), pipe.transformer.transformer_blocks[0]

    def failing(*_: Any, **__: Any) -> Any:
        raise Broken

    def verifier(media: Any, prompts: Any) -> Tensor:
        if when == "in the verifier" and media.pixels.requires_grad:
            raise UsageError("not this one")
        if when == "on the way back" and media.pixels.requires_grad:
            media.pixels.register_hook(failing)
        return weighted(media, prompts)

    class Keeping(Keep):
        def search(self, process: Any, key: Key) -> Any:
            if when == "in the denoiser":
                block.forward = failing
            return super().search(process, key)

    with torch.enable_grad():
        with pytest.raises((Broken, UsageError)):
            called(pipe, "flux", Keeping(step=0, calls=(1,)), verifier=verifier)
        assert torch.is_grad_enabled()
    block.__dict__.pop("forward", None)
    assert state(pipe) == before


def test_no_graph_outlives_a_search() -> None:
    """Nor do the caches of a run hold one: what a run keeps has no graph."""
    import gc

    def graphs() -> set[int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
        return {id(t) for t in tensors if t.requires_grad and t.grad_fn is not None}

    pipe, sampler, before = built("sdxl"), Keep(step=0, calls=(1, 2)), graphs()
    scaled = genscale.scale(pipe, sampler, weighted, batch_size=4)  # it keeps what a run found out
    for _ in range(2):  # gathered conditioning, templates and memos are all in use
        scaled(**ZOO["sdxl"].arguments(2), output_type="np")
    assert graphs() <= before


# ---------------------------------------------------------------- modes, precision, offloading


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match="outside of it"):
        called(built("flux"), "flux", Keep())


def test_conditioning_made_under_inference_mode() -> None:
    pipe = built("sd3")
    with torch.inference_mode():
        made = pipe.encode_prompt(*[text(1)] * 3, max_sequence_length=32)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    assert made[0].is_inference()
    given, plain = Keep(step=0, calls=(1,)), Keep(step=0, calls=(1,))
    called(pipe, "sd3", given, prompt=None, texts=text(1), **dict(zip(names, made, strict=True)))
    copies = {n: m.clone() for n, m in zip(names, made, strict=True)}
    called(pipe, "sd3", plain, prompt=None, texts=text(1), **copies)
    one, two = next(iter(given.answers.values())), next(iter(plain.answers.values()))
    assert close(one.gradient, two.gradient, 1e-6)


def test_cached_denoisers_are_refused() -> None:
    from diffusers import FirstBlockCacheConfig

    pipe = built("flux")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(UsageError, match=r"pipe\.transformer\.disable_cache\(\)"):
        called(pipe, "flux", Keep())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["flux", "sdxl", "wan"])
def test_half_precision_gives_float32_gradients(name: str, kind: str) -> None:
    whole, half = Keep(**KINDS[kind]), Keep(**KINDS[kind])
    called(built(name), name, whole)
    called(built(name, torch.bfloat16), name, half)
    one, two = next(iter(whole.answers.values())).gradient, next(iter(half.answers.values())).gradient
    assert two.dtype == torch.float32
    alike = torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0)
    assert alike > (0.7 if name == "wan" else 0.9)  # rounding moves what Wan clamps


@pytest.mark.parametrize("sized", [True, False])
def test_small_gradients_are_not_lost_in_float16(sized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """... since rows go back at size 1; the broken twin goes back as it is, and finds nothing."""

    def small(media: Any, prompts: Any) -> Tensor:
        return 1e-9 * weighted(media, prompts)

    def plain(outputs: Tensor, leaves: Any, pull: Tensor, again: bool) -> Any:
        return torch.autograd.grad(outputs, leaves, pull.to(outputs), again)

    if not sized:
        monkeypatch.setattr("genscale.engine.gradient_batches.pulled_back", plain)
        monkeypatch.setattr("genscale.engine.unrolled_calls.pulled_back", plain)
    half, whole = Keep(), Keep()
    called(built("flux", torch.float16), "flux", half, verifier=small)
    called(built("flux"), "flux", whole)
    one, two = (1e9 * next(iter(half.answers.values())).gradient, next(iter(whole.answers.values())).gradient)
    assert close(one, two, 0.1) == sized


@pytest.mark.parametrize("kind", ["one call", "the whole run"])
def test_what_does_not_fit_goes_in_halves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, tried = DifferentiableModels.call, list[int]()

    def small(self: DifferentiableModels, forward: Any, args: Any, kwargs: Any, again: bool) -> Any:
        tried.append(len(kwargs["hidden_states"]))
        if tried[-1] > 2 and len(tried) % 2 == 0:  # the first call of a run fits, the second does not
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return call(self, forward, args, kwargs, again)

    whole, parts = Keep(n=6, **KINDS[kind]), Keep(n=6, **KINDS[kind])
    called(built("flux"), "flux", whole, batch_size=8)
    monkeypatch.setattr(DifferentiableModels, "call", small)
    tried.append(0) if kind == "one call" else None
    called(built("flux"), "flux", parts, batch_size=8)
    assert 6 in tried
    assert max(tried[-3:]) <= 3
    assert close(next(iter(parts.answers.values())).gradient, next(iter(whole.answers.values())).gradient)


def offload(model: nn.Module) -> None:
    """Weights that are there only during a call, as with offloading: else they hold NaN."""
    weights = {n: p.data for n, p in model.named_parameters()}
    away = {n: torch.full_like(w, torch.nan) if w.is_floating_point() else w for n, w in weights.items()}

    def come(*_: Any) -> None:
        for n, p in model.named_parameters():
            p.data = weights[n]

    def go(*_: Any) -> None:
        for n, p in model.named_parameters():
            p.data = away[n]

    model._hf_hook = None  # type: ignore[assignment]  # how offloading is known
    for name in ("forward", "decode"):
        if hasattr(model, name):
            setattr(model, name, _between(come, getattr(model, name), go))
    go()


def _between(before: Callable[[], None], call: Any, after: Callable[[], None]) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        before()
        try:
            return call(*args, **kwargs)
        finally:
            after()

    run.__wrapped__ = call  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_offloaded_models(name: str, kind: str) -> None:
    plain, away = Keep(**KINDS[kind]), Keep(**KINDS[kind])
    called(built(name), name, plain)
    pipe = built(name)
    for part in ("transformer", "unet", "vae"):
        if part in pipe.components:
            offload(pipe.components[part])
    called(pipe, name, away)
    one, two = next(iter(plain.answers.values())), next(iter(away.answers.values()))
    assert two.gradient.isfinite().all()
    assert close(two.gradient, one.gradient, 1e-5)


def test_without_holding_weights_offloading_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of the above: plain autograd looks for the weights where they no longer are."""
    monkeypatch.setattr(DifferentiableModels, "offloaded", False)
    pipe = built("flux")
    offload(pipe.transformer)
    with pytest.raises(UsageError, match="not finite"):
        called(pipe, "flux", Keep())


@pytest.mark.parametrize("again", [True, False])
def test_a_decoder_that_draws_noise_draws_the_same_again(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... when it is computed again on the way back; the broken twin's checkpoint knows only torch's own generator."""
    if not again:
        plain = partial(partial, checkpoint, use_reentrant=False)
        monkeypatch.setattr("genscale.pipelines.differentiable_models._checkpointed", plain)
    pipe = built("flux", torch.float64)
    decode = pipe.vae.decoder.mid_block.forward

    def noisy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return decode(x * (1 + torch.randn(x.shape[1:], dtype=x.dtype)), *args, **kwargs)

    pipe.vae.decoder.mid_block.forward = noisy
    sampler = Differences(**KINDS["one call"])
    called(pipe, "flux", sampler)
    differences, gradient = sampler.slopes[0]
    assert (abs(differences - gradient) < 1e-3) == again


# ---------------------------------------------------------------- memory


def peak(pipe: Any, calls: int, held: bool = False) -> tuple[int, int]:
    """Peak of the live bytes of a gradient through so many calls, and bytes of the latents."""
    probe = Probe(2, (calls,))
    with without_checkpoints() if held else nullcontext():
        called(pipe, "sd3", probe, num_inference_steps=9)
    return probe.found["back", calls][0][0], probe.latent


def test_memory_grows_by_latents_and_not_by_calls() -> None:
    pipe = built("sd3")
    (one, latent), (two, _), (eight, _) = (peak(pipe, n) for n in (1, 2, 8))
    assert one > 50 * latent  # what a call needs is far from nothing
    assert two < one + 20 * latent
    assert eight - two <= 6 * 2.5 * latent  # a call's latents, and the estimate that it stepped with
    without = [peak(pipe, n, held=True)[0] for n in (1, 2, 8)]  # the broken twin
    assert without[0] == one
    assert without[2] - without[1] > 6 * 0.5 * one


def test_live_memory_counts_exactly() -> None:
    with LiveMemory() as memory:
        a = torch.ones(1000)
        b = a.view(10, 100) + 1
        b.mul_(2)
        assert memory.live == memory.peak == 8000
        del a
        c = b.t().reshape(-1)[:3]
        assert memory.live == 8000  # a went, c holds a copy whole
        del b, c
    assert (memory.live, memory.peak) == (0, 8000)
