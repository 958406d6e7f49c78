"""docs/methods/: a page for every sampler, whose tables, costs, figures and numbers are those of code and results."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib
import pytest

from benchmarks import method_figures, method_pages, method_tables
from benchmarks.method_results import PLAIN, drawn, tables
from docs.hooks.method_groups import group_of, groups
from genscale.engine.budget import Budget
from genscale.plugins import options, registry

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "methods"
NAMES = sorted(registry.found("sampler"))
HEADINGS = [
    "Idea", "Formula", "Cost", "Options", "When it wins, when not", "Measured", "On the command line", "Paper",
]  # fmt: skip
MEND = "python -m benchmarks.method_figures && python -m benchmarks.method_pages"
NUMBER = r"[+-]?\d\.\d+ ± \d\.\d+"


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def section(name: str, heading: str) -> str:
    return page(name).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def by_hand(text: str) -> str:
    """Without the computed parts."""
    return re.sub(r"<!-- begin: .*?<!-- end: \w+ -->", "", text, flags=re.S)


def test_every_sampler_has_a_page_and_no_page_is_without_one() -> None:
    assert sorted(p.stem for p in PAGES.glob("*.md")) == sorted([*NAMES, "index"])
    assert sorted(n for names in groups(PAGES).values() for n in names) == NAMES


def test_methods_are_grouped_by_what_they_need() -> None:
    """One of each kind that could be mistaken: a tree scores no previews, a black box may take gradients."""
    where = {name: group for group, names in groups(PAGES).items() for name in names}
    assert {n: where[n] for n in ("best_of_n", "dts_star", "evolution", "snes")}.items() <= dict.fromkeys(
        NAMES, "Verifier only"
    ).items()
    assert {where[n] for n in ("smc", "beam", "rollover", "dfs", "search_over_paths")} == {"Previews"}
    assert {where[n] for n in ("reno", "dno", "das", "tds", "gradient_guidance")} == {"Gradients"}
    assert {where[n] for n in ("fkc", "nlg", "zigzag")} == {"No verifier"}
    assert groups(PAGES)["Verifier only"][0] == PLAIN


def test_a_new_sampler_is_grouped_by_its_page() -> None:
    table = "| none | 128 | {} | 8 |\n"
    plain = type("Plain", (), {"needs": frozenset({"noise"})})
    assert group_of(plain, table.format(8)) == "Verifier only"
    assert group_of(plain, table.format(40)) == "Previews"
    assert group_of(type("Climbs", (), {"needs": frozenset({"gradient"})}), table.format(40)) == "Gradients"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_in_short_when_to_use_it_and_what_it_costs(name: str) -> None:
    assert 5 < len(method_tables.use_it_when(page(name))) < 160
    assert 2 < len(method_tables.cost_in_short(page(name))) < 110


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_sections_and_says_something_in_each(name: str) -> None:
    assert page(name).startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page(name), re.M) == HEADINGS
    for heading in HEADINGS:
        assert len(section(name, heading).split()) > 5, heading
    assert "arXiv" in section(name, "Paper") or re.search(r"\b(19|20)\d\d\b", section(name, "Paper"))


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda p: p.stem)
def test_what_is_computed_is_up_to_date(path: Path) -> None:
    """Options, costs on the bundled toy model, measured tables and the index; mended by benchmarks.method_pages."""
    assert path.read_text() == method_pages.filled(path), MEND


@pytest.mark.parametrize("name", NAMES)
def test_the_options_are_those_of_the_dataclass(name: str) -> None:
    """The written defaults, read back as the command line reads them, are the defaults."""
    cls = registry.load("sampler", name)
    rows = re.findall(r"^\| `(\w+)` \| \**`([^`]*)`\** \| (.*) \|$", section(name, "Options"), re.M)
    known, hints = registry.options(cls), options.field_types(cls)
    assert [row[0] for row in rows] == list(known)
    for option, default, told in rows:
        assert told.strip(), option
        meant = method_pages._default(known[option])
        if not known[option].metadata.get("python_only"):
            read = options.convert("" if default == '""' else default, hints[option])
            assert read == meant, option


def test_costs_add_up() -> None:
    """Of two samplers by hand, at 8 steps with guidance: 16 NFE a candidate."""
    rows = re.findall(
        r"^\| (none|`320nfe`) \| (\d+) \| (\d+) \| (\d+) \|$", section("best_of_n", "Cost"), re.M
    )
    assert [tuple(map(int, r[1:])) for r in rows] == [(16 * 16, 16, 16), (20 * 16, 20, 20)]
    rows = re.findall(
        r"^\| (none|`320nfe`) \| (\d+) \| (\d+) \| (\d+) \|$", section("zero_order", "Cost"), re.M
    )
    assert tuple(map(int, rows[0][1:])) == (17 * 16, 17, 17)


@pytest.mark.parametrize("name", [*NAMES, "index"])
def test_numbers_in_the_text_were_measured(name: str) -> None:
    """Every mean with its interval is one of this page's tables, or of the pages that report the benchmarks."""
    computed = "".join(re.findall(r"<!-- begin: .*?<!-- end: \w+ -->", page(name), re.S))
    known = computed + "".join(p.read_text() for p in DOCS.glob("*.md"))
    text = " ".join(by_hand(page(name)).split())
    unknown = [n for n in re.findall(NUMBER, text) if n not in known]
    assert not unknown


@pytest.mark.parametrize("name", [n for n in NAMES if n != PLAIN and tables(n)])
def test_a_method_that_loses_says_so(name: str) -> None:
    """Beyond the interval, by the score that is searched, as it comes."""
    rows = [r for t in drawn(name) for r in method_tables.as_it_comes(name, t.rows)]
    gains = [g for r in rows if (g := r.gains("searched")) is not None]
    if any(mean < -half for mean, half in gains):
        assert "loses" in section(name, "When it wins, when not")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_was_not_measured_says_so(name: str) -> None:
    text = section(name, "Measured")
    assert ("Not measured" in text) == ("figures/" not in text)


def test_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    """The same files; and with the same matplotlib the same drawings, but for rounding."""
    made = method_figures.write(tmp_path)
    kept = sorted((PAGES / "figures").iterdir())
    assert sorted(p.name for p in made) == [p.name for p in kept], MEND
    assert sum(p.stat().st_size for p in kept) < 2_500_000
    linked = {link for name in NAMES for link in re.findall(r"\(figures/([\w.-]+)\)", page(name))}
    assert linked == {p.name for p in kept}
    for path in kept:
        assert f"Matplotlib v{matplotlib.__version__}," not in path.read_text() or rounded(path) == rounded(
            tmp_path / path.name
        ), path.name


def rounded(path: Path) -> str:
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}", path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_command_is_one_of_this_sampler(name: str) -> None:
    """One, with a small budget, whose words are options that there are (it is run with all others of docs/)."""
    (command,) = re.findall(r"```sh\n(.*?)\n```", page(name), re.S)
    words = shlex.split(command)
    assert words[:2] == ["genscale", "generate"]
    assert words[words.index("--sampler") + 1] == name
    assert (Budget.parse(words[words.index("--budget") + 1]).nfe or 501) <= 500
    general = {"--sampler", "--budget", "--steps", "--seed", "--guide"}
    own = [w for pair in zip(words[3::2], words[4::2], strict=True) if pair[0] not in general for w in pair]
    prompts, values = options.split(own, options.field_types(registry.load("sampler", name)), ())
    assert prompts == []
    registry.make("sampler", name, options.typed("sampler", name, registry.load("sampler", name), values))


@pytest.mark.parametrize("name", [*NAMES, "index"])
def test_links_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]+\.(?:md|svg|png))(?:#([\w-]+))?\)", page(name)):
        path = PAGES / target
        assert path.is_file(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in heads}
