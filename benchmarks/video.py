"""Does search work for videos? Accuracy of the exact judge for base videos and the best of N.

Searched with `shapes_video_clip`, an imperfect verifier; the exact judge `moving_shapes` is held out and only reports.
Every prompt has its own seed; intervals are 95 %, normal, over prompts; gains are paired with the same prompts.
Candidates are nested (the base clip is the first of the N), so one run gives every N.

    python benchmarks/video.py --json benchmarks/results/video.json --sheet docs/video.png
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import genscale
from genscale.toy.moving_shapes import CATEGORIES, FRAMES, PROMPTS, SIZE, Prompt
from genscale.verifiers.moving_shapes import MovingShapes
from genscale.verifiers.video_clip import LENGTH, ShapesVideoClip

NESTED = (1, 2, 4, 8, 16)


def main() -> None:
    options = parsed()
    if options.captions:
        options.captions.write_text("\n".join(p.text for p in PROMPTS) + "\n", encoding="utf-8")
        return
    torch.set_num_threads(options.threads)
    pipe = genscale.load_pipeline("shapes-video", device="cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    prompts = [PROMPTS[i * len(PROMPTS) // options.prompts] for i in range(options.prompts)]
    call = {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "height": SIZE,
        "width": SIZE,
        "num_frames": FRAMES,
        "max_sequence_length": LENGTH + 3,
    }
    scaled = genscale.scale(
        pipe,
        "best_of_n",
        ShapesVideoClip(),
        held_out=MovingShapes(),
        batch_size=options.batch_size,
        candidates=options.candidates,
    )
    curves, firsts, bests, seconds = run(scaled, prompts, call, options)
    rows = rows_of(curves, options.candidates)
    each = scaled.plan(prompts[0].text, **call).nfe_per_candidate
    print(table(rows, prompts, each))
    print(f"{seconds:.2f} s a prompt for N = {options.candidates}")
    if options.json:
        save(options, prompts, rows, each, seconds)
    if options.sheet:
        sheet(prompts, rows, firsts, bests, options.candidates).save(options.sheet)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", type=int, default=len(PROMPTS), help="so many, spread over the fixed list"
    )
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--together", type=int, default=8, help="prompts in one call")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--captions",
        type=Path,
        help="only write the captions there, one a line, for `genscale video --prompts`",
    )
    parser.add_argument("--sheet", type=Path, help="image of some prompts' base and searched videos")
    return parser.parse_args()


def run(
    scaled: Any, prompts: list[Prompt], call: dict[str, Any], options: Any
) -> tuple[list[Any], list[Any], list[Any], float]:
    """(curve of each prompt, base videos, best videos, seconds a prompt)."""
    curves, firsts, bests, start, apart = [], [], [], time.perf_counter(), 0.0
    for i in range(0, len(prompts), options.together):
        texts = [p.text for p in prompts[i : i + options.together]]

        def generators(i: int = i, n: int = len(texts)) -> list[torch.Generator]:
            return [torch.Generator().manual_seed(options.seed + i + j) for j in range(n)]

        output = scaled(texts, generator=generators(), **call)
        bests += list(output.frames)
        curves += [output.search.curve(j) for j in range(len(texts))]
        before = time.perf_counter()
        firsts += list(
            scaled.pipe(texts, generator=generators(), **call).frames
        )  # candidate 0, by the pipeline alone
        apart += time.perf_counter() - before
    return curves, firsts, bests, (time.perf_counter() - start - apart) / len(prompts)


def rows_of(curves: list[Any], candidates: int) -> dict[int, dict[str, list[float]]]:
    """For every N: the searched score and the judge's verdict of each prompt's best."""
    rows = {}
    for n in (n for n in NESTED if n <= candidates):
        points = [[p for p in curve if p["candidate"] < n][-1] for curve in curves]
        rows[n] = {
            "searched": [p["total"] for p in points],
            "correct": [p["held_out"]["moving_shapes"] for p in points],
        }
    return rows


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))


def table(rows: dict[int, dict[str, list[float]]], prompts: list[Prompt], each: int) -> str:
    head = [
        "N",
        "NFE",
        "shapes_video_clip (searched)",
        "moving_shapes (held out)",
        "gain over N = 1",
        *CATEGORIES,
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for n, row in rows.items():
        gain = [a - b for a, b in zip(row["correct"], rows[1]["correct"], strict=True)]
        cells = [
            str(n),
            str(each * n),
            "{:.3f} ± {:.3f}".format(*interval(row["searched"])),
            "{:.3f} ± {:.3f}".format(*interval(row["correct"])),
            "" if n == 1 else "{:+.3f} ± {:.3f}".format(*interval(gain)),
            *(
                f"{statistics.fmean(c for c, p in zip(row['correct'], prompts, strict=True) if p.category == name):.2f}"
                for name in CATEGORIES
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, f"{len(prompts)} prompts, one seed each; ± is a 95 % interval over prompts."])


def save(options: Any, prompts: list[Prompt], rows: Any, each: int, seconds: float) -> None:
    held_out = {
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("json", "sheet")},
        "nfe_per_candidate": each,
        "seconds_a_prompt": round(seconds, 3),
        "prompts": [p.text for p in prompts],
        "rows": {
            str(n): {"searched": [round(v, 4) for v in row["searched"]], "correct": row["correct"]}
            for n, row in rows.items()
        },
        "versions": {"genscale": genscale.__version__, "torch": torch.__version__},
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(held_out, indent=1) + "\n")


def sheet(
    prompts: list[Prompt], rows: Any, firsts: list[Any], bests: list[Any], candidates: int
) -> Image.Image:
    """Eight prompts evenly spread over the list, in two columns: left the base clip over time, right the best of N.

    A green or red line under a video is the judge's verdict.
    """
    chosen = [i * len(prompts) // 8 for i in range(8)]
    largest = max(n for n in rows if n <= candidates)
    tile = 2 * SIZE
    page = Image.new("RGB", (2 * FRAMES * (tile + 2) + 24, len(chosen) * (tile + 10)), "white")
    for row, i in enumerate(chosen):
        for column, (clip, n) in enumerate(((firsts[i], 1), (bests[i], largest))):
            left, top = column * (FRAMES * (tile + 2) + 24), row * (tile + 10)
            for k, frame in enumerate(np.asarray(clip)):
                picture = Image.fromarray((frame * 255).round().clip(0, 255).astype(np.uint8))
                page.paste(
                    picture.resize((tile, tile), Image.Resampling.NEAREST), (left + k * (tile + 2), top)
                )
            colour = (0, 170, 0) if rows[n]["correct"][i] else (210, 0, 0)
            page.paste(colour, (left, top + tile + 2, left + FRAMES * (tile + 2) - 2, top + tile + 5))
    return page


if __name__ == "__main__":
    main()
