"""What several benchmarks share: their parser, the pipeline, the prompts, and intervals."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import genscale
from genscale.toy.shapes import PROMPTS


def parser_for(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def make_page(
    doc: str | None,
    write_page: Callable[[Path, list[Any]], None],
    draw: Callable[[Path, list[Any]], None],
) -> None:
    """The command of a script that writes tables into a page, and a picture, from records: PAGE PICTURE JSON..."""
    parser = parser_for(doc)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("json", type=Path, nargs="+")
    options = parser.parse_args()
    records = [json.loads(file.read_text()) for file in options.json]
    write_page(options.page, records)
    draw(options.picture, records)


def quiet_pipeline(model: str, threads: int | None = None, **load: Any) -> Any:
    """A pipeline without progress bars. threads: of torch; None leaves them as they are."""
    if threads is not None:
        torch.set_num_threads(threads)
    pipe = genscale.load_pipeline(model, **load)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def spread_prompts(n: int) -> list[Any]:
    """n prompts of the fixed list of the shapes world, evenly spread over its categories."""
    return [PROMPTS[i * len(PROMPTS) // n] for i in range(n)]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return statistics.fmean(values), half
