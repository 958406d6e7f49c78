"""Which measured cases are marked slow, so that the default run stays short: `slow_cases.txt`, chosen by this script.

    python -m pytest -n 2 --junitxml default.xml
    python -m tests.slow_cases default.xml --share 0.7

`--share` of the measured seconds stays in the default run: all cases shorter than some limit, and of every test its
shortest case, up to eight times that limit. Other cases become slow, beside those marked so in the code; CI runs them
in parts (`case_parts`). A case that no report names stays as it is; `--share 1` with a report of the slow run brings
its cases back.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
ONE = 8.0  # how much longer than the limit the only case of a test may be


def read() -> frozenset[str]:
    """Names of slow cases: file::test[parameters], the file without folder and ending."""
    return frozenset(LIST.read_text(encoding="utf-8").splitlines()) if LIST.exists() else frozenset()


def name_of(nodeid: str) -> str:
    """The name of a case in the list."""
    file, _, case = nodeid.partition("::")
    return f"{Path(file).stem}::{case}"


def measured(reports: Iterable[Path]) -> dict[str, float]:
    """Seconds by name, with set-up, from reports of pytest."""
    found = {}
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            found[f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"] = float(
                case.get("time", 0)
            )
    return found


def slow(seconds: Mapping[str, float], share: float) -> set[str]:
    """The cases that do not belong to the default run, by the largest limit that keeps at most this share."""
    total, low, high = sum(seconds.values()), 0.0, max(seconds.values()) + 1e-9
    for _ in range(50):
        limit = (low + high) / 2
        kept = sum(seconds[name] for name in seconds.keys() - _above(seconds, limit))
        low, high = (limit, high) if kept <= share * total else (low, limit)
    return _above(seconds, low)


def _above(seconds: Mapping[str, float], limit: float) -> set[str]:
    shortest: dict[str, str] = {}
    for name in sorted(seconds, key=lambda n: seconds[n]):
        shortest.setdefault(name.partition("[")[0], name)
    ones = set(shortest.values())
    return {
        name for name, time in seconds.items() if time >= limit and not (name in ones and time < ONE * limit)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--share", type=float, required=True)
    options = parser.parse_args()
    seconds = measured(options.reports)
    found = (read() - seconds.keys()) | slow(seconds, options.share)
    LIST.write_text("".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")
    print(f"{len(found)} cases are slow, {len(found & seconds.keys())} of {len(seconds)} measured ones")


if __name__ == "__main__":
    main()
