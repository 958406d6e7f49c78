"""Tables of docs/methods/ from benchmarks/results/: what was measured of one sampler, and the index of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.method_results import OLDER, PLAIN, Row, Table, correctors, drawn, law, sampler_of, tables
from benchmarks.shapes import interval
from docs.hooks.method_groups import GROUPS, groups


def measured(name: str) -> str:
    """Figures and tables of one sampler."""
    parts = []
    found = tables(name)
    if found:
        files = " and ".join(f"`{t.file}`" for t in drawn(name))
        parts.append(f"![{name}: searched score and held-out judge against NFE](figures/{name}.svg)")
        parts.append(
            f"*Drawn by `benchmarks/method_figures.py` from {files}. Bars are 95 % intervals over prompts; the gains "
            "are paired by prompt, so theirs are narrower.*"
        )
        parts += [f"{t.title} (`{t.file}`):\n\n{scores(t)}" for t in found]
        parts.append("± is a 95 % interval over prompts; gains are paired, bold where they lie beyond it.")
    if law(name):
        parts.append(f"![{name}: distance to the tilted law against NFE](figures/{name}-law.svg)")
        parts.append(
            "*Distance of a run's population from the tilted law, on the three problems of "
            "[posterior](../posterior.md) "
            "(`posterior-mixture.json`, `posterior-digits.json`).*"
        )
        parts.append(laws(name))
        parts.append(
            "MMD² in thousandths. ± is a 95 % interval by resampling runs; bold where the difference from "
            "`importance` at the same NFE lies beyond its interval."
        )
    if name == "fkc":
        parts.append("![fkc: distance to the exact law, and effective sample size](figures/fkc.svg)")
        parts.append(
            "*Drawn by `benchmarks/method_figures.py` from `correctors.json`: 3000 particles on a line, bars 95 %.*"
        )
        parts.append(corrected())
    return "\n\n".join(parts) or "Not measured: no file in `benchmarks/results/` has this method."


def scores(table: Table) -> str:
    """As benchmarks/shapes.py prints them."""
    over = table.over
    lines = [
        f"| search | NFE | searched | gain over {over} | judge | gain over {over} |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        cells = [row.label, f"{row.nfe:.0f}"]
        for what, digits in (("searched", 4), ("judge", 3)):
            mean, half = interval(getattr(row, what))
            cells += [f"{mean:.{digits}f} ± {half:.{digits}f}", gain(row.gains(what), digits)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain(found: tuple[float, float] | None, digits: int) -> str:
    if found is None:
        return ""
    mean, half = found
    text = f"{mean:+.{digits}f} ± {half:.{digits}f}"
    return f"**{text}**" if abs(mean) > half else text


# ---------------------------------------------------------------- laws


def laws(name: str) -> str:
    lines = [
        "| problem | search | NFE | MMD² of a draw | MMD² of a run | log reward | variety |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in law(name):
        for row in task["rows"]:
            if row["nfe"] is not None and sampler_of(row["search"]) == name:
                cells = [_law(row, "law", 1e3, 1), _law(row, "one", 1e3, 1)]
                cells += [_law(row, "reward", 1, 2), _law(row, "variety", 1, 2)]
                lines.append(
                    f"| {task['name']} | {row['search']} | {row['spent']:.0f} | " + " | ".join(cells) + " |"
                )
    return "\n".join(lines)


def _law(row: dict[str, Any], what: str, unit: float, digits: int) -> str:
    mean, half = (unit * v for v in row["measures"][what])
    text = f"{mean:.{digits}f} ± {half:.{digits}f}"
    difference = row.get("gains", {}).get(what)
    return f"**{text}**" if difference and abs(difference[0]) > difference[1] else text


def corrected() -> str:
    rows = correctors()["law"]
    churns = ("0.5", "1.0", "1.5", "2.0")
    lines = [
        "| mix | exact draws | " + " | ".join(f"fkc, churn {float(c):g}" for c in churns)
        + " | " + " | ".join(f"uncorrected, {float(c):g}" for c in churns) + " |",
        "|---" * 10 + "|",
    ]  # fmt: skip
    for row in rows:
        keys = ["exact draws", *(f"churn {c}, {kind}" for kind in ("corrected", "as it is") for c in churns)]
        cells = [f"{row[k]['mean']:.3f} ± {row[k]['error']:.3f}" for k in keys]
        weights = ", ".join(f"{w:g}" for w in row["weights"])
        lines.append(f"| {row['mix']} ({weights}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nWasserstein-1, means over 6 seeds; ± is a standard error."


# ---------------------------------------------------------------- the index


def index(pages: Path) -> str:
    """A table for each group: every method with its idea, its cost and when to use it."""
    parts = []
    for group, names in groups(pages).items():
        lines = [f"## {group}", "", GROUPS[group], ""]
        lines += ["| method | what it does | cost in NFE | use it when |", "|---|---|---|---|"]
        for name in names:
            page = (pages / f"{name}.md").read_text()
            cells = (first_sentence(page, "Idea"), cost_in_short(page), use_it_when(page))
            lines.append(f"| [`{name}`]({name}.md) | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def gains(pages: Path) -> str:
    """What each measured method gained over the baseline, and the names of those that were not measured."""
    lines = ["| method | needs | searched | judge |", "|---|---|---|---|"]
    others: dict[str, list[str]] = {}
    for group, names in groups(pages).items():
        for name in names:
            searched, judge = gained(name)
            if judge:
                lines.append(f"| [`{name}`]({name}.md) | {group.lower()} | {searched} | {judge} |")
            else:
                others.setdefault(searched, []).append(f"[`{name}`]({name}.md)")
    others.pop("the baseline", None)
    said = [f"{what[0].upper()}{what[1:]}: {', '.join(names)}." for what, names in others.items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(said)


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next."""
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].strip()


def first_sentence(page: str, heading: str) -> str:
    text = " ".join(section(page, heading).split())
    return re.split(r"(?<=\.) (?=[A-Z`])", text, maxsplit=1)[0].removesuffix(".")


def cost_in_short(page: str) -> str:
    """What stands behind "In short:" in the section on cost, or else its first sentence."""
    return first_sentence(page, "Cost").removeprefix("In short: ")


def use_it_when(page: str) -> str:
    found = re.match(r"Use it when: (.*?)\.(?=\n\n|\Z)", section(page, "When it wins, when not"), re.S)
    if found is None:
        raise ValueError(
            f"a page begins its section 'When it wins, when not' with 'Use it when: ...': {page[:40]!r}"
        )
    return " ".join(found[1].split())


def gained(name: str) -> tuple[str, str]:
    """The gain over best_of_n of the method as it comes, on the flow model at the largest budget up to 1000 NFE."""
    if name == PLAIN:
        return "the baseline", ""
    flow = [t for t in drawn(name) if t.model == "shapes-flow"]
    rows = [r for t in flow for r in as_it_comes(name, t.rows) if r.budget <= 1024]
    if not rows:
        return ("its law only" if law(name) or name == "fkc" else "not measured"), ""
    row = max(rows, key=lambda r: (r.budget, r.label == name))
    return f"{gain(row.gains('searched'), 4)} at {row.budget}", gain(row.gains("judge"), 3)


def as_it_comes(name: str, rows: Sequence[Row]) -> list[Row]:
    """Rows of this code and of our defaults, or nearly (as "ditto2 (4 calls)"); at each budget the first of them."""
    mine = [r for r in rows if r.sampler == name and not r.label.endswith((OLDER, "(as published)"))]
    first = {r.budget: r for r in reversed(mine)}
    return [r for r in mine if r is first[r.budget]]
