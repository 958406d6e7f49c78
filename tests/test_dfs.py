"""Depth-first search with backtracking: what is accepted, what is gone back to, what it costs."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from genscale.diffusion.kernels import Ddim
from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.plugins import options as sampler_options
from genscale.plugins import registry
from genscale.protocol.answers import Scores
from genscale.protocol.particles import draw
from genscale.samplers import dfs
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dfs import Dfs
from tests.analytic import Run, first_coordinate, process_of, run

STEPS = 12


def paths_of(made: Run, prompt: int = 0) -> list[list[Entry]]:
    """The entries of every path: all that descend from one fresh noise, in order."""
    root: dict[int, int] = {}
    paths: dict[int, list[Entry]] = {}
    for entry in made.archive.entries:
        if entry.prompt == prompt:
            c = entry.candidate
            root[c.id] = c.id if c.parent is None else root[c.parent]
            paths.setdefault(root[c.id], []).append(entry)
    return list(paths.values())


def faults(path: list[Entry], threshold: float, backtracks: int, steps: int = STEPS) -> list[str]:
    """What a path did against the rules, read off its archive alone."""
    found, back, left = [], {e.candidate.id for e in path if e.candidate.parent is not None}, backtracks
    for entry, after in pairwise(path):
        was_sent_back = after.candidate.id in back and after.candidate.id != entry.candidate.id
        was_sent_back &= after.candidate.parent == entry.candidate.id
        if was_sent_back:
            left -= 1
            if entry.total >= threshold:
                found.append("a good preview was sent back")
            if entry.step - after.candidate.step < min(math.ceil(steps / 4), entry.step):
                found.append("it was not sent back far enough")
        elif entry.total < threshold:
            if left > 0:
                found.append("a bad preview was accepted")
            there = [e for e in path[: path.index(after)] if e.step == entry.step]
            if after.candidate.id != max(there, key=lambda e: e.total).candidate.id:
                found.append("not the best state went on")
        elif after.candidate.id != entry.candidate.id:
            found.append("a good preview was left")
    if left < 0:
        found.append("too many were sent back")
    return found


SPECS = [
    Dfs(threshold=t, backtracks=b, back=k) for t in (-1.0, 1.0, 2.0) for b in (0, 1, 4) for k in (0.25, 0.6)
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.threshold:g} {s.backtracks} {s.back}")
def test_a_bad_preview_is_accepted_only_when_the_backtracks_are_spent(spec: Dfs) -> None:
    sent_back = 0
    for seed in range(6):
        made = run(replace(spec, paths=3), steps=STEPS, seed=seed, churn=0.2 * (seed % 2))
        paths = paths_of(made)
        assert len(paths) == 3
        for path in paths:
            assert faults(path, spec.threshold, spec.backtracks) == []
            assert path[-1].final
            sent_back += path[-1].candidate.parent is not None
        assert len(made.searches[0].finals) == 3
    assert (sent_back > 0) == (spec.backtracks > 0)


def test_the_rules_see_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins: one that takes every preview, one that goes on with the last state, one that is sent back too little."""
    spec = Dfs(threshold=1.0, paths=3)

    def all_faults() -> set[str]:
        seeds = [run(spec, steps=STEPS, seed=seed) for seed in range(6)]
        return {f for made in seeds for path in paths_of(made) for f in faults(path, 1.0, 4)}

    assert all_faults() == set()
    with monkeypatch.context() as twin:
        twin.setattr(dfs._Run, "_good", lambda self, state, step: True)
        assert "a bad preview was accepted" in all_faults()
    with monkeypatch.context() as twin:
        twin.setattr(dfs.Walk, "best", lambda self, step: self.buffer[step][-1])
        assert all_faults() == {"not the best state went on"}
    with monkeypatch.context() as twin:
        twin.setattr(dfs.Dfs, "target", lambda self, process, step: step - 1)
        assert "it was not sent back far enough" in all_faults()


def calls_made_twice(seed: int) -> int:
    """Model calls for a state that was there before, by a verifier so rough that good previews come to nothing."""

    def rough(media: Any, prompts: Any) -> torch.Tensor:
        return (40 * media.pixels[:, 0, 0, 0].double()).sin()

    seen: list[tuple[int, int]] = []

    def on_batch(batch: Any, rows: Any) -> None:
        seen.extend((i, batch.step) for _, i in rows)

    spec = Dfs(threshold=0.8, back=0.5, paths=3)
    made = run(spec, steps=STEPS, seed=seed, churn=0.3, on_batch=on_batch, verifier=rough)
    assert made.searches[0].spent == len(seen)
    return len(seen) - len(set(seen))


def test_the_best_state_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of it before is not made again."""
    assert sum(map(calls_made_twice, range(20))) == 0
    monkeypatch.setattr(dfs.Walk, "known", lambda self, step, candidate: None)
    assert sum(map(calls_made_twice, range(20))) > 0


@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_without_a_threshold_it_is_best_of_n(churn: float) -> None:
    plain = run(BestOfN(7), steps=STEPS, churn=churn).searches[0]
    for spec in (
        Dfs(threshold=-math.inf, paths=7),
        Dfs(pool_size=7, paths=7),
        Dfs(threshold=9.0, backtracks=0, paths=7),
    ):
        made = run(spec, steps=STEPS, churn=churn).searches[0]
        assert [e.candidate for e in made.finals] == [e.candidate for e in plain.finals]
        assert [e.total for e in made.finals] == [e.total for e in plain.finals]
        assert torch.equal(made.best().x, plain.best().x)
        assert made.spent == plain.spent == spec.cost(made.process)
    assert Dfs(threshold=0.0, paths=7).cost(made.process) is None


@pytest.mark.parametrize(
    "spec", [Dfs(threshold=t, paths=2, back=b) for t in (0.0, 9.0) for b in (0.1, 0.25, 0.7)]
)
def test_cost_is_within_its_bounds(spec: Dfs) -> None:
    process = PromptProcess(**process_of(STEPS))
    each = max(s - spec.target(process, s) for s in spec.steps(process))
    for seed in range(6):
        spent = run(spec, steps=STEPS, seed=seed).searches[0].spent
        assert 2 * STEPS <= spent <= 2 * (STEPS + 4 * each)
    first = spec.steps(process)[0]
    worst = 2 * (STEPS + 4 * (first - spec.target(process, first)))
    if spec.threshold == 9.0:  # each path is sent back at its first check, until it may not any more
        assert spent == worst


def test_easy_prompts_cost_less() -> None:
    """The verifier likes whatever the first prompt gives, and nothing of the second's."""

    def verifier(media: Any, prompts: Any) -> list[float]:
        gift = {"prompt 0": 10.0, "prompt 1": -10.0, "prompt 2": 0.0}
        return [float(m) + gift[p] for m, p in zip(media.pixels[:, 0, 0, 0], prompts, strict=True)]

    made = run(
        Dfs(threshold=1.0, paths=1), steps=STEPS, prompts=3, verifier=verifier, seed=1, budget=Budget(nfe=100)
    )
    easy, hard, middling = (s.spent for s in made.searches)
    assert easy == STEPS
    assert hard == STEPS + 4 * 3
    assert easy <= middling <= hard
    stopped = run(
        Dfs(threshold=1.0), steps=STEPS, prompts=3, verifier=verifier, budget=Budget(nfe=100, target=5.0)
    )
    assert [s.finished for s in stopped.searches] == [1, *(s.finished for s in stopped.searches[1:])]
    assert stopped.searches[0].spent == STEPS < stopped.searches[1].spent <= 100


def test_the_pool_is_the_measure() -> None:
    """The first paths are plain; the others are sent back below the median of these at the same check."""
    spec = Dfs(pool_size=5, paths=12)
    for seed in range(4):
        paths = paths_of(run(spec, steps=STEPS, seed=seed))
        pool, others = paths[:5], paths[5:]
        assert all(len({e.candidate.id for e in path}) == 1 for path in pool)
        median = {s: sorted(e.total for p in pool for e in p if e.step == s)[2] for s in (4, 7, 10)}
        for path in others:
            moved = [replace(e, total=e.total - median.get(e.step, 0.0)) for e in path]
            assert faults(moved, 0.0, 4) == []
        assert any(len({e.candidate.id for e in path}) > 1 for path in others)


@pytest.mark.parametrize("name", ["nfe", "verifier_calls"])
@pytest.mark.parametrize("spec", [Dfs(threshold=9.0), Dfs(), Dfs(threshold=9.0, paths=2)])
def test_a_path_is_sent_back_only_where_the_budget_brings_it_to_the_end(spec: Dfs, name: str) -> None:
    rng = random.Random(3)
    for _ in range(40):
        limit = rng.randrange(12, 90) if name == "nfe" else rng.randrange(1, 30)
        made = run(spec, steps=STEPS, budget=Budget(**{name: limit}))
        search = made.searches[0]
        assert search.finished >= 1
        assert (search.spent if name == "nfe" else search.calls) <= limit
        for path in paths_of(made):
            assert path[-1].final  # nothing was begun that could not be ended
        if spec.paths is None:
            assert limit - (search.spent if name == "nfe" else search.calls) < (STEPS if name == "nfe" else 1)


def test_a_budget_is_a_limit_where_the_paths_are_counted() -> None:
    assert (
        run(Dfs(threshold=-math.inf, paths=2), steps=STEPS, budget=Budget(nfe=500)).searches[0].spent
        == 2 * STEPS
    )
    assert (
        run(Dfs(threshold=-math.inf), steps=STEPS, budget=Budget(nfe=500)).searches[0].finished
        == 500 // STEPS
    )


def test_second_order_schedulers_begin_only_where_they_can() -> None:
    """Checked states and targets are steps at which a solve may begin; a target is never nearer than asked for."""
    for steps in (4, 7, 12, 25):
        for restarts in ((), tuple(range(0, steps, 2)), tuple(range(0, steps, 3))):
            process = PromptProcess(**process_of(steps) | {"restarts": restarts})
            for back in (0.1, 0.25, 0.6, 1.0):
                spec = Dfs(back=back)
                for step in spec.steps(process):
                    target = spec.target(process, step)
                    assert {step - 1, target} <= set(restarts or range(steps))
                    assert target == 0 or step - target >= back * steps - 1e-9


@pytest.mark.parametrize(
    "options",
    [{"threshold": "auto"}, {"threshold": math.nan}, {"quantile": 1.5}, {"pool_size": 0}, {"checks": (0.5, 0.2)},
     {"checks": (0.0,)}, {"checks": (1.0,)}, {"back": 0.0}, {"back": 1.5}, {"backtracks": -1}, {"paths": 0}],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Dfs(**options)


def test_schedulers_that_cannot_begin_in_the_middle_do_not() -> None:
    """LMS and PNDM compute nonsense without their history: a path that was sent back goes on along the ODE."""
    run_of = {
        own: dfs._Run(Dfs(), PromptProcess(**process_of(STEPS) | {"own_restarts": own}), Key((0,)))
        for own in (True, False)
    }
    for own, one in run_of.items():
        particles = replace(one.process.start([draw(Key((0,)), 1)]), step=6)
        state = dfs.PathState(particles, None, Scores(torch.zeros(1, 1), lambda raw: raw[:, 0]))
        for back in (3, 0):
            again, kernel = one._renoised(state, back)
            assert again.step == back
            assert kernel == (None if own or back == 0 else Ddim(0.0))


def test_the_size_of_the_pool_has_a_former_name() -> None:
    """`pool` is accepted where options come by name: requests of earlier runs, and scale()."""
    for name in ("pool", "pool_size"):
        typed = sampler_options.typed("sampler", "dfs", Dfs, {name: "6", "paths": "9"})
        assert registry.make("sampler", "dfs", typed) == Dfs(pool_size=6, paths=9)
        assert registry.make("sampler", "dfs", {name: 6, "paths": 9}) == Dfs(pool_size=6, paths=9)


def test_only_a_number_spends_less_on_easy_prompts() -> None:
    """A prompt whose scores are all higher by a constant: a number tells it apart, the pool cannot."""

    def easier(media: Any, prompts: Any) -> torch.Tensor:
        return first_coordinate(media, prompts) + 3.0

    def spent(threshold: float | str, verifier: Any) -> list[int]:
        sampler = Dfs(threshold=threshold, paths=8)
        return [run(sampler, steps=STEPS, verifier=verifier, seed=s).searches[0].spent for s in range(4)]

    assert sum(spent(1.0, easier)) < 1.1 * 4 * 8 * STEPS
    assert sum(spent(1.0, first_coordinate)) > 1.5 * 4 * 8 * STEPS
    assert spent("pool", easier) == spent("pool", first_coordinate) != [8 * STEPS] * 4
