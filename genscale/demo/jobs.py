"""The searches of the demo, without its page: many sessions, one search at a time, a folder for each search."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genscale.commands.show import show_folder
from genscale.demo.form import DemoForm, Offer
from genscale.demo.labels import FILE as LABELS
from genscale.demo.labels import Labels
from genscale.demo.live_view import Watch
from genscale.demo.presence import Presence
from genscale.demo.search_folders import SearchFolders
from genscale.errors import UsageError
from genscale.runs import generate as generation
from genscale.runs.base_picture import SearchAndBase
from genscale.runs.complete_request import completed
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.runs.verifier_specs import Named

WAITING, LOADING, SEARCHING, WRITING = "waiting", "loading", "searching", "writing"
DONE, STOPPED, REFUSED = "done", "stopped", "refused"
OVER = (DONE, STOPPED, REFUSED)
CLOSED = "its page was closed before it began."
KEPT = 64  # latest searches whose images and files can be fetched
PIPES = 3  # pipelines that stay loaded
PATIENCE = 20.0  # seconds to wait for a plan, loading included

_log = logging.getLogger("genscale.demo.app")


@dataclass(eq=False)
class Job:
    """One search. token: the unguessable part of the addresses of its images and files.

    client: the name of its session. phase: one of the constants above. sentence: why it was refused. record: the
    content of run.json, at the end.
    """

    request: Request
    folder: Path
    watch: Watch
    client: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    phase: str = WAITING
    sentence: str = ""
    record: dict[str, Any] | None = None
    files: dict[str, Path] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    begun: float | None = None
    ended: float | None = None
    _halt: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.phase in OVER

    @property
    def seconds(self) -> float:
        return 0.0 if self.begun is None else (self.ended or time.monotonic()) - self.begun

    @property
    def stage(self) -> str:
        """The phase; once a run has begun, its display knows more exactly which."""
        if self.phase == LOADING and self.watch.began:
            return WRITING if self.watch.ended else SEARCHING
        return self.phase

    @property
    def halting(self) -> bool:
        return self._halt.is_set()

    def finished(self, key: str | None) -> tuple[int, int] | None:
        """(prompt, candidate id) of the finished candidate with this image, a key of `Watch.images`."""
        shown = (self.watch.shown(prompt).finals for prompt in range(len(self.request.prompts)))
        return next(((p, r.id) for p, finals in enumerate(shown) for r in finals if r.image == key), None)

    def label(self, key: str | None, right: bool) -> None:
        """Call the finished candidate with this image right or wrong; a preview has no label."""
        if (where := self.finished(key)) is None:
            return
        self.labels.toggle(*where, right)
        if (path := self.labels.path()) is not None:
            self.files[path.name] = path
        else:
            self.files.pop(LABELS, None)

    def halt(self) -> None:
        """Ask the search to end. `JobQueue.stop` does this too, and removes a search that still waits."""
        self._halt.set()

    def end(self, phase: str, sentence: str = "") -> None:
        self.ended, self.sentence, self.phase = time.monotonic(), sentence, phase


@dataclass
class Session:
    """One open page. name: its key in the queue. id: the name of its folder. index: the prompt shown.

    enlarged: the key of the image that is open in the gallery.
    """

    name: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    job: Job | None = None
    index: int = 0
    enlarged: str | None = None


class JobQueue:
    """Takes forms, runs their searches one after the other in its own thread, and keeps the latest results.

    advice: a note for a search that fails because weights are missing. keep: folders of searches stay; else they are
    removed an hour after their page was closed, when more than KEPT have followed, and by `close`. previews: whether
    candidates are shown before they are scored.
    """

    def __init__(
        self, offer: Offer, out: Path, advice: str = "", keep: bool = False, previews: bool = True
    ) -> None:
        self.offer, self.out, self.advice, self.previews = offer, out, advice, previews
        self.presence, self.folders = Presence(), SearchFolders(keep)
        self._worker = ThreadPoolExecutor(1, "genscale-demo")  # one thread: in order of submission
        self._line: list[Job] = []  # the running search and the waiting ones
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._pipes: OrderedDict[str, Any] = OrderedDict()
        self._verifiers: dict[str, Named] = {}

    # ---------------------------------------------------------------- sessions

    def session(self, name: str) -> Session:
        with self._lock:
            return self._sessions.setdefault(name, Session(name))

    def leave(self, name: str) -> None:
        """The page was closed: stop its search."""
        with self._lock:
            session = self._sessions.pop(name, None)
            for job in self._jobs.values():
                if job.client == name:
                    self.folders.leave(job.folder)
        if session is not None and session.job is not None:
            self.stop(session.job, CLOSED)
        self.presence.forget(
            name
        )  # last: a search that begins meanwhile must still find that its client has gone

    def _leave_gone(self, asking: str) -> None:
        """Close the sessions of clients that have left without saying so. asking: the client that is there just now."""
        with self._lock:
            gone = [name for name in self._sessions if name != asking and self.presence.gone(name)]
        for name in gone:
            self.leave(name)

    def job(self, token: str) -> Job | None:
        return self._jobs.get(token)

    # ---------------------------------------------------------------- searches

    def submit(self, session: Session, form: DemoForm) -> Job:
        """UsageError: the form is rejected, the session has a search under way, or too many searches wait."""
        request = form.request(self.offer)
        self._leave_gone(session.name)
        with self._lock:
            if session.job is not None and not session.job.over:
                raise UsageError("this page has a search under way: stop it first, or wait.")
            if len(self._line) > self.offer.limits.waiting:
                raise UsageError(
                    f"{len(self._line) - 1} searches are waiting already: try again a little later."
                )
            for old in self._jobs.values():
                if old.over:
                    old.watch.settle()
            folder, watch = RunFolder.fresh(self.out / session.id), Watch(len(request.prompts), self.previews)
            job = Job(request, folder, watch, session.name)
            session.job, session.index, session.enlarged = job, 0, None
            self._line.append(job)
            self._jobs[job.token] = job
            self.folders.add(job.folder)
            self.folders.remove()
            while len(self._jobs) > KEPT and next(iter(self._jobs.values())).over:
                self.folders.remove(self._jobs.popitem(last=False)[1].folder)
        self._worker.submit(self._run, job)
        return job

    def stop(self, job: Job, why: str = "stopped before it began.") -> None:
        """End it: at once if it waits (for the reason `why`), else with the best so far, once every prompt has one."""
        with self._lock:
            job.halt()
            if job in self._line and job.begun is None:
                self._line.remove(job)
                job.end(REFUSED, why)

    def ahead(self, job: Job) -> int:
        """How many searches run or wait before this one."""
        with self._lock:
            return self._line.index(job) if job in self._line else 0

    def plan(self, form: DemoForm) -> tuple[Request, Any]:
        """(the request, its Plan). The Plan is None while the device is busy, because it needs the pipeline."""
        request = form.request(self.offer)
        with self._lock:
            if self._line:
                return request, None
        future: Future[Any] = self._worker.submit(self._plan, request)
        try:
            return request, future.result(PATIENCE)
        except TimeoutError:
            return request, None

    def load(self, models: list[str]) -> None:
        """Load offered models in advance, by name. UsageError: one cannot be loaded."""
        for name in models[-PIPES:]:
            request = completed(replace(self.offer.models[name], prompts=("",)))
            self._worker.submit(self._pipe, PreparedRun.without_search(request)).result()

    def close(self) -> None:
        """Stop all searches, and remove what they wrote, unless it is to be kept with the best so far."""
        with self._lock:
            line = list(self._line)
        for job in line:
            self.stop(job)
        self._worker.shutdown(wait=True)
        self.folders.remove_all()

    # ---------------------------------------------------------------- run in the worker thread

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.over:  # stopped while it waited
                return
            if self.presence.gone(job.client):
                self._line.remove(job)
                job.end(REFUSED, CLOSED)
                return
            job.begun, job.phase = time.monotonic(), LOADING
        try:
            with _noted(job.watch.notes):
                self._search(job)
        except UsageError as error:
            if self.advice and any(word in str(error) for word in ("cannot be loaded", "cannot be fetched")):
                job.watch.notes.append(self.advice)
            job.end(REFUSED, str(error))
        except KeyboardInterrupt:
            job.end(REFUSED, "stopped before an image was finished.")
        except Exception as error:
            _log.exception("a search failed")
            job.end(REFUSED, f"the search failed ({type(error).__name__}): the server's log says where.")
        finally:
            with self._lock:
                self._line.remove(job)
            job.watch.changes += 1

    def _search(self, job: Job) -> None:
        run = self._loaded(job.request)
        job.request = run.request
        job.record = generation.generate(
            run, job.folder, job.watch, halt=lambda: job.halting or self.presence.gone(job.client)
        )
        job.files = {path.name: path for path in job.folder.iterdir() if path.is_file()}
        try:
            show_folder(job.folder)
        except UsageError as error:  # a drawing that fails must not lose the result
            job.watch.notes.append(str(error))
        job.labels.keep_in(job.folder)
        job.files = {path.name: path for path in job.folder.iterdir() if path.is_file()}
        job.end(DONE if job.record["stopped"] is None else STOPPED)

    def _plan(self, request: Request) -> Any:
        with _noted([]):
            run = self._loaded(request)
            both = SearchAndBase.of(replace(run, request=replace(run.request, seed=request.seed or 0)))
            return replace(both.plan, nfe=both.nfe)

    def _loaded(self, request: Request) -> PreparedRun:
        """A request with its pipeline; pipelines and verifiers in memory are used again."""
        run = PreparedRun.of(request)
        pipe = self._pipe(run)
        run = replace(
            run,
            request=_settled(run.request, pipe),
            verifiers=self._shared_verifiers(run.verifiers),
            held_out=self._shared_verifiers(run.held_out),
        )
        return run.with_pipe(pipe)

    def _pipe(self, run: PreparedRun) -> Any:
        model = run.request.model
        pipe = self._pipes.pop(model, None)
        if pipe is None:
            pipe = run.load()
        self._pipes[model] = pipe
        while len(self._pipes) > PIPES:
            self._pipes.popitem(last=False)
        return pipe

    def _shared_verifiers(self, members: list[tuple[Any, float]]) -> list[tuple[Any, float]]:
        """All searches share one object for each verifier, so its weights are loaded once."""
        return [(self._verifiers.setdefault(v.name, v), weight) for v, weight in members]


def _settled(request: Request, pipe: Any) -> Request:
    """For a video pipeline the settings of `genscale video`: videos are large, so they are made one at a time.

    An image pipeline has no frames, whatever the demo was started with.
    """
    from genscale.pipelines.loading import EMBEDDED, makes_videos

    if not makes_videos(pipe):
        return replace(request, frames=None)
    if request.model not in EMBEDDED:
        request = replace(request, batch_size=1, decode_batch=1)
    return replace(request, clips=True)


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Collect user warnings in `notes`; silence those for developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.showwarning = lambda message, *place: notes.append(str(message))
        yield
