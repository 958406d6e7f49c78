"""Parts of a test run: every case is in one of them, and every part has cases of nearly every test."""

from __future__ import annotations

import pytest

from tests import case_parts

NAMES = [f"a.py::test_{t}[{c}]" for t in range(40) for c in range(4)] + [
    f"b.py::test_{t}" for t in range(300)
]


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_every_case_is_in_one_part(of: int) -> None:
    parts = [case_parts.chosen(NAMES, number, of) for number in range(1, of + 1)]
    assert sum(map(len, parts)) == len(NAMES)
    assert set().union(*parts) == set(NAMES)


def test_every_part_has_cases_of_every_test_and_a_third_of_the_single_ones() -> None:
    for number in (1, 2, 3):
        part = case_parts.chosen(NAMES, number, 3)
        assert {n.partition("[")[0] for n in part if "[" in n} == {f"a.py::test_{t}" for t in range(40)}
        assert 70 < sum("[" not in n for n in part) < 130


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/3/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give one such as 2/3"):
        case_parts.read(text)
