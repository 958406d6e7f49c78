"""What gradients cost: live bytes against the number of unrolled calls, and seconds in units of a forward.

Bytes are of tensors made by operations (live_memory.py), without the weights; what is pulled back is a constant, so
that no decoder is involved, except under "decoder". Seconds are medians over `repeats`, with the quartiles, of one
process on one thread, alternating.

    python -m benchmarks.gradient_memory --out benchmarks/results/gradient-memory.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genscale
from benchmarks.live_memory import LiveMemory
from genscale.diffusion.kernels import Ddim
from genscale.pipelines.differentiable_models import DifferentiableModels, _block, _checkpointed
from genscale.protocol.particles import draw
from genscale.protocol.queries import BACKWARD, Denoise, Gradient, Score, Solve

STEPS = 16
CALLS = (1, 2, 4, 8, 15)
TINY = ("flux", "sd3", "sdxl", "wan")


@dataclass
class Probe:
    """A sampler that asks and measures: for every number of calls the gradient of that many last steps.

    found: (name, calls) -> (peak bytes, seconds) of each repeat, "forward" for a model call without a graph.
    """

    rows: int
    calls: tuple[int, ...] = CALLS
    repeats: int = 1
    track: bool = True
    found: dict[tuple[str, int], list[tuple[int, float]]] = field(default_factory=dict)
    latent: int = 0  # bytes of the rows' latents, float32

    def search(self, process: Any, key: Any) -> Any:
        first = yield Solve(process.start([draw(key, i) for i in range(self.rows)]), 1, Ddim(0.0))
        self.latent = 4 * first.x.numel()
        for _ in range(self.repeats):
            for n in self.calls:
                begin = process.model_steps - n
                particles = yield Solve(first, max(begin, 1), Ddim(0.0))
                pull = torch.ones_like(particles.x.float())
                calls = tuple(range(particles.step + 1, process.model_steps))
                yield from self._measured("forward", 1, Denoise(particles))
                yield from self._measured("back", len(calls) + 1, Gradient(particles, calls, pull=pull))
        yield Score((yield Solve(first[:1], kernel=Ddim(0.0))))

    def _measured(self, name: str, n: int, ask: Any) -> Iterator[Any]:
        memory = LiveMemory() if self.track else None
        start = time.perf_counter()
        if memory is not None:
            memory.__enter__()
        try:
            yield ask
        finally:
            if memory is not None:
                memory.__exit__(None, None, None)
        taken = time.perf_counter() - start
        self.found.setdefault((name, n), []).append((0 if memory is None else memory.peak, taken))

    def cost(self, process: Any) -> int | None:
        return None


@contextmanager
def without_checkpoints() -> Iterator[None]:
    call = DifferentiableModels.call
    DifferentiableModels.call = lambda self, forward, args, kwargs, again: call(
        self, forward, args, kwargs, False
    )  # type: ignore[method-assign]
    try:
        yield
    finally:
        DifferentiableModels.call = call  # type: ignore[method-assign]


def brightness(media: Any, prompts: Any) -> Tensor:
    return media.pixels.double().flatten(1).mean(1)  # type: ignore[no-any-return]


def pipeline(name: str) -> tuple[Any, dict[str, Any]]:
    if name not in TINY:
        pipe = genscale.load_pipeline(name, device="cpu")
        pipe.set_progress_bar_config(disable=True)
        return pipe, {"prompt": "a red star left of a blue ring", "guidance_scale": 3.0}
    from tests.zoo import ZOO

    return ZOO[name].build(), ZOO[name].arguments(1)


def probed(name: str, rows: int, **options: Any) -> Probe:
    pipe, arguments = pipeline(name)
    probe = Probe(rows, **options)
    given = arguments | {"num_inference_steps": STEPS, "output_type": "pt"}
    genscale.scale(pipe, probe, brightness, batch_size=rows)(
        **given, generator=torch.Generator().manual_seed(0)
    )
    return probe


def slope(points: dict[int, int]) -> float:
    """Bytes a further call adds, between two calls and the most."""
    most = max(points)
    return (points[most] - points[2]) / (most - 2)


def memory_of(name: str, rows: int) -> dict[str, Any]:
    kept = probed(name, rows)
    with without_checkpoints():
        held = probed(name, rows)
    peaks = [{n: p.found["back", n][0][0] for n in CALLS if ("back", n) in p.found} for p in (kept, held)]
    one = peaks[0][1]
    return {
        "rows": rows,
        "latent_bytes": kept.latent,
        "one_call_bytes": one,
        "peak_bytes": {str(n): b for n, b in peaks[0].items()},
        "peak_bytes_without_checkpoints": {str(n): b for n, b in peaks[1].items()},
        "latents_a_further_call": round(slope(peaks[0]) / kept.latent, 2),
        "calls_a_further_call_without_checkpoints": round(slope(peaks[1]) / one, 2),
    }


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def seconds_of(name: str, rows: int, repeats: int) -> dict[str, Any]:
    """In units of the forward beside it: one call (forward and backward), and eight (and forwards again)."""
    probe = probed(name, rows, calls=(1, 8), repeats=repeats + 1, track=False)
    forwards = [t for _, t in probe.found["forward", 1]][2:]  # the first round warms up
    one, eight = ([t for _, t in probe.found["back", n]][1:] for n in (1, 8))
    pairs = [(statistics.mean(forwards[2 * i : 2 * i + 2]), one[i], eight[i] / 8) for i in range(repeats)]
    return {
        "rows": rows,
        "forward_seconds": round(statistics.median(forwards), 5),
        "backward": spread([(b - f) / f for f, b, _ in pairs]),
        "forward_checkpointed_and_backward": spread([(e - f) / f for f, _, e in pairs]),
        "charged_backward": BACKWARD,
    }


def decoder(size: int) -> dict[str, Any]:
    """An autoencoder of Stable Diffusion's shape, random weights: peaks of decoding and going back, three ways."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=4,
    ).eval()
    vae.requires_grad_(False)
    found: dict[str, Any] = {"pixels": size}
    ways: dict[str, Callable[[Tensor], Any]] = {
        "no checkpoint": vae.decode,
        "as a whole": _checkpointed(vae.decode),
    }
    for name, decode in ways.items():
        found[name] = _decoded(decode, size)
    vae.enable_gradient_checkpointing(_block)
    found["block by block"] = _decoded(vae.decode, size)
    return found


def _decoded(decode: Callable[[Tensor], Any], size: int) -> dict[str, Any]:
    start = time.perf_counter()
    with LiveMemory() as memory:
        leaf = torch.randn(
            1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        pixels = decode(leaf).sample
        held = memory.live
        torch.autograd.grad(pixels.square().mean(), leaf)
    return {
        "peak_bytes": memory.peak,
        "held_after_decoding": held,
        "seconds": round(time.perf_counter() - start, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["shapes-flow", *TINY])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", type=int, default=128, help="pixels of the decoder's image")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, Any] = {"steps": STEPS, "torch": torch.__version__, "memory": {}, "seconds": {}}
    for name in options.models:
        table["memory"][name] = memory_of(name, options.rows)
        table["seconds"][name] = seconds_of(name, options.rows, options.repeats)
        print(name, json.dumps({k: table[k][name] for k in ("memory", "seconds")}), flush=True)
    table["decoder"] = decoder(options.size)
    print(json.dumps(table["decoder"]))
    if options.out:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
