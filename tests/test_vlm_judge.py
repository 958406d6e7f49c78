"""`vlm_judge` against a stub server: slow, failing, out-of-order, malformed and rate-limited answers all end right."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.media import Media
from genscale.pipelines import http_calls
from genscale.pipelines.http_calls import RemoteError
from genscale.verifiers.judge_answers import read_parts
from genscale.verifiers.tournament import SPAN, pairings, tie_breaks
from genscale.verifiers.vlm_judge import VlmJudge
from tests.chat_service import Service, score_of, serving
from tests.generators import seeded

LEVELS = [10, 240, 77, 130, 30, 199, 5, 164]
NAMES = ("alignment", "quality", "aesthetics")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, which take no time."""
    found: list[float] = []
    tried = http_calls._tried
    monkeypatch.setattr(
        http_calls, "_tried", lambda request, patience, sleep: tried(request, patience, found.append)
    )
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GENSCALE_CACHE", str(tmp_path / "user-cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def greys(levels: list[int]) -> Media:
    return Media(torch.tensor(levels)[:, None, None, None].expand(-1, 3, 8, 8) / 255)


def expected(levels: list[int], weights: tuple[float, ...] = (2, 1, 1)) -> Tensor:
    rows = [[score_of(level)[name] for name in NAMES] for level in levels]
    return torch.tensor(rows, dtype=torch.float64) @ torch.tensor(weights, dtype=torch.float64) / sum(weights)


def judge(service: Service, **options: Any) -> VlmJudge:
    return VlmJudge(url=service.url, **({"cache": None} | options))


def scores(service: Service, levels: list[int] = LEVELS, **options: Any) -> Tensor:
    return judge(service, **options)(greys(levels), ["a grey wall"] * len(levels))


def test_every_image_gets_the_weighted_mean_of_its_own_numbers() -> None:
    with serving() as service:
        torch.testing.assert_close(scores(service), expected(LEVELS))
        other = scores(service, axes=("quality", "aesthetics:3"))
        torch.testing.assert_close(other, expected(LEVELS, (0, 1, 3)))
        one = judge(service).judged(greys([77]), ["a wall"])[0]
        assert one is not None
        assert one.reason == "grey 77"
        assert one.numbers == pytest.approx(score_of(77))
    said = service.bodies[0]["messages"][0]["content"]
    assert '"a grey wall"' in said[-1]["text"]
    assert said[-1]["text"].index('"reason"') < said[-1]["text"].index('"alignment"')
    assert service.bodies[0]["model"] == "stub"


def test_answers_that_come_in_another_order() -> None:
    turned = sorted(LEVELS)
    with serving(lambda level, before: f"wait {0.3 * (1 - turned.index(level) / 8):.2f}") as service:
        found = scores(service, turned)
    assert service.answered != turned
    torch.testing.assert_close(found, expected(turned))


TROUBLES = [
    *("status 429 2", "status 503", "status 500", "close", "cut", "garbage", "empty", "wait 2"),
    *(
        "say I would rather not.",
        'say {"alignment": 3}',
        'say {"alignment": 11, "quality": 3, "aesthetics": 4}',
    ),
]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_server_in_trouble_is_asked_again(trouble: str, waits: list[float]) -> None:
    with serving(lambda level, before: trouble if before < 2 and level % 2 else None) as service:
        found = scores(service, answer_timeout=0.5 if "wait" in trouble else 20.0)
    torch.testing.assert_close(found, expected(LEVELS))
    assert all(n == (3 if level % 2 else 1) for level, n in service.asked.items())
    if trouble == "status 429 2":
        assert set(waits) == {2.0}
    if trouble.startswith("say"):  # the model is told what was wrong
        assert [m["role"] for m in service.bodies[-1]["messages"]] in (
            ["user"],
            ["user", "assistant", "user"],
        )
        assert any(len(body["messages"]) == 3 for body in service.bodies)


@pytest.mark.parametrize(
    "trouble", ["status 502", "status 429 500", "close", "empty", "say no", "status 400"]
)
def test_images_without_an_answer_have_no_score_and_the_others_theirs(
    trouble: str, waits: list[float]
) -> None:
    with (
        serving(lambda level, before: trouble if level % 2 else None) as service,
        pytest.warns(UserWarning, match="4 of 8 questions have no answer") as said,
    ):
        found = scores(service, [10, 240, 77, 130, 31, 199, 5, 164], answer_retries=1)
    assert "\n" not in str(said[0].message)
    lost = torch.tensor([False, False, True, False, True, True, True, False])
    assert torch.equal(found.isnan(), lost)
    torch.testing.assert_close(found[~lost], expected([10, 240, 130, 164]))


def test_a_search_drops_those_candidates_and_goes_on(waits: list[float]) -> None:
    def brightness(media: Media, prompts: list[str]) -> list[float]:
        return [float(p.mean()) for p in media.pixels]

    levels = [round(255 * v) for v in _finals(genscale.scale(seeded, candidates=8, verifier=brightness))]
    lost = set(sorted(set(levels))[:3])
    kept = [level for level in levels if level not in lost]
    with serving(lambda level, before: "say nothing" if level in lost else None) as service:
        found = genscale.scale(seeded, candidates=8, verifier=judge(service)).search("a", seed=100)
    assert len(found.dropped()) == 8 - len(kept) > 0
    assert "vlm_judge" in found.dropped()[0].where
    assert [e.total for e in found.searches[0].finals] == pytest.approx(expected(kept).tolist())
    with serving(lambda level, before: "say nothing") as service, pytest.raises(AllCandidatesFailed):
        genscale.scale(seeded, candidates=2, verifier=judge(service)).search("a", seed=100)


def _finals(search: Any) -> list[float]:
    return [e.total for e in search.search("a", seed=100).searches[0].finals]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("status 401", "status 401: the stub says no"),
        ("status 404", "status 404.*often ends in /v1"),
        ("status 400", "status 400"),  # for all images: it is the request's fault
    ],
)
def test_what_no_image_can_help_is_raised_in_one_sentence(trouble: str, why: str) -> None:
    with serving(lambda level, before: trouble) as service, pytest.raises(RemoteError, match=why) as caught:
        scores(service)
    assert "\n" not in str(caught.value)
    assert max(service.asked.values()) == 1  # nothing was asked again


def test_sixty_four_images_eight_at_a_time_take_an_eighth_of_the_rounds() -> None:
    """The stub answers only when eight wait, so fewer at a time would never be answered."""
    levels = list(range(100, 164))
    with serving(together=8) as service:
        found = scores(service, levels)
    torch.testing.assert_close(found, expected(levels))
    assert (service.requests, service.waves, service.most) == (64, 8, 8)
    assert service.waves < 64 / 5
    with serving(lambda level, before: "wait 0.01") as service:
        scores(service, levels[:12], at_once=1)
    assert service.most == 1  # so that the count above can tell


@pytest.mark.slow
def test_a_search_asks_eight_at_a_time() -> None:
    pipe = genscale.load_pipeline("shapes-flow")
    with serving(together=8) as service:
        better = genscale.scale(pipe, "best_of_n", judge(service), candidates=16, batch_size=16)
        found = better("a red star", num_inference_steps=1, guidance_scale=3.0).search
    assert len(found.searches[0].finals) == 16
    assert (service.requests, service.waves) == (16, 2)


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    with serving() as service:
        first = scores(service, cache=str(folder))
        assert service.requests == len(LEVELS)
        again = scores(service, cache=str(folder), at_once=3, answer_timeout=7.0)
        one = scores(service, cache=str(folder), axis="quality")
        assert service.requests == len(LEVELS)
        assert torch.equal(first, again)
        torch.testing.assert_close(one, expected(LEVELS, (0, 1, 0)))
        for change in ({"rubric": "Be kind."}, {"axes": ("quality",)}, {"temperature": 0.5}, {"model": "b"}):
            before = service.requests
            scores(service, [10], cache=str(folder), **change)
            assert service.requests == before + 1, change
        judge(service, cache=str(folder))(greys([10]), ["another prompt"])
        assert service.requests == before + 2
        files = sorted(folder.rglob("*.json"))
        assert len(files) == len(LEVELS) + 5
        for file in files:
            file.write_bytes(b"{ damaged")
        assert torch.equal(scores(service, cache=str(folder)), first)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".partial")]


def test_axes_in_columns_of_their_own_cost_one_request_an_image(tmp_path: Path) -> None:
    with serving() as service:
        parts = [(judge(service, cache=str(tmp_path), axis=name), weight) for name, weight in
                 zip(NAMES, (2.0, 1.0, 1.0), strict=True)]  # fmt: skip
        found = genscale.scale(seeded, candidates=6, verifier=parts).search("a", seed=100)
        entries = found.searches[0].finals
        assert service.requests == 6
    assert [list(e.scores) for e in entries] == [[f"vlm_judge({name})" for name in NAMES]] * 6
    for entry in entries:
        alignment, quality, aesthetics = entry.scores.values()
        assert entry.total == pytest.approx(2 * alignment + quality + aesthetics)
        assert quality == pytest.approx(10 - alignment)


def test_equal_images_are_asked_about_once_and_kept_in_the_users_cache(tmp_path: Path) -> None:
    with serving() as service:
        found = scores(service, [10, 20, 10, 10], cache="user")
        assert service.requests == 2
    assert torch.equal(found[[0, 0]], found[[2, 3]])
    assert len(list((tmp_path / "user-cache" / "answers").rglob("*.json"))) == 2


def test_a_malformed_answer_is_not_kept(tmp_path: Path) -> None:
    with serving(lambda level, before: "say hm") as service:
        assert scores(service, [10, 20], cache=str(tmp_path / "c")).isnan().all()
    assert list((tmp_path / "c").rglob("*.json")) == []


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret-0123")
    with serving() as service:
        asking = judge(service, key_from="STUB_KEY", cache=str(tmp_path / "cache"))
        asking.prepare(["a"], torch.device("cpu"))
        found = genscale.scale(seeded, candidates=2, verifier=asking, out=tmp_path / "run").search(
            "a", seed=1
        )
        found.save(tmp_path / "run")
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer secret-0123"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"secret-0123" not in path.read_bytes(), path
    assert b"secret" not in pickle.dumps(asking) + repr(asking).encode()
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(UsageError, match="STUB_KEY is not set"):
        asking.prepare(["a"], torch.device("cpu"))


def test_the_server_is_looked_for_before_anything_is_spent() -> None:
    cpu = torch.device("cpu")
    with serving() as service:
        judge(service).prepare(["a"], cpu)
        assert service.requests == 0
        service.models = ["one", "two"]
        with pytest.raises(UsageError, match="it has one, two: give model=NAME"):
            judge(service).prepare(["a"], cpu)
        judge(service, model="two").prepare(["a"], cpu)
    with pytest.raises(UsageError, match="cannot be asked"):
        judge(service).prepare(["a"], cpu)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "begins with http"),
        ({"url": "http://me:secret@host/v1"}, "key_from"),
        ({"model": "a"}, "give its url"),
        ({"url": "http://h/v1", "at_once": 0}, "at_once=0"),
        ({"answer_timeout": 0.0}, "answer_timeout"),
        ({"axes": ("a", "a")}, "different names"),
        ({"axes": ("alignment:-1",)}, "cannot be read"),
        ({"axes": ("reason",)}, "cannot be read"),
        ({"axis": "style"}, "none of its axes"),
        ({"ties": 1}, "0, or 2 or more"),
        ({"frames": 0}, "frames=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        VlmJudge(**options)
    assert "secret" not in str(caught.value)


def test_videos_are_shown_by_frames_in_order() -> None:
    clip = torch.arange(0, 250, 25)[None, :, None, None, None].expand(2, -1, 3, 8, 8) / 255
    with serving(say=lambda text, levels: json.dumps(dict.fromkeys(NAMES, levels[0] / 100))) as service:
        judge(service, frames=3)(Media(clip), ["a", "b"])
        parts = service.bodies[0]["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["image_url"] * 3 + ["text"]
    assert "3 frames" in parts[-1]["text"]


# ---------------------------------------------------------------- what models write

WRITTEN = [
    '{"reason": "fine", "alignment": 7, "quality": 4.5, "aesthetics": 0}',
    'Sure!\n```json\n{"reason": "a {curly} word", "alignment": "7", "quality": "4.5/10", "aesthetics": 0}\n```\nDone.',
    '<think>{"alignment": 1, "quality": 1, "aesthetics": 1}</think>{"Alignment": 7, "Quality": 4.5, "AESTHETICS": 0.0}',
    '{"scores": {"alignment": {"score": 7}, "quality": 4.5, "aesthetics": "0 out of 10"}}',
    "{'reason': 'single quotes', 'alignment': 7, 'quality': 4.5, 'aesthetics': 0,}",
    "**Alignment**: 7/10\n- quality score: 4.5\nAesthetics = 0",
    '{"alignment": 2, "quality": 2, "aesthetics": 2} No: {"alignment": 7, "quality": 4.5, "aesthetics": 0}',
]
NOT_WRITTEN = [
    "",
    "I cannot see the picture.",
    '{"alignment": 7, "quality": 4.5}',
    '{"alignment": 7, "quality": 4.5, "aesthetics": null}',
    '{"alignment": 7, "quality": 4.5, "aesthetics": true}',
    '{"alignment": 7, "quality": 4.5, "aesthetics": NaN}',
    '{"alignment": 7, "quality": 45, "aesthetics": 1}',
    '{"alignment": 7, "quality": -1, "aesthetics": 1}',
    '{"alignment": [7], "quality": 1, "aesthetics": 1}',
    "{" * 5000,
]


@pytest.mark.parametrize("text", WRITTEN)
def test_numbers_are_read_whatever_stands_around_them(text: str) -> None:
    assert read_parts(text, NAMES, 0, 10).numbers == {"alignment": 7, "quality": 4.5, "aesthetics": 0}


@pytest.mark.parametrize("text", NOT_WRITTEN)
def test_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_parts(text, NAMES, 0, 10)


# ---------------------------------------------------------------- ties


def same(text: str, levels: list[int]) -> str:
    """Every image alike; of two the brighter."""
    if len(levels) == 2:
        return json.dumps({"better": 1 if levels[0] > levels[1] else 2})
    return json.dumps(dict.fromkeys(NAMES, 7))


def first(text: str, levels: list[int]) -> str:
    """Every image alike; of two the first."""
    return json.dumps({"better": 1} if len(levels) == 2 else dict.fromkeys(NAMES, 7))


def test_ties_are_broken_and_the_order_of_totals_is_kept() -> None:
    with serving(say=same) as service:
        found = scores(service, ties=8)
        assert service.requests == len(LEVELS) * len(LEVELS)  # one each, and both orders of all pairs
    assert found.argsort().tolist() == torch.tensor(LEVELS).argsort().tolist()
    assert float((found - 7).abs().max()) == pytest.approx(SPAN / 2)
    with serving(say=same) as service:
        assert scores(service).unique().tolist() == [7]


def test_a_preference_for_a_position_cancels() -> None:
    with serving(say=first) as service:
        assert scores(service, ties=8).unique().tolist() == [7]
    one_order = [1.0 if pair[0] < pair[1] else None for pair in [(0, 1), (1, 0)]]
    assert tie_breaks([7, 7], ["a", "a"], 2, lambda pairs: list(one_order)) == [SPAN / 2, -SPAN / 2]


def test_only_equal_totals_of_one_prompt_are_compared() -> None:
    seen: list[tuple[int, int]] = []

    def compare(pairs: Any) -> list[float | None]:
        seen.extend(pairs)
        return [None if 3 in pair else 0.0 for pair in pairs]

    found = tie_breaks([5, 5, 5, 5, 6, math.nan, math.nan], ["a", "a", "b", "a", "a", "a", "a"], 4, compare)
    assert {frozenset(pair) for pair in seen} == {frozenset(p) for p in [(0, 1), (0, 3), (1, 3)]}
    assert found == [0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("n", "most"), [(2, 2), (5, 4), (5, 8), (6, 4), (9, 3), (12, 2)])
def test_everybody_meets_as_many(n: int, most: int) -> None:
    pairs = pairings(range(n), most)
    meets = [sum(i in pair for pair in pairs) for i in range(n)]
    assert len(set(map(frozenset, pairs))) == len(pairs)
    assert set(meets) == {n - 1 if n - 1 <= most else most - most % 2}


# ---------------------------------------------------------------- on the command line


def test_a_server_is_written_behind_a_colon() -> None:
    from genscale.runs.verifier_specs import needs_trust, plugin_of, weighted_verifiers

    spec = "vlm_judge:http://localhost:8000/v1,model=qwen2.5vl:7b,axes=alignment:2,quality"
    [(made, weight)] = weighted_verifiers([spec])
    assert weight == 1
    inner = made.identity
    assert (inner.url, inner.model) == ("http://localhost:8000/v1", "qwen2.5vl:7b")
    assert inner.axes == ("alignment:2", "quality")
    assert made.remote
    assert made.backbone == "qwen2.5vl:7b"
    [(made, weight)] = weighted_verifiers(["vlm_judge(url=https://h/v1/chat/completions,model=m):0.5"])
    assert (weight, made.identity.url) == (0.5, "https://h/v1")
    assert needs_trust([spec, "clip", "vlm_judge", "vlm_judge(url=https://h/v1)"]) == [
        spec,
        "vlm_judge(url=https://h/v1)",
    ]
    with pytest.raises(UsageError, match="a server"):
        plugin_of(spec)


def test_it_is_a_value() -> None:
    made = VlmJudge(url="http://h/v1", model="m")
    assert copy.deepcopy(made) == made
    assert hash(copy.deepcopy(made)) == hash(made)
    assert pickle.loads(pickle.dumps(made)) == made
