"""The built site in a real browser: pages show, formulas and search work, and no request leaves this machine."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import chromium
from tests.chromium import PHONE
from tests.test_site import site as site  # the same fixture, built once more for this file


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def asked() -> list[str]:
    """What the page has asked for, anywhere."""
    return []


@pytest.fixture
def page(browser: Any, asked: list[str]) -> Iterator[Any]:
    context = chromium.context(browser)
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    yield tab
    context.close()


@pytest.mark.slow
def test_pages_fit_a_phone_and_ask_nobody_else(page: Any, address: str, asked: list[str]) -> None:
    page.set_viewport_size(PHONE)
    for name in (
        "index",
        "explanation/which-sampler",
        "reference/python",
        "trees",
        "methods/index",
        "notebooks/01_first_search",
    ):
        page.goto(f"{address}/{name}.html")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)"
        assert page.evaluate(broken) == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
def test_search_finds_a_sampler(page: Any, address: str, asked: list[str]) -> None:
    page.goto(f"{address}/index.html")
    page.fill("input.md-search__input", "successive_halving")
    page.wait_for_selector("article.md-search-result__article")
    assert page.locator("a.md-search-result__link").first.is_visible()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
def test_dark_is_dark(page: Any, address: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/index.html")
    page.wait_for_load_state("networkidle")
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )[:3]
    assert max(red, green, blue) < 80
