"""Does a box put the shape where it was asked? Hit rates by the exact judge, with boxes and without, at equal NFE.

Every prompt of the shapes world asks for one shape or two, each in a quadrant of the image. The searches steer by the
bundled CLIP, with the boxes verifier around it or alone; the exact judge only reports. A hit: every asked shape is
there, its middle in its box. "right": the image satisfies the caption as well. Every prompt has its own seed, the
same for all; intervals are 95 %, normal, over prompts, and ratios are paired.

    python benchmarks/boxes.py --json benchmarks/results/boxes.json --sheet docs/boxes.png

GUIDED was chosen among a dozen settings on 30 prompts with --seed 50000; the results are from seed 0.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interval, parser_for, quiet_pipeline
from PIL import Image, ImageDraw

import genscale
from genscale.toy.shapes import COLOURS, KINDS, SIZE, fresh_prompts, parse
from genscale.verifiers.boxes import Boxes
from genscale.verifiers.regions import Box
from genscale.verifiers.shapes import detect, satisfies

QUADRANTS = [(x / 2, y / 2, x / 2 + 0.5, y / 2 + 0.5) for y in (0, 1) for x in (0, 1)]
GUIDED: dict[str, Any] = {"scale": 1.0, "window": (0.0, 0.5)}  # the layout is decided early
SHARE = 0.7
# label: (sampler, its options, whether the boxes are looked at)
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "best_of_n, no boxes": ("best_of_n", {}, False),
    "best_of_n, boxes": ("best_of_n", {}, True),
    "gradient_guidance, boxes": ("gradient_guidance", GUIDED, True),
}


@dataclass(frozen=True)
class Task:
    """A caption, and where its shapes should be."""

    text: str
    boxes: tuple[Box, ...]

    def hit(self, picture: Image.Image) -> tuple[bool, bool]:
        """(every asked shape is in its box, and the caption is satisfied, too)."""
        shapes = detect(picture)
        hit = all(any(_named(s, box) and _within(s, box) for s in shapes) for box in self.boxes)
        return hit, hit and satisfies(shapes, parse(self.text))


def _named(shape: Any, box: Box) -> bool:
    return box.text == f"a {shape.colour} {shape.kind}"


def _within(shape: Any, box: Box) -> bool:
    assert box.box is not None
    x0, y0, x1, y1 = (SIZE * v for v in box.box)
    return x0 <= shape.x <= x1 and y0 <= shape.y <= y1


def tasks(kind: str, n: int, seed: int) -> list[Task]:
    rng = np.random.default_rng(seed)
    if kind == "one":
        nouns = [f"a {c} {k}" for c, k in itertools.product(COLOURS, KINDS)]
        first, made = rng.integers(4, size=len(nouns)), list[Task]()
        for turn in range(-(-n // len(nouns))):  # no text twice within a turn: boxes are known by the text
            for i in rng.permutation(len(nouns)):
                box = QUADRANTS[(first[i] + turn) % 4]
                made.append(Task(nouns[i], (Box(nouns[i], box),)))
        return made[:n]
    made = []
    for prompt in fresh_prompts(seed + 17, n, "two"):
        a, b = rng.permutation(4)[:2]
        first, second = (f"a {c} {k}" for c, k in prompt.requirement.nouns)
        made.append(Task(prompt.text, (Box(first, QUADRANTS[a]), Box(second, QUADRANTS[b]))))
    return made


def run(pipe: Any, todo: list[Task], method: str, nfe: int, options: Any) -> dict[str, Any]:
    name, fields, boxed = METHODS[method]
    pictures, start = [], time.perf_counter()
    for i in range(0, len(todo), options.together):
        group = todo[i : i + options.together]
        texts = [t.text for t in group]
        assert len(set(texts)) == len(texts)
        verifier = (
            Boxes("shapes_clip", {t.text: t.boxes for t in group}, share=SHARE) if boxed else "shapes_clip"
        )
        scaled = genscale.scale(
            pipe, name, verifier, budget=genscale.Budget(nfe=nfe), batch_size=options.batch_size, **fields
        )
        seeds = [options.seed + i + j for j in range(len(group))]
        output = scaled(
            texts, generator=[torch.Generator().manual_seed(s) for s in seeds], num_inference_steps=options.steps,
            guidance_scale=options.guidance,
        )  # fmt: skip
        pictures += output.images
    hits = [task.hit(picture) for task, picture in zip(todo, pictures, strict=True)]
    return {
        "method": method,
        "nfe": nfe,
        "hit": [float(h) for h, _ in hits],
        "right": [float(r) for _, r in hits],
        "seconds": (time.perf_counter() - start) / len(todo),
        "pictures": pictures,
    }


def ratio(a: list[float], b: list[float]) -> tuple[float, float]:
    """How many times as often a as b, and the lower end of its 95 % interval (delta method on the logarithm)."""
    p, q = statistics.fmean(a), statistics.fmean(b)
    if not p * q:
        return math.inf, math.nan
    parts = [x / p - y / q for x, y in zip(a, b, strict=True)]
    return p / q, p / q * math.exp(-1.96 * statistics.stdev(parts) / math.sqrt(len(parts)))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| shapes | NFE | search | in the box | times without | caption right, too | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain = next(r for r in rows if (r["kind"], r["nfe"]) == (row["kind"], row["nfe"]))
        times = "" if plain is row else "{:.2f} (at least {:.2f})".format(*ratio(row["hit"], plain["hit"]))
        lines.append(
            f"| {row['kind']} | {row['nfe']} | {row['method']} | " + "{:.3f} ± {:.3f}".format(*interval(row["hit"]))
            + f" | {times} | " + "{:.3f} ± {:.3f}".format(*interval(row["right"])) + f" | {row['seconds']:.2f} |"
        )  # fmt: skip
    return "\n".join(lines)


def sheet(rows: list[dict[str, Any]], todo: list[Task], path: Path, count: int = 10, zoom: int = 2) -> None:
    """Images of the first prompts, one line a method, with the boxes drawn: green where it was hit."""
    step = SIZE * zoom + 6
    page = Image.new("RGB", (count * step, len(rows) * step), "white")
    for y, row in enumerate(rows):
        for x in range(count):
            picture = row["pictures"][x].resize((SIZE * zoom, SIZE * zoom), Image.Resampling.BICUBIC)
            draw = ImageDraw.Draw(picture)
            for box in todo[x].boxes:
                assert box.box is not None
                edges = [v * SIZE * zoom for v in box.box]
                shapes = detect(row["pictures"][x])
                hit = any(_named(s, box) and _within(s, box) for s in shapes)
                draw.rectangle(
                    [edges[0], edges[1], edges[2] - 1, edges[3] - 1], outline="green" if hit else "red"
                )
            page.paste(picture, (x * step, y * step))
    page.quantize(64).save(path, optimize=True)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--kinds", nargs="+", default=["one", "two"])
    parser.add_argument(
        "--candidates", type=int, nargs="+", default=[1, 4], help="of best_of_n, that set the NFE"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--together", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    pipe = quiet_pipeline(options.model, options.threads)
    one = 2 * options.steps
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        todo = tasks(kind, options.prompts, options.seed)
        for n in options.candidates:
            for method in options.methods:
                rows.append({"kind": kind, **run(pipe, todo, method, n * one, options)})
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))
    if options.sheet:
        shown = [
            r for r in rows if r["kind"] == options.kinds[0] and r["nfe"] == options.candidates[-1] * one
        ]
        sheet(shown, tasks(options.kinds[0], options.prompts, options.seed), options.sheet)
    if options.json:
        kept = [{k: v for k, v in r.items() if k != "pictures"} for r in rows]
        settings = {k: str(v) for k, v in vars(options).items() if k not in ("json", "sheet")}
        report = {"options": settings, "guided": GUIDED, "share": SHARE, "rows": kept}
        options.json.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
