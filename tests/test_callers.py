"""One pipeline, many callers: threads, tasks and verifiers that use a pipeline while it is searched."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import genscale
from genscale import UsageError, VerifierError
from genscale.pipelines import pipeline_lock
from genscale.pipelines.model_variants import PerturbedModules
from tests.quick import quick
from tests.zoo import ZOO

FAMILIES = ("stable_diffusion", "sdxl", "sd3", "flux", "wan", "ltx")
USUAL = ("stable_diffusion", "flux")


def arguments(name: str, seed: int, **more: Any) -> dict[str, Any]:
    given = ZOO[name].arguments(3)
    given["prompt"] = given["prompt"][seed % 3]
    return given | {"output_type": "np", "generator": torch.Generator().manual_seed(seed)} | more


def pixels(pipe: Any, name: str, seed: int, **more: Any) -> np.ndarray:
    return np.asarray(pipe(**arguments(name, seed, **more))[0])


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m).mean()) for m in media]


def light(media: Any, prompts: Any) -> torch.Tensor:
    return media.pixels.flatten(1).mean(1)


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything of a pipeline that a call could leave behind, by identity."""
    modules = {n: c for n, c in pipe.components.items() if isinstance(c, nn.Module)}
    return {
        "class": type(pipe),
        "attributes": {k: id(v) for k, v in vars(pipe).items()},
        "scheduler": (type(pipe.scheduler), repr(pipe.scheduler.config), sorted(vars(pipe.scheduler))),
        "globals": {k: id(v) for k, v in vars(sys.modules[type(pipe).__module__]).items()},
        "modules": {
            (n, part): (type(m), sorted(m.__dict__), m.training, len(m._forward_hooks))
            for n, c in modules.items()
            for part, m in c.named_modules()
        },
        "weights": {(n, p): w.requires_grad for n, c in modules.items() for p, w in c.named_parameters()},
    }


def in_thread(work: Callable[[], Any]) -> Any:
    """The result of work in a thread that does not know of this one's context."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(60)


# ---------------------------------------------------------------- many searches


def all_at_once(calls: list[Callable[[], Any]], threads: int) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda call: call(), calls))


def as_tasks(calls: list[Callable[[], Any]], threads: int) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "sampler", "verifier", "calls", "threads", "run"),
    [
        ("stable_diffusion", "best_of_n", brightness, 8, 4, all_at_once),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("stable_diffusion", "best_of_n", brightness, 32, 8, all_at_once),
                ("flux", "smc", brightness, 32, 8, all_at_once),
                ("wan", "zero_order", brightness, 16, 8, all_at_once),
                ("sd3", "dno", light, 8, 8, all_at_once),
                ("sdxl", "best_of_n", brightness, 16, 8, as_tasks),
            )
        ),
    ],
)
def test_parallel_calls_equal_their_serial_results(
    name: str, sampler: str, verifier: Any, calls: int, threads: int, run: Any
) -> None:
    pipe = ZOO[name].build()
    scaled = genscale.scale(pipe, sampler, verifier, budget="4images", batch_size=2)
    alone = [pixels(scaled, name, seed) for seed in range(calls)]
    pixels(pipe, name, 0)
    before = snapshot(pipe)
    together = run([lambda seed=seed: pixels(scaled, name, seed) for seed in range(calls)], threads)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    pixels(pipe, name, 0)  # writes the same attributes as before, on its own
    after = snapshot(pipe)
    assert {k for k in before if before[k] != after[k]} <= {"attributes"}
    assert before["attributes"].keys() == after["attributes"].keys()
    assert not pipeline_lock._active
    assert not pipeline_lock._waiting


def test_searches_leave_nothing_on_the_pipeline() -> None:
    pipe = ZOO["stable_diffusion"].build()
    before = snapshot(pipe)
    scaled = [genscale.scale(pipe, sampler, brightness, budget="3images") for sampler in ("smc", "best_of_n")]
    all_at_once([lambda i=i: pixels(scaled[i % 2], "stable_diffusion", i) for i in range(6)], 6)
    assert snapshot(pipe) == before


def test_pipelines_that_share_models_take_turns() -> None:
    """Two pipelines of other classes over the same models, searched in two threads."""
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = ZOO["stable_diffusion"].build()
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    image = {"image": torch.full((1, 3, 32, 32), 0.5), "strength": 0.9, "num_inference_steps": 4}
    running: list[str] = []

    def alone_in_its_loop(who: str) -> Callable[..., dict[str, Any]]:
        def callback(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
            running.append(who)
            threading.Event().wait(0.002)
            return {}

        return callback

    def first(n: int) -> Any:
        watch = {"callback_on_step_end": alone_in_its_loop(f"first {n}")}
        scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=3)
        return pixels(scaled, "stable_diffusion", n, **watch)

    def second(n: int) -> Any:
        scaled = genscale.scale(other, "best_of_n", brightness, candidates=3)
        return np.asarray(
            scaled(
                f"a cat {n}", output_type="np", generator=torch.Generator().manual_seed(n), **image,
                callback_on_step_end=alone_in_its_loop(f"second {n}"),
            )[0]
        )  # fmt: skip

    calls = [lambda n=n, f=f: f(n) for n in range(3) for f in (first, second)]
    alone = [call() for call in calls]
    running.clear()
    together = all_at_once(calls, 6)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    turns = [who for place, who in enumerate(running) if place == 0 or running[place - 1] != who]
    assert len(turns) == 6, turns  # none was in another's loop


def test_a_failure_in_one_thread_is_its_own() -> None:
    pipe = ZOO["stable_diffusion"].build()
    before = snapshot(pipe)
    broken = threading.local()

    def verifier(media: Any, prompts: Any) -> list[float]:
        if (error := getattr(broken, "error", None)) is not None:
            raise error
        return brightness(media, prompts)

    scaled = genscale.scale(pipe, "best_of_n", verifier, candidates=3)

    def call(seed: int, error: BaseException | None) -> Any:
        broken.error = error
        try:
            return pixels(scaled, "stable_diffusion", seed)
        except BaseException as raised:
            return type(raised)

    errors = [None, ValueError("no"), None, KeyboardInterrupt(), None, UsageError("no.")]
    alone = [call(seed, error) for seed, error in enumerate(errors)]
    assert [a for a in alone if isinstance(a, type)] == [VerifierError, KeyboardInterrupt, UsageError]
    together = all_at_once([lambda s=s, e=e: call(s, e) for s, e in enumerate(errors)], 6)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert snapshot(pipe) == before


# ---------------------------------------------------------------- the pipeline itself, beside a search


def beside(
    work: Callable[[], Any], found: list[Any], steps: tuple[int, ...]
) -> Callable[..., dict[str, Any]]:
    """A step callback that lets another thread do the work, in the middle of the loop."""

    def callback(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        if step in steps:
            found.append(in_thread(work))
        return {}

    return callback


@pytest.mark.parametrize("name", quick(FAMILIES, USUAL))
@pytest.mark.parametrize("sampler", quick(("best_of_n", "smc"), ["best_of_n"]))
def test_a_plain_call_during_a_search_is_as_ever_and_so_is_the_search(name: str, sampler: str) -> None:
    pipe = ZOO[name].build()
    scaled = genscale.scale(pipe, sampler, brightness, budget="3images")
    plain, searched = pixels(pipe, name, 1), pixels(scaled, name, 2)
    found: list[Any] = []
    callback = beside(lambda: pixels(pipe, name, 1), found, (0, 1))
    assert np.array_equal(pixels(scaled, name, 2, callback_on_step_end=callback), searched)
    assert len(found) >= 2
    assert all(np.array_equal(f, plain) for f in found)
    assert np.array_equal(pixels(pipe, name, 1), plain)


@pytest.mark.parametrize("name", quick(FAMILIES, USUAL))
def test_a_search_in_the_middle_of_a_plain_call(name: str) -> None:
    pipe = ZOO[name].build()
    scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=3)
    plain, searched = pixels(pipe, name, 1), pixels(scaled, name, 2)
    found: list[Any] = []
    callback = beside(lambda: pixels(scaled, name, 2), found, (0,))
    assert np.array_equal(pixels(pipe, name, 1, callback_on_step_end=callback), plain)
    assert np.array_equal(found[0], searched)


def test_other_threads_see_and_change_the_pipeline_itself() -> None:
    """Its class, attributes and methods; what they set stays, what the search sets does not."""
    pipe = ZOO["stable_diffusion"].build()
    scheduler, found = pipe.scheduler, []

    def look() -> None:
        found.append((pipe.scheduler is scheduler, pipe.__class__, pipe.to("cpu") is pipe))
        found.append(
            (vars(copy.copy(pipe))["scheduler"] is scheduler, getattr(pipe, "_guidance_scale", None))
        )
        pipe.mark = len(found)
        pipe.lost = 1
        del pipe.lost

    callback = beside(look, [], (0,))
    scaled = genscale.scale(pipe, candidates=1)
    pixels(scaled, "stable_diffusion", 0, callback_on_step_end=callback)
    assert set(found) == {(True, type(pipe), True), (True, None)}
    assert pipe.mark == len(found)
    assert not hasattr(pipe, "lost")
    assert not hasattr(pipe, "_guidance_scale")


def test_a_plain_call_waits_while_the_search_has_changed_its_models() -> None:
    pipe = ZOO["stable_diffusion"].build()
    plain, found, threads = pixels(pipe, "stable_diffusion", 1), [], []

    def prepare(module: nn.Module) -> None:
        module.conv_in.bias.data += 1
        if len(threads) < 3:
            threads.append(threading.Thread(target=lambda: found.append(pixels(pipe, "stable_diffusion", 1))))
            threads[-1].start()
            threads[-1].join(0.2)  # would be enough, were it not to wait

    def restore(module: nn.Module) -> None:
        module.conv_in.bias.data -= 1

    # The other model's share is large, so that an unguarded call would show.
    scaled = genscale.scale(
        pipe, mix="weak:-1", models={"weak": PerturbedModules(prepare, restore)}, candidates=1
    )
    pixels(scaled, "stable_diffusion", 2)
    for thread in threads:
        thread.join()
    assert len(found) == len(threads) == 3
    for picture in found:  # the bias itself is not restored bit for bit
        assert np.allclose(picture, plain, atol=1e-4)


@pytest.mark.own_process
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_shared_by_a_search_and_other_calls() -> None:
    """Nothing of the search is compiled into it; fullgraph: nothing breaks the graph."""
    pipe = ZOO["flux"].build()
    scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=3)
    plain, searched, found = pixels(pipe, "flux", 1), pixels(scaled, "flux", 2), []
    pipe.transformer.compile(fullgraph=True, backend="eager")
    callback = beside(lambda: pixels(pipe, "flux", 1), found, (0, 1))
    assert np.array_equal(pixels(scaled, "flux", 2, callback_on_step_end=callback), searched)
    assert len(found) >= 2
    assert all(np.array_equal(f, plain) for f in found)


def test_a_pipeline_is_interrupted_from_another_thread() -> None:
    pipe = ZOO["stable_diffusion"].build()
    steps: list[int] = []

    def callback(given: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        steps.append(step)
        if len(steps) == 8:
            in_thread(lambda: setattr(pipe, "_interrupt", True))
        return {}

    scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=40, batch_size=1, wave=1)
    result = scaled.search(**arguments("stable_diffusion", 0, callback_on_step_end=callback))
    assert result.stopped == "interrupted"
    assert len(steps) < 12
    assert pixels(genscale.scale(pipe, candidates=1), "stable_diffusion", 0).any()


def test_no_draws_of_torchs_global_generator_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may have drawn meanwhile."""
    pipe = ZOO["stable_diffusion"].build()
    monkeypatch.setattr(torch, "set_rng_state", lambda state: pytest.fail("a draw was taken back"))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    given = arguments("stable_diffusion", 0, latents=latents)
    del given["generator"]
    genscale.scale(pipe, "best_of_n", brightness, candidates=3).search(**given)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_that_remember_outputs_serve_one_call_at_a_time() -> None:
    from diffusers import FirstBlockCacheConfig

    pipe = ZOO["flux"].build()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    plain, found = pixels(pipe, "flux", 1), []

    def call() -> Any:
        try:
            return pixels(pipe, "flux", 1)
        except UsageError as error:
            return str(error)

    scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=2)
    scaled.search(**arguments("flux", 2, callback_on_step_end=beside(call, found, (0,))))
    assert all("transformer keeps outputs from step to step" in str(f) for f in found)
    assert found
    scaled.search(**arguments("flux", 2))
    assert np.array_equal(pixels(pipe, "flux", 1), plain)  # nothing remembered of the search


# ---------------------------------------------------------------- waiting, and being refused


def test_a_search_is_refused_while_another_runs_if_asked_so() -> None:
    pipe = ZOO["stable_diffusion"].build()
    patient, found = genscale.scale(pipe, candidates=1), []
    busy = genscale.scale(pipe, candidates=1, busy="refuse")

    def call() -> Any:
        try:
            return pixels(busy, "stable_diffusion", 0)
        except UsageError as error:
            return str(error)

    alone = call()
    searched = pixels(patient, "stable_diffusion", 0, callback_on_step_end=beside(call, found, (0,)))
    assert np.array_equal(searched, alone)
    assert found[0].startswith("StableDiffusionPipeline is busy: another search runs on it")
    assert np.array_equal(call(), alone)
    with pytest.raises(UsageError, match="busy='later' is unknown: give 'wait' or 'refuse'"):
        genscale.scale(pipe, busy="later")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to threads")
def test_ctrl_c_ends_the_wait_for_another_search() -> None:
    pipe = ZOO["stable_diffusion"].build()
    begun, go_on, main = threading.Event(), threading.Event(), threading.get_ident()

    def callback(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(60)
        return {}

    scaled = genscale.scale(pipe, candidates=1)
    alone = pixels(scaled, "stable_diffusion", 0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pixels, scaled, "stable_diffusion", 0, callback_on_step_end=callback)
        assert begun.wait(60)
        # A process that was started in the background ignores the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                pixels(scaled, "stable_diffusion", 1)
        finally:
            signal.signal(signal.SIGINT, before)
            go_on.set()
        assert np.array_equal(running.result(60), alone)
    assert np.array_equal(pixels(scaled, "stable_diffusion", 0), alone)


# ---------------------------------------------------------------- verifiers that use the pipeline


def by_itself(work: Callable[[], Any]) -> Any:
    return work()


def by_to_thread(work: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return await asyncio.to_thread(work)

    return asyncio.run(main())


def by_two_threads(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(work), pool.submit(work)
        assert np.array_equal(first.result(60), second.result(60))
        return first.result()


WAYS = (by_itself, by_to_thread, in_thread, by_two_threads)


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        *(("pipeline", ask) for ask in WAYS[:-1]),  # two calls of a pipeline at once disturb each other
        *(("scaled", ask) for ask in WAYS),
        ("gradients", in_thread),
        *(pytest.param("gradients", ask, marks=pytest.mark.slow) for ask in WAYS if ask is not in_thread),
    ],
)
def test_a_verifier_may_use_the_pipeline(
    ask: Callable[[Callable[[], Any]], Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline, a search with it, or one that takes gradients; itself or in other threads."""
    monkeypatch.setattr(pipeline_lock, "PATIENCE", 0.2)
    name, found = "stable_diffusion", []
    pipe = ZOO[name].build()
    inner = {
        "pipeline": pipe,
        "scaled": genscale.scale(pipe, "best_of_n", brightness, candidates=2),
        "gradients": genscale.scale(pipe, "dno", light, budget="8images"),
    }[kind]
    expected = pixels(inner, name, 1)
    before = snapshot(pipe)["weights"]

    def verifier(media: Any, prompts: Any) -> list[float]:
        found.append(ask(lambda: pixels(inner, name, 1)))
        return brightness(media, prompts)

    def searched(verifier: Any) -> Any:
        return pixels(genscale.scale(pipe, "smc", verifier, budget="3images", batch_size=2), name, 2)

    assert np.array_equal(searched(verifier), searched(brightness))
    assert found
    assert all(np.array_equal(f, expected) for f in found)
    assert snapshot(pipe)["weights"] == before


@pytest.mark.parametrize("ask", [by_itself, in_thread])
def test_a_verifier_may_search_while_gradients_are_taken(
    ask: Callable[[Callable[[], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_lock, "PATIENCE", 0.1)
    name, found = "stable_diffusion", []
    pipe = ZOO[name].build()
    inner = genscale.scale(pipe, "dno", light, budget="8images")
    expected, before = pixels(inner, name, 1), snapshot(pipe)

    def verifier(media: Any, prompts: Any) -> torch.Tensor:
        if len(found) < 2:
            with torch.inference_mode(False), torch.no_grad():
                found.append(ask(lambda: pixels(inner, name, 1)))
        return light(media, prompts)

    def searched(verifier: Any) -> Any:
        return pixels(genscale.scale(pipe, "dno", verifier, budget="8images"), name, 2)

    assert np.array_equal(searched(verifier), searched(light))
    assert len(found) == 2
    assert all(np.array_equal(f, expected) for f in found)
    assert snapshot(pipe) == before


def test_a_search_waits_for_one_that_its_verifier_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the verifier does not, and also if it is interrupted there."""
    monkeypatch.setattr(pipeline_lock, "PATIENCE", 0.0)
    name, pool = "stable_diffusion", ThreadPoolExecutor(1)
    pipe = ZOO[name].build()
    slow = genscale.scale(pipe, "best_of_n", brightness, candidates=6, batch_size=1)
    expected, before, started = pixels(slow, name, 1), snapshot(pipe), []

    def verifier(media: Any, prompts: Any) -> list[float]:
        begun = threading.Event()

        def callback(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
            begun.set()
            return {}

        started.append(pool.submit(pixels, slow, name, 1, callback_on_step_end=callback))
        assert begun.wait(60)
        if len(started) == 2:
            raise KeyboardInterrupt
        return brightness(media, prompts)

    scaled = genscale.scale(pipe, "best_of_n", verifier, candidates=3, batch_size=1, decode_batch=1)
    with contextlib.suppress(KeyboardInterrupt):
        scaled.search(**arguments(name, 2))
        assert started[0].done()
    assert started[-1].done()
    assert all(np.array_equal(s.result(60), expected) for s in started)
    pool.shutdown()
    assert snapshot(pipe) == before


def test_a_search_in_the_middle_of_its_own_loop_is_refused() -> None:
    pipe = ZOO["stable_diffusion"].build()
    scaled = genscale.scale(pipe, candidates=1)

    def callback(given: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        scaled(**arguments("stable_diffusion", 0))
        return {}

    before = snapshot(pipe)
    with pytest.raises(UsageError, match="is in the middle of its own loop"):
        scaled(**arguments("stable_diffusion", 0, callback_on_step_end=callback))
    assert snapshot(pipe) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_process_forked_during_a_search_of_another_thread_can_search() -> None:
    """It has not that thread, so it must not wait for it."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with pipeline_lock.claimed(thing):
            held.set()
            assert go_on.wait(60)

    thing = object()
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits
        with pipeline_lock.claimed(thing, busy="refuse"):
            os._exit(0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
