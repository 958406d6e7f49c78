"""Does a tree fill the batch? Evaluations a second of a search over many prompts, against plain batched sampling.

Both sides make images of the same prompts in batches of the same size and decode all of them; the search scores them
with a verifier that costs nothing, so what is compared is how full its batches are and what its bookkeeping takes. One
run, alternating, medians of the ratios of neighbouring pairs.

    python benchmarks/throughput.py --sampler dts_star --prompts 16 --batch-size 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch

import genscale
from genscale.media import Media
from genscale.toy.shapes import PROMPTS


def main() -> None:
    options = parsed()
    pipe = genscale.load_pipeline(options.model, device=options.device)
    pipe.set_progress_bar_config(disable=True)
    texts = [PROMPTS[i * len(PROMPTS) // options.prompts].text for i in range(options.prompts)]
    call = {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "output_type": "pt",
    }
    scaled = genscale.scale(
        pipe,
        options.sampler,
        brightness,
        budget=genscale.Budget(nfe=options.nfe),
        batch_size=options.batch_size,
    )
    images = max(1, options.batch_size // options.prompts)
    calls = max(1, options.nfe // (images * scaled.plan(texts, **call).nfe_per_candidate))

    def plain() -> tuple[int, int]:
        """(evaluations, images)."""
        for i in range(calls):
            pipe(texts, **call, num_images_per_prompt=images, generator=torch.Generator().manual_seed(i))
        made = calls * images * len(texts)
        return made * 2 * options.steps, made

    def searched() -> tuple[int, int]:
        ledger = scaled(texts, **call, generator=torch.Generator().manual_seed(0)).search.ledger
        return ledger.evaluations, ledger.decodes

    plain(), searched()  # warm up
    pairs = []
    for i in range(options.pairs):
        order = (plain, searched) if i % 2 == 0 else (searched, plain)
        pairs.append({work.__name__: rates(work) for work in order})
    report = {k: str(v) for k, v in vars(options).items()}
    for k, what in enumerate(("evaluations", "pictures")):
        ratios = [p["searched"][k] / p["plain"][k] for p in pairs]
        report[f"plain_{what}_per_second"] = round(statistics.median(p["plain"][k] for p in pairs), 1)
        report[f"searched_{what}_per_second"] = round(statistics.median(p["searched"][k] for p in pairs), 1)
        report[f"{what}_ratio_median"] = round(statistics.median(ratios), 4)
        report[f"{what}_ratio_range"] = [round(min(ratios), 4), round(max(ratios), 4)]
    print(json.dumps(report))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--sampler", default="dts_star")
    parser.add_argument("--prompts", type=int, default=16, help="searched at once")
    parser.add_argument("--batch-size", type=int, default=64, help="rows in a batch, on both sides")
    parser.add_argument("--nfe", type=int, default=400, help="of every prompt")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def rates(work: Callable[[], tuple[int, int]]) -> tuple[float, float]:
    """Evaluations and images a second."""
    start = time.perf_counter()
    evaluations, pictures = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return evaluations / seconds, pictures / seconds


def brightness(media: Media, prompts: Sequence[str]) -> list[float]:
    """A verifier that costs nothing, and tells images apart so that the tree has something to choose by."""
    return [float(v) for v in media.pixels.float().mean(dim=tuple(range(1, media.pixels.ndim)))]


if __name__ == "__main__":
    main()
