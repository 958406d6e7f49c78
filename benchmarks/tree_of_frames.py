"""Does a tree over chunks beat the best of N whole videos at equal NFE? On videos of 3 chunks with a prompt each.

A circle moves in a direction, then in another, then in a third, for 5 frames each. The first chunk is made from text
alone, each further one from the last frame, by the bundled text-to-video model (pipelines/first_frame.py). Every chunk
is scored by `shapes_video_clip`; the exact judge `moving_shapes` is held out: a video is right if all of its chunks
are. Linear search and trees are `genscale.tree_of_frames` with other branches and survivors; candidates are the same
wherever two trees meet, and each is computed once. Chunks of all prompts share batches. Every prompt has its own seed;
intervals are 95 %, normal, over prompts, and differences are paired by prompt.

    python -m benchmarks.tree_of_frames --json benchmarks/results/tree-of-frames.json --plot docs/tree-of-frames.png
    python -m benchmarks.tree_of_frames --from benchmarks/results/tree-of-frames.json      # the tables again
    python -m benchmarks.tree_of_frames --spread --prompts 48      # how much of a second chunk its first one decides
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import genscale
from benchmarks.common import interval, parser_for, quiet_pipeline
from genscale.pipelines.first_frame import with_first_frame
from genscale.toy.moving_shapes import DIRECTIONS, FRAMES, SIZE
from genscale.toy.shapes import COLOURS
from genscale.verifiers.video_clip import LENGTH

STEPS, CHUNKS = 12, 3
EACH = 2 * STEPS  # NFE of a chunk, with guidance
CALL = {
    "num_inference_steps": STEPS, "guidance_scale": 2.0, "height": SIZE, "width": SIZE, "num_frames": FRAMES,
    "max_sequence_length": LENGTH + 3, "output_type": "pil",
}  # fmt: skip
BASE = "linear 1"
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **{f"linear {n}": ((n, 1, 1), (n, n, 1)) for n in (1, 2, 4, 8)},
    **{f"greedy {n}": ((n, n, n), (1, 1, 1)) for n in (2, 4, 8)},
    "beam 4": ((4, 2, 2), (2, 2, 1)),
    "beam 8": ((8, 4, 4), (2, 2, 1)),
    "wide beam 8": ((8, 2, 2), (4, 4, 1)),
}
FAMILIES = ("linear", "greedy", "beam", "wide beam")


def video_prompts(n: int) -> list[list[str]]:
    """n lists of captions, one a chunk, spread over the colours and the ways with a turn after each chunk."""
    ways = [
        w
        for w in itertools.product(DIRECTIONS, repeat=CHUNKS)
        if all(a != b for a, b in itertools.pairwise(w))
    ]
    every = [[f"a {colour} circle moving {way}" for way in each] for each in ways for colour in COLOURS]
    return [every[i * len(every) // n] for i in range(n)]


# ---------------------------------------------------------------- chunks of all prompts in one batch


@dataclass
class Request:
    """One chunk that a search waits for."""

    prompt: str
    image: Image.Image | None
    generator: torch.Generator
    frames: list[Image.Image] | None = None


class Batches:
    """Calls the pipeline for many searches at once: as soon as each of them waits for a chunk, or has ended.

    A chunk that was made before, by the same generator after as many chunks, is not made again.
    """

    def __init__(self, make: Callable[[list[Request]], None], searches: int) -> None:
        self._make, self._live = make, searches
        self._waiting: list[Request] = []
        self._changed = threading.Condition()
        self._done: dict[tuple[int, int], tuple[list[Image.Image], torch.Tensor]] = {}

    def extend(self, prompt: str, frames: Any, generator: torch.Generator) -> list[Image.Image]:
        key = (generator.initial_seed(), len(frames or ()))
        if key not in self._done:
            request = Request(prompt, frames[-1] if frames else None, generator)
            with self._changed:
                self._waiting.append(request)
                self._run_if_full()
                self._changed.wait_for(lambda: request.frames is not None)
            assert request.frames is not None
            self._done[key] = (request.frames, generator.get_state())
        made, state = self._done[key]
        generator.set_state(state)  # as if it had been called
        return made

    def ended(self) -> None:
        with self._changed:
            self._live -= 1
            self._run_if_full()

    def _run_if_full(self) -> None:
        if self._waiting and len(self._waiting) == self._live:
            self._make(self._waiting)
            self._waiting = []
            self._changed.notify_all()


def maker(pipe: Any) -> Callable[[list[Request]], None]:
    """Makes chunks, first and continuing ones each in one call."""

    def make(requests: list[Request]) -> None:
        for first in (True, False):
            some = [r for r in requests if (r.image is None) == first]
            if some:
                image = None if first else [r.image for r in some]
                out = pipe(
                    [r.prompt for r in some], image=image, generator=[r.generator for r in some], **CALL
                )
                for request, frames in zip(some, out.frames, strict=True):
                    request.frames = frames

    return make


def run(pipe: Any, prompts: Sequence[list[str]]) -> dict[str, list[dict[str, Any]]]:
    """For every shape what each prompt's best video is: its score, the judge's verdict of each chunk, NFE and path."""
    batches = Batches(maker(pipe), len(prompts))
    trees = {
        name: genscale.tree_of_frames(
            batches.extend, "shapes_video_clip", branches=wide, survivors=kept, held_out="moving_shapes",
            overlap=1, nfe=EACH,
        )
        for name, (wide, kept) in SHAPES.items()
    }  # fmt: skip

    def search(seed: int) -> dict[str, dict[str, Any]]:
        try:
            return {name: found(tree, prompts[seed], seed) for name, tree in trees.items()}
        finally:
            batches.ended()

    with ThreadPoolExecutor(len(prompts)) as pool:
        each = list(pool.map(search, range(len(prompts))))
    return {name: [one[name] for one in each] for name in SHAPES}


def found(tree: Any, prompts: list[str], seed: int) -> dict[str, Any]:
    best = tree(prompts, generator=torch.Generator().manual_seed(seed)).search
    return {
        "right": [node.held_out["moving_shapes"] for node in best.best.line],
        "score": sum(node.scores["shapes_video_clip"] for node in best.best.line) / CHUNKS,
        "nfe": best.nfe,
        "path": list(best.best.path),
    }


def spread(pipe: Any, prompts: Sequence[list[str]], wide: int = 4) -> str:
    """Of the variance of second chunks' scores, the part that lies between first chunks and not between siblings.

    Of a one-way analysis of variance with `wide` siblings for each of `wide` states, within each prompt. Also the
    correlation of a first chunk's score with the mean score of the second chunks that continue it, within prompts.
    """
    batches = Batches(maker(pipe), len(prompts))
    tree = genscale.tree_of_frames(
        batches.extend, "shapes_video_clip", branches=(wide, wide), survivors=(wide, 1), held_out="moving_shapes",
        overlap=1,
    )  # fmt: skip

    def search(seed: int) -> np.ndarray:
        try:
            nodes = tree(prompts[seed][:2], generator=torch.Generator().manual_seed(seed)).search.nodes
        finally:
            batches.ended()
        # A first chunk comes before those that continue it.
        return np.array([n.scores["shapes_video_clip"] for n in sorted(nodes, key=lambda node: node.path)])

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = np.stack(list(pool.map(search, range(len(prompts))))).reshape(-1, wide, 1 + wide)
    first, second = found[:, :, 0], found[:, :, 1:]
    within = second.var(2, ddof=1).mean()
    between = max(second.mean(2).var(1, ddof=1).mean() - within / wide, 0)
    centred = [x - x.mean(1, keepdims=True) for x in (first, second.mean(2))]
    alike = np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1]
    return (
        f"{between / (between + within):.2f} of the variance of second chunks' scores lies between first chunks; "
        f"correlation of a first chunk's score with those that continue it: {alike:+.2f} ({len(prompts)} prompts)."
    )


# ---------------------------------------------------------------- the tables and the plot


def column(record: dict[str, Any], name: str, what: Callable[[dict[str, Any]], float]) -> list[float]:
    return [what(one) for one in record["found"][name]]


def whole(one: dict[str, Any]) -> float:
    """1 if all chunks are right."""
    return float(min(one["right"]))


def chunks(one: dict[str, Any]) -> float:
    """The part of the chunks that is right."""
    return sum(one["right"]) / len(one["right"])


def difference(record: dict[str, Any], a: str, b: str) -> tuple[float, float]:
    """Of videos that are right, paired."""
    pairs = zip(column(record, a, whole), column(record, b, whole), strict=True)
    return interval([x - y for x, y in pairs])


def table(record: dict[str, Any]) -> str:
    heads = ("search", "branches", "survivors", "NFE", "searched score", "chunks right", "videos right")
    lines = [f"| {' | '.join(heads)} | over linear, equal NFE |", "|---" * 8 + "|"]
    for name, (wide, kept) in SHAPES.items():
        nfe = record["found"][name][0]["nfe"]
        score, part, right = (
            "{:.3f} ± {:.3f}".format(*interval(column(record, name, what)))
            for what in (lambda one: one["score"], chunks, whole)
        )
        family, size = name.rsplit(" ", 1)
        more = (
            ""
            if family == "linear"
            else "{:+.3f} ± {:.3f}".format(*difference(record, name, f"linear {size}"))
        )
        shape = " | ".join(", ".join(map(str, each)) for each in (wide, kept))
        lines.append(f"| {family} {size} | {shape} | {nfe} | {score} | {part} | {right} | {more} |")
    lines.append(f"\n{record['n']} prompts, one seed each; ± is a 95 % interval over prompts.")
    return "\n".join(lines)


def cheaper(record: dict[str, Any]) -> str:
    """Trees against linear search of more NFE."""
    lines = [
        "| tree | NFE | linear search | NFE | videos right, tree minus linear |",
        "|---|---|---|---|---|",
    ]
    for tree, linear in (
        ("greedy 2", "linear 4"),
        ("greedy 2", "linear 8"),
        ("greedy 4", "linear 8"),
        ("beam 4", "linear 8"),
    ):
        a, b = (record["found"][name][0]["nfe"] for name in (tree, linear))
        lines.append(
            "| {} | {} | {} | {} | {:+.3f} ± {:.3f} |".format(
                tree, a, linear, b, *difference(record, tree, linear)
            )
        )
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, what, title in zip(
        axes, (whole, lambda one: one["score"]), ("videos right (held out)", "searched score"), strict=True
    ):
        for place, family in enumerate(FAMILIES):
            names = [n for n in SHAPES if n.rsplit(" ", 1)[0] == family]
            names = names if family == "linear" else [BASE, *names]
            nfe = [record["found"][n][0]["nfe"] * (1 + 0.02 * (place - 1)) for n in names]
            means, halves = zip(*(interval(column(record, n, what)) for n in names), strict=True)
            axis.errorbar(nfe, means, halves, marker="o", capsize=2, label=family)
        axis.set_xscale("log", base=2)
        axis.set_xticks([3 * EACH * n for n in (1, 2, 4, 8)], [str(3 * EACH * n) for n in (1, 2, 4, 8)])
        axis.set_xlabel("NFE, all chunks")
        axis.set_title(title)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--from", dest="earlier", type=Path, help="a record of an earlier run, in place of a run"
    )
    parser.add_argument(
        "--spread", action="store_true", help="how much of a second chunk its first one decides"
    )
    options = parser.parse_args()
    if options.earlier:
        record = json.loads(options.earlier.read_text())
    else:
        bundled = quiet_pipeline("shapes-video", options.threads)
        pipe = with_first_frame(bundled)
        pipe.set_progress_bar_config(disable=True)
        if options.spread:
            print(spread(pipe, video_prompts(options.prompts)))
            return
        record = {"n": options.prompts, "each": EACH, "found": run(pipe, video_prompts(options.prompts))}
        if options.json:
            options.json.write_text(json.dumps(record) + "\n")
    print(table(record), cheaper(record), sep="\n\n")
    if options.plot:
        plot(record, options.plot)


if __name__ == "__main__":
    main()
