"""Noise that a thread makes ahead: the same bits, few bytes, and what is expected is what is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genscale.engine import noise_ahead
from genscale.engine.budget import Budget
from genscale.engine.noise_ahead import NoiseAhead
from genscale.key import Key
from genscale.numerics.transfers import take_rows
from tests.analytic import SAMPLERS, run

KEYS = [Key((1, i)) for i in range(6)]


def test_noise_made_ahead_has_the_bits_of_its_key() -> None:
    made = NoiseAhead((2, 3), torch.device("cpu"), ahead=True)
    made.expect(KEYS[:4])
    stack = made.stack(KEYS)
    assert torch.equal(stack, torch.stack([key.normal((2, 3)) for key in KEYS]))
    assert made.taken == 4
    assert torch.equal(made.stack(KEYS), stack)  # what was taken is drawn again
    assert made.taken == 4


def test_few_bytes_are_kept_and_the_oldest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_ahead, "MOST_AHEAD", 2 * 4 * 6)
    made = NoiseAhead((2, 3), torch.device("cpu"), ahead=True)
    made.expect(KEYS[:2])
    made.expect(KEYS[2:4])
    assert torch.equal(made.stack(KEYS[:4]), torch.stack([key.normal((2, 3)) for key in KEYS[:4]]))
    assert made.taken == 2


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("name", ["best_of_n", "smc"])
def test_a_search_takes_what_it_expected(name: str, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result with and without; the twin without takes nothing."""
    settings: dict[str, Any] = {"budget": Budget(nfe=96), "churn": 0.3}
    plain = run(SAMPLERS[name], **settings)
    made: list[NoiseAhead] = []
    begin = NoiseAhead.__init__

    def begun(self: Any, shape: Any, device: Any) -> None:
        begin(self, shape, device, ahead)
        made.append(self)

    monkeypatch.setattr(NoiseAhead, "__init__", begun)
    found = run(SAMPLERS[name], **settings)
    assert torch.equal(found.winners[0].x, plain.winners[0].x)
    assert (sum(m.taken for m in made) > 0) == ahead


def test_no_noise_is_made_for_candidates_that_are_not_paid_and_none_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin, expect, stack = NoiseAhead.__init__, NoiseAhead.expect, NoiseAhead.stack
    expected, asked, made = set[Key](), set[Key](), list[NoiseAhead]()

    def begun(self: Any, shape: Any, device: Any) -> None:
        begin(self, shape, device, True)
        made.append(self)

    def noting(self: Any, keys: Any) -> None:
        expected.update(keys)
        expect(self, keys)

    def stacked(self: Any, keys: Any) -> torch.Tensor:
        asked.update(keys)
        return stack(self, keys)

    for name, method in (("__init__", begun), ("expect", noting), ("stack", stacked)):
        monkeypatch.setattr(NoiseAhead, name, method)
    run(
        SAMPLERS["best_of_n"], budget=Budget(nfe=48)
    )  # of 8 candidates, which are all that the budget pays for
    assert expected <= asked
    run(SAMPLERS["best_of_n until the budget ends"], budget=Budget(nfe=120))
    assert expected
    assert expected <= asked
    run(SAMPLERS["svdd"], budget=Budget(nfe=48), churn=0.3)
    assert not any(m._made for m in made[1:])


def test_rows_that_follow_each_other_are_no_index_copies() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    assert take_rows(x, range(6)) is x
    assert take_rows(x, slice(1, 3)).data_ptr() == x[1:].data_ptr()
    some = take_rows(x, [2, 3])
    assert torch.equal(some, x[2:4])
    assert some.untyped_storage().nbytes() == 2 * 2 * 4  # they do not hold the others
    assert torch.equal(take_rows(x, [3, 1, 1]), x[[3, 1, 1]])
    assert take_rows(x, []).shape == (0, 2)
    with pytest.raises(IndexError):
        take_rows(x, [5, 6])
