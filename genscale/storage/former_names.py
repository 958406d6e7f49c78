"""Names that fields of our files had in early versions."""

from __future__ import annotations

from typing import Any

_ROLES = ("best", "base", "verifiers", "request")  # objects that hold a `held_out` of their own


def with_present_names(record: Any) -> Any:
    """A request, a record of a run or prompt, a line of an archive or the metadata of a file, in place.

    `held_out` was called `report`, and the option `pool_size` of dfs `pool`.
    """
    if not isinstance(record, dict):
        return record
    if "report" in record:
        record.setdefault("held_out", record.pop("report"))
    if record.get("sampler") in ("dfs", "Dfs"):
        for name in ("sampler_fields", "options"):
            fields = record.get(name)
            if isinstance(fields, dict) and "pool" in fields:
                fields.setdefault("pool_size", fields.pop("pool"))
    for name in _ROLES:
        with_present_names(record.get(name))
    prompts = record.get("prompts")
    for prompt in prompts if isinstance(prompts, list) else ():
        with_present_names(prompt)
    return record
