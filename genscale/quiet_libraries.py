"""Suppress progress bars and warnings of libraries while bundled files are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quietly(*libraries: str) -> Iterator[None]:
    """Inside, these libraries (transformers, diffusers) show no progress bars and no warnings."""
    logs = [import_module(f"{library}.utils.logging") for library in libraries]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
