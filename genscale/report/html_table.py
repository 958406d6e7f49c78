"""Records as an HTML table, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_CELL = "padding:2px 14px 2px 0;text-align:{};white-space:nowrap"


def table(records: Sequence[Mapping[str, Any]], note: str = "") -> str:
    """One row per record, with the keys of all records as columns; numbers right-aligned, four significant digits."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    right = {c: all(_is_number(r.get(c, 0)) for r in records) for c in columns}
    head = "".join(_cell("th", c, right[c]) for c in columns)
    rows = "".join(
        "<tr>" + "".join(_cell("td", _shown(r.get(c, "")), right[c]) for c in columns) + "</tr>"
        for r in records
    )
    below = f"<div style='color:#767a82;font-size:90%'>{escape(note)}</div>" if note else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{below}"


def _cell(tag: str, text: str, right: bool) -> str:
    return f"<{tag} style='{_CELL.format('right' if right else 'left')}'>{escape(text)}</{tag}>"


def _is_number(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, int | float) and not isinstance(value, bool))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
