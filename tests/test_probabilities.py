"""What a verifier that answers probabilities is asked, and what a sampler learns of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.protocol.calibration import Calibration
from genscale.protocol.queries import Score, Solve
from genscale.samplers.smc import Smc
from tests.analytic import run

KNOWN = Calibration((0.5,), torch.zeros(2, 1), torch.zeros(2), torch.ones(2), torch.arange(2), 6)


class Judge:
    """P(first coordinate > 0) by a logistic curve that is steeper for finished candidates."""

    answers_probability, calibration = True, KNOWN

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, media: Any, prompts: Any) -> Any:
        raise AssertionError("a search asks with the progress of each image")

    def score_at(self, media: Any, prompts: Any, progress: list[float]) -> Any:
        self.asked += progress
        return torch.sigmoid(media.pixels[:, 0, 0, 0].double() * 4 * torch.tensor(progress))


class Curious:
    """A sampler that previews twice and keeps what its process says."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def search(self, process: Any, key: Any) -> Any:
        self.seen += [process.probability, process.calibration]
        from genscale.protocol.particles import draw

        particles = process.start([draw(key, 0), draw(key, 1)])
        for step in (2, 3, None):
            particles = yield Solve(particles, step)
            yield Score(particles)


def test_each_image_is_scored_with_its_progress() -> None:
    judge, curious = Judge(), Curious()
    run(curious, verifier=judge)
    assert judge.asked == [2 / 6] * 2 + [3 / 6] * 2 + [1.0] * 2
    assert curious.seen == [True, KNOWN]


def test_a_judge_of_several_prompts_and_batches_is_asked_row_by_row() -> None:
    ends = []
    for batch_size in (1, 64):
        judge = Judge()
        ends.append(run(Smc(particles=4), verifier=judge, prompts=2, batch_size=batch_size))
        assert set(judge.asked) > {1.0}
    assert [w.total for w in ends[0].winners] == [w.total for w in ends[1].winners]


@pytest.mark.parametrize(
    "members",
    [
        [(Judge(), 2.0)],
        [(Judge(), 1.0), (lambda media, prompts: [0.0] * len(media), 1.0)],
        [(lambda media, prompts: [0.0] * len(media), 1.0)],
    ],
)
def test_only_a_judge_alone_gives_totals_that_are_probabilities(members: Any) -> None:
    search = VerifierSet(tuple(WeightedVerifier(str(i), v, w) for i, (v, w) in enumerate(members)))
    curious = Curious()
    run(curious, roles=Roles(search))
    assert curious.seen == [False, None]


def test_a_table_of_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="holds tensors of"):
        Calibration((0.5,), torch.zeros(2, 2), torch.zeros(2), torch.ones(2), torch.arange(2), 6)
