"""Messages that quote a prompt stay one short line."""

import pytest

import genscale
from genscale.errors import did_you_mean, quoted
from genscale.toy import moving_shapes, shapes
from genscale.verifiers.boxes_file import read_boxes
from genscale.verifiers.regions import Box
from genscale.verifiers.video_clip import word_indices

LONG = "a cat\nand\u2028a dog\x1b[31m " * 5000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red star", "'a red star'"),
        ("三个 قطة 🐈", "'三个 قطة 🐈'"),
        ("a\n b\u2028c", "'a b c'"),
        ("\x1b[31m\x00", r"'\x1b[31m\x00'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 60, f"'{'x' * 60}'"),
        ("x" * 61, f"'{'x' * 57}...'"),
        (" " * 500, "'...'"),
        (None, "'None'"),
    ],
)
def test_quoted(text, shown):
    assert quoted(text) == shown


def boxes(tmp_path):
    (tmp_path / "b.json").write_text(
        '{"x": [{"text": "a", "box": [0, 0, 1, 1]}]}'.replace('"x"', '"' + "x" * 9999 + '"')
    )
    read_boxes(tmp_path / "b.json", ["a"])


def no_candidate(tmp_path):
    pipe = genscale.load_pipeline("shapes-flow")
    genscale.scale(pipe, "best_of_n", "shapes_clip", budget="1nfe")(LONG, num_inference_steps=2)


def other_run(tmp_path):
    pipe = genscale.load_pipeline("shapes-flow")
    for text in (LONG, LONG + "!"):
        scaled = genscale.scale(pipe, "best_of_n", "shapes_clip", candidates=1, out=tmp_path / "run")
        scaled(text, num_inference_steps=1)


CASES = {
    "shapes": lambda _: shapes.parse(LONG),
    "moving shapes": lambda _: moving_shapes.parse(LONG),
    "video clip": lambda _: word_indices([LONG]),
    "one long word": lambda _: word_indices(["x" * 9999]),
    "box": lambda _: Box(LONG),
    "mask": lambda _: Box(LONG, mask=__file__),
    "corners": lambda _: Box(LONG, (0, 0, 2, 2)),
    "boxes file": boxes,
    "small budget": no_candidate,
    "another run": other_run,
    "texts": lambda _: genscale.scale(genscale.load_pipeline("shapes-flow"))(prompt_embeds=1, texts={LONG}),
}


@pytest.mark.parametrize("case", CASES)
def test_messages_that_quote_a_text_are_short(case, tmp_path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - UsageError is one; the toy worlds raise others
        CASES[case](tmp_path)
    message = str(caught.value).replace(str(tmp_path), "").replace(__file__, "")
    assert len(message) < 700
    assert message.isprintable()


def test_a_near_name_is_quoted_alike():
    assert did_you_mean("xxx", ["xxx" + "z" * 500]).startswith(" (did you mean 'xxxz")
    assert len(did_you_mean("xxx", ["xxx" + "z" * 500])) < 90
