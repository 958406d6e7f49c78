"""What a search was asked for, as plain data: what its folder and its images say, so that it can be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genscale.storage.media_store import MediaStore


@dataclass(frozen=True)
class RunDescription:
    """A search as its files describe it.

    request: the fields of request.json. sampler: its name and all its options. scheduler: name of its class.
    large_items: whether it makes videos or audio, which are decoded one by one. heading: the first record of its
    archive.
    missing_call: what decoding its latents would need and the request does not hold (model, arguments of the call).
    missing_search: what searching again would need beside that (verifiers, sampler, ...).
    store: where its images and videos are, if they were not made of latents.
    """

    request: Mapping[str, Any]
    sampler: Mapping[str, Any]
    scheduler: str
    large_items: bool = False
    heading: Mapping[str, Any] = field(default_factory=dict)
    missing_call: tuple[str, ...] = ()
    missing_search: tuple[str, ...] = ()
    store: MediaStore | None = field(default=None, compare=False)

    @property
    def missing(self) -> dict[str, list[str]]:
        """As run.json and the metadata of images hold it; empty where nothing is missing."""
        parts = {"call": list(self.missing_call), "search": list(self.missing_search)}
        return {name: found for name, found in parts.items() if found}
