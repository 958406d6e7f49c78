"""Accept or reject: one path at a time, rejected at a preview or accepted at the end by P(right).

Rejection sampling with early rejection, for verifiers that answer the probability that an image is right. Its parts are
published: Zhang et al. 2025 send a path back where its preview is below a threshold (arXiv 2505.23614, global search by
DFS), and Verifier-Threshold steps on only where the preview passes one (arXiv 2512.08985). Thresholds from a
calibration, by the renewal argument, are ours.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.acceptance import Table, Thresholds, chosen, columns_at, informative
from genscale.algorithms.accepting_search import AcceptingSearch, Attempts
from genscale.algorithms.backtracking import check_steps
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.preview_steps import check_fractions, fraction_of
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.calibration import Calibration
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query

# Where a preview is looked at, if nothing tells from when on previews mean something (ours).
UNCALIBRATED_CHECK = 0.6
UNCALIBRATED_REJECT = 0.1  # the least P there: only what is clearly wrong is rejected (ours)


@dataclass(frozen=True)
class AcceptReject:
    """Draw paths until one is good enough: reject at previews by P(right), accept a finished image at P(right) >= p.

    It needs one verifier that answers a probability (`genscale verifiers`), of weight 1. With another one, accept and
    reject are given in the unit of its score. The compute depends on the prompt: an easy one ends after its first path.
    If the budget ends first, the best finished candidate wins, and the run says that nothing was accepted. Paths that
    are rejected are not finished, except for the best of them where nothing else is. Where a prompt returns several
    images, it ends when as many are accepted, and all but the last that are needed are finished without checks.

    p: how many of the accepted images should be right. 0.9 by default (ours). Where the verifier has a calibration, the
        least P of an accepted image is chosen such that the first accepted image of a prompt is right so often on the
        calibration's candidates; else it is p itself.
    accept: the least score of an accepted image, in place of the one that follows from p. None, the default, is the
        target score or the probability of the budget, if it has one.
    reject: the least score of a preview that goes on: one number for all checks, or one for each. By default it follows
        from the calibration: least expected NFE for the wanted accuracy. Without one it is 0.1 (ours).
    checks: fractions of the run, in [0, 1), at which the clean estimate of the state is scored; 0 is pure noise. By
        default those at which the calibration's previews tell something; without one 0.6 (ours), since the P of
        earlier previews means little.
    mean_nfe: wanted mean NFE of a prompt. Then the thresholds, and the most that one prompt may spend, are those with
        the most right images at this mean, and p is not used. It needs a calibration.
    back: share of the run that a rejected path is sent back by, at least; 1, the default, is fresh noise. On the
        bundled models at 4 steps smaller shares gained nothing (ours).
    backtracks: how often one path may be sent back before it begins with fresh noise. 4 by default, as `dfs`.
    wave: paths that are drawn together. 1 by default, so that none is drawn in vain; the paths of all prompts fill
        batches together.
    paths: number of paths, those sent back included. None, the default, continues until one is accepted or the budget
        ends (at most 64 paths without a budget).

    Cost in NFE: at most paths f(0, T), f(a, b) being the evaluations of one candidate from step a to step b. Expected,
    without a limit, E[f of a path] / P(a path is accepted). Scores: one a check that a path reaches, and one a finished
    path.
    """

    p: float = 0.9
    accept: float | None = None
    reject: tuple[float, ...] | None = None
    checks: tuple[float, ...] | None = None
    mean_nfe: float | None = None
    back: float = 1.0
    backtracks: int = 4
    wave: int = 1
    paths: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    previews_at: ClassVar[str] = "checks"
    size_option: ClassVar[str] = "paths"
    asks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, backtracks=0, wave=1, paths=1)
        if not 0 < self.p <= 1:
            raise UsageError(f"p={self.p} must be a probability in (0, 1].")
        if not 0 < self.back <= 1:
            raise UsageError(f"back={self.back} must be a share of the run in (0, 1].")
        checks, reject = self.checks, self.reject
        if checks is not None:
            check_fractions("checks", checks, noise=True)
        if self.mean_nfe is not None and not self.mean_nfe > 0:
            raise UsageError(f"mean_nfe={self.mean_nfe} must be above 0.")
        if self.mean_nfe is not None and (self.accept is not None or reject is not None):
            raise UsageError("mean_nfe chooses the thresholds: give it without accept and reject.")
        if reject is not None and len(reject) != 1 and (checks is None or len(reject) != len(checks)):
            raise UsageError(
                f"reject={reject} must be one number, or one for each of checks={checks}: give as many."
            )

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        attempts = Attempts(self.wave, self.paths, self.back, self.backtracks)
        run = AcceptingSearch(process, key, self.thresholds(process), attempts)
        with suppress(BudgetExhausted):
            yield from run.go()

    def cost(self, process: Process) -> int | None:
        """Not known in advance, unless there is one path, which is finished whatever its previews say."""
        return process.nfe() if self.paths == 1 else None

    def accepts(self, process: Process) -> float:
        """The least score of an accepted image."""
        return self.thresholds(process).accept

    # ---------------------------------------------------------------- thresholds

    def thresholds(self, process: Process) -> Thresholds:
        """What is rejected where, and what is accepted. UsageError: the scores are no probabilities, and no numbers are
        given."""
        asked = process.target if self.accept is None else self.accept
        self._check_scores(process, asked)
        table = None if process.calibration is None else self._table(process, process.calibration)
        if self.mean_nfe is not None and table is None:
            raise UsageError(
                f"mean_nfe={self.mean_nfe:g} needs a verifier with a calibration: make one with genscale "
                "calibrate-verifier, or leave mean_nfe out."
            )
        found = None
        if table is not None and self.reject is None:
            found = chosen(table, self.p, self.mean_nfe, asked)
        elif table is not None and asked is None:
            found = chosen(table.without_previews(), self.p)
        if self.reject is None and found is not None:
            return found
        accept = asked if asked is not None else self.p if found is None else found.accept
        return Thresholds(self._given_rejects(process, table), accept)

    def _check_scores(self, process: Process, accept: float | None) -> None:
        if process.probability or accept is not None:
            return
        scores = "+".join(process.verifiers) or "no verifier"
        raise UsageError(
            f"accept_reject needs one verifier that answers a probability, with weight 1, and '{scores}' is none: "
            "make one of it with genscale calibrate-verifier, or give --accept and --reject in the unit of the score."
        )

    def _table(self, process: Process, known: Calibration) -> Table | None:
        """The previews of a calibration that are looked at; None if the calibration has no candidates."""
        useful = informative(known)
        if not len(known.finals):
            return None
        calls = process.model_steps
        # Of a calibration with more steps the first previews may be before the first call of this run.
        own = [fraction_of(max(round(known.progress[i] * calls), 1), calls) for i in useful]
        fractions = own if self.checks is None else self.checks
        known_at = useful or tuple(range(len(known.progress)))  # given checks are used, whatever they tell
        steps = check_steps(process, fractions, earliest=0) if known_at else []
        columns = columns_at(known, {step: step / process.model_steps for step in steps}, known_at)
        most = process.nfe() * (self.paths or AcceptingSearch.MOST)
        if process.nfe_left:  # 0: the budget is shared, and nothing was granted yet
            most = process.nfe_left if self.paths is None else min(most, process.nfe_left)
        return Table(
            known,
            tuple(columns),
            tuple(columns.values()),
            (*(process.nfe(0, step) for step in columns), process.nfe()),
            float(most),
        )

    def _given_rejects(self, process: Process, table: Table | None) -> tuple[tuple[int, float], ...]:
        """The checks with the user's numbers, or with the fixed one for a probability without a calibration."""
        reject = self.reject
        if reject is None:
            if not process.probability and self.checks is not None:
                raise UsageError(f"checks={self.checks} need the least score of a preview: give reject, too.")
            if not process.probability:  # only finished candidates are judged
                return ()
            reject = (UNCALIBRATED_REJECT,)
        if self.checks is None:
            steps = (
                check_steps(process, [UNCALIBRATED_CHECK], earliest=0) if table is None else list(table.steps)
            )
            return tuple((step, reject[0]) for step in steps)
        each = reject * len(self.checks) if len(reject) == 1 else reject
        found: dict[int, float] = {}
        for check, least in zip(self.checks, each, strict=True):
            found |= dict.fromkeys(check_steps(process, [check], earliest=0), least)
        return tuple(sorted(found.items()))
