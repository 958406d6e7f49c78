"""The tables of learned previews in a page, from the records of benchmarks/learned_previews.py.

python -m benchmarks.learned_previews_page docs/explanation/what-pays.md benchmarks/results/learned-previews-*.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.learned_previews import SAMPLERS, WORDS

BEGIN, END = "<!-- begin: learned previews -->", "<!-- end: learned previews -->"


def page(records: list[dict[str, Any]]) -> str:
    """Two tables: how previews agree with the end, and the held-out judge."""
    lines = [
        "| model and prompts | score of previews | model calls | rho | AUC | AUC within a prompt |",
        "|---|---|---|---|---|---|",
    ]
    for record in records:
        names = list(dict.fromkeys(row["verifier"] for row in record["agreement"]))
        for row in record["agreement"]:
            if row["calls"] < record["steps"]:
                lines.append(
                    f"| {_about(record)} | {WORDS[names.index(row['verifier'])]} | {row['calls']} | {row['rho']:.2f} | "
                    f"{row['auc']:.3f} | {row['auc_within']:.3f} ± {row['auc_within_half']:.3f} |"
                )
    lines += [
        "", "| model and prompts | sampler and budget | own previews | learned previews | right | NFE |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for record in records:
        rows = {row["name"]: row for row in record["rows"]}
        for gain in sorted(record["gains"], key=lambda g: (SAMPLERS.index(g["sampler"]), g["images"])):
            what = f"{gain['sampler']}, {gain['images']} images"
            cells = [_cell(rows[f"{what}, {word}"]) for word in WORDS]
            lines.append(
                f"| {_about(record)} | {what} | {cells[0]} | {cells[1]} | "
                f"{gain['right']:+.3f} ± {gain['right_half']:.3f} | {gain['nfe']:+.1f} ± {gain['nfe_half']:.1f} |"
            )
    return "\n".join(lines)


def _about(record: dict[str, Any]) -> str:
    return f"{record['model']}, {record['steps']} steps, {record['n']} hard prompts"


def _cell(row: dict[str, Any]) -> str:
    return f"{statistics.fmean(row['right']):.3f} for {statistics.fmean(row['nfe']):.0f} NFE"


def main() -> None:
    target, *files = map(Path, sys.argv[1:])
    before, rest = target.read_text(encoding="utf-8").split(BEGIN)
    made = page([json.loads(file.read_text()) for file in files])
    target.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
