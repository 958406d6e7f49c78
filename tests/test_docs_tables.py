"""The tables of README and docs list what is registered: all of it, and nothing else."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.shapes import interval
from genscale.plugins.registry import found, load
from tests.doc_blocks import ROOT, blocks, commands

README = (ROOT / "README.md").read_text()
METHODS = (ROOT / "docs" / "methods" / "index.md").read_text()
VERIFIERS = (ROOT / "docs" / "verifiers.md").read_text()


def first_column(table: str) -> set[str]:
    """Names in the first cells of a table's lines."""
    cells = re.findall(r"^\| ((?:\[?`\w+`(?:\]\([\w.]+\))?(?:, )?)+) ", table, re.M)
    cells = [re.sub(r"\]\([\w.]+\)", "", cell) for cell in cells]
    return {name for cell in cells for name in re.findall(r"\w+", cell)}


def test_every_sampler_is_in_the_index_of_methods_and_the_reverse() -> None:
    assert first_column(METHODS.split("<!-- begin: index -->")[1].split("<!-- end: index -->")[0]) == set(
        found("sampler")
    )


def test_the_readme_offers_five_samplers_and_every_one_exists() -> None:
    five = first_column(README.split("## Choose a sampler")[1].split("\n## ")[0])
    assert five == {"best_of_n", "accept_reject", "smc", "rollover", "gradient_guidance"}
    assert five <= set(found("sampler"))


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 9000


def test_the_images_of_the_readme_and_its_links_are_there() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(targets) > 15
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_every_verifier_is_in_its_page_and_the_reverse() -> None:
    assert first_column(VERIFIERS) == set(found("verifier"))


def test_what_the_command_says_of_a_verifier_is_what_its_page_says() -> None:
    from genscale.plugins.verifier_facts import FACTS

    told = {}
    for line in VERIFIERS.splitlines():
        if names := re.findall(r"`(\w+)`", line.split(" | ")[0]) if line.startswith("| `") else ():
            cells = [cell.replace("`", "").strip() for cell in line.strip("| ").split(" | ")]
            for place, name in enumerate(
                names
            ):  # a line of two verifiers has two entries, unless they are alike
                both = [cell.split("; ") if len(names) == 2 else [cell] for cell in cells]
                told[name] = [some[place] if len(some) == 2 else "; ".join(some) for some in both]
    assert told.keys() >= FACTS.keys() == set(found("verifier"))
    for name, facts in FACTS.items():
        assert told[name][2:6] == [facts.scale, facts.weights, facts.reads, facts.licence], name


def test_the_readme_names_every_verifier() -> None:
    assert set(found("verifier")) <= set(re.findall(r"`(\w+)`", README))


def test_every_sampler_and_verifier_says_what_it_is() -> None:
    for kind in ("sampler", "verifier"):
        for name in found(kind):
            assert (load(kind, name).__doc__ or "").strip()


def test_ci_runs_the_second_command_of_the_readme() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    second = [block.code.strip() for block in blocks(README) if block.language == "sh"][1]
    assert second.startswith("python3 -m venv .venv && ")
    assert second in run.splitlines()
    assert re.search(r"\.venv/bin/mkdocs build --strict(?! -)", run)


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README


MEASURED = (
    "docs/explanation/measured.md",
    "genscale/engine/stopping.py",
    *(
        f"docs/how-to/{name}.md" for name in ("any-generator", "image-to-video", "long-videos")
    ),  # with tables of their own
    "docs/explanation/what-pays.md",
    "docs/explanation/honest-verifiers.md",
    "docs/explanation/performance.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.stem != "index"),
)
GUIDES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *(p for folder in ("tutorials", "how-to", "explanation") for p in (ROOT / "docs" / folder).glob("*.md")),
]


def intervals(text: str) -> set[tuple[float, float]]:
    """Every `mean ± half width`, without its sign."""
    number = r"(\d*\.\d+)"
    return {(float(m), float(h)) for m, h in re.findall(rf"{number}\**\s*(?:±|\+-)\s*{number}", text)}


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_numbers_that_a_guide_quotes_are_in_a_measured_table(page: Path) -> None:
    measured = set[tuple[float, float]]().union(*(intervals((ROOT / name).read_text()) for name in MEASURED))
    assert intervals(page.read_text()) <= measured


def test_the_table_of_arms_is_that_of_the_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "arms-flow.json").read_text())["rows"]
    found = {
        (round(abs(v[0]), 3), round(v[1], 3)) for row in rows for v in row.values() if isinstance(v, list)
    }
    page = (ROOT / "docs" / "how-to" / "any-generator.md").read_text()
    assert (
        len(intervals(page)) == 3 * 2 + 4
    )  # two gains of three allocations, and what the judge says of all four
    assert intervals(page) <= found


def test_the_gains_of_honest_verifiers_are_those_of_the_results() -> None:
    found = set()
    for file in (ROOT / "benchmarks" / "results").glob("hacking-*.json"):
        for pool in json.loads(file.read_text())["pools"]:
            for row in pool["rows"].values():
                last = row[str(pool["candidates"])]
                mean, half = interval([b - a for a, b in zip(row["4"], last, strict=True)])
                found.add((round(abs(mean), 3), round(half, 3)))
    page = intervals((ROOT / "docs" / "explanation" / "honest-verifiers.md").read_text())
    assert len(page) > 10
    assert page <= found


def test_intervals_are_read() -> None:
    assert intervals("+.0142 ± .0039, **-0.020 ± 0.5**, 3 +- 4, -0.0008 +- 0.0017") == {
        (0.0142, 0.0039),
        (0.020, 0.5),
        (0.0008, 0.0017),
    }


def test_the_first_table_of_what_was_measured_is_that_of_the_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "shapes-flow.json").read_text())["rows"]
    page = (ROOT / "docs" / "explanation" / "measured.md").read_text()
    base = rows[0]["correct"]
    for row in rows:
        clip, judge = interval(row["clip"]), interval(row["correct"])
        gain = interval([a - b for a, b in zip(row["correct"], base, strict=True)])
        cells = [f"{clip[0]:.3f} ± {clip[1]:.3f}", f"{judge[0]:.3f} ± {judge[1]:.3f}"]
        cells.append("" if row is rows[0] else f"{gain[0]:+.3f} ± {gain[1]:.3f}")
        assert re.search(
            rf"^\| {row['search']} \| {row['nfe']} \| [\d.]+ \| {re.escape(' | '.join(cells))} \|", page, re.M
        )


def test_the_tables_of_performance_are_those_of_the_results() -> None:
    from benchmarks.performance_page import PAGE, fill, filled, read

    page = PAGE.read_text()
    assert filled(page) == page
    assert fill([r | {"steps": 8 + 20 - r["steps"]} for r in read("fill")]) not in page


def test_the_videos_of_the_readme_are_those_of_the_results() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "video.json").read_text())["rows"]
    means = [f"{statistics.fmean(rows[n]['correct']):.3f}".lstrip("0") for n in ("1", "8")]
    gain = interval([a - b for a, b in zip(rows["8"]["correct"], rows["1"]["correct"], strict=True)])
    said = f"from {means[0]} to {means[1]} ({gain[0]:+.3f} ± {gain[1]:.3f}".replace("0.", ".")
    for page in ("README.md", "docs/explanation/measured.md"):
        assert said in (ROOT / page).read_text()


@pytest.mark.parametrize("gone", ["| [`smc`](smc.md) |", "| [`svdd`](svdd.md) |"])
def test_a_missing_line_is_seen(gone: str) -> None:
    assert first_column(METHODS.replace(gone, "| smc |")) != first_column(METHODS)


def test_commands_are_split_as_a_shell_does() -> None:
    code = 'a "b c" && d \\\n  --e f  # not this\n# nor this\ng'
    assert commands(code) == [["a", "b c"], ["d", "--e", "f"], ["g"]]


def test_the_citation_file_and_the_bibtex_entry_agree() -> None:
    import genscale

    cff = (ROOT / "CITATION.cff").read_text()
    found = dict(re.findall(r'^(?:  - )?([\w-]+): ?"?(.*?)"?$', cff, re.M))
    assert {"cff-version", "message", "title", "authors", "version"} <= found.keys()
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == genscale.__version__
    entry = genscale.citation()
    assert f"title = {{{found['title']}}}" in entry
    assert f"author = {{{{{found['name']}}}}}" in entry


def test_contributing_lists_the_folders_on_their_floors() -> None:
    from tests.import_floors import FLOOR

    table = (ROOT / "CONTRIBUTING.md").read_text().split("| floor | folder |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", table, re.M)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"\w+", names)} == FLOOR
