"""What is refused is refused before anything is denoised or written: verifiers are prepared first, in every role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import genscale
from genscale.engine.engine import Engine
from genscale.errors import UsageError, VerifierError
from genscale.verifiers.boxes import Boxes
from genscale.verifiers.frames import Frames
from genscale.verifiers.regions import Box
from tests.quick import quick
from tests.zoo import ZOO


class Judge:
    """Counts what it is asked, and refuses where it is told to."""

    name = "judge"

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.scored = error, 0
        self.asked: list[tuple[list[str], torch.device]] = []

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        self.asked.append((list(prompts), device))
        if self.error is not None:
            raise self.error

    def __call__(self, media: Any, prompts: Sequence[str]) -> list[float]:
        self.scored += 1
        return [float(i) for i in range(len(prompts))]


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = ZOO["stable_diffusion"].build()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Every engine that was made: without one nothing is denoised."""
    made: list[Engine] = []
    original = Engine.__init__

    def noted(self: Engine, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "__init__", noted)
    return made


ROLES: dict[str, Callable[[Judge], dict[str, Any]]] = {
    "verifier": lambda judge: {"verifier": judge},
    "select": lambda judge: {"verifier": "compressibility", "select": judge},
    "held_out": lambda judge: {"verifier": "compressibility", "held_out": judge},
    "second of two": lambda judge: {"verifier": ["compressibility", (judge, 0.5)]},
    "frames": lambda judge: {"verifier": Frames(judge)},
    "boxes": lambda judge: {"verifier": Boxes(judge, [Box("a star", (0, 0, 1, 1))])},
    "boxes of frames": lambda judge: {"held_out": Boxes(Frames(judge), []), "verifier": "compressibility"},
}
ARGUMENTS = {"num_inference_steps": 2, "width": 16, "height": 16, "output_type": "np"}


@pytest.mark.parametrize("how", ["plan", "search", "__call__"])
@pytest.mark.parametrize("role", ROLES)
def test_a_verifier_that_cannot_be_used_is_known_before_anything_is_spent(
    role: str, how: str, pipe: Any, tmp_path: Path, searches: list[Engine]
) -> None:
    judge = Judge(UsageError("there are no weights: fetch them."))
    scaled = genscale.scale(pipe, candidates=4, out=tmp_path / "run", **ROLES[role](judge))
    with pytest.raises(UsageError, match="there are no weights: fetch them"):
        getattr(scaled, how)(["a dog", "a cat"], **ARGUMENTS)
    assert (judge.scored, searches, (tmp_path / "run").exists()) == (0, [], False)


@pytest.mark.parametrize("role", ROLES)
def test_it_is_asked_about_all_prompts_and_the_device_of_the_images(role: str, pipe: Any) -> None:
    judge = Judge()
    genscale.scale(pipe, candidates=2, **ROLES[role](judge)).plan(["a dog", "a cat"], **ARGUMENTS)
    prompts, device = judge.asked[0]
    assert prompts[:2] == ["a dog", "a cat"]
    assert prompts[2:] == (["a star"] * 2 if role == "boxes" else [])
    assert device == torch.device("cpu")


def test_any_exception_of_it_is_one_sentence_with_its_name(pipe: Any) -> None:
    scaled = genscale.scale(pipe, verifier=Judge(OSError("no such file")), candidates=2)
    with pytest.raises(VerifierError, match="verifier 'judge' cannot be used here: OSError: no such file"):
        scaled.plan("a dog", **ARGUMENTS)


@pytest.mark.parametrize(
    "verifier", ["shapes", "moving_shapes", "shapes_video_clip", "pickscore", "hps", "frames"]
)
def test_bundled_ones_say_so(verifier: str, pipe: Any, offline: None, searches: list[Engine]) -> None:
    given = Frames("shapes") if verifier == "frames" else verifier
    with pytest.raises(UsageError):
        genscale.scale(pipe, verifier=given, candidates=2)("a cat", **ARGUMENTS)
    assert searches == []


# ------------------------------------------------------------------------------------------ the command line

WORDS = ("--model", "{model}", "--steps", "2", "--size", "16x16", "--candidates", "2")
LINES = {
    "generate": ("generate", "a cat", *WORDS, "--verifier", "compressibility", "--held-out", "{bad}"),
    "select": ("generate", "a cat", *WORDS, "--verifier", "compressibility", "--select", "{bad}"),
    "second prompt": ("generate", "a red star", "a cat", *WORDS, "--verifier", "{bad}"),
    "plan": ("plan", "a cat", *WORDS, "--verifier", "{bad}"),
    "dry run": ("generate", "a cat", *WORDS, "--verifier", "{bad}", "--dry-run"),
    "compare": (
        *("compare", "a cat", "--model", "{model}", "--steps", "2", "--size", "16x16", "--held-out", "shapes_clip"),
        *("--verifiers", "compressibility", "--verifiers", "{bad}", "--budget", "8nfe"),
    ),
    "calibrate-steps": ("calibrate-steps", "a cat", *WORDS[:6], "--candidates", "4", "--verifier", "{bad}"),
    "calibrate-verifier": (
        *("calibrate-verifier", "a cat", "a dog", "a cow", "a pig", *WORDS[:6], "--verifier", "{bad}"),
        *("--judge", "compressibility", "--right-at", "-1"),
    ),
    "score": ("score", "{image}", "--prompt", "a cat", "--verifier", "compressibility", "--verifier", "{bad}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    ZOO["stable_diffusion"].build().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bad", quick(["shapes", "frames(verifier=shapes)", "pickscore"], ["shapes"]))
@pytest.mark.parametrize("line", LINES)
def test_commands_spend_and_write_nothing(
    line: str, bad: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genscale: Any, offline: None,
    searches: list[Engine],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(image)
    words = [
        w.replace("{model}", str(model)).replace("{bad}", bad).replace("{image}", str(image))
        for w in LINES[line]
    ]
    code, out, err = genscale(*words)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
    assert ("no caption of the shapes world" if "shapes" in bad else "PickScore") in err
    assert [p.name for p in tmp_path.iterdir()] == ["image.png"]
    assert searches == []


def test_rescoring_decodes_no_more_than_one_image(
    model: Path, tmp_path: Path, genscale: Any, offline: None
) -> None:
    words = (*WORDS[2:], "--model", model, "--verifier", "compressibility", "--out", tmp_path / "run")
    assert genscale("generate", "a cat", *words)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    code, out, err = genscale("rescore", tmp_path / "run", "--verifier", "shapes")
    assert (code, out) == (2, "")
    assert "no caption of the shapes world" in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    "code",
    [
        "def judge(:",
        "raise RuntimeError('x')",
        "judge = 3",
        "class judge:\n    def __init__(self):\n        1 / 0",
        "1 / 0",
    ],
)
def test_a_module_that_fails_is_one_sentence(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genscale: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name = tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(code)
    code_, out, err = genscale("plan", "a red star", "--verifier", f"{name}:judge")
    assert (code_, out, len(err.strip().splitlines())) == (2, "", 1)
    assert f"verifier '{name}:judge'" in err
