"""Folders in the nav: an entry that ends with a slash stands for all pages of that folder, its index first."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Open the folders of `nav` up, before mkdocs looks at it."""
    config["nav"] = [_opened(entry, Path(config["docs_dir"])) for entry in config["nav"]]
    config["nav"] = [entry for entry in config["nav"] if entry]
    return config


def _opened(entry: Any, docs: Path) -> Any:
    """The entry with pages in the place of folders; None where a folder has no page."""
    if isinstance(entry, dict):
        title, inside = next(iter(entry.items()))
        inside = _opened(inside, docs)
        return {title: inside} if inside else None
    if isinstance(entry, list):
        return [_opened(part, docs) for part in entry]
    if not entry.endswith("/"):
        return entry
    pages = sorted((docs / entry).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
    return [page.relative_to(docs).as_posix() for page in pages]
