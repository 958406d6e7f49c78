"""The command `genscale bench`: the prompts of a benchmark, laid out for its official scorer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.cli import options
from genscale.cli.generate import WRITTEN
from genscale.cli.request_options import print_json, request_of
from genscale.cli.video import DEFAULT, with_video_defaults
from genscale.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

BENCH = """
Examples:

  genscale bench geneval --prompts evaluation_metadata.jsonl --model owner/name --candidates 8 --out runs/geneval

  genscale bench t2i-compbench --prompts color_val.txt --budget 16images --out runs/color

  genscale bench dpg --prompts dpg_bench/prompts --shard 3/8 --out runs/dpg

  genscale bench vbench --prompts VBench_full_info.json --model owner/name --samples 5 --out runs/vbench

The benchmarks are geneval, t2i-compbench, dpg, drawbench, partiprompts and vbench; genscale has none of their prompts.
All options of `genscale generate`, or of `genscale video` for vbench. DIR/base and DIR/searched are what the scorer
takes. The same command again goes on after a kill.
"""

_LEFT_OUT = ("images", "formats", *WRITTEN)
"""Options that are the layout's."""


@options.takes(
    options.extra("prompts"),
    options.of_request("sampler"),
    options.extra("search_size", "set_", "calibration"),
    options.of_request(without=_LEFT_OUT),
    options.extra("token", "samples", "shard", "group", "out"),
    words=True,
)
def bench(
    ctx: typer.Context,
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", show_default=False)],
    **given: Any,
) -> int:
    """Search for every prompt of a benchmark, and lay out images for its official scorer, beside the model's own."""
    from genscale.bench import run_bench
    from genscale.bench.layouts import layout_of
    from genscale.bench.prompt_sets import read_set
    from genscale.bench.shard import Shard
    from genscale.runs.progress import Display, plain_warnings

    layout = layout_of(benchmark)
    if given["prompts"] is None:
        raise UsageError(f"{benchmark} needs its prompts: give its file with --prompts.")
    prompts = read_set(benchmark, given["prompts"])
    texts = tuple(p.prompt for p in prompts)
    if layout.kind == "mp4":
        request = with_video_defaults(request_of(ctx, {"model": DEFAULT}, clips=True, prompts=texts), given)
        request = replace(request, formats=("mp4",))
    else:
        request = request_of(ctx, prompts=texts)
    asked = run_bench.Bench(
        benchmark,
        tuple(prompts),
        replace(request, prompts=()),
        given["samples"],
        Shard.parse(given["shard"]),
        run_bench.GROUP if given["group"] is None else given["group"],
    )
    with plain_warnings():
        found = run_bench.bench(asked, given["out"], Display(quiet=given["as_json"]))
    if given["as_json"]:
        print_json(found)
    else:
        print_summary(found, Console())
    return 0


def print_summary(found: Mapping[str, Any], console: Console) -> None:
    """A line for each category and verifier: the model alone, what the search found, the gain with its interval."""
    from genscale.numerics.intervals import Mean  # loads numpy, which the help does not need

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("category", "prompts", "score", "base", "searched", "gain"):
        left = title in ("category", "score")
        table.add_column(title, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in found["categories"]:
        for n, score in enumerate(row["scores"]):
            held = " (held out)" if score["role"] == "held_out" else ""
            base, best = (_plain(score[part]["mean"]) for part in ("base", "searched"))
            first = (Text(row["category"]), str(row["prompts"])) if n == 0 else (Text(), "")
            gain = Mean(**score["gain"]).text(signed=True)
            table.add_row(*first, Text(score["verifier"] + held), base, best, gain)
    console.print(table)
    for score in found.get("mean_of_categories", ()):
        alone, best = (_plain(score[part]) for part in ("base", "searched"))
        told = f"mean of the categories, {score['verifier']}: {alone} base, {best} searched"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    told = f"{found['shards']} shards, {found['samples']} samples"
    missing = f", {found['missing']} missing" if found["missing"] else ""
    console.print(
        f"{told}{missing}; by genscale's own verifiers, not the benchmark's", style="dim", highlight=False
    )
    folder = found["folder"]
    console.print(f"{folder}: base, searched, summary.json", markup=False, highlight=False, soft_wrap=True)


def _plain(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f}"
