"""`unified_reward`: grades and comparisons in its published form, from a server and from a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.tournament import SPAN
from genscale.verifiers.unified_reward import NAMES, UnifiedReward
from tests.chat_service import serving
from tests.test_chat_model import reciting_model
from tests.test_verifiers import noise
from tests.test_vlm_judge import greys
from tests.test_vqa_score import saved

LEVELS = [10, 240, 77, 130, 30]


def grades(level: int) -> dict[str, float]:
    return dict(zip(NAMES, (1 + level / 100, 1 + (level % 7) / 2, 3.123400002670288), strict=True))


def say(text: str, levels: list[int]) -> str:
    """The published forms; of two images the brighter has the larger share, and the first a little more."""
    if len(levels) == 2:
        first = (levels[0] + 1) / (sum(levels) + 1)
        return "\n\n".join(
            f"{n.capitalize()} Score:\n Image 1: {first}\n Image 2: {1 - first}" for n in NAMES
        )
    return "\n".join(f"{n.capitalize()} Score (1-5): {v}" for n, v in grades(levels[0]).items())


def asked(service: Any, **options: Any) -> UnifiedReward:
    return UnifiedReward(url=service.url, cache=None, **options)


def test_the_score_is_the_mean_grade_or_one_of_them() -> None:
    media, prompts = greys(LEVELS), ["a wall"] * 5
    with serving(say=say) as service:
        found = asked(service)(media, prompts)
        style = asked(service, axis="alignment")(media, prompts)
    assert found.tolist() == pytest.approx([sum(grades(level).values()) / 3 for level in LEVELS])
    assert style.tolist() == pytest.approx([grades(level)["alignment"] for level in LEVELS])
    text = service.bodies[0]["messages"][0]["content"][-1]["text"]
    assert "Text Caption: [a wall]" in text
    assert "Coherence Score (1-5): Y" in text


def test_ties_are_broken_by_its_own_comparisons() -> None:
    def tied(text: str, levels: list[int]) -> str:
        return say(text, levels if len(levels) == 2 else [50])

    with serving(say=tied) as service:
        found = asked(service, ties=4)(greys(LEVELS), ["a wall"] * 5)
        assert service.requests == 5 + 5 * 4
    assert found.argsort().tolist() == torch.tensor(LEVELS).argsort().tolist()
    assert float((found - sum(grades(50).values()) / 3).abs().max()) < SPAN / 2
    with serving(say=lambda text, levels: tied(text, [9, 9] if len(levels) == 2 else levels)) as service:
        same = asked(service, ties=4)(greys(LEVELS), ["a wall"] * 5)
    assert same.tolist() == pytest.approx(
        [sum(grades(50).values()) / 3] * 5
    )  # its liking for the first cancels


@pytest.mark.parametrize(
    "answer",
    [
        "Alignment Score (1-5): 3\nCoherence Score (1-5): 2",
        "Alignment Score (1-5): 6\nCoherence Score (1-5): 2\nStyle Score (1-5): 2",
        "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z",
    ],
)
def test_grades_that_are_missing_or_out_of_range_are_no_score(answer: str) -> None:
    with (
        serving(say=lambda text, levels: answer) as service,
        pytest.warns(UserWarning, match="have no answer"),
    ):
        assert asked(service)(greys([5]), ["a"]).isnan().all()


@pytest.mark.parametrize("change", [("Image 2", "Image 3"), ("0.", "7."), ("Style Score", "Stylistic Score")])
def test_comparisons_that_do_not_say_leave_a_tie(change: tuple[str, str]) -> None:
    def broken(text: str, levels: list[int]) -> str:
        return say(text, levels).replace(*change) if len(levels) == 2 else say(text, [50])

    with serving(say=broken) as service, pytest.warns(UserWarning, match="2 of 2 questions have no answer"):
        found = asked(service, ties=2)(greys([3, 200]), ["a"] * 2)
    assert found.tolist() == pytest.approx([sum(grades(50).values()) / 3] * 2)


def test_a_loaded_model_grades(tmp_path: Path) -> None:
    folder = reciting_model(saved(tmp_path / "a", "qwen3_vl"), tmp_path / "b", say("", [77]))
    judge = UnifiedReward(checkpoint=folder, cache=None, max_tokens=4)
    found = judge(Media(noise(3, 3, 48, 36)), ["a", "two dogs", "c"])
    assert found.tolist() == pytest.approx([sum(grades(77).values()) / 3] * 3)
    assert judge.backbone == folder


def test_templates_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Grade {prompt}, please.")
    with serving(say=say) as service:
        asked(service, template=str(tmp_path / "t.txt"))(greys([5]), ["{a} cat"])
    assert service.bodies[0]["messages"][0]["content"][-1]["text"] == "Grade {a} cat, please."
    (tmp_path / "t.txt").write_text("Grade it.")
    with pytest.raises(UsageError, match="does not name the prompt"):
        UnifiedReward(template=str(tmp_path / "t.txt"))
    with pytest.raises(UsageError, match="none of its axes alignment, coherence, style"):
        UnifiedReward(axis="quality")
    with pytest.raises(UsageError, match="for videos"):
        UnifiedReward(url="http://h/v1", model="m")(Media(torch.zeros(1, 2, 3, 8, 8)), ["a"])
