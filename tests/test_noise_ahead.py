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
