"""Names of a run's files: by role and place, or by a template, safe on every file system and never twice."""

from __future__ import annotations

import pytest

from genscale.report.file_names import LONGEST, FileNames, is_template, safe_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a red star", "a_red_star"),
        ("a/b\\c:d*e?f\"g<h>i|j", "a-b-c-d-e-f-g-h-i-j"),
        ("../../etc/passwd", "etc-passwd"),
        ("tab\tand\nline\0end", "tab-and-line-end"),
        ("  .hidden. ", "hidden"),
        ("", "image"),
        ("...", "image"),
        ("CON", "CON_"),
        ("nul.png", "nul.png_"),
        ("preview", "preview_"),
        ("三个绿色的圆", "三个绿色的圆"),
        ("e\u0301", "é"),
        ("\ud800x", "x"),
    ],
)  # fmt: skip
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_long_names_are_cut_between_characters() -> None:
    for text in ("x" * 500, "圆" * 500, "a" + "🐈" * 500):
        made = safe_name(text)
        assert LONGEST - 4 < len(made.encode()) <= LONGEST
        assert text.startswith(made)


@pytest.mark.parametrize(
    "text", ["{prompt:.40}-{seed}", "{index:03d}", "{role}", "{model}-{sampler}-{rank}", "x{prompt}"]
)
def test_templates(text: str) -> None:
    assert is_template(text)


@pytest.mark.parametrize(
    "text",
    [
        "plain", "", "{", "{other}", "{prompt.__class__}", "{prompt[0]}", "{prompt!r}", "{prompt:99999}", "{0}", "{}",
        "{prompt:d}", "{seed:{index}}",
    ],
)  # fmt: skip
def test_what_is_no_template(text: str) -> None:
    assert not is_template(text)


def test_without_a_template_names_are_those_of_before() -> None:
    one, two = FileNames({}, ["a"]), FileNames({}, ["a", "b"])
    assert [one(0, "best"), one(0, "best", 2), one(0, "base")] == ["best", "best-2", "base"]
    assert [two(1, "best"), two(1, "base")] == ["001-best", "001-base"]


def test_names_by_a_template_are_never_the_same() -> None:
    request = {"name": "{prompt:.5}-{seed}", "seed": 7}
    prompts = ["a red star", "a red ring", "A RED RING"]
    names = FileNames(request, prompts)
    made = [names(i, role, rank) for i in range(3) for role, rank in (("best", 1), ("best", 2), ("base", 1))]
    assert made[:3] == ["a_red-7", "a_red-7-2", "a_red-7-base"]
    assert made[3:6] == ["a_red-7-3", "a_red-7-2-2", "a_red-7-base-2"]
    assert len({name.lower() for name in made}) == 9
    again = FileNames(request, prompts)
    assert [
        again(i, role, rank) for i in range(3) for role, rank in (("best", 1), ("best", 2), ("base", 1))
    ] == made
    whole = FileNames(
        {"name": "{index}{role}{rank}{model}{sampler}", "model": "o/m", "sampler": "smc"}, prompts
    )
    assert whole(1, "base") == "1base1msmc"
