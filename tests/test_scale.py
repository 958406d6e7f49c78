"""`genscale.scale` as a user of diffusers meets it, on tiny pipelines with random weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale import Budget, UsageError, VerifierError
from genscale.diffusion.mixtures import Tempered
from genscale.engine.archive import read_archive
from genscale.engine.events import BatchHalved
from genscale.plugins.registry import found, load
from genscale.samplers.best_of_n import BestOfN
from tests.quick import NUMBERS, quick
from tests.zoo import ZOO, with_scheduler


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SCORES_DECIDE = ("rollover", "dts", "dts_star", "ab_mcts", "dfs")  # how much these spend


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m).mean()) for m in media]


def arguments(name: str, prompts: int = 1, **more: Any) -> dict[str, Any]:
    return ZOO[name].arguments(prompts) | {"output_type": "np", "generator": seeded()} | more


def light(media: Any, prompts: Any) -> torch.Tensor:
    """The same, with a gradient."""
    return media.pixels.flatten(1).mean(1)


# Gradients through every family are in test_gradient_pipelines.py; these stand for the others here.
DIFFERENTIATED = ("stable_diffusion", "sdxl", "sd3", "flux", "wan")


# The default run has a flow transformer with packed latents.
USUAL = ("flux",)


@pytest.mark.parametrize("name", quick(ZOO, USUAL))
def test_every_sampler_runs_on_every_pipeline(name: str) -> None:
    pipe = ZOO[name].build()
    for sampler in found("sampler"):
        cls = load("sampler", sampler)
        gradients = "gradient" in cls.needs or getattr(cls(), "gradient", "none") != "none"
        if gradients and name not in DIFFERENTIATED:
            continue
        more = {
            "batch_size": 3,
            "mix": Tempered(1.0) if "mix" in cls.needs else None,  # at the pipeline's own price
            **NUMBERS.get(sampler, {}),
        }
        verifier = light if gradients else brightness
        try:
            scaled = genscale.scale(pipe, sampler, verifier, **more)
            each = scaled.plan(**arguments(name)).nfe_per_candidate
        except UsageError:
            if "branches" not in cls.needs:  # test_branches.py has those pipelines that have none
                raise
            continue
        budget = Budget(nfe=int(3.5 * each))
        scaled = genscale.scale(pipe, sampler, verifier, budget=budget, **more)
        planned = scaled.plan(**arguments(name))
        search = scaled(**arguments(name)).search
        if scaled.sampler.cost(search.searches[0].process) is None and sampler in SCORES_DECIDE:
            assert search.ledger.nfe <= budget.nfe
        else:
            assert search.ledger.nfe == planned.nfe <= budget.nfe, sampler
        assert len(search.entries) > 1
        assert search.best.total == max(e.total for e in search.ranking())


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "flux", "wan"])
def test_best_of_n_is_the_best_of_separate_calls(name: str) -> None:
    """Each candidate, run alone through the plain pipeline from its recorded noise, scores as recorded."""
    pipe = ZOO[name].build()
    output = genscale.scale(pipe, verifier=brightness, candidates=4, keep=4)(**arguments(name))
    ranking = output.search.ranking()
    assert len(ranking) == 4
    assert [e.total for e in ranking] == sorted((e.total for e in ranking), reverse=True)
    media = output.search.media(ranking)
    assert brightness(media, None) == pytest.approx([e.total for e in ranking], abs=0.51)
    first = torch.as_tensor(np.asarray(output[0]))[0]
    best = media.pixels[0].movedim(-3, -1).cpu()
    assert torch.allclose(first.float(), best.float(), atol=1e-4)
    for entry in ranking:
        process = output.search.searches[0].process
        latents = process.start([entry.candidate]).x
        if name == "wan":
            latents = latents.float()
        alone = pipe(**ZOO[name].arguments(1), output_type="np", generator=seeded(), latents=latents)[0]
        assert float(np.abs(np.asarray(alone)[0] * 255).mean()) == pytest.approx(entry.total, abs=0.6)


def test_several_of_the_best_come_back_best_first() -> None:
    pipe = ZOO["sdxl"].build()
    scaled = genscale.scale(pipe, verifier=brightness, candidates=5)
    output = scaled(**arguments("sdxl", 2, num_images_per_prompt=3))
    assert type(output).__name__ == "StableDiffusionXLPipelineOutput"
    means = [float(i.mean()) for i in output.images]
    assert len(means) == 6
    assert means[:3] == sorted(means[:3], reverse=True)
    assert means[3:] == sorted(means[3:], reverse=True)


def test_output_types_and_tuples() -> None:
    pipe = ZOO["stable_diffusion"].build()
    scaled = genscale.scale(pipe, verifier=brightness, candidates=2)
    assert scaled(**arguments("stable_diffusion", output_type="pil")).images[0].mode == "RGB"
    assert scaled(**arguments("stable_diffusion", output_type="latent")).images.shape[0] == 1
    images, _, search = scaled(**arguments("stable_diffusion", return_dict=False))
    assert len(images) == 1
    assert search.best.candidate.id in (0, 1)


def test_latents_given_by_the_user_are_candidate_0() -> None:
    for name in ("stable_diffusion", "flux", "sd3"):
        pipe = ZOO[name].build()
        given = ZOO[name].arguments(1)
        own = genscale.scale(pipe, candidates=1)(**given, output_type="np", generator=seeded())
        latents = own.search.searches[0].process.prior.own[None] * 0.9
        alone = pipe(**ZOO[name].arguments(1), output_type="np", latents=latents.clone())[0]
        output = genscale.scale(pipe, verifier=brightness, candidates=3, keep=3)(
            **ZOO[name].arguments(1), output_type="np", latents=latents.clone()
        )
        base = output.search.media([output.search.base()]).pixels.movedim(1, -1)
        assert np.allclose(np.asarray(alone), base.numpy(), atol=1e-5)
        others = [e.x for e in output.search.ranking() if e.candidate.id != 0]
        assert len(others) == 2
        assert not torch.equal(others[0], others[1])


def test_prompt_embeddings_instead_of_prompts() -> None:
    pipe = ZOO["stable_diffusion"].build()
    given = ZOO["stable_diffusion"].arguments(2)
    positive, negative = pipe.encode_prompt(given.pop("prompt"), "cpu", 1, True)
    call = given | {"prompt_embeds": positive, "negative_prompt_embeds": negative, "output_type": "np"}
    alone = pipe(**call, generator=seeded()).images
    assert np.array_equal(alone, genscale.scale(pipe, candidates=1)(**call, generator=seeded()).images)
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3)
    assert len(scaled(**call, texts=["a", "b"], generator=seeded()).images) == 2


def test_the_callback_sees_every_step_and_may_change_latents() -> None:
    pipe = ZOO["sdxl"].build()

    def runs(scaled: bool) -> tuple[list[int], np.ndarray]:
        steps: list[int] = []

        def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            steps.append(step)
            return {"latents": tensors["latents"] * 0.9} if step == 1 else {}

        target = genscale.scale(pipe, candidates=1) if scaled else pipe
        return steps, target(**arguments("sdxl", callback_on_step_end=callback)).images

    plain, searched = runs(False), runs(True)
    assert np.array_equal(plain[1], searched[1])
    assert plain[0] == searched[0]


def test_an_interrupt_from_the_callback_gives_the_best_so_far() -> None:
    pipe = ZOO["stable_diffusion"].build()
    calls = []

    def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        calls.append(step)
        p._interrupt = len(calls) == 9
        return tensors

    scaled = genscale.scale(pipe, "zero_order", brightness, rounds=50, neighbours=2)
    output = scaled(**arguments("stable_diffusion", callback_on_step_end=callback))
    assert output.search.stopped == "interrupted"
    assert len(output.images) == 1
    assert len(output.search.entries) < 20


def test_ctrl_c_gives_the_best_so_far() -> None:
    pipe = ZOO["stable_diffusion"].build()

    def verifier(media: Any, prompts: Any) -> list[float]:
        seen.append(len(media))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return brightness(media, prompts)

    seen: list[int] = []
    output = genscale.scale(pipe, "zero_order", verifier, rounds=50)(**arguments("stable_diffusion"))
    assert output.search.stopped == "interrupted"
    assert len(output.search.entries) == 5


def test_the_pipeline_is_as_before_after_an_exception() -> None:
    pipe = ZOO["sd3"].build()
    pipe(**arguments("sd3"))
    before = dict(pipe.__dict__)
    forwards = {n: m.__dict__.get("forward") for n, m in pipe.components.items() if hasattr(m, "__dict__")}

    def broken(media: Any, prompts: Any) -> Any:
        raise RuntimeError("no such luck")

    with pytest.raises(VerifierError, match=r"verifier 'broken' failed on candidate 0 .*no such luck"):
        genscale.scale(pipe, verifier=broken, candidates=2, wave=1)(**arguments("sd3"))
    assert pipe.__dict__.keys() == before.keys()
    assert all(pipe.__dict__[k] is before[k] for k in before)
    after = {n: m.__dict__.get("forward") for n, m in pipe.components.items() if hasattr(m, "__dict__")}
    assert after == forwards
    module = sys.modules[type(pipe).__module__]
    assert "enumerate" not in vars(module)


def test_without_a_generator_the_global_seed_decides() -> None:
    pipe = ZOO["stable_diffusion"].build()
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3)
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        call = arguments("stable_diffusion", generator=None)
        images.append(scaled(**call).images)
        following = torch.rand(1)
        torch.manual_seed(seed)
        pipe(**call)
        assert torch.equal(following, torch.rand(1))  # the search takes nothing else from that stream
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_generator_for_each_prompt() -> None:
    pipe = ZOO["flux"].build()
    generators = [seeded(5), seeded(6)]
    alone = pipe(**arguments("flux", 2, generator=generators)).images
    output = genscale.scale(pipe, candidates=1)(**arguments("flux", 2, generator=[seeded(5), seeded(6)]))
    assert np.array_equal(alone, output.images)


@pytest.mark.parametrize("name", ["flux", "sd_img2img", "wan"])
@pytest.mark.parametrize("several", [False, True])
def test_candidates_of_every_prompt_differ(name: str, several: bool) -> None:
    pipe = ZOO[name].build()
    generator = [seeded(5), seeded(6)] if several else seeded(5)
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, keep=3)
    search = scaled(**arguments(name, 2, generator=generator)).search
    latents = [e.x for p in (0, 1) for e in search.ranking(p)]
    assert len(latents) == 6
    for i in range(6):
        assert not any(torch.allclose(latents[i], latents[j], atol=1e-2) for j in range(i))


def test_a_prompt_is_encoded_once() -> None:
    pipe = ZOO["stable_diffusion"].build()
    calls = []
    forward = pipe.text_encoder.forward
    pipe.text_encoder.forward = lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
    genscale.scale(pipe, "zero_order", brightness, rounds=3)(**arguments("stable_diffusion"))
    assert len(calls) == 2  # the prompt and the empty one


@pytest.mark.parametrize(
    "scheduler", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"]
)
def test_histories_follow_pruned_and_branched_particles(scheduler: str) -> None:
    """A pruned survivor ends where it would have ended without pruning."""
    pipe = with_scheduler(ZOO["stable_diffusion"].build(), scheduler)
    steps = {"num_inference_steps": 4}
    plain = genscale.scale(pipe, verifier=brightness, candidates=4, keep=4)(
        **arguments("stable_diffusion") | steps
    )
    halved = genscale.scale(pipe, BestOfN(4, prune=(0.5,)), brightness, keep=4)(
        **arguments("stable_diffusion") | steps
    )
    ends = {e.candidate.id: e.x for e in plain.search.ranking()}
    survivors = halved.search.ranking()
    assert 0 < len(survivors) < 4
    for entry in survivors:
        assert torch.allclose(entry.x, ends[entry.candidate.id], atol=1e-3)


SCRIPT = """
import sys, torch, genscale
from tests.test_scale import arguments, brightness
from tests.zoo import ZOO, with_scheduler
pipe = with_scheduler(ZOO["stable_diffusion"].build(), "DPMSolverMultistepScheduler")
scaled = genscale.scale(pipe, sys.argv[2], brightness, budget="60nfe", batch_size=2, out=sys.argv[1],
                        on_event=lambda e: print("event", flush=True))
output = scaled(**arguments("stable_diffusion"))
print("best", output.search.best.candidate.id, output.search.best.total, output.images.sum())
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["best_of_n", "search_over_paths"])
def test_killed_and_resumed_with_a_multistep_solver(tmp_path: Path, sampler: str) -> None:
    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / folder), sampler]
        root = Path(__file__).parents[1]
        return subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip

    whole = start("whole").communicate()[0].splitlines()
    killed = start("killed")
    assert killed.stdout is not None
    for _ in range(9):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = start("killed").communicate()[0].splitlines()
    assert resumed[-1] == whole[-1]
    assert len(resumed) < len(whole)

    def content(folder: str) -> list[Any]:
        records = [{k: v for k, v in r.items() if k != "seconds"} for r in read_archive(tmp_path / folder)]
        return sorted(map(repr, records))

    assert content("whole") == content("killed")


def test_a_batch_that_does_not_fit_is_halved() -> None:
    pipe = ZOO["stable_diffusion"].build()
    plain = genscale.scale(pipe, verifier=brightness, candidates=7, batch_size=7)(
        **arguments("stable_diffusion")
    )
    forward, rows = pipe.unet.forward, []

    def small_memory(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        if sample.shape[0] > 4:  # two latents and their guidance copies
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *args, **kwargs)

    pipe.unet.forward = small_memory
    events: list[Any] = []
    scaled = genscale.scale(pipe, verifier=brightness, candidates=7, batch_size=7, on_event=events.append)
    small = scaled(**arguments("stable_diffusion"))
    assert small.search.best.candidate == plain.search.best.candidate
    assert small.search.ledger.evaluations == plain.search.ledger.evaluations
    assert [e.batch_size for e in events if isinstance(e, BatchHalved)] == [3, 1]
    assert max(rows[-3:]) <= 4
    pipe.unet.forward = lambda *a, **k: small_memory(torch.zeros(99), *a, **k)
    with pytest.raises(UsageError, match="one latent does not fit"):
        genscale.scale(pipe, verifier=brightness, candidates=2, batch_size=1)(**arguments("stable_diffusion"))


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    pipe = ZOO["stable_diffusion"].build()
    with pytest.raises(UsageError):
        genscale.scale(pipe, budget="5nfe", out=tmp_path / "run")(**arguments("stable_diffusion"))
    assert not (tmp_path / "run").exists()


def test_a_larger_budget_goes_on_with_the_archive(tmp_path: Path) -> None:
    pipe = ZOO["stable_diffusion"].build()

    def run(budget: str, folder: str) -> Any:
        scaled = genscale.scale(pipe, "zero_order", brightness, budget=budget, out=tmp_path / folder)
        return scaled(**arguments("stable_diffusion")).search

    small, large, whole = run("40nfe", "a"), run("90nfe", "a"), run("90nfe", "b")
    assert large.ledger.evaluations == whole.ledger.evaluations - small.ledger.evaluations
    assert large.best.candidate == whole.best.candidate
    assert [e.total for e in large.entries] == pytest.approx([e.total for e in whole.entries], abs=1e-3)


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = arguments("stable_diffusion")
    cases: list[tuple[Any, str]] = [
        (lambda: genscale.scale(pipe, "best_of_m"), "did you mean 'best_of_n'"),
        (lambda: genscale.scale(pipe, candidats=3), "did you mean 'candidates'"),
        (lambda: genscale.scale(pipe, candidates=0), "at least 1 candidate"),
        (lambda: genscale.scale(pipe, verifier="clop"), "did you mean 'clip'"),
        (lambda: genscale.scale(pipe, verifier=3), "is not a verifier"),
        (lambda: genscale.scale(pipe, ensemble="sum"), "ensemble 'sum' is unknown"),
        (lambda: genscale.scale(pipe, budget="lots"), "cannot read 'lots'"),
        (lambda: genscale.scale(pipe, budget="5nfe")(**call), "too small: one sample of"),
        (lambda: genscale.scale(pipe)(**call, promt="x"), "did you mean 'prompt'"),
        (lambda: genscale.scale(object())(prompt="x"), "has no scheduler"),
        (lambda: genscale.scale(pipe, candidates=1, out="/dev/null/x")(**call), "cannot write to"),
        (
            lambda: genscale.scale(pipe, verifier=lambda m, p: [float("nan")] * len(m))(**call),
            "failed: the verifier <lambda> gave NaN",
        ),
        (
            lambda: genscale.scale(pipe, verifier=lambda m, p: [1.0])(**call),
            "must return one number for each",
        ),
    ]
    for work, message in cases:
        with pytest.raises(UsageError) as caught:
            work()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("best_of_n", {"candidates": 4}, "best_of_n would finish 4 candidates a prompt to return 1"),
        ("best_of_n", {}, "would finish 16 candidates"),
        (
            "best_of_n",
            {"candidates": 4, "held_out": brightness},
            "would finish 4 candidates",
        ),  # it only measures
        (
            "best_of_n",
            {"candidates": 4, "prune": (0.5,), "survivors": 0.25},
            "compares candidates during the run",
        ),
        ("best_of_n", {"budget": "60s"}, "would finish more than 1 candidates"),
        ("zero_order", {"rounds": 2}, "zero_order would finish"),
        ("nlg", {"candidates": 2}, "nlg would finish 2 candidates"),
        ("smc", {"particles": 4}, "would finish 4 candidates"),
        ("bfs", {}, "bfs compares candidates during the run"),
        ("reno", {}, "a gradient needs a verifier's score"),
    ],
)
def test_a_choice_without_a_verifier_is_refused(
    sampler: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Before anything is evaluated or written; the plan is still there to be looked at."""
    pipe, call = ZOO["stable_diffusion"].build(), arguments("stable_diffusion")
    if "prune" in options:  # of two steps none has a preview before the image
        call["num_inference_steps"] = 4
    scaled = genscale.scale(pipe, sampler, out=tmp_path / "run", **options)
    evaluated: list[int] = []
    pipe.unet.forward = lambda *args, **kwargs: evaluated.append(1)
    with pytest.raises(UsageError, match=message) as caught:
        scaled(**call)
    assert "\n" not in str(caught.value)
    assert "verifier" in str(caught.value)
    assert not evaluated
    assert not (tmp_path / "run").exists()
    if sampler != "reno":
        assert scaled.plan(**call).nfe_per_candidate > 0


def test_what_needs_no_verifier_runs_without_one() -> None:
    """One candidate, as many candidates as images, or a winner picked by the select verifier."""
    pipe = ZOO["stable_diffusion"].build()
    for sampler, options in (("best_of_n", {"candidates": 1}), ("nlg", {"repeats": 1}), ("zigzag", {})):
        assert len(genscale.scale(pipe, sampler, **options)(**arguments("stable_diffusion")).images) == 1
    three = genscale.scale(pipe, candidates=3)(**arguments("stable_diffusion", num_images_per_prompt=3))
    assert len({image.tobytes() for image in three.images}) == 3
    picked = genscale.scale(pipe, select=brightness, candidates=3)(**arguments("stable_diffusion")).search
    assert len(picked.ranking()) == 3
    assert picked.best.select["brightness"] == max(e.select["brightness"] for e in picked.ranking())


def test_held_out_verifiers_only_report() -> None:
    pipe = ZOO["stable_diffusion"].build()

    def darkness(media: Any, prompts: Any) -> list[float]:
        return [-b for b in brightness(media, prompts)]

    output = genscale.scale(pipe, verifier=brightness, held_out=darkness, candidates=6)(
        **arguments("stable_diffusion")
    )
    best, base = output.search.best, output.search.base()
    assert best.held_out["darkness"] == pytest.approx(-best.total)
    assert base.held_out["darkness"] == pytest.approx(-base.total)
    with pytest.warns(UserWarning, match="both steers and reports"):
        genscale.scale(pipe, verifier=brightness, held_out=brightness)
