"""`genscale bench`: searches for every prompt of a benchmark, and lays out what it found and what the model makes.

    OUT/base/...        what the model alone makes, where the benchmark's scorer looks for it
    OUT/searched/...    what the search found, in the same places
    OUT/summary.json    means by category, by genscale's own verifiers
    OUT/shards/K-of-N   the runs of one shard, bench.json (what was asked for) and results.jsonl (scores)

Every sample of a prompt is a search of its own, with the seed plus its number; its base is candidate 0. Prompts are
searched in groups, each an ordinary run in a folder of its own, so that after a kill the same command goes on where it
was. Neither groups nor shards change a result, up to a level of a pixel that other batches round otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from genscale import __version__
from genscale.bench.layouts import Layout, layout_of
from genscale.bench.prompt_sets import BenchPrompt
from genscale.bench.shard import Shard
from genscale.bench.summary import ResultLine, summarised
from genscale.bench.trees import write_listing, write_prompt
from genscale.errors import UsageError
from genscale.plugins.limits import COUNT
from genscale.runs import read_request
from genscale.runs.finished_run import completed_record
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.storage import typed_json
from genscale.storage.durable_files import save_bytes

ASKED, RESULTS, SUMMARY = "bench.json", "results.jsonl", "summary.json"
SHARDS, BASE, SEARCHED = "shards", "base", "searched"
GROUP = 32
"""Prompts that are searched together."""
ALL = Shard()


@dataclass(frozen=True)
class Bench:
    """What was asked for. request: without prompts. samples: None is what the benchmark asks for."""

    name: str
    prompts: tuple[BenchPrompt, ...]
    request: Request
    samples: int | None = None
    shard: Shard = ALL
    group: int = GROUP

    def __post_init__(self) -> None:
        if not COUNT.admits(self.group):
            raise UsageError(f"--group {self.group} must be {COUNT}.")

    @property
    def layout(self) -> Layout:
        return layout_of(self.name)


class _Asked(TypedDict):
    name: str
    samples: int | None
    group: int
    request: dict[str, Any]
    prompts: list[str]


def bench(asked: Bench, out: Path | None, display: Display) -> dict[str, Any]:
    """Do what is not done yet; what summary.json holds, with the folder.

    UsageError: a prompt cannot be laid out, or the folder holds another benchmark. KeyboardInterrupt: finished work is
    kept, and the same call goes on.
    """
    asked.layout.check(asked.prompts, asked.samples)
    mine = asked.shard.of(asked.prompts)
    if not mine:
        raise UsageError(
            f"--shard {asked.shard.k}/{asked.shard.n} has no prompt: there are {len(asked.prompts)}."
        )
    out = RunFolder.fresh() if out is None else out.expanduser()
    run = PreparedRun.of(replace(asked.request, prompts=_texts(mine)))
    folder, begun = RunFolder.claimed(out / SHARDS / asked.shard.folder), False
    try:
        seed = _settled(folder, asked, run.request)
        run = replace(run, request=replace(run.request, seed=seed).anchored())
        with display.busy(f"loading {run.request.model}"):
            run = run.with_frame_rate()
        with display.busy("preparing the searches"):
            replace(run, request=replace(run.request, prompts=_texts(mine[: asked.group]))).plan()
        folder.write_json(ASKED, _as_dict(asked, run.request))
        begun = True
        for tree in (BASE, SEARCHED):
            write_listing(out / tree, asked.layout, asked.prompts, asked.samples)
        lines = list(_lines(asked, mine, run, out, folder.path, display))
        save_bytes(folder.path / RESULTS, _jsonl(lines))
    except BaseException:
        if not any(folder.path.glob("runs/*")):
            (folder.path / ASKED).unlink(missing_ok=True)
            folder.abandon()
        elif begun:
            display.say(f"what was done is kept in {out}: the same command goes on")
        raise
    finally:
        folder.release()
    return {"folder": str(out), **write_summary(asked, out)}


def _lines(
    asked: Bench, mine: Sequence[BenchPrompt], run: PreparedRun, out: Path, shard: Path, display: Display
) -> Iterator[ResultLine]:
    """Search for the prompts of a shard, group by group, and lay each group out; the scores of every sample."""
    layout, seed = asked.layout, run.request.seed or 0
    for start in range(0, len(mine), asked.group):
        some = mine[start : start + asked.group]
        most = max(layout.count(p, asked.samples) for p in some)
        found: dict[str, dict[int, dict[str, Path]]] = {p.prompt: {} for p in some}
        for n in range(most):
            texts = _texts([p for p in some if layout.count(p, asked.samples) > n])
            display.say(
                f"prompts {start + 1} to {start + len(some)} of {len(mine)}, sample {n + 1} of {most}"
            )
            path = shard / "runs" / f"{start:05d}-{n:02d}"
            part = replace(run, request=replace(run.request, prompts=texts, seed=seed + n))
            by_text = {told["prompt"]: told for told in completed_record(path, part, display)["prompts"]}
            for text, told in by_text.items():
                found[text][n] = _files(path, told, layout.kind)
            for prompt in some:
                if prompt.prompt in by_text:
                    yield _line(prompt, n, seed + n, by_text[prompt.prompt])
        for prompt in some:
            for tree, role in ((BASE, "base"), (SEARCHED, "best")):
                samples = {n: files[role] for n, files in found[prompt.prompt].items() if role in files}
                write_prompt(out / tree, layout, prompt, samples, asked.samples)


def _files(path: Path, told: Mapping[str, Any], kind: str) -> dict[str, Path]:
    """The file of each role, "best" and "base", of the kind that the layout asks for."""
    found: dict[str, Path] = {}
    for role, names in told["files"].items():
        name = next((name for name in names if name.endswith(f".{kind}")), None)
        if name is not None:
            found[role] = path / name
    return found


def _line(prompt: BenchPrompt, sample: int, seed: int, told: Mapping[str, Any]) -> ResultLine:
    def scores(role: str) -> dict[str, dict[str, float]] | None:
        entry = told.get(role)
        return (
            None if entry is None else {kind: dict(entry[kind]) for kind in ("search", "select", "held_out")}
        )

    return {
        "index": prompt.index,
        "prompt": prompt.prompt,
        "categories": list(prompt.categories),
        "sample": sample,
        "seed": seed,
        "nfe": told["nfe"],
        "base": scores("base"),
        "best": scores("best"),
    }


def write_summary(asked: Bench, out: Path) -> dict[str, Any]:
    """Means by category over all shards that are finished; also written as summary.json."""
    lines, shards = list[ResultLine](), 0
    for file in sorted((out / SHARDS).glob(f"*/{RESULTS}")):
        shards += 1
        lines += [typed_json.parse(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    wanted = sum(asked.layout.count(p, asked.samples) for p in asked.prompts)
    found = {
        "benchmark": asked.name,
        "shards": f"{shards} of {asked.shard.n}",
        "prompts": len({line["index"] for line in lines}),
        "prompts_of_all": len(asked.prompts),
        "samples": len(lines),
        "missing": wanted - sum(line["best"] is not None for line in lines),
        **summarised(lines),
    }
    save_bytes(out / SUMMARY, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
    return found


def _settled(folder: RunFolder, asked: Bench, request: Request) -> int:
    """The seed: that of the folder where it is continued, as given, or drawn. UsageError: it holds something else."""
    if not folder.held(ASKED):
        return request.seeded().seed or 0
    earlier: _Asked = typed_json.read(folder.path / ASKED, _Asked)
    before = read_request.from_dict(earlier["request"], str(folder.path / ASKED))
    request = request if request.seed is not None else replace(request, seed=before.seed)
    mine = _as_dict(asked, request)
    differing = next((k for k in ("name", "samples", "group", "prompts") if mine[k] != earlier[k]), None)  # type: ignore[literal-required]
    differing = differing or request.anchored().difference(before)
    if differing is not None:
        raise UsageError(
            f"'{folder.path}' holds another benchmark (its {differing} differs): choose another folder with --out."
        )
    return before.seed or 0


def _as_dict(asked: Bench, request: Request) -> dict[str, Any]:
    return {
        "genscale": __version__,
        "name": asked.name,
        "samples": asked.samples,
        "group": asked.group,
        "shard": asdict(asked.shard),
        "request": request.anchored().as_dict(),
        "prompts": [p.record or p.prompt for p in asked.prompts],
    }


def _texts(prompts: Sequence[BenchPrompt]) -> tuple[str, ...]:
    """Each text once: what is generated for it goes to all that have it."""
    return tuple(dict.fromkeys(p.prompt for p in prompts))


def _jsonl(lines: Sequence[ResultLine]) -> bytes:
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()
