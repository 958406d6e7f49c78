"""The demo without a browser: what clients may ask for, searches of several sessions, their files, stopping."""

from __future__ import annotations

import http.client
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genscale.cli.app import main
from genscale.commands.labelled_runs import read_labels, read_scored
from genscale.demo import component_values, html, jobs, presence, search_folders
from genscale.demo.app import application, offer
from genscale.demo.equivalent_command import command
from genscale.demo.form import DemoForm, Limits
from genscale.demo.jobs import DONE, REFUSED, STOPPED, Job, JobQueue
from genscale.demo.labels import Labels
from genscale.demo.live_curve import LiveCurve
from genscale.demo.live_view import MOST, CandidateRow, Seen, Watch
from genscale.demo.sampler_words import sampler_choices
from genscale.engine.events import Estimated
from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.protocol.particles import Candidate
from genscale.runs import read_request
from genscale.runs.complete_request import completed
from genscale.runs.file_metadata import read_metadata
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.request import Request

STAR = "a red star left of a blue ring"
FEW = {"steps": 4, "seed": 7, "verifiers": ("shapes_clip",), "held_out": ("shapes",)}
MODELS = {name: Request(model=name) for name in ("shapes-flow", "shapes-video")}


def form(prompt: str = STAR, **fields: Any) -> DemoForm:
    return DemoForm(prompt, **{"model": "shapes-flow", "nfe": 64, **FEW, **fields})


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    made = JobQueue(offer(MODELS, Limits()), tmp_path / "demo")
    yield made
    made.close()


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def done(job: Job) -> Job:
    until(lambda: job.over)
    return job


# ---------------------------------------------------------------- what may be asked for


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": "  \n "}, "there is no prompt"),
        ({"prompt": "\n".join("abcde")}, "5 lines are 5 prompts: give at most 4"),
        ({"prompt": "x" * 500}, "500 letters is too long"),
        ({"prompt": "a dog\na dog"}, "given twice"),
        (
            {"prompt": "a dog"},
            "verifier 'shapes' cannot judge this: 'a dog' is no caption of the shapes world",
        ),
        ({"model": "/etc"}, "model '/etc' is not offered here"),
        ({"model": "../shapes-flow"}, "is not offered here"),
        ({"model": "owner/name"}, "is not offered here"),
        ({"model": None}, "is not offered here"),
        ({"sampler": "best_of"}, "did you mean 'best_of_n'"),
        ({"sampler": "os:system"}, "is not offered here"),
        ({"verifiers": ("os:system",)}, "is not offered here"),
        ({"verifiers": ("clip(model=/etc)",)}, "is not offered here"),
        ({"verifiers": ("shapes_clip:2",)}, "is not offered here"),
        ({"verifiers": ("boxes",)}, "is not offered here"),
        ({"verifiers": ()}, "there is no verifier"),
        ({"held_out": ("pickle.loads",)}, "is not offered here"),
        ({"nfe": 4001}, "budget 4001 is out of range: give 1 to 4000"),
        ({"nfe": 0}, "out of range"),
        ({"nfe": float("nan")}, "is not a number"),
        ({"nfe": "all"}, "is not a number"),
        ({"nfe": None}, "there is no budget"),
        ({"prompt": "a dog\na cat", "nfe": 3000}, "give at most 2000 a prompt"),
        ({"steps": 101}, "steps 101 is out of range"),
        ({"steps": 2.5}, "not a whole number"),
        ({"steps": True}, "is not a number"),
        ({"steps": "many"}, "steps 'many' is not a number"),
        ({"steps": "nan"}, "is not a number"),
        ({"guidance": "1e999"}, "is not a number"),
        ({"guidance": -1}, "out of range"),
        ({"guidance": float("inf")}, "is not a number"),
        ({"seed": -1}, "out of range"),
        ({"options": "candidates"}, "cannot be read: write NAME=VALUE"),
        ({"options": "candidate=4"}, "did you mean 'candidates'"),
        ({"options": "candidates=many"}, "must be a whole number"),
        ({"options": "candidates=1000000000"}, "asks for too many"),
        ({"options": "candidates=-1000000000"}, "asks for too many"),
        ({"options": "candidates=3000\nwave=3000"}, "asks for too many"),
        ({"options": "prune=" + ",".join(["0.5"] * 99)}, "at most 64"),
        ({"sampler": "smc", "options": "proposal=x"}, "can only be set in Python"),
        ({"sampler": "smc", "options": "kernel=" + "x" * 5000}, "at most 64"),
        ({"options": "wave=1;" * 3000}, "3000 lines of options are too many: give at most 64"),
        ({"verifiers": ("shapes_clip",) * 3000}, "3000 verifiers are too many: choose at most 8"),
        ({"verifiers": tuple(map(str, range(9)))}, "9 verifiers are too many: choose at most 8"),
        ({"verifiers": ("shapes_clip",) * 2}, "verifier 'shapes_clip' is chosen twice"),
        ({"verifiers": "shapes_clip" * 3000}, "is not offered here"),
        ({"verifiers": 5}, "verifier '5' is not offered here"),
        ({"held_out": ("shapes",) * 3000}, "3000 held-out verifiers are too many: choose at most 8"),
    ],
)
def test_what_is_refused(queue: JobQueue, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=r"\.") as caught:
        form(**fields).request(queue.offer)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not queue.out.exists()


def test_defaults_are_the_models(queue: JobQueue) -> None:
    asked = DemoForm(STAR, "shapes-video", verifiers=("shapes_video_clip",)).request(queue.offer)
    assert (asked.steps, asked.guidance, asked.frames, asked.held_out) == (12, 2.0, 5, ("none",))
    asked = form(options="candidates=3; wave=2", steps=None, seed=None).request(queue.offer)
    assert asked.sampler_fields == {"candidates": 3, "wave": 2}
    assert (asked.steps, asked.seed, asked.budget) == (20, None, "64nfe")
    asked = form(steps="8", guidance=" ", seed="").request(queue.offer)
    assert (asked.steps, asked.guidance, asked.seed) == (8, 3.0, None)


def test_verifiers_that_need_more_than_a_name_are_not_offered(queue: JobQueue) -> None:
    assert set(registry.found("verifier")) - set(queue.offer.verifiers) == {
        "boxes",
        "calibrated",
        "learned_preview",
        "measured",
        "medoid",
    }


# ---------------------------------------------------------------- a search


def test_the_gallery_grows_best_first(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(nfe=640, options="wave=2"))
    seen: list[Seen] = []
    while not job.over:
        now = job.watch.shown(0)
        if not seen or now.finished > seen[-1].finished:
            seen.append(now)
        time.sleep(0.002)
    assert job.phase == DONE, job.sentence
    counts = [s.finished for s in seen]
    assert len(counts) >= 4
    assert counts == sorted(counts)
    end = job.watch.shown(0)
    assert end.finished == 80
    for look in (*seen, end):
        totals = [row.total for row in look.finals]
        assert totals == sorted(totals, reverse=True)
        assert all(row.image in job.watch.images for row in look.tiles)
    assert job.record is not None
    best = job.record["prompts"][0]["best"]
    assert end.best is not None
    assert (end.best.id, end.best.total) == (best["candidate"], best["total"])
    assert best["total"] == max(row.total for row in end.finals)
    assert end.base is not None
    assert end.base.total == job.record["prompts"][0]["base"]["total"]
    assert job.watch.nfe == job.watch.planned == 640


@pytest.mark.parametrize("previews", [True, False])
def test_candidates_are_seen_before_they_are_scored(tmp_path: Path, monkeypatch: Any, previews: bool) -> None:
    seen, listen = list[Any](), Watch.__call__

    def look(self: Watch, event: Any) -> None:
        listen(self, event)
        now = self.shown(0)
        seen.append((now, self.images.keys() >= {row.image for row in now.under_way}))

    monkeypatch.setattr(Watch, "__call__", look)
    made = JobQueue(offer(MODELS, Limits()), tmp_path / "demo", previews=previews)
    job = done(made.submit(made.session("a"), form()))
    made.close()
    under_way = [now for now, _ in seen if now.under_way]
    assert all(there for _, there in seen)
    assert bool(under_way) == previews
    assert all(now.tiles == now.under_way and not now.finals for now in under_way)
    assert job.watch.shown(0).under_way == ()
    assert (job.watch.nfe, job.record is not None and "preview" in job.record["request"]) == (64, False)


def test_what_is_under_way_has_its_steps_below_and_no_label() -> None:
    watch = Watch(1, estimates=True)
    job = Job(Request(prompts=("a",)), Path("nowhere"), watch)
    media = Media(torch.rand(2, 3, 8, 8))
    watch(Estimated(media, (0, 0), (Candidate(0, "own"), Candidate(1, "prior")), (2, 2), 8))
    assert [item["caption"] for item in component_values.gallery(job, 0)] == ["2/8", "2/8"]
    key = component_values.gallery_rows(job, 0)[1].image
    assert job.finished(key) is None
    assert "2 under way" in html.count(job, 0)


def test_particles_are_seen_on_the_way(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(sampler="smc", nfe=512, steps=8))
    steps: list[int] = []
    while not job.over:
        previews = job.watch.shown(0).previews
        assert len({row.step for row in previews}) <= 1
        steps += [row.step for row in previews[:1] if row.step not in steps]
        time.sleep(0.001)
    assert job.phase == DONE, job.sentence
    assert len(steps) >= 2
    assert steps == sorted(steps)
    assert job.watch.shown(0).previews == ()


def test_what_is_left_is_a_whole_run(queue: JobQueue, capsys: pytest.CaptureFixture[str]) -> None:
    job = done(queue.submit(queue.session("a"), form()))
    assert {"best.png", "base.png", "run.json", "contact.png", "curve.png", "tree.png"} <= set(job.files)
    assert read_metadata(job.files["best.png"])["best"] == job.record["best"]  # type: ignore[index]
    assert main(["show", str(job.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_the_command_gives_the_same(queue: JobQueue, tmp_path: Path) -> None:
    asked = form(
        prompt=f"{STAR}\na green square", sampler="smc", options="particles=4\nwindow=0.5,0.75", seed=None
    )
    job = done(queue.submit(queue.session("a"), replace(asked, nfe=96)))
    assert job.record is not None, job.sentence
    words = shlex.split(html.same(job))
    assert words[:4] == ["genscale", "generate", STAR, "a green square"]
    assert main([*words[1:-1], str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert [p["best"]["candidate"] for p in again["prompts"]] == [
        p["best"]["candidate"] for p in job.record["prompts"]
    ]
    assert (
        Image.open(tmp_path / "again/000-best.png").tobytes()
        == Image.open(job.files["000-best.png"]).tobytes()
    )


@pytest.mark.parametrize(
    "asked",
    [
        Request(("a dog's tail; $HOME",), negative="-ugly", guidance=2.5),
        Request(
            ("a dog",),
            sampler="das",
            sampler_fields={"flatten": True, "particles": None, "window": (0.0, 1.0)},
        ),
        Request(
            ("a dog",), verifiers=("clip", "aesthetic:0.5"), width=32, height=64, pipeline_args={"a": [1]}
        ),
    ],
)
def test_a_command_asks_for_what_its_request_asks_for(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genscale.runs import generate as generation

    found: list[Request] = []

    def generate(run: PreparedRun, *more: Any, **others: Any) -> Any:
        found.append(run.request)
        raise UsageError("seen")

    monkeypatch.setattr(generation, "generate", generate)
    assert main(shlex.split(command(asked))[1:]) == 2
    typed = completed(replace(found[0], model="shapes-flow"))
    assert typed.as_dict() == completed(asked).as_dict()


def test_clips(queue: JobQueue) -> None:
    asked = form("a red circle moving left", model="shapes-video", nfe=32, steps=4)
    job = done(
        queue.submit(queue.session("a"), replace(asked, verifiers=("shapes_video_clip",), held_out=()))
    )
    assert job.phase == DONE, job.sentence
    assert html.pair(job, 0).count("<video") == 2
    assert {"best.mp4", "best.gif", "base.mp4"} <= set(job.files)
    assert html.same(job).startswith("genscale video 'a red circle moving left' --model shapes-video ")
    row = job.watch.shown(0).best
    assert row is not None
    assert Image.open(io.BytesIO(job.watch.images[row.image])).size == (32, 32)


def test_a_search_that_cannot_be_ends_in_one_sentence(queue: JobQueue) -> None:
    job = done(queue.submit(queue.session("a"), form(nfe=3)))
    assert job.phase == REFUSED
    assert "a budget of 3nfe is too small" in job.sentence
    assert not job.folder.exists()
    bad = done(
        queue.submit(
            queue.session("a"), form("a red circle moving left", verifiers=("moving_shapes",), held_out=())
        )
    )
    assert bad.phase == REFUSED
    assert "\n" not in bad.sentence
    assert done(queue.submit(queue.session("a"), form())).phase == DONE


def test_want_of_weights_comes_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genscale.verifiers import clip_checkpoints

    def none(model: str, pretrained: str | None) -> Any:
        raise UsageError(f"CLIP '{model}' cannot be loaded (no network).")

    monkeypatch.setattr(clip_checkpoints, "_open_clip", none)
    queue = JobQueue(offer(MODELS, Limits()), tmp_path, "start it with --download")
    job = done(queue.submit(queue.session("a"), form(verifiers=("clip",))))
    queue.close()
    assert job.phase == REFUSED
    assert job.watch.notes == ["start it with --download"]
    assert "start it with --download" in html.status(job)


def test_a_verifier_in_both_roles_is_remarked_on(queue: JobQueue) -> None:
    job = done(queue.submit(queue.session("a"), form(held_out=("shapes_clip",))))
    assert any("both steers and reports" in note for note in job.watch.notes)
    assert "both steers" in html.status(job)


def test_the_plan_is_what_is_spent(queue: JobQueue) -> None:
    _, found = queue.plan(form(nfe=100))
    assert (found.nfe, found.candidates, found.steps) == (96, 12, 4)
    assert "96 NFE" in html.plan(found, 100, 1)
    job = done(queue.submit(queue.session("a"), form(nfe=100)))
    assert job.watch.nfe == 96
    assert not (queue.out / "plan").exists()


@pytest.mark.slow
def test_the_curve_is_drawn_while_it_runs(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(nfe=1600, options="wave=2"))
    live = LiveCurve(job)
    until(lambda: live.look(0))
    assert not job.over
    first = live.png
    done(job)
    assert live.look(0)
    assert not live.look(0)
    assert first is not None
    assert live.png is not None
    assert first != live.png
    assert Image.open(io.BytesIO(live.png)).width > 400


# ---------------------------------------------------------------- stopping


def test_stop_keeps_the_best_and_the_folder_is_whole(queue: JobQueue) -> None:
    session = queue.session("a")
    job = queue.submit(session, form(nfe=4000, options="wave=2"))
    until(lambda: job.watch.shown(0).finished >= 4)
    job.halt()
    done(job)
    assert job.phase == STOPPED, job.sentence
    seen = job.watch.shown(0)
    assert 4 <= seen.finished < 400
    record = json.loads(job.files["run.json"].read_text())
    assert record["stopped"] == "interrupted"
    assert record["best"]["total"] == max(row.total for row in seen.finals)
    assert read_request.load_folder(job.folder).prompts == (STAR,)
    assert {"best.png", "base.png", "contact.png", "tree.png", "curve.png"} <= set(job.files)
    assert "this is the best after" in html.status(job)


def test_stop_at_once_gives_the_models_own_picture(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(nfe=4000, options="wave=1"))
    until(lambda: job.watch.began)
    job.halt()
    assert done(job).phase == STOPPED, job.sentence
    assert job.watch.shown(0).finished <= 4
    assert job.watch.shown(0).base is not None


def test_a_search_that_waits_is_not_begun_after_a_stop(queue: JobQueue) -> None:
    first = queue.submit(queue.session("a"), form(nfe=2000))
    second = queue.submit(queue.session("b"), form())
    assert queue.ahead(second) == 1
    queue.stop(second)
    assert second.phase == REFUSED  # at once, not when its turn comes
    assert second.sentence == "stopped before it began."
    assert not first.over
    third = queue.submit(queue.session("c"), form())
    assert queue.ahead(third) == 1
    queue.stop(first)
    assert done(first).phase == STOPPED
    assert done(third).phase == DONE
    assert not second.folder.exists()


def test_closing_a_page_ends_its_search(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(nfe=4000, options="wave=1"))
    until(lambda: job.watch.shown(0).finished)
    queue.leave("a")
    assert done(job).phase == STOPPED


def test_a_client_that_left_without_a_word_is_not_searched_for(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it searches or waits; one that is connected is served, however long it takes."""
    for name in "abc":
        queue.presence.heard(name)
    with queue.presence.connected("c"):
        first, second, third = (
            queue.submit(queue.session(name), form(nfe=nfe, options="wave=1"))
            for name, nfe in zip("abc", (4000, 64, 64), strict=True)
        )
        until(lambda: first.watch.began)
        monkeypatch.setattr(presence, "GONE", 0.0)  # only now: a busy machine may take long to begin
        assert done(first).phase == STOPPED
        assert first.watch.shown(0).finished < 500 // 8
        assert done(second).sentence == "its page was closed before it began."
        assert done(third).phase == DONE
        queue.submit(queue.session("d"), form())
    assert set(queue._sessions) == {"c", "d"}  # nothing is kept of the others


def test_a_client_that_asks_is_there(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is since it was heard: else its search would run without anybody who looks for it."""
    monkeypatch.setattr(presence, "GONE", 0.0)
    queue.presence.heard("a")
    job = queue.submit(queue.session("a"), form())
    assert done(job).sentence == jobs.CLOSED
    assert "a" in queue._sessions


def test_a_client_is_forgotten_after_its_search_was_ended(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round its waiting search could begin in between: for a forgotten client nobody looks."""
    first = queue.submit(queue.session("a"), form(nfe=4000, options="wave=1"))
    second = queue.submit(queue.session("b"), form())
    over: list[bool] = []
    monkeypatch.setattr(queue.presence, "forget", lambda name: over.append(second.over))
    queue.leave("b")
    assert over == [True]
    assert second.sentence == jobs.CLOSED
    queue.stop(first)


@pytest.mark.parametrize("keep", [False, True])
def test_what_searches_wrote_goes_unless_it_is_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    """When the page was closed some time ago, when others have followed, and at the end."""
    monkeypatch.setattr(search_folders, "LEFT", 0.0)
    monkeypatch.setattr(jobs, "KEPT", 2)
    queue = JobQueue(offer(MODELS, Limits()), tmp_path, keep=keep)
    left = done(queue.submit(queue.session("a"), form()))
    queue.leave("a")
    assert left.folder.exists()  # until it is looked for the next time
    runs = [done(queue.submit(queue.session("b"), form(seed=n))) for n in range(3)]
    assert left.folder.exists() == left.folder.parent.exists() == keep
    assert [run.folder.exists() for run in runs] == [keep, True, True]
    queue.close()
    assert [run.folder.exists() for run in runs] == [keep] * 3
    assert bool(list(tmp_path.iterdir())) == keep


# ---------------------------------------------------------------- several sessions


def test_searches_run_one_at_a_time_in_order(queue: JobQueue) -> None:
    jobs = [queue.submit(queue.session(name), form(nfe=128)) for name in "abc"]
    assert [queue.ahead(job) for job in jobs][1:] == [1, 2]
    assert "1 search is before yours" in html.status(jobs[1], 1)
    order: list[Job] = []
    while len(order) < 3:
        assert sum(job.begun is not None and not job.over for job in jobs) <= 1
        order += [job for job in jobs if job.over and job not in order]
        time.sleep(0.001)
    assert order == jobs
    assert len({job.folder.parent for job in jobs}) == 3
    assert len({job.token for job in jobs}) == 3


def test_what_one_client_may_have_under_way(queue: JobQueue) -> None:
    queue.offer = replace(queue.offer, limits=Limits(waiting=1))
    jobs = [queue.submit(queue.session("a"), form(nfe=2000))]
    with pytest.raises(UsageError, match="has a search under way"):
        queue.submit(queue.session("a"), form())
    jobs.append(queue.submit(queue.session("b"), form()))
    with pytest.raises(UsageError, match="1 searches are waiting already"):
        queue.submit(queue.session("c"), form())
    assert queue.plan(form())[1] is None  # the device is busy: that is not waited for
    for job in jobs:
        job.halt()
        done(job)
    assert queue.session("c").job is None


def test_pipelines_and_verifiers_are_loaded_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    from genscale.runs import prepared_run

    loads: list[str] = []
    real = prepared_run.load_model

    def load_model(request: Request, images: Any) -> Any:
        loads.append(request.model)
        return real(request, images)

    monkeypatch.setattr(prepared_run, "load_model", load_model)
    both = [done(queue.submit(queue.session(name), form())) for name in "ab"]
    assert loads == ["shapes-flow"]
    assert list(queue._verifiers) == ["shapes_clip", "shapes"]
    assert both[0].record is not None
    assert both[1].record is not None
    assert both[0].record["best"]["total"] == both[1].record["best"]["total"]


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def client(queue: JobQueue) -> Any:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'genscale[demo]'")
    from starlette.testclient import TestClient

    return TestClient(application(queue), base_url="http://127.0.0.1:7860")


def test_files_go_to_whoever_has_the_token(queue: JobQueue, client: Any) -> None:
    mine = done(queue.submit(queue.session("a"), form()))
    other = done(queue.submit(queue.session("b"), form(seed=8)))
    best = client.get(f"/search/{mine.token}/best.png")
    assert best.content == mine.files["best.png"].read_bytes()
    assert best.headers["content-type"] == "image/png"
    tile = mine.watch.shown(0).tiles[0].image
    assert client.get(f"/search/{mine.token}/{tile}.tile").headers["content-type"] == "image/png"
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"/search/{mine.token}/run.zip").content))
    assert {"best.png", "run.json", "archive.jsonl"} <= set(packed.namelist())
    assert packed.read("best.png") == best.content
    secret = queue.out / "secret.png"
    secret.write_bytes(b"no")
    session = other.folder.parent.name
    for path in (
        "/search/guess/best.png",
        f"/search/{session}/best.png",
        f"/search/{mine.token}/../{other.token}/best.png?",
        f"/search/{mine.token}/..%2F..%2Fsecret.png",
        f"/search/{mine.token}/%2e%2e/secret.png",
        f"/search/{mine.token}/{secret}",
        f"/search/{mine.token}/latents",
        f"/search/{mine.token}/nothing.tile",
    ):
        answer = client.get(path)
        assert answer.content != b"no", path
        assert answer.status_code == 404 or answer.content == other.files["best.png"].read_bytes(), path
    assert client.get(f"/search/{mine.token}/..%2F..%2Fsecret.png").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/file=pyproject.toml", "/gradio_api/info",
        "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/openapi.json", "/gradio_api/call/search",
        "/gradio_api/runs", "/login", "/monitoring",
        "/gradio_api//file=/etc/passwd", "/file=/etc/passwd", "/file/etc/passwd", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(client: Any, path: str) -> None:
    assert client.get(path).status_code in (404, 405)
    assert client.post(path, files={"files": b"x" * 10}).status_code in (404, 405)


def test_the_page_names_no_other_host_and_forbids_them(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert "fonts.googleapis" not in page.text
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.fixture
def served(queue: JobQueue) -> Iterator[int]:
    """The port of a server, to which connections can be opened and closed."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'genscale[demo]'")
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    config = uvicorn.Config(application(queue, port=port), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until(lambda: server.started)
    yield port
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["", "queue/data?session_hash=me", "heartbeat/me"])
def test_a_client_without_a_page_is_served_while_it_is_connected(
    queue: JobQueue, served: int, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """By the stream of its messages, or by a heartbeat; one that has neither is not waited for."""
    monkeypatch.setattr(presence, "GONE", 0.5)
    settings = json.loads(_answer(served, "GET", "/config"))
    [search] = [d for d in settings["dependencies"] if d["queue"] is not False and len(d["inputs"]) > 8]
    fields = [STAR, "shapes-flow", "best_of_n", "wave=1", ["shapes_clip"], [], 4000, 4, None, 7]
    asked = {"data": fields, "fn_index": search["id"], "session_hash": "me"}
    _answer(served, "POST", "/gradio_api/queue/join", json.dumps(asked).encode())
    open_ = http.client.HTTPConnection("127.0.0.1", served)
    if stream:
        open_.request("GET", f"/gradio_api/{stream}")
        assert open_.getresponse().read(5)
    until(lambda: queue.session("me").job is not None)
    job = queue.session("me").job
    assert job is not None
    if stream:
        time.sleep(1.5)
        assert not job.over
    open_.close()
    assert done(job).phase == STOPPED
    assert job.watch.shown(0).finished < 500


def _answer(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse().read()
    connection.close()
    return answer


def test_bad_words_are_escaped(queue: JobQueue) -> None:
    job = done(queue.submit(queue.session("a"), form(prompt="<script>alert(1)</script>", held_out=())))
    assert job.phase == DONE, job.sentence
    shown = "".join(draw(job, 0) for draw in (html.pair, html.count, html.lineage, html.slider_note))
    assert "<script" not in shown + html.status(job) + html.downloads(job)
    values = (
        component_values.gallery(job, 0),
        component_values.table(job, 0),
        component_values.downloads(job, 0),
    )
    assert "<script" not in json.dumps(values)
    assert "<script" not in html.refused("<script>")


FILE = {"path": "https://example.com/file.png", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "data", [[FILE], [[FILE]], FILE, [{"path": "/etc/passwd"}], [[[["deep"]]]], [{"__type__": "update"}]]
)
@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict"])
def test_a_field_that_is_no_text_is_refused(
    client: Any, monkeypatch: pytest.MonkeyPatch, path: str, data: Any
) -> None:
    from gradio import processing_utils

    def fetched(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file was fetched or copied")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetched)
    monkeypatch.setattr(processing_utils, "save_file_to_cache", fetched)
    body = {"data": data, "fn_index": 0, "session_hash": "abc"}
    assert client.post(path, json=body).status_code == 400
    assert (
        client.post(path, content=json.dumps(body).replace("gradio.F", "gradio\\u002eF")).status_code == 400
    )


def test_a_body_that_is_no_json_or_too_long_is_refused(client: Any) -> None:
    for body in (b"{", b"[]", b"[" * 100_000, b'{"data": ["' + b"x" * 2**19 + b'"]}'):
        assert client.post("/gradio_api/queue/join", content=body).status_code == 400


def test_components_get_addresses_and_no_paths(queue: JobQueue) -> None:
    job = done(queue.submit(queue.session("a"), form()))
    buttons = [found for found in component_values.downloads(job, 0) if found]
    assert [label for label, _ in buttons] == ["Best image", "Record", "Contact sheet", "All files (zip)"]
    images = [tile["image"] for tile in component_values.gallery(job, 0)]
    for value in (*images, *(component_values.slider(job, 0) or ()), *(file for _, file in buttons)):
        assert value["url"].startswith(f"/search/{job.token}/")
        assert set(value) == {"url", "orig_name"}
    assert str(queue.out) not in json.dumps(component_values.table(job, 0))


# ---------------------------------------------------------------- what the page says


def test_every_sampler_has_plain_words(queue: JobQueue) -> None:
    choices = sampler_choices(queue.offer.samplers)
    assert sorted(name for _, name in choices) == sorted(queue.offer.samplers)
    assert not [label for label, _ in choices if "plug-ins" in label]
    assert ("best_of_n: keep the best of N images (simple)", "best_of_n") in choices
    assert "(plug-ins)" in sampler_choices(["unknown"])[0][0]


def test_before_the_first_image_the_page_says_how_long_it_takes(queue: JobQueue) -> None:
    job = queue.submit(queue.session("a"), form(nfe=2000, options="wave=500"))
    assert "before yours" not in html.status(job)
    until(lambda: job.watch.nfe > 0)
    assert not job.watch.shown(0).tiles
    assert "s left" in html.status(job)
    assert re.search(r"No image is decoded yet: \d+ of 2000 NFE · about \d+ s left", html.count(job, 0))
    job.halt()
    done(job)
    assert job.watch.seconds_left is None


def test_large_images_are_kept_for_the_best_only() -> None:
    watch = Watch(1)
    for candidate in range(2 * MOST):
        row = CandidateRow(candidate, 4, True, float(candidate), {}, {}, 1, f"0-{candidate}-4")
        watch._seen[0].finals.insert(0, row)
        watch._keep_image(row, Image.new("RGB", (512, 384)))
    assert set(watch.large) == {f"0-{n}-4" for n in range(MOST, 2 * MOST)}
    assert Image.open(io.BytesIO(watch.large["0-30-4"])).size == (512, 384)
    assert Image.open(io.BytesIO(watch.images["0-30-4"])).size == (320, 240)


# ---------------------------------------------------------------- the command


def test_a_port_that_is_taken(genscale: Any, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = genscale("demo", "--no-open", "--port", port, "--out", tmp_path / "demo")
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err


def test_a_model_that_is_not_there(genscale: Any, tmp_path: Path) -> None:
    code, _, err = genscale("demo", "--no-open", "--model", tmp_path / "none", "--out", tmp_path / "demo")
    assert code == 2
    assert "none" in err


def test_without_gradio_it_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from genscale.cli.app import main; sys.exit(main(['demo', '--no-open', '--port', '0']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert "pip install 'genscale[demo]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_thread_of_a_closed_queue_ends(tmp_path: Path) -> None:
    queue = JobQueue(offer(MODELS, Limits()), tmp_path)
    job = queue.submit(queue.session("a"), form(nfe=4000, options="wave=1"))
    until(lambda: job.watch.shown(0).finished)
    queue.close()
    assert job.phase == STOPPED
    assert not [t for t in threading.enumerate() if t.name.startswith("genscale-demo") and t.is_alive()]


# ---------------------------------------------------------------- labels


def test_labels_given_in_the_demo_are_those_that_calibrate_verifier_reads(queue: JobQueue) -> None:
    job = done(queue.submit(queue.session("a"), form(sampler="best_of_n", verifiers=("shapes_clip",))))
    first, second, third = (row for row in job.watch.shown(0).finals[:3])
    assert component_values.downloads(job, 0)[-2] is None  # no labels, no file
    for row, right in ((first, True), (second, False), (third, False), (third, False)):
        job.label(row.image, right)  # the same label twice takes it back
    job.label(None, True)
    job.label("0-0-1", True)  # a preview
    captions = [tile["caption"] for tile in component_values.gallery(job, 0)]
    assert ["✓" in captions[0], "✗" in captions[1], captions[2][-1] in "✓✗"] == [True, True, False]
    found = component_values.downloads(job, 0)[-2]
    assert found is not None
    assert found[0] == "Labels"
    run = read_scored(job.folder, ["shapes_clip"])
    assert read_labels(job.files["labels.csv"], [run]) == {(0, 0, first.id): 1.0, (0, 0, second.id): 0.0}
    job.label(first.image, True)
    job.label(second.image, False)
    assert "labels.csv" not in job.files
    assert not (job.folder / "labels.csv").exists()


def test_a_label_given_while_the_search_runs_is_written_at_its_end(tmp_path: Path) -> None:
    labels = Labels()
    labels.toggle(0, 3, True)
    assert labels.path() is None
    assert list(tmp_path.iterdir()) == []
    labels.keep_in(tmp_path)
    assert (tmp_path / "labels.csv").read_text() == "prompt,candidate,label\n0,3,1\n"
    labels.toggle(0, 3, False)  # the other label takes the place of the first
    assert (tmp_path / "labels.csv").read_text() == "prompt,candidate,label\n0,3,0\n"
