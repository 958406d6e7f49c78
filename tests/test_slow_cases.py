"""The list of slow cases: how it is chosen, and that it names what is there."""

from __future__ import annotations

from tests import slow_cases

SECONDS = {"test_a::f[1]": 1.0, "test_a::f[2]": 2.0, "test_a::f[3]": 0.1, "test_b::g": 5.0, "test_b::h": 90.0}


def test_the_default_run_keeps_at_most_its_share_and_the_shortest_of_every_test() -> None:
    assert slow_cases.slow(SECONDS, 1.0) == set()
    some = slow_cases.slow(SECONDS, 0.06)
    assert some == {
        "test_a::f[1]",
        "test_a::f[2]",
        "test_b::h",
    }  # g is the only one of its test, h too long for that
    assert sum(t for name, t in SECONDS.items() if name not in some) <= 0.06 * sum(SECONDS.values())


def test_every_name_is_of_a_test_that_is_there() -> None:
    names = slow_cases.read()
    assert names
    folder = slow_cases.LIST.parent
    texts = {
        stem: (folder / f"{stem}.py").read_text() for stem in {name.partition("::")[0] for name in names}
    }
    gone = [
        name for name in names
        if f"def {name.partition('::')[2].partition('[')[0]}(" not in texts[name.partition("::")[0]]
    ]  # fmt: skip
    assert gone == []
