"""`question_list`: the grammar, files, dependencies by brute force, and answers of a loaded model and of a server."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.question_file import read_questions
from genscale.verifiers.question_list import QuestionList
from genscale.verifiers.question_rules import questions_of
from genscale.verifiers.questions import YesNo, check_questions, counted
from genscale.verifiers.yes_no import read_yes, with_probabilities
from tests.chat_service import serving
from tests.test_verifiers import noise
from tests.test_vlm_judge import greys
from tests.test_vqa_score import eight_bit, plain, saved, words

PROMPT = "a red star left of a blue ring"
QUESTIONS = [
    ("Is there a star in the image?", ()),
    ("Is there a ring in the image?", ()),
    ("Is there a red star in the image?", (0,)),
    ("Is there a blue ring in the image?", (1,)),
    ("Is the red star left of the blue ring?", (0, 1)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("qwen"), "qwen3_vl")


# ---------------------------------------------------------------- the grammar

READ = {
    PROMPT: [text for text, _ in QUESTIONS],
    "three green circles": [
        "Are there circles in the image?",
        "Are there green circles in the image?",
        "Are there exactly three green circles in the image?",
    ],
    "A photo of an orange next to a glass of water.": [
        "Is there an orange in the image?",
        "Is there a glass of water in the image?",
        "Is the orange next to the glass of water?",
    ],
    "a man wearing a hat and holding 2 umbrellas": [
        "Is there a man in the image?",
        "Is there a hat in the image?",
        "Are there umbrellas in the image?",
        "Are there exactly two umbrellas in the image?",
        "Is the man wearing the hat?",
        "Is the man holding the umbrellas?",
    ],
    "a cat and a dog running": [
        "Is there a cat in the image?",
        "Is there a dog in the image?",
        "Is the dog running?",
    ],
    "a blue swimming pool": [
        "Is there a swimming pool in the image?",
        "Is there a blue swimming pool in the image?",
    ],
    "a sports car parked in front of people": [
        "Is there a sports car in the image?",
        "Are there people in the image?",
        "Is the sports car parked in front of the people?",
    ],
    "the ball is red and shiny": [
        "Is there a ball in the image?",
        "Is there a shiny ball in the image?",
        "Is there a red ball in the image?",
    ],
    "a red and white umbrella": [
        "Is there an umbrella in the image?",
        "Is there a red umbrella in the image?",
        "Is there a white umbrella in the image?",
    ],
    "exquisite": ["Does the image show 'exquisite'?"],
    "": ["Does the image show ''?"],
}


@pytest.mark.parametrize("prompt", READ)
def test_what_the_grammar_asks(prompt: str) -> None:
    assert [q.text for q in questions_of(prompt)] == READ[prompt]


def test_what_depends_on_what() -> None:
    assert [(q.text, q.parents) for q in questions_of(PROMPT)] == QUESTIONS
    assert [q.parents for q in questions_of("two red balls")] == [(), (0,), (0, 1)]


def test_any_words_make_questions_that_can_be_asked() -> None:
    """Texts of random words of the grammar, and of none: never an error, a circle, or nothing."""
    draw = random.Random(0)
    pool = [
        "a",
        "the",
        "two",
        "red",
        "ring",
        "and",
        "on",
        "left",
        "of",
        "next",
        "to",
        "running",
        ",",
        "is",
        "are",
    ]
    pool += ["cat", "parked", "7", "-ing", "it's", "é", "with", "no"]
    for _ in range(400):
        text = " ".join(draw.choices(pool, k=draw.randint(0, 12)))
        found = questions_of(text)
        assert check_questions(found, text) == found
        assert all(max(q.parents, default=-1) < i for i, q in enumerate(found))


# ---------------------------------------------------------------- dependencies


def test_dependencies_are_those_of_a_plain_recursion() -> None:
    draw = random.Random(1)
    for _ in range(60):
        n = draw.randint(1, 7)
        places = list(range(n))
        draw.shuffle(places)
        questions: list[Any] = [None] * n
        for rank, place in enumerate(places):  # parents are earlier in a random order
            parents = draw.sample(places[:rank], min(rank, draw.randint(0, 2)))
            questions[place] = YesNo(f"q{place}", tuple(parents))
        p = torch.rand(4, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)

        def value(row: int, place: int, p: Any = p, questions: Any = questions) -> float:
            no = any(value(row, parent) < 0.5 for parent in questions[place].parents)
            return 0.0 if no else float(p[row, place])

        expected = torch.tensor([[value(row, place) for place in range(n)] for row in range(4)])
        assert torch.equal(counted(p, questions), expected.double()) or torch.allclose(
            counted(p, questions), expected.double(), atol=1e-7
        )


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "has 0 questions"),
        ([YesNo("a", (0,))], "in a circle"),
        ([YesNo("a", (1,)), YesNo("b", (0,))], "questions 1 and 2 depend on each other"),
        ([YesNo("a", (4,))], "question 1 depends on 5"),
        ([YesNo(" ")], "question 1 is empty"),
    ],
)
def test_lists_that_make_no_sense_are_refused(questions: list[YesNo], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_questions(questions, "it")


# ---------------------------------------------------------------- files


def test_questions_of_files(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(
        json.dumps({"p": ["Is it?", {"question": "Is it red?", "parents": [1, 0]}], "r": ["Why, no?"]})
    )
    (tmp_path / "q.csv").write_text(
        'prompt,question,parents\np,Is it?,\np,Is it red?,1\nr,"Why, no?",0\np,Both?,1;2\n'
    )
    found = read_questions(tmp_path / "q.json")
    assert found == {"p": (YesNo("Is it?"), YesNo("Is it red?", (0,))), "r": (YesNo("Why, no?"),)}
    table = read_questions(tmp_path / "q.csv")
    assert table["p"] == (*found["p"], YesNo("Both?", (0, 1)))
    assert table["r"] == found["r"]
    verifier = QuestionList(str(tmp_path / "q.csv"), verifier=lambda media, questions: [1.0] * len(questions))
    assert verifier.asked("r") == found["r"]
    with pytest.raises(UsageError, match=r"has none about 'pp'"):
        verifier.prepare(["p", "pp"], torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.json", "[1]", "no prompts with lists"),
        ("q.json", "{}", "has no questions"),
        ("q.json", '{"p": [3]}', "'3' is no question"),
        ("q.json", '{"p": [{"question": "a", "parents": ["1"]}]}', "no list of numbers"),
        ("q.json", '{"p": ["a", {"question": "b", "parents": [3]}]}', "depends on 3"),
        ("q.json", "{", "is not JSON"),
        ("q.csv", "a,b\n1,2\n", "no columns prompt and question"),
        ("q.csv", "prompt,question,parents\np,q,x\n", "line 2"),
        ("q.csv", "prompt,question\np\n", "line 2"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        QuestionList(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be read"):
        QuestionList(str(tmp_path / "nowhere.json"))


# ---------------------------------------------------------------- answers


def test_the_score_is_that_of_the_plain_model(folder: str) -> None:
    pictures = eight_bit(noise(3, 3, 48, 36))
    prompts = [PROMPT, "three green circles", PROMPT]
    yes, no = (words()(word).input_ids[0] for word in ("Yes", "No"))
    expected = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        questions = questions_of(prompt)
        p = plain(
            folder, picture.repeat(len(questions), 1, 1, 1), [q.text for q in questions],
            question="{} Please answer yes or no.",
        )  # fmt: skip
        share = p[:, yes] / (p[:, yes] + p[:, no])
        values: list[float] = []
        for question, own in zip(questions, share.tolist(), strict=True):
            values.append(0.0 if any(values[i] < 0.5 for i in question.parents) else own)
        expected.append(sum(values) / len(values))
    verifier = QuestionList(checkpoint=folder, cache=None)
    found = verifier(Media(pictures), prompts)
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-3)
    turned = QuestionList(checkpoint=folder, cache=None, batch_size=2)(
        Media(pictures[[2, 1, 0]]), [PROMPT, prompts[1], PROMPT]
    )
    torch.testing.assert_close(turned, found[[2, 1, 0]], atol=2e-4, rtol=1e-3)
    told = verifier.answered(Media(pictures[:1]), [PROMPT])[0]
    assert list(told) == [q.text for q in questions_of(PROMPT)]


def test_gradients_are_those_of_what_counts(folder: str, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps({"p": ["a?", "bb?", {"question": "c?", "parents": [1, 2]}]}))
    verifier = QuestionList(str(tmp_path / "q.json"), checkpoint=folder, cache=None, dtype="float64")
    pixels, way = (
        0.25 + noise(2, 3, 40, 50).double() / 2,
        noise(2, 3, 40, 50, seed=2).double() - 0.5,
    )
    pixels.requires_grad_()
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, ["p", "p"]).sum(), pixels)
    h = 1e-4
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, ["p", "p"]) for s in (h, -h))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / (2 * h), atol=2e-3, rtol=3e-2)
    assert bool((slope.flatten(1).norm(dim=1) > 1e-4).all())
    with pytest.raises(UsageError, match="no gradients by a server"):
        QuestionList(url="http://h/v1", model="m").score_tensor(pixels, ["p", "p"])


def chance(text: str, level: int) -> float:
    """P(yes) of the stub for a question about an image."""
    return ((len(text) * 37 + level) % 100) / 100


def with_logprobs(text: str, levels: list[int]) -> dict[str, Any]:
    p = chance(text.removesuffix(" Please answer yes or no."), levels[0])
    shares = {"Yes": 0.6 * p, " yes": 0.2 * p, "No": 0.7 * (1 - p), " no": 0.1 * (1 - p), "Maybe": 0.2}
    top = [{"token": t, "logprob": math.log(v)} for t, v in shares.items() if v > 0]
    return {"message": {"content": "Maybe"}, "logprobs": {"content": [{"top_logprobs": top}]}}


def expected_of(level: int, exact: bool) -> float:
    values: list[float] = []
    for text, parents in QUESTIONS:
        p = chance(text, level) if exact else float(chance(text, level) >= 0.5)
        values.append(0.0 if any(values[i] < 0.5 for i in parents) else p)
    return sum(values) / len(values)


@pytest.mark.parametrize("exact", [True, False])
def test_a_server_answers_with_and_without_probabilities(exact: bool, tmp_path: Path) -> None:
    def text_only(text: str, levels: list[int]) -> str:
        return (
            "Yes, it is."
            if chance(text.removesuffix(" Please answer yes or no."), levels[0]) >= 0.5
            else "no"
        )

    levels = [3, 44, 91, 180]
    with serving(say=with_logprobs if exact else text_only) as service:
        verifier = QuestionList(url=service.url, cache=str(tmp_path))
        verifier.prepare([PROMPT], torch.device("cpu"))
        found = verifier(greys(levels), [PROMPT] * 4)
        assert service.requests == 4 * len(QUESTIONS)
        again = QuestionList(url=service.url, cache=str(tmp_path))(greys(levels), [PROMPT] * 4)
        assert service.requests == 4 * len(QUESTIONS)
        assert service.bodies[0]["logprobs"] is True
    assert torch.equal(found, again)
    assert found.tolist() == pytest.approx([expected_of(level, exact) for level in levels])
    assert verifier.remote


def test_an_unanswered_question_is_no_score() -> None:
    with serving(lambda level, before: "say perhaps" if level == 44 else None, say=with_logprobs) as service:
        verifier = QuestionList(url=service.url, cache=None)
        with pytest.warns(UserWarning, match="5 of 10 questions have no answer"):
            found = verifier(greys([3, 44]), [PROMPT] * 2)
    assert found.isnan().tolist() == [False, True]


def test_the_model_writes_the_questions_once(tmp_path: Path) -> None:
    wrote = json.dumps([{"question": "Is it?", "parents": []}, {"question": "Is it red?", "parents": [1]}])

    def say(text: str, levels: list[int]) -> Any:
        return with_logprobs(text, levels) if levels else f"Here they are:\n```json\n{wrote}\n```"

    with serving(say=say) as service:
        made = QuestionList("model", url=service.url, cache=str(tmp_path))
        made.prepare(["a", "b"], torch.device("cpu"))
        assert service.requests == 2
        assert made.asked("a") == (YesNo("Is it?"), YesNo("Is it red?", (0,)))
        made(greys([7, 8]), ["a", "b"])
        assert service.requests == 6
        QuestionList("model", url=service.url, cache=str(tmp_path))(greys([7]), ["a"])
        assert service.requests == 6
    with serving(say=lambda text, levels: '[{"question": "a", "parents": [1]}]') as service:
        circular = QuestionList("model", url=service.url, cache=None)
        with (
            pytest.warns(UserWarning, match="have no answer"),
            pytest.raises(UsageError, match="wrote no questions"),
        ):
            circular.prepare(["a"], torch.device("cpu"))


def test_any_verifier_can_answer() -> None:
    @cache
    def p(question: str) -> float:
        return 0.9 if "star" in question else 0.2

    seen: list[str] = []

    def judge(media: Media, questions: list[str]) -> list[float]:
        seen.extend(questions)
        return [p(q) for q in questions]

    found = QuestionList(verifier=judge, cache=None)(greys([10]), [PROMPT])
    assert seen == [text for text, _ in QUESTIONS]
    assert float(found) == pytest.approx((0.9 + 0.2 + 0.9 + 0 + 0) / 5)  # no ring: nothing about it counts
    assert QuestionList(verifier=judge).backbone is None
    assert (
        QuestionList(verifier="vqa_score").backbone == QuestionList().backbone == "Qwen/Qwen3-VL-2B-Instruct"
    )
    with pytest.raises(UsageError, match="give one of them"):
        QuestionList(verifier=judge, url="http://h/v1")
    with pytest.raises(UsageError, match="for videos"):
        QuestionList(verifier=judge)(Media(torch.zeros(1, 2, 3, 8, 8)), [PROMPT])


@pytest.mark.parametrize(
    ("answer", "p"),
    [
        ("Yes", 1.0),
        ("no.", 0.0),
        ('"Yes", I think', 1.0),
        (with_probabilities("No", {"No": math.log(0.3), "Ġyes": math.log(0.1)}), 0.25),
        (with_probabilities("Yes", {"The": -0.1}), 1.0),
        (with_probabilities("Yes", {}), 1.0),
    ],
)
def test_yes_is_read(answer: str, p: float) -> None:
    assert read_yes(answer) == pytest.approx(p)


@pytest.mark.parametrize(
    "answer", ["", "   ", "maybe", "yesterday", with_probabilities("The", {"The": -0.1})]
)
def test_what_is_neither_yes_nor_no_is_not_guessed(answer: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        read_yes(answer)
