"""run.json: what a finished run says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genscale.errors import UsageError

FILE = "run.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """What run.json holds; None where there is none: the run is not finished. UsageError: it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be read: {error}.") from None
    if not isinstance(record, dict):
        raise UsageError(f"'{path}' cannot be read: it was changed by hand.")
    prompts = record.get("prompts")
    for part in (record, *(prompts if isinstance(prompts, list) else ())):
        _rename(part)
    return record


def _rename(part: Any) -> None:
    """Early versions called `held_out` `report`: of a record, or what it says of one prompt, in place."""
    for name in ("best", "base", "verifiers"):
        scores = part.get(name) if isinstance(part, dict) else None
        if isinstance(scores, dict) and "report" in scores:
            scores["held_out"] = scores.pop("report")
