"""The engine's answers to Gradient: whose rows go together, what they cost, and what the verifiers make of them.

A group of rows has the model to itself from its first call until it has gone back through all of them, since its
graph must be kept. Verifiers, decoder and denoiser are gone back through one after the other, each from leaves of its
own, so that their activations are not all held at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genscale.engine.archive import Archive
from genscale.engine.events import Denoised, Differentiated
from genscale.engine.gradient_checks import digest, kind_of
from genscale.engine.ledger import Ledger
from genscale.engine.search import Search
from genscale.engine.unrolled_calls import Unroll, pulled_back
from genscale.errors import BudgetExhausted, UsageError
from genscale.media import Media
from genscale.protocol.answers import Graded, Scores
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import Candidate, Particles
from genscale.protocol.queries import Gradient

if TYPE_CHECKING:
    from genscale.engine.engine import Engine


@dataclass(frozen=True)
class QueryRows:
    """Rows of one search's question."""

    search: Search
    rows: tuple[int, ...]

    @property
    def ask(self) -> Gradient:
        return _ask(self.search)


class Group:
    """Rows of questions of one kind on their way through the model and back."""

    def __init__(self, parts: list[QueryRows]) -> None:
        self.parts = parts
        self.jobs = [(p.search, row) for p in parts for row in p.rows]
        self.prompts = tuple(s.index for s, _ in self.jobs)
        asked, process = [p.ask for p in parts], parts[0].search.process
        self.ask = asked[0]
        x = torch.cat([a.particles.x[list(p.rows)] for a, p in zip(asked, parts, strict=True)])
        self.pull = None if self.ask.pull is None else _rows([a.pull for a in asked], parts, 0)
        noises = None if self.ask.noises is None else _rows([a.noises for a in asked], parts, 1)
        particles = Particles(x, self.ask.particles.step, tuple(self.candidate(i) for i in range(len(x))))
        self.unroll = Unroll(process, self.ask, particles, noises)

    def __len__(self) -> int:
        return len(self.jobs)

    def candidate(self, i: int) -> Candidate:
        search, row = self.jobs[i]
        return search.particles.candidates[row]

    def label(self, i: int) -> str:
        search, row = self.jobs[i]
        return search.label(row)


class Gradients:
    """The waiting questions of an engine, and the group under way."""

    def __init__(self, engine: Engine, decode: Decode, archive: Archive, ledger: Ledger) -> None:
        self.engine, self.decode, self.archive, self.ledger = engine, decode, archive, ledger
        self.panel = engine.roles.search
        self.under_way: Group | None = None
        self._pending: list[QueryRows] = []

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def admit(self, search: Search) -> None:
        """Queue a question's rows; answer it at once where archive or budget already do."""
        ask = search.ask
        assert isinstance(ask, Gradient)
        if ask.pull is None:
            self.panel.check_differentiable()
        rows = search.affordable()
        if rows == 0:
            search.throw(BudgetExhausted())
            return
        search.admit(rows)
        todo = tuple(row for row in range(rows) if not self._recall(search, ask, row))
        if todo:
            self._pending.append(QueryRows(search, todo))
        else:
            search.answer()

    def run(self) -> Generator[Batch, Output, None]:
        """The model calls of one group, and its answers."""
        parts = self._next_parts()
        if not parts:
            return
        self.under_way = group = Group(parts)
        batch = group.unroll.batch(group.prompts)
        while True:
            output = yield batch
            group = self.under_way  # a smaller one, if memory ran out
            self.ledger.evaluations += output.evaluations
            with self.ledger.clock("step"):
                done = group.unroll.absorb(output)
            self.engine.on_event(Denoised(self.ledger.nfe, len(group)))
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
        """Begin anew with as many rows as the batch size allows now; the others wait."""
        assert self.under_way is not None
        places, kept, rest = self.engine.batch_size, list[QueryRows](), list[QueryRows]()
        for part in self.under_way.parts:
            n = min(places, len(part.rows))
            kept += [QueryRows(part.search, part.rows[:n])] if n else []
            rest += [QueryRows(part.search, part.rows[n:])] if n < len(part.rows) else []
            places -= n
        self._pending = rest + self._pending
        self.under_way = None  # its graph goes before the next is made
        self.under_way = group = Group(kept)
        return group.unroll.batch(group.prompts)

    # ---------------------------------------------------------------- which rows go

    def _next_parts(self) -> list[QueryRows]:
        """Rows of the first question and of others like it, up to the batch size, as many as time allows."""
        first = self._pending[0]
        kind, places, room = (
            kind_of(first.ask, first.search.process),
            self.engine.batch_size,
            self.engine.room(),
        )
        places = 1 if self.engine.blind else places
        taken, rest, late = list[QueryRows](), list[QueryRows](), list[Search]()
        for part in self._pending:
            search, n = part.search, 0
            if places > 0 and kind_of(part.ask, search.process) == kind:
                allowed = self._in_time(part, room)
                if allowed < len(part.rows):
                    search.forget(part.rows[allowed:])
                    late.append(search)
                    part = QueryRows(search, part.rows[:allowed])
                n = min(places, allowed)
            taken += [QueryRows(search, part.rows[:n])] if n else []
            rest += [QueryRows(search, part.rows[n:])] if n < len(part.rows) else []
            places, room = places - n, room - search.price * n
        self._pending = rest
        for search in late:
            if search.complete:
                search.answer()
        return taken

    def _in_time(self, part: QueryRows, room: float) -> int:
        """How many of the rows will be done in time; before a search has a result, with what leads to one."""
        search = part.search
        each = search.price + (0 if search.finals else search.to_the_end)
        return int(min(max(room, 0) / max(each, 1), len(part.rows)))

    # ---------------------------------------------------------------- answers

    def _finish(self, group: Group) -> bool:
        """Go back through all of it and answer its rows; False if memory ran out and fewer must be tried."""
        try:
            graded = self._graded(group)
        except torch.cuda.OutOfMemoryError as error:
            if len(group) == 1:
                raise UsageError(
                    "the gradient of one candidate does not fit into the accelerator's memory: use a smaller size, "
                    f"a verifier on another device, or gradients through the decoder only ({error})."
                ) from error
            self.engine.shrink(len(group))
            return False
        ask = group.ask
        for i, (search, row) in enumerate(group.jobs):
            one = graded[i : i + 1]
            self._charge(search)
            if self.archive.folder is not None:
                asked = digest(_ask(search), row)
                self.archive.add_graded(
                    search.index, group.candidate(i), ask.particles.step, asked, one, search.spent
                )
            search.finish(row, one)
        self.engine.on_event(Differentiated(self.ledger.nfe, len(group)))
        return True

    def _graded(self, group: Group) -> Graded:
        unroll, ask = group.unroll, group.ask
        assert unroll.x0 is not None
        assert unroll.prediction is not None
        pulls, raw = ([group.pull], None) if group.pull is not None else self._pulls(group)
        with self.ledger.clock("backward"):
            found = unroll.back(pulls)
        if unroll.through_model:
            self.ledger.backwards += unroll.forwards * len(pulls)
            self.ledger.evaluations += unroll.forwards * len(pulls) if unroll.checkpointed else 0
        each = torch.stack([x for x, _ in found])
        noises = [z for _, z in found if z is not None]
        each_noises = torch.stack(noises) if noises else None
        graded = Graded(
            self._combined(each, ask),
            unroll.x0.detach().float(),
            unroll.prediction,
            None if raw is None else Scores(raw, self.panel.combine),
            None if each_noises is None else self._combined(each_noises, ask),
            each if ask.each else None,
            each_noises if ask.each else None,
        )
        _check_finite(graded, group)
        return graded

    def _pulls(self, group: Group) -> tuple[list[Tensor], Tensor]:
        """d total / d x0, or d raw / d x0 of every verifier, [n, *latent] each, and raw scores [n, verifiers]."""
        assert group.unroll.x0 is not None
        leaf = group.unroll.x0.detach().float().requires_grad_()
        texts = [search.prompt for search, _ in group.jobs]
        labels = [group.label(i) for i in range(len(group))]
        with torch.enable_grad():
            with self.ledger.clock("decode"):
                media = self.decode(leaf, group.prompts)
            self.ledger.decodes += len(group)
            if not media.pixels.requires_grad:
                raise UsageError(
                    "the decoder's images keep no graph to the latents, so their scores have no gradient: use a "
                    "sampler that needs none."
                )
            # The verifiers' graph is another one, which is gone before the decoder's is gone back through.
            pixels = media.pixels.detach()
            pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32)).requires_grad_()
            raw = self.panel.score_graph(Media(pixels), texts, labels, self.ledger)
            totals = raw.sum(0).unbind() if group.ask.each else (self.panel.combine(raw).sum(),)
        with self.ledger.clock("backward"):
            n = len(totals)
            seen = [torch.autograd.grad(t, pixels, retain_graph=i + 1 < n)[0] for i, t in enumerate(totals)]
            del totals, pixels
            raw = raw.detach()
            pulls = [
                pulled_back(media.pixels, [leaf], pull, again=i + 1 < n)[0] for i, pull in enumerate(seen)
            ]
        return pulls, raw

    def _combined(self, each: Tensor, ask: Gradient) -> Tensor:
        """The combined score's gradient: a weighted sum, as the score is."""
        if not ask.each:
            return each[0]
        weights = self.panel.combine(torch.eye(len(each), dtype=torch.float64)).to(each)
        return torch.einsum("k,k...->...", weights, each)

    def _charge(self, search: Search) -> None:
        search.spent += search.price
        search.calls += search.calls_a_score

    def _recall(self, search: Search, ask: Gradient, row: int) -> bool:
        """Take a row from the archive of an earlier life of this run; it is charged all the same."""
        if not self.archive.has_gradients:
            return False
        candidate, step = ask.particles.candidates[row], ask.particles.step
        found = self.archive.graded(
            search.index, candidate, step, digest(ask, row), self.panel.combine, ask.particles.x.device
        )
        if found is None:
            return False
        search.finish(row, found)
        self._charge(search)
        return True


def _ask(search: Search) -> Gradient:
    assert isinstance(search.ask, Gradient)
    return search.ask


def _check_finite(graded: Graded, group: Group) -> None:
    bad = ~graded.gradient.isfinite().flatten(1).all(1)
    if graded.noises is not None:
        bad |= ~graded.noises.isfinite().transpose(0, 1).flatten(1).all(1)
    for i, wrong in enumerate(bad.tolist()):
        if wrong:
            raise UsageError(
                f"the gradient at {group.label(i)} is not finite: use bfloat16 or float32 instead of float16, or a "
                "verifier whose score has a gradient there."
            )


def _rows(tensors: Sequence[Tensor | None], parts: Sequence[QueryRows], dim: int) -> Tensor:
    """The parts' rows of what each question gave."""
    picked = []
    for tensor, part in zip(tensors, parts, strict=True):
        assert tensor is not None
        picked.append(tensor.index_select(dim, torch.tensor(part.rows, device=tensor.device)))
    return torch.cat(picked, dim)
