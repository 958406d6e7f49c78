"""classifier on tiny image classifiers with random weights, against transformers' own processors and models."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import genscale
from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.class_labels import class_of
from genscale.verifiers.classifier import Classifier
from tests.test_inversion import dit
from tests.test_scale import seeded
from tests.test_verifiers import noise, randomise, smooth

LABELS = {0: "tench, Tinca tinca", 1: "frog", 2: "tree_frog", 3: "crane", 4: "Crane", 5: "golden-retriever"}
PROMPTS = ["tench", "a photo of a tree frog", "frog", "5", "Golden Retriever"]
CLASSES = [0, 2, 1, 5, 5]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
STD = [0.229, 0.224, 0.225]
KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "dinov2": (
        "Dinov2",
        TINY | {"mlp_ratio": 2},
        "BitImageProcessor",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "image_std": STD},
    ),
    "vit": (
        "ViT",
        TINY | {"intermediate_size": 48},
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}},
    ),
    "convnext": (
        "ConvNext",
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    ),
    "offset": (  # this processor does what no `Preparation` does
        "ViT",
        TINY | {"intermediate_size": 48},
        "EfficientNetImageProcessor",
        {"size": {"height": 32, "width": 32}, "rescale_offset": True, "rescale_factor": 1 / 127.5},
    ),
}


def saved(folder: Path, kind: str) -> str:
    name, config, processor, settings = KINDS[kind]
    torch.manual_seed(0)
    labels = {"id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}}
    made = getattr(transformers, f"{name}Config")(**config, **labels)
    model = getattr(transformers, f"{name}ForImageClassification")(made)
    randomise(model)
    model.save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: saved(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def dino(folders: dict[str, str]) -> str:
    return folders["dinov2"]


def plain(folder: str, pixels: Tensor, floats: bool) -> Tensor:
    """P(class) [n, classes], by the checkpoint's own processor on each image alone, in float64.

    floats: it is given floats, which it does not round after resizing; otherwise pictures of 8 bits.
    """
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = list(pixels) if floats else list(Media(pixels))
    options = {"do_rescale": False} if floats else {}
    with torch.no_grad():
        rows = [model(**processor(image, return_tensors="pt", **options)).logits for image in images]
    return torch.cat(rows).double().softmax(1)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [(32, 32), (70, 52)])
def test_the_score_is_the_log_probability_of_the_plain_model(
    folders: dict[str, str], kind: str, size: tuple[int, int]
) -> None:
    pixels = smooth(5, *size)
    expected = plain(folders[kind], pixels, kind != "offset")[range(5), CLASSES]
    scales = {
        "log_probability": expected.log(),
        "log_odds": (expected / (1 - expected)).log(),
        "probability": expected,
    }
    for scale, value in scales.items():
        found = Classifier(folders[kind], scale=scale, batch_size=2)(Media(pixels), PROMPTS)
        torch.testing.assert_close(found, value.float(), atol=1e-4, rtol=1e-4)
    assert expected.unique().numel() > 2


def test_logits_are_those_of_the_model(dino: str) -> None:
    pixels = smooth(5, 32, 32)
    logits = Classifier(dino, scale="logit")(Media(pixels), PROMPTS)
    named = Classifier(dino)(Media(pixels), PROMPTS)
    every = torch.stack([Classifier(dino, scale="logit")(Media(pixels), [str(i)] * 5) for i in LABELS])
    torch.testing.assert_close(named, logits - every.logsumexp(0))


def test_order_batches_and_frames(dino: str) -> None:
    pixels, turned = noise(5, 3, 40, 50), [3, 0, 4, 1, 2]
    whole = Classifier(dino)(Media(pixels), PROMPTS)
    apart = Classifier(dino, batch_size=2)(Media(pixels[turned]), [PROMPTS[i] for i in turned])
    torch.testing.assert_close(apart, whole[turned])
    assert bool(whole.isfinite().all())
    clips = Classifier(dino, batch_size=3)(Media(pixels[:4].reshape(2, 2, 3, 40, 50)), PROMPTS[:2])
    frames = Classifier(dino)(Media(pixels[:4]), [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2).reshape(2, 2).mean(1)
    torch.testing.assert_close(clips, frames)
    with pytest.raises(ValueError, match="5 images and 1 prompts"):
        Classifier(dino)(Media(pixels), PROMPTS[:1])


def test_gradients_are_those_of_finite_differences(dino: str) -> None:
    verifier = Classifier(dino, dtype="float64", scale="log_odds")
    pixels, way = smooth(2, 40, 50).double().requires_grad_(), noise(2, 3, 40, 50, seed=2).double() - 0.5
    (slope,) = torch.autograd.grad(verifier.score_tensor(pixels, PROMPTS[:2]).sum(), pixels)
    h = 1e-5
    with torch.no_grad():
        up, down = (verifier.score_tensor(pixels + s * way, PROMPTS[:2]) for s in (h, -h))
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (up - down) / (2 * h), atol=1e-6, rtol=1e-4)


def test_a_preparation_of_its_own_has_no_gradients(folders: dict[str, str]) -> None:
    verifier = Classifier(folders["offset"])
    with pytest.raises(UsageError, match="gives no gradients"):
        verifier.score_tensor(noise(1, 3, 32, 32), ["frog"])


@pytest.mark.parametrize(
    ("prompt", "index"),
    [
        *zip(PROMPTS, CLASSES, strict=True),
        ("Tinca tinca", 0),
        ("tench, tinca tinca", 0),
        (" 2 ", 2),
        ("frogs and a golden-retriever", 5),
        ("a TREE-FROG on a frog", 2),
    ],
)
def test_the_class_that_a_prompt_names_is_found(prompt: str, index: int) -> None:
    assert class_of(prompt, LABELS) == index


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat", "names no class"),
        ("", "names no class"),
        ("tensh", r"did you mean 'tench'\?"),
        ("bullfrog", "names no class"),
        ("6", "no class 6: the classifier has those from 0 to 5"),
        ("crane", r"several classes, 'crane' and 'Crane' \(3 and 4\)"),
        ("a crane at a lake", "several classes"),
    ],
)
def test_a_prompt_that_names_none_or_several_is_refused(prompt: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        class_of(prompt, LABELS)


def test_prompts_are_refused_before_anything_is_spent(dino: str) -> None:
    Classifier(dino).prepare(PROMPTS, torch.device("cpu"))
    with pytest.raises(UsageError, match="names no class"):
        Classifier(dino).prepare(["a cat"], torch.device("cpu"))


def test_what_is_missing_or_wrong_is_refused(dino: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        Classifier(str(tmp_path / "nothing")).load()
    with pytest.raises(UsageError, match="cannot be loaded"):
        Classifier(str(tmp_path)).load()
    with pytest.raises(UsageError, match="scale 'odds' is unknown"):
        Classifier(dino, scale="odds")
    broken = tmp_path / "broken"
    transformers.AutoModelForImageClassification.from_pretrained(dino).dinov2.save_pretrained(broken)
    transformers.AutoImageProcessor.from_pretrained(dino).save_pretrained(broken)
    with pytest.raises(UsageError, match="is not a whole image classifier"):
        Classifier(str(broken)).load()


def test_weights_are_shared_and_left_behind_by_copies(dino: str) -> None:
    one, two = Classifier(dino), Classifier(dino, scale="logit")
    one.load()
    two.load()
    assert one._models[torch.device("cpu")] is two._models[torch.device("cpu")]
    assert len(pickle.dumps(one)) < 2000
    assert copy.deepcopy(one) == one
    assert one.backbone == dino
    assert Classifier(dino, scale="probability").answers_probability
    assert not one.answers_probability


@pytest.mark.slow
def test_a_class_conditional_pipeline_is_searched_by_the_labels_given_as_texts(dino: str) -> None:
    verifier = Classifier(dino)
    call: dict[str, Any] = {"class_labels": [1, 5], "num_inference_steps": 2, "generator": seeded()}
    search = genscale.scale(dit(), verifier=verifier, candidates=2)(**call, texts=["frog", "5"]).search
    for row, text in enumerate(["frog", "5"]):
        ranked = search.ranking(row)
        expected = verifier(search.decode(ranked), [text] * 2)
        torch.testing.assert_close(torch.tensor([entry.total for entry in ranked]), expected)
        assert expected[0] > expected[1]
    with pytest.raises(UsageError, match="give texts='what it shows'"):
        genscale.scale(dit(), verifier=verifier, candidates=2)(**call)
    with pytest.raises(UsageError, match="names no class"):
        genscale.scale(dit(), verifier=verifier, candidates=2)(**call, texts=["frog", "a cat"])
