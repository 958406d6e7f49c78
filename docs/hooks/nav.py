"""Folders in the nav: an entry that ends with a slash stands for the pages of that folder, its index first.

Two folders are special. `methods/` is grouped by what the methods need (method_groups), and `notebooks/` has a page
for each notebook of the repository (notebooks).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from method_groups import groups

from notebooks import pages_of_notebooks


def on_config(config: Any) -> Any:
    """Replace the folders in `nav` by their pages, before mkdocs reads it."""
    docs = Path(config["docs_dir"])
    config["nav"] = [_expanded(entry, docs) for entry in config["nav"]]
    return config


def _expanded(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        title, inside = next(iter(entry.items()))
        return {title: _expanded(inside, docs)}
    if isinstance(entry, list):
        return [_expanded(part, docs) for part in entry]
    if entry == "methods/":
        return methods(docs)
    if entry == "notebooks/":
        return pages_of_notebooks()
    if not entry.endswith("/"):
        return entry
    pages = sorted((docs / entry).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
    return [page.relative_to(docs).as_posix() for page in pages]


def methods(docs: Path) -> list[Any]:
    """The index, and a section for each group."""
    sections = [
        {group: [f"methods/{name}.md" for name in names]}
        for group, names in groups(docs / "methods").items()
        if names
    ]
    return ["methods/index.md", *sections]
