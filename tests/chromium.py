"""A real browser for tests: Chromium, driven by playwright, that asks nobody but this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking",
    "--disable-component-update --disable-sync",
)
PHONE = {"width": 390, "height": 844}
PATIENCE = 90_000  # ms: CI has two cores, and other tests run beside


@contextmanager
def opened() -> Iterator[Any]:
    """The browser; where there is none the test is skipped, saying what to install."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="a browser is driven by playwright: pip install playwright"
    )
    path = executable()
    if path is None:
        pytest.skip(
            "no Chromium on this machine: install the package chromium, or `playwright install chromium`"
        )
    with playwright.sync_playwright() as run:
        running = run.chromium.launch(executable_path=path, args=" ".join(FLAGS).split(), timeout=PATIENCE)
        yield running
        running.close()


def context(browser: Any, **options: Any) -> Any:
    """A fresh profile whose waits are long."""
    made = browser.new_context(**options)
    made.set_default_timeout(PATIENCE)
    return made


def executable() -> str | None:
    """A Chromium of this machine, or playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path), None)
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    return found or next(map(str, own.glob("chromium-*/chrome-linux*/chrome")), None)
