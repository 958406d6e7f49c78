"""The exchange between an engine and a pipeline's loop."""

from __future__ import annotations

import time
from collections.abc import Callable

from genscale.engine.engine import Engine
from genscale.engine.mixture_batches import Mixer
from genscale.errors import UsageError
from genscale.pipelines.intercepted_call import Done
from genscale.protocol.batches import Batch, Output


class BatchExchange:
    """Where the pipeline's loop fetches batches: keeps the open one, and what went wrong behind it.

    prepare: makes the pipeline's models ready for a batch with a graph. mixer: makes several of each of the engine's
    batches, and one output of theirs.
    """

    def __init__(self, engine: Engine, prepare: Callable[[], None], mixer: Mixer | None = None) -> None:
        self.engine, self.loop, self.prepare, self.mixer = engine, engine.run(), prepare, mixer
        self.batch: Batch | None = None
        self.error: BaseException | None = None
        self.closed = False
        self._handed_out = 0.0
        self._advance(self._first)

    def ask(self, output: Output | None) -> Batch:
        """The open batch, or after its output the next one; leaves the loop when there is none."""
        if output is not None:
            self.engine.ledger.add_seconds("denoise", time.perf_counter() - self._handed_out)
            self._advance(lambda: self._answer(output))
        if self.batch is None or self.closed or self.error:
            raise Done
        self._handed_out = time.perf_counter()
        return self.batch

    def _answer(self, output: Output) -> Batch:
        """The next batch: another part of the mix, or what the engine asks next."""
        if self.mixer is None:
            return self.loop.send(output)
        following = self.mixer.absorb(output)
        return following if isinstance(following, Batch) else self.mixer.open(self.loop.send(following))

    def _first(self) -> Batch:
        batch = next(self.loop)
        return batch if self.mixer is None else self.mixer.open(batch)

    def _advance(self, go: Callable[[], Batch]) -> None:
        try:
            self.batch = go()
            if self.batch.grad:
                self.prepare()
        except StopIteration:
            self.batch, self.closed = None, True
        except BaseException as error:  # a verifier's, say: the pipeline must not see it as its own
            self.error = error

    def halve(self, error: Exception) -> None:
        assert self.batch is not None
        smaller = self.engine.halve(len(self.batch.prompts))
        if smaller is None:
            raise UsageError(
                f"one latent does not fit into the accelerator's memory ({str(error).splitlines()[0]}): "
                "use offloading, a smaller size or a smaller dtype."
            ) from error
        self.batch = smaller if self.mixer is None else self.mixer.open(smaller)
