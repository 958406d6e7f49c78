"""What the host does in the loop: what it waits for on an accelerator, and its own time a model call.

Waits are counted on a stand-in for a device (tests/fake_device.py): reads of numbers, and copies that block. Host time
is CPU time of one thread between a model's output and the next batch, decoding and scoring left out, on the CPU; tiny
pipelines with random weights, so that it is the host's work and not the latents' size.

    python -m benchmarks.host
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import genscale
from genscale.engine.model_batches import ModelBatches
from tests.fake_device import DEVICE, Waits, fake_device
from tests.zoo import ZOO, with_scheduler

CASES = (
    ("stable_diffusion", "best_of_n", ""),
    ("stable_diffusion", "best_of_n", "UniPCMultistepScheduler"),
    ("stable_diffusion", "best_of_n", "EulerAncestralDiscreteScheduler"),
    ("sdxl", "best_of_n", ""),
    ("flux", "best_of_n", ""),
    ("stable_diffusion", "smc", ""),
    ("stable_diffusion", "beam", ""),
    ("stable_diffusion", "evolution", ""),
    ("stable_diffusion", "rollover", ""),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8, help="rows in a batch, and candidates' worth of NFE")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5, help="of which the median host time is taken")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(
        "| pipeline | sampler | scheduler | waits a step | waits a scoring | host microseconds a model call |"
    )
    print("|---|---|---|---|---|---|")
    for name, sampler, scheduler in CASES:
        waits = _waits(name, sampler, scheduler, options.rows, options.steps)
        spent = _host_time(name, sampler, scheduler, options.rows, options.steps, options.runs)
        print(
            f"| {name} | {sampler} | {scheduler or 'own'} | {_mean(waits.steps)} | {_mean(waits.scorings)} | "
            f"{1e6 * spent:.0f} |",
            flush=True,
        )


def _waits(name: str, sampler: str, scheduler: str, rows: int, steps: int) -> Waits:
    with fake_device() as device:
        waits = Waits(device)
        call = _search(name, sampler, scheduler, rows, steps, DEVICE, waits)
        call()
    return waits


def _host_time(name: str, sampler: str, scheduler: str, rows: int, steps: int, runs: int) -> float:
    """Median CPU seconds a model call."""
    call = _search(name, sampler, scheduler, rows, steps, torch.device("cpu"), lambda event: None)
    call()  # warm up
    return statistics.median(_timed(call) for _ in range(runs))


def _timed(call: Callable[[], Any]) -> float:
    spent, calls = 0.0, 0
    kept = ModelBatches.absorb, ModelBatches.next_batch

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal spent, calls
            calls += method is kept[0]
            start = time.process_time()
            try:
                return method(*args)
            finally:
                spent += time.process_time() - start

        return run

    ModelBatches.absorb, ModelBatches.next_batch = map(timed, kept)  # type: ignore[method-assign]
    try:
        call()
    finally:
        ModelBatches.absorb, ModelBatches.next_batch = kept  # type: ignore[method-assign]
    return spent / calls


def _search(
    name: str, sampler: str, scheduler: str, rows: int, steps: int, device: torch.device, on_event: Any
) -> Callable[[], Any]:
    pipe = ZOO[name].build()
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        with_scheduler(pipe, scheduler)
    pipe.to(device)
    arguments = ZOO[name].arguments(1) | {"num_inference_steps": steps, "output_type": "pt"}
    scaled = genscale.scale(
        pipe,
        sampler,
        lambda media, prompts: media.pixels.float().flatten(1).mean(1),
        budget=genscale.Budget(images=rows),
        batch_size=rows,
        on_event=on_event,
    )
    return lambda: scaled(**arguments, generator=torch.Generator().manual_seed(0))


def _mean(found: list[Counter[Any]]) -> str:
    return f"{statistics.fmean(w.total() for w in found):.2f}" if found else "-"


if __name__ == "__main__":
    main()
