"""Arms: best of N, where candidates also differ by how the model is called (guidance, steps, prompt, LoRA scale, ...).

A candidate is (key, arm). How many candidates each arm gets is decided by `arm_allocation`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from genscale.algorithms.arm_allocation import ALLOCATIONS, Pulls
from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError, did_you_mean
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query


@dataclass(frozen=True)
class Arms:
    """Best of N over several configurations of the call; one arm alone is best_of_n.

    arms: what each configuration changes in the call, such as ({"guidance_scale": 3}, {"guidance_scale": 7,
        "num_inference_steps": 8}); {} is the call as it is. `genscale.pipelines.arms` tells what may be changed.
    allocate: which arm gets the next candidates. "even": all get as many. "in_order": the same, one arm after the
        other, by which of equal candidates that of the first arm wins. "halving": in rounds of equal cost, after each
        of which only the better half of the arms goes on (sequential halving, Karnin et al. 2013). "thompson": the arm
        of the best draw from the posterior of its scores.
    candidates: how many, all arms together. None: as many as the budget or a stop rule allows (16 without either).
    aim: what an arm is judged by. "best": the expected best of as many candidates as the budget left would buy with it,
        so that a wide spread and a low price count. "mean": its mean score, as in the plain Gaussian Thompson sampling.
    wave: candidates that are started together by thompson; more of them fill a batch, and know less. 1 by default.

    Cost in NFE: the sum over the candidates of what one of their arm takes.
    """

    arms: tuple[Mapping[str, Any], ...] = field(default_factory=lambda: ({},))
    allocate: str = "even"
    candidates: int | None = None
    aim: str = "best"
    wave: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        if not isinstance(self.arms, list | tuple) or not all(isinstance(a, Mapping) for a in self.arms):
            raise UsageError(
                "arms must be a list of what each changes in the call, such as [{'guidance_scale': 3}, {}]."
            )
        if not self.arms:
            raise UsageError("arms=[] holds no configuration: give at least one, {} for the call as it is.")
        object.__setattr__(self, "arms", tuple(dict(arm) for arm in self.arms))
        check_options(self, candidates=1, wave=1)
        for name, value, known in (
            ("allocate", self.allocate, ALLOCATIONS),
            ("aim", self.aim, ("best", "mean")),
        ):
            if value not in known:
                raise UsageError(
                    f"{name}='{value}' of arms is unknown{did_you_mean(value, known)}: it is one of {', '.join(known)}."
                )

    @property
    def independent(self) -> bool:
        """Whether finished candidates are independent draws of one distribution: of one arm alone."""
        return len(self.arms) == 1

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        costs = process.arms or (process.nfe(),)
        if len(costs) != len(self.arms):
            raise UsageError(
                f"{len(self.arms)} arms need calls that can be made in as many ways: give genscale.scale a pipeline or "
                "a function."
            )
        pulls = Pulls(process, key, tuple(costs), self._most(process), self.aim, self.wave)
        yield from ALLOCATIONS[self.allocate](pulls)

    def _most(self, process: Process) -> int | None:
        if self.candidates is not None:
            return self.candidates
        return None if process.open_ended else CANDIDATES_WITHOUT_BUDGET

    def cost(self, process: Process) -> int | None:
        """Of arms of one price; None where it depends on the allocation."""
        most, costs = self._most(process), set(process.arms) or {process.nfe()}
        return None if most is None or len(costs) > 1 else most * costs.pop()
