"""The sampler "auto": which one it stands for, on the command line, in Python and in the demo, and what is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.plugins.automatic import sampler_for
from genscale.runs.complete_request import completed, sampler_of
from genscale.runs.request import Request
from genscale.samplers.accept_reject import AcceptReject
from genscale.samplers.best_of_n import BestOfN
from tests.zoo import ZOO

PIPE = ZOO["flux"].build()


def light(media: Any, prompts: Any) -> Any:
    return media.pixels.mean((1, 2, 3))


class Sure:
    """Says that every image is right with the probability .95."""

    answers_probability, judges_videos = True, True

    def __call__(self, media: Any, prompts: Any) -> Any:
        return torch.full((len(media),), 0.95)


SURE = f"{__name__}:SURE_ONE"
SURE_ONE = Sure()


def test_what_it_stands_for() -> None:
    assert sampler_for("auto", True) == "accept_reject"
    assert sampler_for("auto", False) == "best_of_n"
    assert sampler_for("smc", True) == "smc"


@pytest.mark.parametrize(
    ("verifier", "more", "sampler"),
    [
        (SURE_ONE, {}, AcceptReject()),
        ((SURE_ONE, 1.0), {}, AcceptReject()),
        ((SURE_ONE, 2.0), {}, BestOfN()),
        ([SURE_ONE, light], {}, BestOfN()),
        (light, {}, BestOfN()),
        (SURE_ONE, {"select": light}, AcceptReject()),
        (SURE_ONE, {"candidates": 3}, AcceptReject(paths=3)),
        (light, {"candidates": 3}, BestOfN(3)),
        (SURE_ONE, {"ensemble": "rank"}, BestOfN()),
    ],
)
def test_in_python_it_is_chosen_by_the_verifier(verifier: Any, more: dict[str, Any], sampler: Any) -> None:
    for name in ({}, {"sampler": "auto"}):  # it is the default
        assert genscale.scale(PIPE, verifier=verifier, **name, **more).settings.sampler == sampler


def test_an_option_that_the_chosen_one_has_not_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"'back' is one of accept_reject, and .* name the sampler accept_reject"
    ):
        genscale.scale(PIPE, "auto", light, back=0.5)
    with pytest.raises(UsageError, match=r"'prune' is one of best_of_n, and .* name the sampler best_of_n"):
        genscale.scale(PIPE, "auto", SURE_ONE, prune=(0.5,))
    with pytest.raises(UsageError, match="sampler 'best_of_n' has no option 'back'"):
        genscale.scale(PIPE, "best_of_n", light, back=0.5)


@pytest.mark.parametrize("words", [("--prune", "0.5"), ("--prune=0.5",), ("--set", "prune=0.5")])
def test_the_command_line_names_the_sampler_of_an_option(genscale: Any, words: tuple[str, ...]) -> None:
    code, _, err = genscale("plan", "a red star", "--verifier", SURE, *words)
    assert code == 2
    assert "name the sampler best_of_n" in err
    assert err.count("\n") == 1


def test_elsewhere_the_name_is_no_sampler() -> None:
    with pytest.raises(UsageError, match="name one of the two"):
        registry.make("sampler", "auto", {})


@pytest.mark.parametrize(
    ("request_", "sampler"),
    [
        (Request(), "best_of_n"),
        (Request(verifiers=(SURE,)), "accept_reject"),
        (Request(verifiers=(f"{SURE}:2",)), "best_of_n"),
        (Request(verifiers=(SURE, "shapes_clip")), "best_of_n"),
        (Request(verifiers=(SURE,), ensemble="rank"), "best_of_n"),
        (Request(verifiers=(SURE,), boxes="boxes.json"), "best_of_n"),
        (Request(verifiers=(SURE,), sampler="smc"), "smc"),
        (Request(verifiers=(SURE,), model="shapes-video"), "accept_reject"),
        (Request(model="shapes-video"), "best_of_n"),
    ],
)
def test_a_request_holds_the_one_that_was_chosen(request_: Request, sampler: str) -> None:
    assert sampler_of(request_) == sampler
    assert completed(request_).sampler == sampler
    assert completed(completed(request_)) == completed(request_)


def test_of_frames_only_verifiers_of_videos_answer_a_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sure, "judges_videos", False)
    assert sampler_of(Request(verifiers=(SURE,), model="shapes-video")) == "best_of_n"
    assert sampler_of(Request(verifiers=(SURE,), model="owner/name", clips=True)) == "best_of_n"


def test_a_run_records_what_was_chosen_and_whether_one_was_accepted(genscale: Any, tmp_path: Any) -> None:
    words = ("a red star", "--steps", 4, "--seed", 1, "--budget", "40nfe", "--json")
    code, _, err = genscale("generate", *words, "--verifier", SURE, "--out", tmp_path / "sure")
    assert code == 0, err
    request = json.loads((tmp_path / "sure" / "request.json").read_text())
    record = json.loads((tmp_path / "sure" / "run.json").read_text())
    assert request["sampler"] == record["sampler"]["name"] == "accept_reject"
    assert record["prompts"][0]["accepted"] == {"least": 0.9, "candidate": 0}
    assert record["prompts"][0]["nfe"] == 8
    code, told, err = genscale(
        "generate",
        *words[:-1],
        "--verifier",
        SURE,
        "--accept",
        0.99,
        "--paths",
        2,
        "--out",
        tmp_path / "strict",
    )
    assert code == 0, err
    assert "nothing was accepted: no candidate reached 0.99" in told
    code, told, _ = genscale("generate", *words[:-1], "--verifier", "shapes_clip", "--out", tmp_path / "clip")
    assert "nothing was accepted" not in told
    record = json.loads((tmp_path / "clip" / "run.json").read_text())
    assert record["sampler"]["name"] == "best_of_n"
    assert "accepted" not in record["prompts"][0]
