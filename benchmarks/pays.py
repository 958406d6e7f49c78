"""Which compute pays: the held-out judge against NFE and seconds, for an even best_of_n and for what is calibrated.

Calibrated on the development half of the prompts, measured on the report half, which shares no prompt with it
(`--prompts hard`: genscale.toy.hard_prompts; `--prompts old`: the fixed list of the shapes world, whose odd members
calibrate and whose even members report; `--model shapes-video`: captions of two moving shapes). Every prompt has its
own seed. Intervals are 95 %, normal, over prompts, and
those of gains are paired by prompt.

    python -m benchmarks.pays --model shapes-flow --steps 4 --json benchmarks/results/pays-flow-4.json
    python -m benchmarks.pays_page docs/explanation/what-pays.md docs/pays.png benchmarks/results/pays-*.json

One run of best_of_64, in which every candidate is scored by CLIP and the judge, gives best_of_n by CLIP for all N, as
the candidates are nested, and by the exact judge itself ("perfect verifier"), the ceiling of any verifier; another one
of 16 gives best_of_n by the calibrated verifier. "perfect previews" are the ceiling of accept and reject: a path is
given up after its first model call if its picture would be wrong. accept_reject is run as it ships, with budgets in
images; `--shared` adds budgets that the prompts share, `--others` other samplers with the same verifier.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import genscale
from benchmarks.common import interval, parser_for, quiet_pipeline
from genscale.toy import moving_shapes
from genscale.toy.hard_prompts import DEVELOPMENT, REPORT
from genscale.toy.shapes import PROMPTS
from genscale.verifiers.video_clip import LENGTH

LARGEST = 64
SIZES = (1, 4, 16, 64)
# 5.75 and 31 spend about what best of 4 and best of 16 do.
IMAGES = (2, 3, 4, 5, 5.75, 6, 8, 12, 16, 28, 31, 64)
MEANS = (4, 16)
POOLED = (4, 8, 16)
TIMED = 8  # images of the budget of the accept_reject that is timed
OTHERS = ("dfs", "smc", "beam", "rollover", "successive_halving")
PREVIEWS = (0.0, 0.25, 0.5, 0.75)  # as of the command genscale calibrate-verifier
VIDEO = "shapes-video"


@dataclass(frozen=True)
class World:
    """What a model is judged by. call: further arguments of its calls."""

    clip: str
    attributes: str
    judge: str
    call: dict[str, Any]


# Guidance: the models' own default on the command line.
IMAGES_WORLD = World("shapes_clip", "shapes_attributes", "shapes", {"guidance_scale": 3.0})
VIDEO_WORLD = World(
    "shapes_video_clip", "moving_attributes", "moving_shapes",
    {
        "guidance_scale": 2.0, "height": moving_shapes.SIZE, "width": moving_shapes.SIZE,
        "num_frames": moving_shapes.FRAMES, "max_sequence_length": LENGTH + 3,
    },
)  # fmt: skip


@dataclass
class Bench:
    """A model, its calls, and the rows that were measured."""

    pipe: Any
    model: str
    steps: int
    prompts: list[str]
    development: list[str]
    together: int
    world: World
    rows: list[dict[str, Any]] = field(default_factory=list)
    reliability: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    keep: Callable[[], None] = lambda: None  # writes what was measured so far; a run takes an hour

    @property
    def call(self) -> dict[str, Any]:
        return {"num_inference_steps": self.steps, **self.world.call}

    def nfe(self) -> int:
        return genscale.scale(self.pipe, candidates=1).plan(self.prompts[0], **self.call).nfe_per_candidate

    def results(self, scaled: Any, seed: int = 1_000, prompts: list[str] | None = None) -> Any:
        """The result of each group of prompts, those of the report by default; prompt i has the seed `seed` + i."""
        prompts = self.prompts if prompts is None else prompts
        for i in range(0, len(prompts), self.together):
            group = prompts[i : i + self.together]
            generators = [torch.Generator().manual_seed(seed + i + j) for j in range(len(group))]
            yield scaled.search(group, generator=generators, **self.call)

    def add(self, name: str, right: list[float], nfe: list[float], **more: Any) -> None:
        self.rows.append({"name": name, "right": right, "nfe": nfe, **more})
        self.keep()
        mean, half = interval(right)
        print(
            f"{name:40s} {statistics.fmean(nfe):7.1f} NFE  judge {mean:.3f} ± {half:.3f}  {more.get('note', '')}",
            flush=True,
        )

    def record(self, options: Any) -> dict[str, Any]:
        about = {"model": self.model, "steps": self.steps, "prompts": options.prompts, "n": len(self.prompts)}
        about["clip"] = self.world.clip
        return {**about, "reliability": self.reliability, "seconds": self.seconds, "rows": self.rows}


# ------------------------------------------------------------------------------------------------ the nested pool


@dataclass
class Pool:
    """64 candidates a prompt: [prompts, 64] scores by verifier, and the judge's verdicts."""

    scores: dict[str, torch.Tensor]
    right: torch.Tensor

    def best(self, verifier: str, n: int) -> list[float]:
        """Whether the best of the first n candidates by a verifier is right; the first of equals wins."""
        chosen = self.scores[verifier][:, :n].max(dim=1).indices
        return [float(v) for v in self.right.gather(1, chosen[:, None])[:, 0]]


def pool_of(bench: Bench, verifiers: dict[str, Any], n: int) -> Pool:
    """One best_of_n, in which each candidate is scored by all of them and the judge; only the first verifier steers."""
    search = [(v, float(k == 0)) for k, v in enumerate((*verifiers.values(), bench.world.judge))]
    scaled = genscale.scale(bench.pipe, "best_of_n", search, candidates=n, batch_size=LARGEST)
    rows: dict[str, list[list[float]]] = {name: [] for name in (*verifiers, bench.world.judge)}
    for result in bench.results(scaled):
        for found in result.searches:
            columns = zip(*(e.scores.values() for e in found.finals), strict=True)
            for name, column in zip(rows, columns, strict=True):
                rows[name].append(list(column))
    scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    return Pool(scores, scores[bench.world.judge])


def nested(bench: Bench, pool: Pool, names: tuple[str, ...]) -> None:
    """best_of_n at each N by some of a pool's verifiers."""
    each = bench.nfe()
    for name in names:
        label = "a perfect verifier" if name == bench.world.judge else name
        for n in (n for n in SIZES[1:] if n <= pool.right.shape[1]):
            bench.add(f"best_of_{n}, {label}", pool.best(name, n), [float(each * n)] * len(bench.prompts))


def ceilings(bench: Bench, pool: Pool) -> None:
    """Accept and reject by the judge: without previews, and with previews as sure as the judge after the first call."""
    each, first = bench.nfe(), bench.nfe() // bench.steps
    for images in (n for n in IMAGES if n == int(n)):
        for label, wrong in (("perfect verifier", each), ("perfect verifier and previews", first)):
            right, spent = zip(
                *(accepted_at(row, images * each, each, wrong) for row in pool.right), strict=True
            )
            bench.add(f"accept_reject to {images} images, {label}", list(right), list(spent))


def accepted_at(right: torch.Tensor, cap: int, each: int, wrong: int) -> tuple[float, float]:
    """(whether a right one is found, NFE): a right path costs `each`, another one `wrong`; the last is finished."""
    spent = 0
    for verdict in right.tolist():
        if verdict:
            return 1.0, float(spent + each)
        if spent + wrong + each > cap:
            return 0.0, float(spent + each)
        spent += wrong
    return 0.0, float(spent + each)


# ------------------------------------------------------------------------------------------------ searches that are run


def run(bench: Bench, name: str, sampler: str, verifier: Any, budget: str, **options: Any) -> None:
    """One sampler with a budget: the judge's verdict of each winner, its NFE, and what was accepted."""
    scaled = genscale.scale(
        bench.pipe,
        sampler,
        verifier,
        held_out=bench.world.judge,
        budget=budget,
        batch_size=LARGEST,
        **options,
    )
    right, nfe, accepted = list[float](), list[float](), list[float]()
    start = time.process_time()  # of this process: others on the machine do not count
    for result in bench.results(scaled):
        for i, found in enumerate(result.searches):
            winner = result.ranking(i)[0]
            right.append(winner.held_out[bench.world.judge])
            nfe.append(float(found.spent))
            if found.accepts is not None and winner.total >= found.accepts:
                accepted.append(right[-1])
    seconds = (time.process_time() - start) / len(bench.prompts)
    note = f"{seconds:.3f} s a prompt"
    if accepted:
        note += f", {len(accepted)} accepted, of them {statistics.fmean(accepted):.3f} right"
    bench.add(name, right, nfe, seconds=seconds, accepted=accepted, note=note)


def calibrated(bench: Bench, candidates: int, folder: Path) -> Any:
    """A verifier that answers P(right): both together, calibrated on the development prompts by the judge."""
    world = bench.world
    members = [world.clip, world.attributes]
    scaled = genscale.scale(
        bench.pipe, "best_of_n", members, select=world.judge, candidates=candidates, previews=PREVIEWS,
        batch_size=LARGEST,
    )  # fmt: skip
    found = list(bench.results(scaled, seed=2_000, prompts=bench.development))
    return genscale.calibrate_verifier(found, members, judge=world.judge, out=folder, pipe=bench.pipe)


def reliability(bench: Bench, pool: Pool, name: str) -> None:
    """How the probabilities of finished candidates on the report prompts compare to the judge."""
    p, right = pool.scores[name].flatten(), pool.right.flatten()
    bins = torch.clamp((p * 10).long(), max=9)
    error, found = 0.0, []
    for k in range(10):
        inside = bins == k
        if inside.any():
            said, was = float(p[inside].mean()), float(right[inside].mean())
            error += float(inside.double().mean()) * abs(said - was)
            found.append({"said": said, "was": was, "n": int(inside.sum())})
    bench.reliability = {"ece": error, "bins": found}
    print(f"expected calibration error on the report prompts: {error:.3f} ({len(p)} candidates)", flush=True)


def compare(bench: Bench) -> None:
    """The gain of each accept_reject over what it is compared with, paired by prompt."""
    rivals = [r for r in bench.rows if r["name"].endswith((f", {bench.world.clip}", ", calibrated"))]
    for row in (r for r in bench.rows if r["name"].startswith("accept_reject") and "seconds" in r):
        for rival in rivals:
            mean, half = interval([a - b for a, b in zip(row["right"], rival["right"], strict=True)])
            factor = statistics.fmean(rival["nfe"]) / statistics.fmean(row["nfe"])
            print(
                f"{row['name']:44s} - {rival['name']:32s} {mean:+.3f} ± {half:.3f} at 1/{factor:.1f} of its NFE"
            )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", choices=("hard", "old"), default="hard")
    parser.add_argument("--most", type=int, help="prompts of each half, at most")
    parser.add_argument("--together", type=int, default=40, help="prompts in one call")
    parser.add_argument(
        "--candidates", type=int, default=16, help="labelled candidates of a development prompt"
    )
    parser.add_argument("--images", type=float, nargs="+", help="budgets of accept_reject, in images")
    parser.add_argument("--means", type=float, nargs="+", help="wanted means of accept_reject, in images")
    parser.add_argument("--into", type=Path, help="only these budgets, added to the rows of this file")
    parser.add_argument(
        "--by-clip", action="store_true", help="with --into: only best of n by CLIP, and the ceilings"
    )
    parser.add_argument("--shared", action="store_true", help="also budgets that all prompts share")
    parser.add_argument("--others", action="store_true", help="also other samplers with the same verifier")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    development, report = prompts_of(options.model, options.prompts)
    bench = Bench(
        quiet_pipeline(options.model, options.threads), options.model, options.steps,
        report[: options.most], development[: options.most], options.together,
        VIDEO_WORLD if options.model == VIDEO else IMAGES_WORLD,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if options.into:
            if options.by_clip:
                by_clip(bench)
                best_of_64(bench)
            else:
                budgets(bench, options, Path(folder) / "calibration")
            add_rows(bench, options.into)
            return
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            bench.keep = lambda: write(options.json, bench.record(options))
        measure(bench, options, Path(folder) / "calibration")
        bench.keep()
    compare(bench)


def write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record) + "\n")


def prompts_of(model: str, kind: str) -> tuple[list[str], list[str]]:
    """Texts that calibrate and texts that are reported, which share none."""
    if model == VIDEO:
        pairs: Any = moving_shapes.fresh_prompts(5, 240, "two")
        halves = pairs[1::2], pairs[::2]
    else:
        halves = (DEVELOPMENT, REPORT) if kind == "hard" else (PROMPTS[1::2], PROMPTS[::2])
    return [p.text for p in halves[0]], [p.text for p in halves[1]]


def accept_reject(bench: Bench, verifier: Any, budgets: Sequence[float]) -> None:
    """Runs of accept_reject; a budget is the cost of so many images, which need not be a whole number."""
    for images in budgets:
        budget = f"{int(images * bench.nfe())}nfe"
        run(bench, f"accept_reject, {images:g} images", "accept_reject", verifier, budget)


def with_means(bench: Bench, verifier: Any, means: Sequence[float]) -> None:
    """accept_reject with the mean NFE that is wanted; a prompt may spend as much as best_of_64."""
    for images in means:
        name, mean = f"accept_reject, mean of {images:g} images", images * bench.nfe()
        run(bench, name, "accept_reject", verifier, f"{LARGEST}images", mean_nfe=mean)


def budgets(bench: Bench, options: Any, folder: Path) -> None:
    """Further budgets of accept_reject, with the same calibration."""
    both = calibrated(bench, options.candidates, folder)
    accept_reject(bench, both, options.images or ())
    with_means(bench, both, options.means or ())


def add_rows(bench: Bench, file: Path) -> None:
    """Add what was measured to a record, in place of rows of the same names."""
    record = json.loads(file.read_text())
    names = {row["name"] for row in bench.rows}
    record["rows"] = [row for row in record["rows"] if row["name"] not in names] + bench.rows
    record["seconds"] = record.get("seconds", {}) | bench.seconds
    write(file, record)


def by_clip(bench: Bench) -> None:
    """Best of n by CLIP and by the judge, and what no search can exceed; needs no calibration."""
    many = pool_of(bench, {bench.world.clip: bench.world.clip}, LARGEST)
    nested(bench, many, (bench.world.clip, bench.world.judge))
    ceilings(bench, many)


def measure(bench: Bench, options: Any, folder: Path) -> None:
    both = calibrated(bench, options.candidates, folder)
    world = bench.world
    few = pool_of(bench, {world.attributes: world.attributes, "calibrated": both}, SIZES[2])
    bench.add("base", few.best(world.judge, 1), [float(bench.nfe())] * len(bench.prompts))
    nested(bench, few, (world.attributes, "calibrated"))
    reliability(bench, few, "calibrated")
    accept_reject(bench, both, options.images or IMAGES)
    with_means(bench, both, options.means or MEANS)
    by_clip(bench)
    best_of_64(bench)
    timed(bench, both)
    for images in POOLED if options.shared else ():
        run(
            bench,
            f"accept_reject, {images} images, pooled",
            "accept_reject",
            both,
            f"{images}images",
            pool=True,
        )
        run(bench, f"best_of_n, {images} images, pooled", "best_of_n", both, f"{images}images", pool=True)
    for sampler in OTHERS if options.others else ():
        for images in (4, 16):
            run(bench, f"{sampler}, {images} images", sampler, both, f"{images}images")


def best_of_64(bench: Bench) -> None:
    """Processor seconds a prompt of best_of_64 by CLIP, on the first prompts."""
    _timed(bench, "best_of_64", "best_of_n", bench.world.clip, LARGEST)


def timed(bench: Bench, verifier: Any) -> None:
    """The same of accept_reject."""
    _timed(bench, "accept_reject", "accept_reject", verifier, TIMED)


def _timed(bench: Bench, name: str, sampler: str, verifier: Any, images: int) -> None:
    some = replace(bench, prompts=bench.prompts[: bench.together], rows=[])
    run(some, name, sampler, verifier, f"{images}images")
    bench.seconds = bench.seconds | {row["name"]: row["seconds"] for row in some.rows}


if __name__ == "__main__":
    main()
