"""What a verifier is given is its own; remote verifiers are tried again; time limits end the wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genscale.engine import verifier_calls
from genscale.engine.budget import Budget
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier, verifier_set
from genscale.errors import UsageError, VerifierError
from genscale.media import Media
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.reno import Reno
from genscale.verifiers.frames import Frames
from tests.analytic import SAMPLERS, first_coordinate, run


def in_place(media: Media, prompts: Any) -> None:
    media.pixels.mul_(0).sub_(7)


def by_numpy(media: Media, prompts: Any) -> None:
    media.pixels.detach().numpy()[:] = -3


def by_data(media: Media, prompts: Any) -> None:
    media.pixels.data.zero_()


def of_a_slice(media: Media, prompts: Any) -> None:
    media[:].pixels.fill_(5)


def of_a_view(media: Media, prompts: Any) -> None:
    media.pixels[0].view(-1).fill_(5)


def by_another_tensor(media: Media, prompts: Any) -> None:
    media.pixels = torch.zeros_like(media.pixels)


def of_an_array(media: Media, prompts: Any) -> None:
    np.asarray(media)[:] = 0


def of_the_prompts(media: Media, prompts: Any) -> None:
    prompts[:] = ["something else"] * len(prompts)
    prompts.clear()


WRITERS: list[Callable[[Media, Any], None]] = [
    in_place, by_numpy, by_data, of_a_slice, of_a_view, by_another_tensor, of_an_array, of_the_prompts,
]  # fmt: skip


def judge(media: Media, prompts: Sequence[str]) -> Tensor:
    return first_coordinate(media, prompts) + sum(map(len, prompts))


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__)
def test_what_a_verifier_writes_is_seen_by_nobody_else(write: Callable[[Media, Any], None]) -> None:
    def writer(media: Media, prompts: Any) -> Tensor:
        scores = judge(media, prompts)
        write(media, prompts)
        return scores

    def found(first: Any) -> list[Any]:
        shown: list[Any] = []
        roles = Roles(
            VerifierSet((WeightedVerifier("first", first), WeightedVerifier("judge", judge))),
            VerifierSet((WeightedVerifier("select", first), WeightedVerifier("other", judge))),
            VerifierSet((WeightedVerifier("held", first), WeightedVerifier("last", judge))),
        )
        made = run(BestOfN(6), roles=roles, on_event=lambda e: shown.append(getattr(e, "media", None)))
        pixels = [m.pixels.tolist() for m in shown if m is not None]
        return [[(e.scores, e.select, e.held_out) for e in made.archive.entries], pixels]

    assert found(writer) == found(judge)


def test_a_verifier_sees_what_it_wrote_itself() -> None:
    media = verifier_calls.OwnMedia(Media(torch.ones(1, 3, 2, 2)))
    media.pixels.zero_()
    assert np.asarray(media).max() == 0
    assert media[0].getextrema() == ((0, 0),) * 3


def test_images_are_copied_only_for_those_who_ask_for_pixels() -> None:
    given = Media(torch.rand(2, 3, 4, 4))
    media = verifier_calls.OwnMedia(given)
    list(media), np.asarray(media), len(media), media.is_video
    assert media._data.data_ptr() == given.pixels.data_ptr()


def test_gradients_pass_through_the_copies() -> None:
    class Writer:
        def score_tensor(self, pixels: Tensor, prompts: Any) -> Tensor:
            scores = (pixels[:, 0, 0, 0] * 2).double()
            pixels.data.zero_()
            return scores

        def __call__(self, media: Media, prompts: Any) -> Tensor:
            return first_coordinate(media, prompts)

    pixels = torch.rand(3, 3, 1, 1, requires_grad=True)
    panel = VerifierSet((WeightedVerifier("w", Writer()), WeightedVerifier("first", first_coordinate)))
    before = pixels.detach().clone()
    raw = panel.score_graph(Media(pixels), ["a"] * 3, ["x"] * 3, Ledger())
    raw.sum().backward()
    assert torch.equal(raw[:, 1].float(), before[:, 0, 0, 0])
    assert pixels.grad is not None
    assert torch.equal(pixels.grad[:, 0, 0, 0], torch.full((3,), 3.0))
    run(Reno(iterations=2), roles=Roles(panel), budget=Budget(nfe=90))


# ---------------------------------------------------------------- remote verifiers, time limits


class Remote:
    """A judge behind a connection that fails at some calls."""

    remote = True

    def __init__(self, fails: Sequence[int] = (), seconds: float = 0.0, **options: Any) -> None:
        self.fails, self.seconds, self.calls, self.threads = set(fails), seconds, 0, set[str]()
        vars(self).update(options)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.calls in self.fails:
            raise ConnectionError("no route to the judge")
        time.sleep(self.seconds)
        return first_coordinate(media, prompts)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    paused: list[float] = []
    monkeypatch.setattr(
        verifier_calls.time, "sleep", lambda s, sleep=time.sleep: (paused.append(s), sleep(min(s, 0.7)))
    )
    return paused


@pytest.mark.parametrize("name", ["best_of_n", "zero_order", "smc"])
def test_a_remote_verifier_that_fails_is_tried_again(name: str, short_pauses: list[float]) -> None:
    remote, budget = Remote(fails=(1, 2, 4)), Budget(nfe=90)
    made, whole = run(SAMPLERS[name], verifier=remote, budget=budget), run(SAMPLERS[name], budget=budget)
    assert [e.total for e in made.archive.entries] == [e.total for e in whole.archive.entries]
    assert [s for s in short_pauses if s] == [0.5, 1.0, 0.5]  # each series of calls begins again


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_after_its_retries_a_remote_verifier_has_failed(retries: int) -> None:
    remote = Remote(fails=range(100), retries=retries)
    with pytest.raises(VerifierError, match=r"'first' failed on candidate 0 .*ConnectionError: no route"):
        run(BestOfN(4), verifier=remote)
    assert remote.calls == 1 + retries


def test_a_verifier_that_is_not_remote_is_called_once_in_the_same_thread() -> None:
    local = Remote(fails=(1,))
    local.remote = False
    with pytest.raises(VerifierError, match="no route"):
        run(BestOfN(4), verifier=local)
    assert (local.calls, local.threads) == (1, {threading.current_thread().name})


def test_a_time_limit_ends_a_call(short_pauses: list[float]) -> None:
    local = Remote(seconds=0.6, timeout=0.1)
    local.remote = False
    started = time.monotonic()
    with pytest.raises(VerifierError, match=r"VerifierTimeout: no answer within 0.1 s"):
        run(BestOfN(4), verifier=local)
    assert time.monotonic() - started < 0.5


def test_a_time_limit_for_all_verifiers() -> None:
    slow, quick = Remote(seconds=0.3), Remote(seconds=0.3, timeout=5.0)
    slow.remote = quick.remote = False
    panel = (
        verifier_set([quick, slow], "weighted", 0.1) if slow is quick else verifier_set(slow, "weighted", 0.1)
    )
    assert panel.members[0].timeout == 0.1
    with pytest.raises(VerifierError, match=r"no answer within 0.1 s"):
        run(BestOfN(2), roles=Roles(panel))
    run(BestOfN(2), roles=Roles(verifier_set(quick, "weighted", 0.1)))  # its own limit counts


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_time_limit_is_refused(wrong: float) -> None:
    with pytest.raises(UsageError, match="verifier_timeout"):
        verifier_set(first_coordinate, "weighted", wrong)


def test_options_of_a_wrapped_verifier_count() -> None:
    inner = Remote(fails=(1,))
    frames = Frames(verifier=inner)
    video = Media(torch.rand(2, 3, 3, 4, 4))
    verifier_calls.call_verifier(frames, frames, video, ["a", "b"])
    assert inner.calls == 2


def test_seconds_end_the_wait_for_a_remote_verifier() -> None:
    class Hanging(Remote):
        def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
            self.seconds = 0.0 if self.calls < 1 else 30.0
            return super().__call__(media, prompts)

    release = threading.Event()

    def hang(seconds: float) -> None:
        release.wait(seconds)

    remote = Hanging()
    verifier_calls_time = verifier_calls.time
    original, verifier_calls_time.sleep = verifier_calls_time.sleep, hang
    started = time.monotonic()
    try:
        made = run(BestOfN(wave=2), verifier=remote, budget=Budget(seconds=1.0))
    finally:
        verifier_calls_time.sleep = original
        release.set()
    assert time.monotonic() - started < 3
    assert made.winners[0] is not None
    assert len(made.searches[0].finals) == 2


def test_a_thread_keeps_the_mode_of_autograd() -> None:
    seen: list[bool] = []

    class Judge:
        timeout = 5.0

        def __call__(self, media: Media, prompts: Any) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return first_coordinate(media, prompts)

    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            VerifierSet((WeightedVerifier("j", Judge()),)).score(
                Media(torch.rand(1, 3, 1, 1)), ["a"], ["x"], Ledger()
            )
    assert seen == [True, False]
