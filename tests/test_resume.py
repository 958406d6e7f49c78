"""Kill -9 at any moment, and go on: the same winner, the same archive, nothing done twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from tests.analytic import SAMPLERS, first_coordinate, run
from tests.quick import quick

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BATCH, PAUSE, KILLS = 4, 0.002, 10
# One of each way to hold state; the others are killed twice, alone and in company.
OFTEN = (
    "best_of_n pruned",
    "zero_order",
    "search_over_paths",
    "smc",
    "rollover",
    "particle_gibbs",
    "beam",
    "evolution",
    "cma_es",
    "reno of 3 turns",
    "dflow",
)
# With noise inside the solver's steps and its memory: more must be stored to go on.
SETTINGS: dict[str, Any] = {"budget": Budget(nfe=96), "batch_size": BATCH, "churn": 0.3}


def search(name: str, folder: Path, log: Path, pause: float = 0.0, **settings: Any) -> Any:
    """Run with an archive; each batch is logged before it is evaluated."""
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def on_batch(batch: Any, rows: Any) -> None:
        latents = (f"{crc32(x.detach().numpy().tobytes()):x}{'g' * batch.grad}" for x in batch.x)
        said = (
            f"{p}:{i}:{batch.step}@{batch.time}@{batch.branch}@{x}"
            for (p, i), x in zip(rows, latents, strict=True)
        )
        os.write(out, (" ".join(said) + "\n").encode())
        time.sleep(pause)

    def verifier(media: Any, prompts: Any) -> Any:
        time.sleep(pause)
        return first_coordinate(media, prompts)

    try:
        return run(SAMPLERS[name], folder=folder, on_batch=on_batch, verifier=verifier, **SETTINGS | settings)
    finally:
        os.close(out)


def killed_search(name: str, folder: Path, log: Path, after: float, **settings: Any) -> bool:
    """The same in a process of its own, killed after so many batches, and a part of one; whether it was still at it.

    Counted, not timed: how fast a process is depends on what else the machine does.
    """
    begun = len(batches(log))
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # ends a child that hangs
        try:
            search(name, folder, log, PAUSE, **settings)
        finally:
            os._exit(0)
    while len(batches(log)) < begun + int(after):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(PAUSE / 10)
    time.sleep(after % 1 * 2 * PAUSE)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def batches(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def content(folder: Path) -> Counter[str]:
    """What is recorded, whenever it was."""
    return Counter(str({**r, "seconds": None}) for r in read_archive(folder))


@pytest.mark.parametrize("prompts", quick([1, 2], [2]))
@pytest.mark.parametrize("name", quick(SAMPLERS, list(SAMPLERS)[::8]))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_and_resume(tmp_path: Path, name: str, prompts: int) -> None:
    torch.set_num_threads(1)
    settings, rng = {"prompts": prompts}, random.Random(f"{name}{prompts}")
    whole = search(name, tmp_path / "whole", tmp_path / "log", **settings)
    interrupted, steps = 0, len(batches(tmp_path / "log"))
    for k in range(KILLS if prompts == 1 and name in OFTEN else 2):
        folder, log = tmp_path / f"killed {k}", tmp_path / f"log {k}"
        if killed_search(name, folder, log, rng.uniform(0, steps), **settings):
            interrupted += 1
        first = batches(log)
        resumed = search(name, folder, log, **settings)
        for a, b in zip(resumed.winners, whole.winners, strict=True):
            assert a.candidate == b.candidate
            assert a.total == b.total  # the bed computes row by row: not a bit differs
            assert torch.equal(a.x, b.x)
        assert content(folder) == content(tmp_path / "whole")
        assert [s.spent for s in resumed.searches] == [s.spent for s in whole.searches]
        for name_of in ("x", "memory.last", "x0", "eps"):
            assert tensors(folder, name_of) == tensors(tmp_path / "whole", name_of)
        times = Counter(row for batch in batches(log) for row in batch)
        twice = {row.rsplit(":", 1)[0] for row, n in times.items() if n > 1}
        assert max(times.values()) <= 2
        assert set(times) == {row for batch in batches(tmp_path / "log") for row in batch}
        in_flight = {row.rsplit(":", 1)[0] for batch in first[-1:] for row in batch}
        assert twice <= in_flight, "evaluated twice, though not in the batch in flight"
        assert len(twice) <= BATCH
    assert interrupted > 0


def check_killed(name: str, where: Path, kills: int, same: Sequence[str], **settings: Any) -> Any:
    """What a search finds in one go. Killed and resumed, so many times, it finds the same and writes the same.

    same: attributes of each prompt's search that are compared beside its candidates.
    """
    torch.set_num_threads(1)
    rng, interrupted = random.Random(name), 0
    whole = search(name, where / "whole", where / "log", **settings)
    steps = len(batches(where / "log"))
    for k in range(kills):
        folder, log = where / f"killed {k}", where / f"log {k}"
        interrupted += killed_search(name, folder, log, rng.uniform(0, steps), **settings)
        resumed = search(name, folder, log, **settings)
        for a, b in zip(resumed.searches, whole.searches, strict=True):
            assert [getattr(a, it) for it in same] == [getattr(b, it) for it in same]
            assert [(e.candidate, e.total) for e in a.finals] == [(e.candidate, e.total) for e in b.finals]
        assert content(folder) == content(where / "whole")
    assert interrupted > 0
    return whole


@pytest.mark.parametrize("name", ["best_of_n until the budget ends", "zero_order", "smc"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_search_stops_where_a_rule_says_so(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"budget": None, "stop": "patience:6,gain:0.01", "prompts": 2}
    whole = check_killed(name, tmp_path, 4, ("stopped", "spent", "calls"), **settings)
    assert all(s.stopped for s in whole.searches)


def tensors(folder: Path, name: str) -> dict[str, bytes]:
    from safetensors.torch import load_file

    loaded = {p.name: load_file(p) for p in (folder / "latents").glob("*.safetensors")}
    return {k: v[name].numpy().tobytes() for k, v in sorted(loaded.items()) if name in v}


def test_a_run_that_was_killed_often_still_ends(tmp_path: Path) -> None:
    """Ten kills of one and the same run."""
    rng, folder, log = random.Random(3), tmp_path / "killed", tmp_path / "log"
    whole = search("zero_order", tmp_path / "whole", tmp_path / "other log")
    for _ in range(KILLS):
        killed_search("zero_order", folder, log, rng.uniform(0.0, 4.0))
    resumed = search("zero_order", folder, log)
    assert resumed.winners[0].candidate == whole.winners[0].candidate
    assert content(folder) == content(tmp_path / "whole")


def test_seconds_of_an_earlier_life_count_but_what_it_found_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row takes a second a step. The run is cut off at 30 of 61 seconds; 31 are left, for five rows more."""
    import genscale.engine.archive

    now = [0.0]
    monkeypatch.setattr(genscale.engine.archive.time, "monotonic", lambda: now[0])

    class CutOff(Exception):
        pass

    def work(batch: Any, rows: Any) -> None:
        if now[0] >= limit:
            raise CutOff
        now[0] += len(rows)

    budget, sampler = Budget(seconds=61), SAMPLERS["best_of_n until the budget ends"]
    limit = 30.0
    with pytest.raises(CutOff):
        run(sampler, budget=budget, batch_size=1, folder=tmp_path, on_batch=work)
    limit, now[0] = 1e9, 5000.0  # a long night between
    made = run(sampler, budget=budget, batch_size=1, folder=tmp_path, on_batch=work)
    assert made.ledger.evaluations == 5 * 6
    assert made.searches[0].finished == 10
    assert now[0] == 5030
    again = run(sampler, budget=budget, batch_size=1, folder=tmp_path, on_batch=work)
    assert again.ledger.evaluations == 0  # no time is left, and none is needed
    assert again.searches[0].finished == 10
    assert again.winners[0].candidate == made.winners[0].candidate


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("code", Budget(nfe=44, verifier_calls=22), Budget(nfe=50, verifier_calls=25)),
        ("fk_steering", Budget(verifier_calls=18), Budget(verifier_calls=26)),
        ("svdd", Budget(verifier_calls=23), Budget(verifier_calls=26)),
        ("svdd", Budget(nfe=45), Budget(nfe=49)),
        ("rollover", Budget(nfe=40), Budget(nfe=66)),
        ("smc", Budget(nfe=40), Budget(nfe=52)),
        ("particle_gibbs until the budget ends", Budget(nfe=40), Budget(verifier_calls=70)),
        ("rebirth", Budget(verifier_calls=21), Budget(verifier_calls=33)),
        ("beam", Budget(nfe=40), Budget(nfe=66)),
        ("beam of all that the budget pays for", Budget(nfe=40), Budget(nfe=52)),
        ("dlbs", Budget(nfe=60), Budget(nfe=90)),
    ],
)
def test_a_larger_budget_takes_over_only_what_is_the_same(
    tmp_path: Path, name: str, first: Budget, then: Budget
) -> None:
    """The same numbers may stand for other states in another plan: what comes out is as if begun anew."""
    for steps in (6, 8):
        folder = tmp_path / str(steps)
        run(SAMPLERS[name], budget=first, folder=folder, steps=steps)
        gone_on = run(SAMPLERS[name], budget=then, folder=folder, steps=steps)
        anew = run(SAMPLERS[name], budget=then, steps=steps)
        for a, b in zip(gone_on.searches, anew.searches, strict=True):
            assert [(e.candidate, e.total) for e in a.finals] == [(e.candidate, e.total) for e in b.finals]
            assert torch.equal(a.best().x, b.best().x)
