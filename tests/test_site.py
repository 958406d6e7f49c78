"""The documentation site builds without a warning, says what the program says, and asks nobody for anything."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import genscale
from genscale.plugins.registry import found
from tests.doc_blocks import ROOT
from tests.doc_words import flags, program

pytest.importorskip(
    "mkdocs", reason="the documentation's packages are not installed (pip install -e '.[docs]')"
)


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
            build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logger.removeHandler(heard)
    assert said == []
    return folder


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_there_and_in_the_nav(site: Path) -> None:
    sources = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md")}
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
