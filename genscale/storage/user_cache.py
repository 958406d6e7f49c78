"""The folder in which the user's programs keep what they can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "GENSCALE_CACHE"


def user_cache(name: str) -> Path:
    """A folder of genscale's in the user's cache: of $GENSCALE_CACHE, else where the system has such folders.

    Those are $XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%. It is not made here.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser() / name
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "genscale" / name
