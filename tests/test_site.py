"""The documentation site builds without a warning, says what the program says, and asks nobody for anything."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import genscale
from docs.hooks.method_groups import groups
from genscale.plugins.registry import found
from tests.doc_blocks import ROOT
from tests.doc_words import flags, program

pytest.importorskip(
    "mkdocs", reason="the documentation's packages are not installed (pip install -e '.[docs]')"
)

from docs.hooks import notebooks


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: `mkdocs build --strict` ends at the first warning that this collects."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder, logger, said = tmp_path_factory.mktemp("site"), logging.getLogger("mkdocs"), list[str]()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    heard = Heard(logging.WARNING)
    logger.addHandler(heard)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            patch.setenv(
                "GENSCALE_NOTEBOOKS", "source"
            )  # nothing is executed here: tests/test_notebooks.py does
            build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logger.removeHandler(heard)
    assert said == []
    return folder


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_there_and_in_the_nav(site: Path) -> None:
    sources = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    sources |= {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb")}
    built = {p.relative_to(site).with_suffix("").as_posix() for p in site.rglob("*.html")}
    assert built == sources | {"404"}
    home = set(re.findall(r'href="([\w/.-]+)\.html"', text(site / "index.html")))
    assert sources - {"index"} <= home


@pytest.mark.parametrize("kind", ["sampler", "verifier"])
def test_every_plug_in_has_its_section(site: Path, kind: str) -> None:
    sections = re.findall(r'<h2 id="([\w-]+)"', text(site / "reference" / f"{kind}s.html"))
    assert sections == list(found(kind))


def test_every_command_and_every_option_is_there(site: Path) -> None:
    page = text(site / "reference" / "command-line.html")
    sections = dict(re.findall(r'<h2 id="([\w-]+)">(?=<code>genscale)(.*?)(?=<h2|</article)', page, re.S))
    assert sections.keys() == program().keys()
    for name, command in program().items():
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        assert flags(shown) <= set(re.findall(r"<code>(--[\w-]+)</code>", sections[name]))


@pytest.mark.parametrize("name", genscale.__all__)
def test_every_public_name_is_explained(site: Path, name: str) -> None:
    pages = text(site / "reference" / "python.html") + text(site / "reference" / "asking.html")
    assert re.search(rf'id="genscale(?:\.\w+)*\.{name}"', pages)


def test_the_nav_has_the_groups_of_methods(site: Path) -> None:
    page = text(site / "methods" / "index.html")
    for group, names in groups(ROOT / "docs" / "methods").items():
        assert page.index(f"{group}\n") < page.index(f'href="{names[0]}.html" class="md-nav__link"')


def test_a_signature_has_a_line_for_each_parameter(site: Path) -> None:
    """The formatter of the `docs` extra is there."""
    page = re.sub(r"<[^>]+>", "", text(site / "reference" / "python.html"))
    assert re.search(r"^scale\(\n    pipe: Any,\n    sampler: ", page, re.M)


def test_a_notebook_becomes_a_page_with_its_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    new = nbformat.v4
    image = {"image/png": base64.b64encode(b"pixels").decode(), "text/plain": "<Image>"}
    outputs = [
        new.new_output("stream", name="stdout", text="said\n"),
        new.new_output("stream", name="stderr", text="a warning"),
        new.new_output("display_data", data=image),
        new.new_output("execute_result", data={"text/html": "<table></table>", "text/plain": "a table"}),
    ]
    told = new.new_markdown_cell("# 9. Title\n\nSee `05_reward_hacking` and `06_no_such_one`.")
    notebook = new.new_notebook(cells=[told, new.new_code_cell("1 + 1", outputs=outputs)])
    page, images = notebooks.markdown(notebook, "09_title")
    assert page.startswith("# 9. Title\n\n*[This page is a notebook](09_title.ipynb)")
    assert "[`05_reward_hacking`](05_reward_hacking.md) and `06_no_such_one`" in page
    assert "```python\n1 + 1\n```" in page
    assert "said" in page
    assert "a warning" not in page
    assert list(images.values()) == [b"pixels"]
    assert f"]({next(iter(images))})" in page
    assert '<div class="output">\n<table></table>' in page


def test_outputs_are_kept_until_notebook_or_code_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "genscale").mkdir()
    code, path = tmp_path / "genscale" / "code.py", tmp_path / "01_one.ipynb"
    code.write_text("1")
    path.write_text("{}")
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    first = notebooks.cached(path)
    assert notebooks.cached(path) == first
    code.write_text("2")
    second = notebooks.cached(path)
    path.write_text("[]")
    assert len({first, second, notebooks.cached(path)}) == 3


class Loads(HTMLParser):
    """What a browser would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        links = tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate")
        for name in ("src", "srcset", "poster", "data", *(("href",) if links or tag == "use" else ())):
            if given.get(name):
                self.found.append(str(given[name]))


def loads(page: str) -> list[str]:
    parser = Loads()
    parser.feed(page)
    return parser.found


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    foreign = [(p.name, url) for p in site.rglob("*.html") for url in loads(text(p)) if elsewhere(url)]
    styles = [(p.name, url) for p in site.rglob("*.css") for url in css_loads(text(p)) if elsewhere(url)]
    assert foreign + styles == []


def css_loads(style: str) -> Iterator[str]:
    yield from re.findall(r"url\(\s*['\"]?([^'\")]+)", style)
    yield from re.findall(r"@import\s+['\"]([^'\"]+)", style)


def elsewhere(url: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", url))


def test_loads_from_elsewhere_would_be_seen() -> None:
    page = '<script src="//cdn.example/x.js"></script><link rel="preconnect" href="https://fonts.example">'
    assert all(map(elsewhere, loads(page)))
    assert len(loads(page)) == 2
    assert [u for u in css_loads("a{b:url(https://x.example/y)} @import 'z.css'") if elsewhere(u)]
