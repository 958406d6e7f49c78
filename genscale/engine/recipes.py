"""Candidates as fields of a record, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genscale.protocol.particles import Candidate


def recipe(c: Candidate) -> dict[str, Any]:
    """The fields of a record that describe its candidate."""
    return {
        "candidate": c.id,
        "origin": c.origin,
        "parent": c.parent,
        "key": list(c.key),
        "start": c.step,
        "details": dict(c.details),
        **({"measured": dict(c.measured)} if c.measured else {}),
    }


def candidate_of(record: Mapping[str, Any]) -> Candidate:
    """The candidate that a record describes."""
    return Candidate(
        record["candidate"],
        record["origin"],
        tuple(record["key"]),
        record["parent"],
        record["start"],
        record["details"],
        record.get("measured", {}),
    )
