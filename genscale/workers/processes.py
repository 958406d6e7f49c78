"""Workers as processes on this machine."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from genscale.errors import UsageError
from genscale.workers import wire
from genscale.workers.crew import Crew, Inbox
from genscale.workers.worker_loop import work

WORKER = "genscale.pipelines.worker:Worker"
"""What a worker process makes of its recipe: something that opens searches (worker_loop.work)."""
METHODS = ("spawn", "fork")


@dataclass(frozen=True)
class ProcessStart:
    """How a worker process is started.

    worker: "module:class" of what opens searches there; it is made of the worker's number and what `recipe` holds.
    threads: of torch. method: "spawn" or "fork".
    """

    worker: str
    recipe: bytes
    threads: int
    method: str


class ProcessLink:
    """One worker process."""

    def __init__(self, start: ProcessStart, i: int, life: int, inbox: Inbox) -> None:
        context: Any = multiprocessing.get_context(start.method)
        self._own, theirs = context.Pipe()
        inherited = self._own if start.method == "fork" else None
        self._process = context.Process(
            target=_main, args=(theirs, start, i, inherited), name=f"genscale worker {i}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._sending = threading.Lock()
        listener = threading.Thread(
            target=_listen, args=(self._own, i, life, inbox), name=f"genscale worker {i}", daemon=True
        )
        listener.start()

    def send(self, message: bytes) -> None:
        with self._sending:
            self._own.send_bytes(message)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._own.close()


def _listen(connection: Connection, i: int, life: int, inbox: Inbox) -> None:
    """Hand on what a worker sends, until it is gone."""
    try:
        while True:
            inbox.put((i, life, connection.recv_bytes()))
    except (EOFError, OSError, TypeError):  # TypeError: closed here while it was waited for
        inbox.put((i, life, None))


def _main(connection: Connection, start: ProcessStart, i: int, inherited: Connection | None) -> None:
    """A worker process: Ctrl-C is the driver's, which ends it. inherited: the driver's end of the connection, which
    must have no other holder, so that the worker is told when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if inherited is not None:
        inherited.close()
    import torch

    torch.set_num_threads(start.threads)
    module, _, name = start.worker.partition(":")
    worker = getattr(import_module(module), name)(i, *wire.loads(start.recipe))
    work(connection.recv_bytes, connection.send_bytes, worker.open)


class Processes:
    """Worker processes on this machine, each with a copy of the pipeline and of the verifiers.

    count: of workers. load: makes the pipeline in a worker: a function that can be imported there, without arguments.
        None: the pipeline is sent, with its weights. devices: of the workers' pipelines, such as ["cuda:0", "cuda:1"],
        in turn; None: where the pipeline is. threads: of torch in each worker; None: the machine's cores, divided.
        timeout: seconds that one piece of work may take, before its worker is ended and another one gets it; None: no
        limit. method: how Python starts a process: "spawn", or "fork", which takes no time, and is for the CPU alone.

    Workers are started at the first search and serve the following ones; `close` ends them, as does the end of the
    program. UsageError for what cannot be.
    """

    def __init__(
        self, count: int, *, load: Callable[[], Any] | None = None, devices: list[str] | None = None,
        threads: int | None = None, timeout: float | None = None, method: str = "spawn",
    ) -> None:  # fmt: skip
        if count < 1:
            raise UsageError(f"{count} worker processes do no work: give at least 1.")
        if devices is not None and not devices:
            raise UsageError("the list of devices is empty: give one for each worker, or none at all.")
        if method not in METHODS:
            raise UsageError(
                f"worker processes cannot be started by '{method}': choose {' or '.join(METHODS)}."
            )
        self.count, self.load, self.devices, self.timeout, self.method = count, load, devices, timeout, method
        self.threads = threads or max(1, (os.cpu_count() or 1) // count)
        self._crew: Crew | None = None
        self._of: Any = None

    def crew(self, pipe: Any) -> Crew:
        """The workers, with this pipeline. Their start (`Crew.begin`) raises UsageError where it cannot be sent."""
        if self._crew is not None and self._of is not pipe and self.load is None:
            self.close()
        if self._crew is None:

            def start(i: int, life: int, inbox: Inbox) -> ProcessLink:
                how = ProcessStart(WORKER, self._recipe(pipe), self.threads, self.method)
                return ProcessLink(how, i, life, inbox)

            self._crew, self._of = Crew(start, self.count, self.timeout), pipe
            atexit.register(self.close)
        return self._crew

    def close(self) -> None:
        """End the workers."""
        crew, self._crew, self._of = self._crew, None, None
        if crew is not None:
            crew.close()
            atexit.unregister(self.close)

    def _recipe(self, pipe: Any) -> bytes:
        """What a worker makes its pipeline of. It is not kept, since it is as large as the weights."""
        made = self.load or pipe
        try:
            return wire.dumps((made, self.load is not None, self.devices))
        except Exception as error:
            what = "the function load" if self.load is not None else f"this {type(pipe).__name__}"
            raise UsageError(
                f"{what} cannot be sent to a worker process ({type(error).__name__}: {error}): give "
                "executor=genscale.Processes(N, load=f), with a function f of a module that makes the pipeline there."
            ) from error
