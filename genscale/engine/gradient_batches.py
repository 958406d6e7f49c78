"""Answers to Gradient: which rows share model calls, what they cost, and the backward pass of their scores.

A group of rows is evaluated without interruption from its first model call to the end of its backward pass, since its
graph must be kept. The backward passes of verifiers, decoder and denoiser run one after the other, each from its own
detached leaves, so that their activations are not all in memory together.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

import torch
from torch import Tensor

from genscale.engine.capacity import Capacity
from genscale.engine.events import Denoised, Differentiated
from genscale.engine.failures import GRADIENT
from genscale.engine.finite_numbers import finite_rows
from genscale.engine.gradient_checks import digest, kind_of
from genscale.engine.gradient_rows import Group, QueryRows, gradient_query
from genscale.engine.search import Search
from genscale.engine.unrolled_calls import pulled_back
from genscale.engine.verifier_roles import VerifierSet
from genscale.errors import BudgetExhausted, UsageError
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import Memory
from genscale.protocol.queries import Gradient


class GradientBatches:
    """Every row that waits for a gradient, and the group that is being evaluated.

    verifiers: those that steer the search, whose combined score is differentiated.
    """

    def __init__(self, verifiers: VerifierSet, decode: Decode, capacity: Capacity) -> None:
        self.verifiers, self.decode, self.capacity = verifiers, decode, capacity
        self.archive, self.ledger, self.on_event = capacity.archive, capacity.ledger, capacity.on_event
        self.under_way: Group | None = None
        self._pending: list[QueryRows] = []

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def admit(self, search: Search) -> None:
        """Queue the rows of a search's query; answer it now if the archive or the budget already decide the answer."""
        query = gradient_query(search)
        if query.pull is None:
            self.verifiers.check_differentiable()
        rows = search.affordable()
        if rows == 0:
            search.throw(BudgetExhausted())
            return
        search.admit(rows)
        todo = tuple(row for row in range(rows) if not self._recall(search, query, row))
        if todo:
            self._pending.append(QueryRows(search, todo))
        else:
            search.answer()

    def run(self) -> Generator[Batch, Output, None]:
        """Yield the model calls of one group, then answer its queries."""
        parts = self._next_parts()
        if not parts:
            return
        self.under_way = group = Group(parts)
        batch = group.unroll.batch(group.prompts)
        while True:
            output = yield batch
            self.archive.settle()
            group = self.under_way  # `again` may have made it smaller
            self.ledger.evaluations += output.evaluations
            with self.ledger.clock("step"):
                done = group.unroll.absorb(output)
            self.on_event(Denoised(self.ledger.nfe, len(group)))
            if not done:
                batch = group.unroll.batch(group.prompts)
            elif self._finish(group):
                break
            else:
                del group
                batch = self.again()
        self.under_way = None
        for search in {id(s): s for s, _ in group.jobs}.values():
            if search.complete:
                search.answer()

    def again(self) -> Batch:
        """Start over with as many rows as the batch size now allows; the others wait."""
        assert self.under_way is not None
        places, kept, rest = self.capacity.batch_size, list[QueryRows](), list[QueryRows]()
        for part in self.under_way.parts:
            n = min(places, len(part.rows))
            kept += [QueryRows(part.search, part.rows[:n])] if n else []
            rest += [QueryRows(part.search, part.rows[n:])] if n < len(part.rows) else []
            places -= n
        self._pending = rest + self._pending
        self.under_way = None  # frees its graph before the next is built
        self.under_way = group = Group(kept)
        return group.unroll.batch(group.prompts)

    # ---------------------------------------------------------------- which rows are evaluated

    def _next_parts(self) -> list[QueryRows]:
        """Rows of the first query and of others of its kind, up to the batch size, as many as time allows."""
        first = self._pending[0]
        kind, places = kind_of(first.query, first.search.process), self.capacity.rows_in_a_call
        left = self.capacity.evaluations_left()
        taken, rest, late = list[QueryRows](), list[QueryRows](), list[Search]()
        for part in self._pending:
            search, n = part.search, 0
            alike = Memory.alike(part.query.particles.memory, first.query.particles.memory)
            if places > 0 and alike and kind_of(part.query, search.process) == kind:
                allowed = self._in_time(part, left)
                if allowed < len(part.rows):
                    search.forget(part.rows[allowed:])
                    late.append(search)
                    part = QueryRows(search, part.rows[:allowed])
                n = min(places, allowed)
            taken += [QueryRows(search, part.rows[:n])] if n else []
            rest += [QueryRows(search, part.rows[n:])] if n < len(part.rows) else []
            places, left = places - n, left - search.price * n
        self._pending = rest
        for search in late:
            if search.complete:
                search.answer()
        return taken

    def _in_time(self, part: QueryRows, left: float) -> int:
        """How many rows `left` evaluations pay for.

        Until the search has a finished candidate, each row must also leave enough to finish one.
        """
        search = part.search
        each = search.price + (0 if search.enough else search.to_the_end)
        return int(min(max(left, 0) / max(each, 1), len(part.rows)))

    # ---------------------------------------------------------------- answers

    def _finish(self, group: Group) -> bool:
        """Run the backward pass and answer the rows; False if memory ran out and fewer must be tried."""
        try:
            graded, faults = self._graded(group)
            graded = group.jobs[0][0].process.holding.aside(graded)
        except torch.cuda.OutOfMemoryError as error:
            advice = "a smaller size, a verifier on another device, or gradients through the decoder only"
            self.capacity.shrink(len(group), "the gradient", advice, error)
            return False
        for i, (search, row) in enumerate(group.jobs):
            one = graded[i : i + 1]
            self._charge(search)
            if faults[i]:
                self.capacity.drop(search, group.candidate(i), GRADIENT, faults[i])
            elif self.archive.folder is not None:
                query = gradient_query(search)
                self.archive.add_graded(
                    search.index,
                    group.candidate(i),
                    query.particles.step,
                    digest(query, row),
                    one,
                    search.spent,
                )
            search.finish(row, one)
        self.on_event(Differentiated(self.ledger.nfe, len(group)))
        return True

    def _graded(self, group: Group) -> tuple[Graded, list[str]]:
        """The answer, and for each row what is not finite; "" if all is finite."""
        unroll, query = group.unroll, group.query
        assert unroll.x0 is not None
        assert unroll.prediction is not None
        finite = {"the denoiser gave": finite_rows(unroll.x0)}
        pulls, raw = ([group.pull], None) if group.pull is not None else self._pulls(group, finite)
        with self.ledger.clock("backward"):
            found = unroll.back(pulls)
        if unroll.through_model:
            self.ledger.backwards += unroll.forwards * len(pulls)
            self.ledger.evaluations += unroll.forwards * len(pulls) if unroll.checkpointed else 0
        each = torch.stack([x for x, _ in found])
        noises = [z for _, z in found if z is not None]
        each_noises = torch.stack(noises) if noises else None
        finite["it holds"] = finite_rows(each.transpose(0, 1))
        if each_noises is not None:
            finite["it holds"] &= finite_rows(each_noises.movedim(2, 0))
        faults, failed = self._faults(group, finite, raw)
        if raw is not None and failed is not None:
            raw[failed] = math.nan
        # Rows that failed get a gradient of 0, so that whatever a sampler does with it, it is a number.
        each = _zeroed(each, failed, 1)
        each_noises = None if each_noises is None else _zeroed(each_noises, failed, 2)
        graded = Graded(
            self._combined(each, query),
            unroll.x0.detach().float(),
            unroll.prediction,
            None if raw is None else Scores(raw, self.verifiers.combine, failed),
            None if each_noises is None else self._combined(each_noises, query),
            each if query.each else None,
            each_noises if query.each else None,
            failed,
        )
        return graded, faults

    def _faults(
        self, group: Group, finite: Mapping[str, Tensor], raw: Tensor | None
    ) -> tuple[list[str], Tensor | None]:
        """What is not finite in each row (or was not before the run was resumed), and where there is any."""
        told = {name: rows.cpu() for name, rows in finite.items()}
        faults = []
        for i, (search, _) in enumerate(group.jobs):
            candidate, step = group.candidate(i), group.query.particles.step
            known = self.archive.failed(search.index, candidate, step, gradient=True)
            found = [f"not finite ({name} NaN or inf)" for name, rows in told.items() if not rows[i]]
            if raw is not None and (fault := self.verifiers.fault(raw[i])) is not None:
                found.append(f"not finite (the {fault[0]} gave {fault[1]})")
            faults.append(known.what if known is not None else next(iter(found), ""))
        return faults, torch.tensor([bool(f) for f in faults]) if any(faults) else None

    def _pulls(self, group: Group, finite: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Gradients of the scores at the clean estimates, and the raw scores [n, verifiers].

        One gradient [n, *latent] of the combined score, or with `each` one of every verifier's raw score. Decoder and
        verifiers get zeros in place of rows that are not finite; `finite` tells them.
        """
        assert group.unroll.x0 is not None
        x0 = group.unroll.x0.detach().float()
        leaf = _zeroed(x0, ~finite["the denoiser gave"], 0).requires_grad_()
        texts = [search.prompt for search, _ in group.jobs]
        labels = [group.label(i) for i in range(len(group))]
        with torch.enable_grad():
            with self.ledger.clock("decode"):
                media = self.decode(leaf, group.prompts)
            self.ledger.decodes += len(group)
            if not media.tensor.requires_grad:
                raise UsageError(
                    "the decoder's images keep no graph to the latents, so their scores have no gradient: use a "
                    "sampler that needs none."
                )
            # The verifiers' graph starts at a detached leaf, so it is freed before the decoder's backward pass.
            pixels = media.tensor.detach()
            finite["the decoder gave"] = finite_rows(pixels)
            pixels = _zeroed(pixels, ~finite["the decoder gave"], 0)
            pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32)).requires_grad_()
            raw = self.verifiers.score_graph(media.with_data(pixels), texts, labels, self.ledger)
            totals = raw.sum(0).unbind() if group.query.each else (self.verifiers.combine(raw).sum(),)
        with self.ledger.clock("backward"):
            n = len(totals)
            seen = [torch.autograd.grad(t, pixels, retain_graph=i + 1 < n)[0] for i, t in enumerate(totals)]
            del totals, pixels
            raw = raw.detach()
            pulls = [
                pulled_back(media.tensor, [leaf], pull, again=i + 1 < n)[0] for i, pull in enumerate(seen)
            ]
        return pulls, raw

    def _combined(self, each: Tensor, query: Gradient) -> Tensor:
        """The gradient of the combined score, from one gradient or from those of every verifier (a weighted sum)."""
        if not query.each:
            return each[0]
        weights = self.verifiers.combine(torch.eye(len(each), dtype=torch.float64)).to(each)
        return torch.einsum("k,k...->...", weights, each)

    def _charge(self, search: Search) -> None:
        search.spent += search.price
        search.calls += search.calls_a_score

    def _recall(self, search: Search, query: Gradient, row: int) -> bool:
        """Take a row's answer from the archive, if this run was resumed and has it. It is charged all the same."""
        if not self.archive.has_gradients:
            return False
        particles = query.particles
        found = self.archive.graded(
            search.index, particles.candidates[row], particles.step, digest(query, row), self.verifiers.combine,
            particles.x.device,
        )  # fmt: skip
        if found is None:
            return False
        search.finish(row, found)
        self._charge(search)
        return True


def _zeroed(values: Tensor, rows: Tensor | None, dim: int) -> Tensor:
    """The values with zeros where `rows` (bool [n], along a dimension) say so."""
    if rows is None:
        return values
    shape = [-1 if d == dim else 1 for d in range(values.ndim)]
    return values.masked_fill(rows.to(values.device).view(shape), 0)
