"""Randomness: named by paths, the same everywhere, and really random."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from genscale.engine.process import PromptProcess
from genscale.key import Key
from genscale.protocol.particles import Candidate, draw
from tests.analytic import process_of


def parts(n: int, seed: int) -> list[tuple[int, ...]]:
    """Distinct paths, short and long, many of them equal up to zeros at their end."""
    rng, paths = random.Random(seed), set()
    while len(paths) < n:
        path = tuple(rng.choice((0, 1, 2, rng.randrange(2**32), 2**32 - 1)) for _ in range(rng.randrange(7)))
        paths |= {path, (*path, 0), (*path, 0, 0)}
    return sorted(paths)[:n]


def test_20_000_paths_give_20_000_streams() -> None:
    paths = parts(20_000, seed=0)
    known = set(paths)
    assert sum((*p, 0) in known for p in paths) > 5_000  # the trap of entropy padded with zeros is in there
    streams = {Key(path).normal((4,)).numpy().tobytes() for path in paths}
    assert len(streams) == len(known) == 20_000


def test_entropy_would_not_have_told_them_apart() -> None:
    """The broken twin: the path as the entropy of a SeedSequence, padded with zeros."""

    def words(path: tuple[int, ...]) -> list[int]:
        return np.random.SeedSequence(path).generate_state(4).tolist()

    assert words((3,)) == words((3, 0))
    assert not torch.equal(Key((3,)).normal((4,)), Key((3, 0)).normal((4,)))


@pytest.mark.parametrize("bad", [2**32, 2**33 + 5, -1, -(2**32)])
def test_numbers_that_would_wrap_are_refused(bad: int) -> None:
    for make in (Key((1,)).fold, lambda i: Key((i,)), lambda i: Key((1, i))):
        with pytest.raises(ValueError, match=r"in \[0, 2\*\*32\)"):
            make(bad)


def test_a_fraction_is_no_path() -> None:
    with pytest.raises(TypeError):
        Key((1,)).fold(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64, 2**80])
def test_seeds_that_would_wrap_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        Key.from_seed(seed)


def test_all_64_bits_of_a_seed_count() -> None:
    seeds = [0, *(1 << b for b in range(64)), 2**64 - 1, 2**32 - 1]
    assert len({Key.from_seed(s).normal((4,)).numpy().tobytes() for s in seeds}) == len(seeds)


def test_the_same_path_gives_the_same_numbers() -> None:
    key = Key.from_seed(7).fold("candidate", 3)
    assert torch.equal(key.normal((2, 3)), Key.from_seed(7).fold("candidate").fold(3).normal((2, 3)))
    assert torch.equal(key.uniform(5), key.uniform(5))
    assert Key.from_seed(7).path == (7, 0)
    # Pinned: the recipes in an archive must give the same noise under every later version.
    pinned = [1.4994394779205322, 1.0101414918899536, 0.590502917766571, 0.8645843863487244]
    assert key.normal((4,)).tolist() == pinned


def test_numpy_integers_are_paths() -> None:
    assert Key((1,)).fold(np.int64(5)) == Key((1, 5))


def moments(x: Tensor) -> list[tuple[float, float]]:
    """(how far from a standard normal's, standard error) of mean, variance, skewness, kurtosis, correlation."""
    x, n = x.double(), x.numel()
    return [
        (float(x.mean()), 1 / math.sqrt(n)),
        (float((x**2).mean()) - 1, math.sqrt(2 / n)),
        (float((x**3).mean()), math.sqrt(15 / n)),
        (float((x**4).mean()) - 3, math.sqrt(96 / n)),
        (float((x[:-1] * x[1:]).mean()), 1 / math.sqrt(n)),
        (float((x[:-1] ** 2 * x[1:] ** 2).mean()) - 1, math.sqrt(8 / n)),
    ]


def standard_normal(x: Tensor) -> bool:
    return all(abs(gap) < 4.5 * error for gap, error in moments(x))


def test_normal_numbers_are_normal() -> None:
    assert standard_normal(Key.from_seed(1).normal((200_000,)))
    # ... and across paths, as candidates draw them:
    assert standard_normal(
        torch.cat([Key.from_seed(1).fold("candidate", i).normal((40,)) for i in range(5_000)])
    )


@pytest.mark.parametrize("broken", ["wider", "shifted", "uniform", "repeated"])
def test_the_check_of_normality_sees_what_is_not(broken: str) -> None:
    x = Key.from_seed(1).normal((200_000,))
    twins = {
        "wider": 1.01 * x,
        "shifted": x + 0.02,
        "uniform": (Key.from_seed(1).uniform(200_000) - 0.5) * math.sqrt(12),
        "repeated": x[:100_000].repeat_interleave(2),
    }
    assert not standard_normal(twins[broken])


def test_uniform_numbers_are_uniform() -> None:
    u = Key.from_seed(2).uniform(100_000)
    assert u.dtype == torch.float64
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    z = (u.sort().values - (torch.arange(100_000) + 0.5) / 100_000).abs().max() * math.sqrt(100_000)
    assert z < 1.95  # Kolmogorov-Smirnov at 0.1 %


def test_a_candidate_s_noise_does_not_depend_on_its_batch() -> None:
    process, key = PromptProcess(**process_of()), Key.from_seed(3)
    together = process.start([draw(key, i) for i in range(8)]).x
    for i in (0, 3, 7):
        assert torch.equal(process.start([draw(key, i)]).x[0], together[i])
    back = process.start([draw(key, i) for i in reversed(range(8))]).x.flip(0)
    assert torch.equal(back, together)


def test_candidate_0_is_the_pipeline_s_own() -> None:
    key = Key.from_seed(3)
    assert draw(key, 0) == Candidate(0, "own", key.fold("candidate", 0).path)
    assert draw(key, 1) == Candidate(1, "prior", key.fold("candidate", 1).path)
