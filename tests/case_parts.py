"""Parts of a test run: `--part 2/3` runs every third case of each test.

All slow cases take more than an hour on a slow machine. CI runs a third of them, another one after each commit
(`.ci/run`); so it meets nearly every test each time, and every case within a few commits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from zlib import crc32


def read(text: str) -> tuple[int, int]:
    """(2, 3) of "2/3". ValueError: it is not a part."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of:
        raise ValueError(f"--part {text!r}: give one such as 2/3, from 1/3 to 3/3.")
    return number, of


def chosen(names: Iterable[str], number: int, of: int) -> set[str]:
    """The names in a part. names: file::test[parameters]; the cases of one test are dealt out in turn."""
    found = set()
    for test, cases in groupby(sorted(set(names)), key=lambda name: name.partition("[")[0]):
        first = crc32(test.encode())  # else the first part would have all tests with one case
        found |= {name for i, name in enumerate(cases) if (first + i) % of == number - 1}
    return found
