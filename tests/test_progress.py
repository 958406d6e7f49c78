"""What a run says of itself while it goes: the words that its events add up to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from genscale.engine.archive import Entry
from genscale.engine.events import BatchHalved, Denoised, Event, Scored
from genscale.engine.plan import Plan
from genscale.protocol.particles import Candidate
from genscale.runs.progress import Display, Tally, elapsed_text

SEEN = object()  # stands for what the verifiers saw: the candidate is new


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def entry(prompt: int = 0, number: int = 0, total: float = 0.5, nfe: int = 0, final: bool = True) -> Entry:
    return Entry(prompt, Candidate(number, "draw", (number,)), 4, final, {"v": total}, total, nfe=nfe)


def scored(made: Entry, best: Entry | None = None, media: object = SEEN) -> Scored:
    return Scored(made, best or made, media)  # type: ignore[arg-type]


def told(tally: Tally, clock: Clock, seconds: float, *events: Event) -> str:
    clock.now += seconds
    for event in events:
        tally.add(event)
    return tally.text()


def test_candidates_prompts_speed_and_time_left() -> None:
    clock = Clock()
    tally = Tally(nfe=80, prompts=2, candidates=4, each=10, clock=clock)
    assert tally.text() == "0/8 candidates, 0/2 prompts, 0 s so far"
    assert told(tally, clock, 10, Denoised(20, 2)) == "0/8 candidates, 0/2 prompts, 5 s each, 30 s left"
    first = [scored(entry(0, n)) for n in range(4)]
    assert told(tally, clock, 10, Denoised(40, 4), *first) == (
        "4/8 candidates, 1/2 prompts, 5 s each, 20 s left"
    )
    second = [scored(entry(1, n)) for n in range(4)]
    assert told(tally, clock, 20, Denoised(80, 4), *second) == (
        "8/8 candidates, 2/2 prompts, 5 s each, 0 s left"
    )


def test_previews_are_not_candidates_that_are_done() -> None:
    tally = Tally(nfe=80, candidates=4, clock=Clock())
    tally.add(scored(entry(final=False)))
    assert tally.text().startswith("0/4 candidates")


def test_drafts_are_counted_apart_and_their_best_is_called_so() -> None:
    tally = Tally(nfe=80, candidates=2, clock=Clock())
    drafts = [Scored(e, e, SEEN, draft=True) for e in (entry(number=0, total=0.9), entry(number=1))]  # type: ignore[arg-type]
    for event in drafts:
        tally.add(event)
    assert (tally.text(), tally.best_text()) == ("2 drafts, 0/2 candidates, 0 s so far", "best draft 0.5")
    tally.add(scored(entry(number=1, total=0.4)))
    assert (tally.text(), tally.best_text()) == ("2 drafts, 1/2 candidates, 0 s so far", "best 0.4")


def test_fast_models_are_told_by_the_second() -> None:
    clock = Clock()
    tally = Tally(nfe=400, candidates=100, each=4, clock=clock)
    events = [scored(entry(0, n)) for n in range(25)]
    assert told(tally, clock, 5, Denoised(100, 25), *events) == "25/100 candidates, 5/s, 15 s left"


def test_where_only_the_clock_ends_it() -> None:
    clock = Clock()
    tally = Tally(seconds=60, each=30, clock=clock)
    assert told(tally, clock, 15, Denoised(30, 1), scored(entry())) == "1 candidate, 15 s each, 45 s left"


def test_where_nothing_tells_the_end() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    assert told(tally, clock, 90, Denoised(30, 1)) == "0.333 NFE/s, 1 min 30 s so far"


def test_the_sooner_of_two_ends_counts() -> None:
    clock = Clock()
    tally = Tally(nfe=1000, candidates=10, seconds=30, clock=clock)
    assert told(tally, clock, 10, Denoised(100, 1)).endswith("20 s left")
    slow = Tally(nfe=200, candidates=10, seconds=300, clock=clock)
    assert told(slow, clock, 10, Denoised(100, 1)).endswith("10 s left")


def test_what_an_earlier_process_did_is_done_but_says_nothing_of_the_speed() -> None:
    clock = Clock()
    tally = Tally(nfe=40, candidates=10, each=4, clock=clock)
    restored = [scored(entry(0, n, nfe=4 * (n + 1)), media=None) for n in range(5)]
    text = told(tally, clock, 4, *restored, Denoised(8, 2), scored(entry(0, 5)), scored(entry(0, 6)))
    assert tally.done == 28
    assert text == "7/10 candidates, 2 s each, 6 s left"


@pytest.mark.parametrize(
    ("rate", "text"),
    [(7.25, "7.25/s"), (1, "1/s"), (0.4, "2.5 s each"), (0.05, "20 s each"), (0.002, "8 min 20 s each")],
)
def test_speed(rate: float, text: str) -> None:
    clock = Clock()
    assert f", {text}, " in told(
        Tally(candidates=9, each=1, clock=clock), clock, 1000, Denoised(int(1000 * rate), 1)
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert elapsed_text(seconds) == text


def plan_of(prompts: int, candidates: int) -> Plan:
    """Of candidates that cost 4 NFE each."""
    return Plan(4, 4, 4 * candidates, 4 * candidates, candidates, candidates, prompts)


def shown(terminal: bool, quiet: bool = False) -> tuple[Display, io.StringIO]:
    file = io.StringIO()
    return Display(quiet, Console(file=file, force_terminal=terminal, width=100)), file


def test_away_from_a_terminal_only_whole_lines_are_written() -> None:
    display, file = shown(terminal=False)
    with display.busy("loading shapes-flow"):
        pass
    display.start(plan_of(2, 1))
    best = entry(1, 0, 0.25, nfe=4)
    for event in (Denoised(4, 1), scored(best), scored(entry(1, 1, 0.1), best), BatchHalved(3)):
        display(event)
    display.stop()
    assert file.getvalue().splitlines() == [
        "prompt 2/2  4 NFE  new best: candidate 0  score 0.25",
        "memory ran out: batches of at most 3 from now on",
    ]


def test_on_a_terminal_one_line_says_it_all() -> None:
    display, file = shown(terminal=True)
    with display.busy("loading shapes-flow"):
        pass
    assert "loading shapes-flow" in file.getvalue()
    display.start(plan_of(1, 2))
    display(Denoised(4, 1))
    display(scored(entry(0, 0, 0.25)))
    display.stop()
    assert "1/2 candidates" in file.getvalue()
    assert "best 0.25" in file.getvalue()


def test_quiet_is_quiet() -> None:
    display, file = shown(terminal=True, quiet=True)
    with display.busy("loading"):
        display.start(plan_of(1, 2))
        display(scored(entry()))
        display.stop()
    assert file.getvalue() == ""
