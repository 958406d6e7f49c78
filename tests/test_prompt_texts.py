"""Calls with embeddings of prompts: verifiers are told the text, or refused before anything is spent."""

from typing import Any, ClassVar

import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.verifiers.boxes import Boxes
from genscale.verifiers.frames import Frames
from genscale.verifiers.regions import Box
from tests.zoo import ZOO


class Seen:
    """A verifier that remembers the texts that it was told."""

    name = "seen"

    def __init__(self, reads: bool | None = None) -> None:
        self.texts: list[str] = []
        if reads is not None:
            self.reads_prompts = reads

    def __call__(self, media: Any, prompts: Any) -> Any:
        self.texts += prompts
        return media.pixels.flatten(1).mean(1)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def embedded(family: str, prompts: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline and a call with embeddings alone."""
    pipe, given = ZOO[family].build(), ZOO[family].arguments(prompts)
    text = given.pop("prompt")
    names: tuple[str, ...] = ("prompt_embeds", "negative_prompt_embeds")
    if family == "sdxl":
        names = (*names, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    with torch.no_grad():
        found = pipe.encode_prompt(
            text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    return pipe, given | dict(zip(names, found, strict=False)) | {"output_type": "np"}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails where a denoiser is evaluated, once armed."""

    def arm(pipe: Any) -> None:
        def forward(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("the denoiser was evaluated")

        monkeypatch.setattr(pipe.unet, "forward", forward)

    return arm


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl"])
@pytest.mark.parametrize("role", ["verifier", "select", "held_out"])
@pytest.mark.parametrize("reads", [None, True])
def test_a_verifier_that_is_told_no_text_is_refused(
    family: str, role: str, reads: bool | None, no_model: Any, tmp_path: Any
) -> None:
    pipe, call = embedded(family, 1)
    no_model(pipe)
    blind = Seen(False)
    blind.name = "blind"  # type: ignore[misc]
    roles = {"verifier": blind} | {role: Seen(reads)}
    scaled = genscale.scale(pipe, "best_of_n", **roles, candidates=2, out=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"^the verifier 'seen' is told no text, .* prompt_embeds .*texts='.*\.$"
    ):
        scaled(**call, generator=seeded())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl"])
@pytest.mark.parametrize(
    ("texts", "prompts", "told"),
    [("a cat", 1, {"a cat"}), (["a cat", "a dog"], 2, {"a cat", "a dog"}), (("x",), 1, {"x"})],
)
def test_texts_reach_the_verifiers_and_not_the_pipeline(
    family: str, texts: Any, prompts: int, told: set[str]
) -> None:
    pipe, call = embedded(family, prompts)
    judge = Seen(True)
    output = genscale.scale(pipe, "best_of_n", judge, candidates=2)(**call, texts=texts, generator=seeded())
    assert set(judge.texts) == told
    assert set(output.search.prompts) == told
    assert len(output.images) == prompts


def test_one_candidate_with_texts_is_the_pipeline() -> None:
    pipe, call = embedded("stable_diffusion", 2)
    alone = pipe(**call, generator=seeded()).images
    found = genscale.scale(pipe, candidates=1)(**call, texts=["a", "b"], generator=seeded()).images
    assert (alone == found).all()
    found = genscale.scale(pipe, candidates=1)(**call, generator=seeded()).images  # nobody needs a text
    assert (alone == found).all()


def test_a_verifier_that_says_that_it_reads_no_prompt_goes_on() -> None:
    pipe, call = embedded("stable_diffusion", 1)
    judge = Seen(False)
    genscale.scale(pipe, "best_of_n", judge, candidates=2)(**call, generator=seeded())
    assert set(judge.texts) == {""}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "b", "c"], "3 texts= made 2 rows"),
        (3, "texts= must be a text"),
        ([], "texts= must be a text"),
        (["a", None], "texts= must be a text"),
    ],
)
def test_other_texts_are_refused(texts: Any, message: str) -> None:
    pipe, call = embedded("stable_diffusion", 2)
    with pytest.raises(UsageError, match=message):
        genscale.scale(pipe, "best_of_n", Seen(), candidates=2)(**call, texts=texts, generator=seeded())


def test_texts_beside_prompts_are_refused() -> None:
    pipe = ZOO["stable_diffusion"].build()
    with pytest.raises(UsageError, match="leave one out"):
        genscale.scale(pipe, "best_of_n", Seen(), candidates=2)(
            **ZOO["stable_diffusion"].arguments(1), texts="a"
        )


def test_an_argument_of_the_pipeline_of_that_name_is_its_own() -> None:
    base = ZOO["stable_diffusion"].build()

    class Titled(type(base)):  # type: ignore[misc]
        seen: ClassVar[list[Any]] = []

        def __call__(self, prompt: Any = None, texts: Any = None, **more: Any) -> Any:
            raise AssertionError

    from genscale.pipelines.bound_call import Arguments

    pipe = Titled.__new__(Titled)
    found = Arguments(pipe, (), {"prompt": "a", "texts": "b"})
    assert found.given["texts"] == "b"
    assert found.prompt_texts is None


def test_every_built_in_verifier_says_whether_it_reads_prompts() -> None:
    blind = {
        "aesthetic",
        "background_consistency",
        "clipping",
        "compressibility",
        "sharpness",
        "silence",
        "answers",
        "medoid",
        "dynamic_degree",
        "subject_consistency",
        "temporal_consistency",
        "temporal_flickering",
        "warp_error",
    }
    for name in genscale.list_verifiers():
        if name not in ("boxes", "calibrated", "frames", "learned_preview", "measured"):
            assert registry.load("verifier", name).reads_prompts is (name not in blind), name
    boxes = [Box("a star", (0, 0, 0.5, 0.5))]
    for reads in (True, False, None):
        assert Frames(Seen(reads)).reads_prompts is reads
        assert Boxes(Seen(reads), boxes).reads_prompts is reads
        assert Boxes(Seen(reads), {"a star": boxes}).reads_prompts
