"""What `genscale` promises: its names, their list, and citations of its samplers."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import genscale
from genscale.plugins.catalog import plugin_records
from genscale.plugins.registry import found, load
from tests.doc_blocks import ROOT


def grouped() -> dict[str, list[str]]:
    """The groups of names in the docstring of `genscale`."""
    table = inspect.cleandoc(genscale.__doc__ or "").split("may change:\n\n")[1].split("\n\n")[0]
    return {line[:12].strip(): line[12:].split(", ") for line in table.splitlines()}


def test_the_docstring_lists_every_public_name_once() -> None:
    listed = [name for names in grouped().values() for name in names]
    assert sorted(listed) == sorted(genscale.__all__)


def test_dir_shows_the_public_names_and_no_others() -> None:
    assert dir(genscale) == sorted(genscale.__all__)


@pytest.mark.parametrize("name", genscale.__all__)
def test_a_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(genscale, name)
    assert value is not None
    if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
        assert inspect.getdoc(value)


def test_what_the_interfaces_speak_of_is_public() -> None:
    """A plug-in author can name every class of genscale in the signatures of what is public."""
    missing = set()
    for name in ("Process", "Sampler", "Verifier", "Solve", "Denoise", "Score", "Gradient", "draw", "branch"):
        value = getattr(genscale, name)
        members = [value, *(m for _, m in inspect.getmembers(value) if inspect.isfunction(m))]
        members += [m.fget for _, m in inspect.getmembers(value) if isinstance(m, property)]
        for member in members:
            for hint in getattr(member, "__annotations__", {}).values():
                for word in re.findall(r"\b[A-Z]\w+", str(hint)):
                    module = inspect.getmodule(value)
                    home = getattr(getattr(module, word, None), "__module__", "")
                    if home.startswith("genscale.") and word not in genscale.__all__:
                        missing.add(word)
    assert missing == set()


def test_the_old_name_of_usage_error_still_works() -> None:
    assert genscale.Refusal is genscale.UsageError
    assert "Refusal" not in genscale.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="sclae"):
        genscale.sclae  # noqa: B018


def test_the_reference_documents_every_public_name() -> None:
    pages = [(ROOT / "docs" / "reference" / f"{page}.md").read_text() for page in ("python", "asking")]
    documented = re.findall(r"^::: genscale\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(documented) == sorted(genscale.__all__)


@pytest.mark.slow
def test_a_type_checker_sees_the_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text("import genscale\nreveal_type(genscale.Budget.parse('1nfe'))\ngenscale.Bugdet\n")
    words = [sys.executable, "-m", "mypy", "--strict", str(script)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert "genscale.engine.budget.Budget" in done.stdout
    assert 'Module has no attribute "Bugdet"' in done.stdout


# ---------------------------------------------------------------- citations

ENTRY = re.compile(r"^@(\w+)\{([\w:-]+),\n((?:  \w+ = \{.*\},?\n)+)\}$", re.MULTILINE)


def entries(bibtex: str) -> dict[str, dict[str, str]]:
    """Fields of every entry by key; nothing else may be in the text."""
    assert ENTRY.sub("", bibtex).strip() == ""
    out = {}
    for _, key, body in ENTRY.findall(bibtex):
        assert body.count("{") == body.count("}")
        assert key not in out
        out[key] = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", body, re.MULTILINE))
    return out


@pytest.mark.parametrize("name", list(found("sampler")))
def test_every_sampler_has_a_citation(name: str) -> None:
    cited = entries(genscale.citation(name))
    assert cited.pop("genscale")["version"] == genscale.__version__
    assert cited
    for fields in cited.values():
        assert {"title", "author", "year"} <= set(fields)
        assert "keywords" not in fields
        assert re.fullmatch(r"(19|20)\d\d", fields["year"])


@pytest.mark.parametrize("name", list(found("sampler")))
def test_a_citation_holds_every_paper_that_the_docstring_names(name: str) -> None:
    cls = load("sampler", name)
    text = f"{inspect.getdoc(cls)}\n{inspect.getdoc(inspect.getmodule(cls))}"
    named = set(re.findall(r"\b\d{4}\.\d{5}\b", text))
    cited = {fields.get("eprint") for fields in entries(genscale.citation(name)).values()}
    assert named <= cited
    [record] = plugin_records("sampler", name)
    if record["paper"].startswith("arXiv"):
        assert record["paper"].split()[1] in cited


def test_authors_are_those_of_the_method_pages() -> None:
    """First authors of the arXiv papers, where the page of a method says who they are."""
    checked = 0
    for name in found("sampler"):
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text().split("## Paper")[1]
        page = " ".join(page.split())
        for fields in entries(genscale.citation(name)).values():
            if "eprint" in fields and fields["eprint"] in page and not fields["author"].startswith("{"):
                first = fields["author"].split(",")[0]
                checked += first in page
    assert checked >= 40


def test_all_references_are_of_samplers() -> None:
    text = (ROOT / "samplers" / "references.bib").read_text()
    named = {n.strip() for line in re.findall(r"keywords = \{(.*)\}", text) for n in line.split(",")}
    built_in = {n for n, point in found("sampler").items() if point.value.startswith("genscale.")}
    assert named == built_in


def test_a_sampler_object_and_its_class_are_cited_as_its_name() -> None:
    cls = load("sampler", "zigzag")
    assert genscale.citation(cls()) == genscale.citation(cls) == genscale.citation("zigzag")


def test_genscale_alone() -> None:
    assert list(entries(genscale.citation())) == ["genscale"]


@dataclass(frozen=True)
class Uncited:
    pass


@dataclass(frozen=True)
class Cited:
    bibtex: ClassVar[str] = "@misc{me2026,\n  title = {Mine},\n  author = {Me},\n  year = {2026}\n}"


def test_a_plug_in_brings_its_own_entries() -> None:
    assert entries(genscale.citation(Cited()))["me2026"]["title"] == "Mine"
    with pytest.raises(genscale.UsageError, match="bibtex"):
        genscale.citation(Uncited())
    with pytest.raises(genscale.UsageError, match="unknown"):
        genscale.citation("zigzgg")
