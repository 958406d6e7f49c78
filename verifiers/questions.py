"""Questions about an image that yes answers well, with the questions that each depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor

from genscale.errors import UsageError, quoted
from genscale.plugins.limits import shown

YES = 0.5
"""From which P(yes) on an answer is yes."""
MOST = 100  # questions about one prompt


@dataclass(frozen=True)
class YesNo:
    """parents: places in the list of the questions without which this one makes no sense ("Is the ball red?" needs a
    ball)."""

    text: str
    parents: tuple[int, ...] = ()


def check_questions(questions: Sequence[YesNo], whose: str) -> tuple[YesNo, ...]:
    """The same. UsageError: there are none, or too many; one is empty, or depends on none of the others or on itself.

    whose: names them in the message.
    """
    if not 0 < len(questions) <= MOST:
        raise UsageError(f"{whose} has {len(questions)} questions: give 1 to {MOST}.")
    for place, question in enumerate(questions, 1):
        if not question.text.strip():
            raise UsageError(f"{whose}: question {place} is empty.")
        for parent in question.parents:
            if not 0 <= parent < len(questions):
                raise UsageError(
                    f"{whose}: question {place} depends on {shown(parent + 1)}: there are 1 to {len(questions)}."
                )
    try:
        _order(questions)
    except CycleError as error:
        ring = " and ".join(str(i + 1) for i in sorted(set(error.args[1])))
        raise UsageError(f"{whose}: questions {ring} depend on each other in a circle.") from None
    return tuple(questions)


def counted(probabilities: Tensor, questions: Sequence[YesNo]) -> Tensor:
    """P(yes) [n, questions] of which those count 0 that depend on a no, by any number of steps.

    Differentiable in the probabilities; which answers are yes is not.
    """
    columns: dict[int, Tensor] = {}
    for place in _order(questions):
        column = probabilities[:, place]
        for parent in questions[place].parents:
            column = torch.where(columns[parent].detach() >= YES, column, torch.zeros_like(column))
        columns[place] = column
    return torch.stack([columns[i] for i in range(len(questions))], dim=1)


def _order(questions: Sequence[YesNo]) -> list[int]:
    """Places so that parents come first. CycleError."""
    return list(TopologicalSorter({i: q.parents for i, q in enumerate(questions)}).static_order())


def whole(prompt: str) -> tuple[YesNo, ...]:
    """The one question about a prompt of which nothing else is known."""
    return (YesNo(f"Does the image show {quoted(prompt, 2000)}?"),)
