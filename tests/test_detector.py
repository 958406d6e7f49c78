"""The verifier `detector` on tiny Grounding DINO, OWLv2, SAM and CLIP of random weights, against transformers' own
processors and plain model calls."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    SwinConfig,
)

from genscale.engine.verifier_roles import WeightedVerifier
from genscale.errors import UsageError
from genscale.media import Media
from genscale.plugins import registry
from genscale.verifiers.clip import Clip
from genscale.verifiers.detections import Detection, kept
from genscale.verifiers.detector import ObjectDetector
from genscale.verifiers.object_colours import GREY, SENTENCES, colour_shares, crop
from genscale.verifiers.requirements import COLOURS, Rules, soft_verdict, verdict
from genscale.verifiers.segmenter import segmenter
from genscale.verifiers.zero_shot_detector import ABOVE, zero_shot_detector
from tests.test_verifiers import clip_folder, noise, randomise, tokenizer

CPU = torch.device("cpu")
NOUNS = ("clock", "teddy bear")
MARKS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 1012: ".", 1029: "?"}  # where BERT has them
KNOWN = ("clock", "cat", "teddy", "bear", "red", "star")


def grounding_dino(folder: Path) -> str:
    folder.mkdir(parents=True)
    words = MARKS | {200 + n: word for n, word in enumerate(KNOWN)}
    (folder / "vocab.txt").write_text("\n".join(words.get(n, f"[unused{n}]") for n in range(1100)))
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    eye = SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4,
        out_features=["stage2", "stage3"],
    )  # fmt: skip
    layers = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in
              (("layers", 2), ("ffn_dim", 32), ("attention_heads", 2), ("n_points", 2))}  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=eye,
        text_config=BertConfig(vocab_size=1100, hidden_size=32, max_position_embeddings=64, **small),
        num_queries=12, d_model=32, num_feature_levels=3, max_text_len=32, disable_custom_kernels=True, **layers,
    )  # fmt: skip
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, BertTokenizerFast.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


def owlv2(folder: Path) -> str:
    tokenizer(folder / "words")
    vocabulary = json.loads((folder / "words" / "vocab.json").read_text())
    shifted = {"!": 0} | {
        token: n + 1 for token, n in vocabulary.items()
    }  # 0 would mark a text that is not there
    (folder / "words" / "vocab.json").write_text(json.dumps(shifted))
    special = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    words = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=16, **special)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    text = tower | ids | {"vocab_size": len(words), "max_position_embeddings": 16}
    torch.manual_seed(0)
    eye = tower | {"image_size": 32, "patch_size": 8}
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=eye, projection_dim=32))
    randomise(model)
    for head, bias in ((model.class_head.logit_shift, 0.0), (model.class_head.logit_scale, 3.0)):
        head.weight.data.zero_()  # otherwise all scores are below 1e-4
        head.bias.data.fill_(bias)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), words).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=[grounding_dino, owlv2])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return request.param(tmp_path_factory.mktemp("detector") / "model")


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    return grounding_dino(tmp_path_factory.mktemp("dino") / "model")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.test_verifiers.LENGTH", 48)  # the sentences differ beyond twelve letters
        return str(clip_folder(tmp_path_factory.mktemp("colours")))


# ---------------------------------------------------------------- the network


def by_transformers(checkpoint: str, pixels: Tensor) -> list[list[tuple[str, float, list[float]]]]:
    """(noun, score, box) of every query, by the library's own processors and a plain call."""
    height, width = pixels.shape[-2:]
    images, found = list(Media(pixels)), []
    if "dino" in Path(checkpoint).parent.name or (Path(checkpoint) / "vocab.txt").is_file():
        processor = GroundingDinoProcessor.from_pretrained(checkpoint)
        model = GroundingDinoForObjectDetection.from_pretrained(checkpoint).eval()
        for image in images:
            inputs = processor(images=image, text=". ".join(NOUNS) + ".", return_tensors="pt")
            with torch.no_grad():
                out = model(**inputs)
            told = processor.post_process_grounded_object_detection(
                out, inputs.input_ids, threshold=-1.0, target_sizes=[(height, width)]
            )[0]
            probabilities, ids = out.logits[0].sigmoid(), inputs.input_ids[0]
            columns = []
            for noun in NOUNS:
                own = [int(processor.tokenizer.convert_tokens_to_ids(word)) for word in noun.split()]
                columns.append(probabilities[:, [n for n, i in enumerate(ids.tolist()) if i in own]].amax(1))
            best, which = torch.stack(columns, 1).max(1)
            rows = zip(which.tolist(), best.tolist(), told["boxes"].tolist(), strict=True)
            found.append([(NOUNS[n], score, box) for n, score, box in rows])
        return found
    processor = Owlv2Processor.from_pretrained(checkpoint)
    model = Owlv2ForObjectDetection.from_pretrained(checkpoint).eval()
    for image in images:
        inputs = processor(
            images=image, text=[[f"a photo of a {n}" for n in NOUNS]], return_tensors="pt", truncation=True,
            max_length=16,
        )  # fmt: skip
        with torch.no_grad():
            out = model(**inputs)
        told = processor.post_process_grounded_object_detection(
            out, threshold=-1.0, target_sizes=[(height, width)], text_labels=[list(NOUNS)]
        )[0]
        rows = zip(told["text_labels"], told["scores"].tolist(), told["boxes"].tolist(), strict=True)
        found.append(list(rows))
    return found


def test_detections_are_those_of_transformers(checkpoint: str) -> None:
    pixels = noise(3, 3, 48, 64)
    mine = zero_shot_detector(checkpoint, CPU, torch.float32)(list(Media(pixels)), NOUNS)
    limits = [64.0, 48.0, 64.0, 48.0]
    for own, theirs in zip(mine, by_transformers(checkpoint, pixels), strict=True):
        clear = [(noun, score, box) for noun, score, box in theirs if score > ABOVE]
        assert [d.noun for d in own] == [noun for noun, _, _ in clear]
        assert [d.score for d in own] == pytest.approx([score for _, score, _ in clear], abs=1e-5)
        for one, (_, _, box) in zip(own, clear, strict=True):
            inside = [min(max(edge, 0.0), most) for edge, most in zip(box, limits, strict=True)]
            assert list(one.box) == pytest.approx(inside, abs=1e-3)
    assert len({d.noun for found in mine for d in found}) == 2


def test_the_model_is_loaded_once(checkpoint: str) -> None:
    first = zero_shot_detector(checkpoint, CPU, torch.float32)
    assert zero_shot_detector(checkpoint, CPU, torch.float32) is first


# ---------------------------------------------------------------- the verifier

PROMPTS = ["two clocks", "a clock left of a teddy bear", "a clock", "two clocks", "a cat"]


@pytest.mark.parametrize("score", ["soft", "verdict"])
def test_scores_are_the_rules_on_what_was_found(checkpoint: str, score: str) -> None:
    judge, pixels = ObjectDetector(checkpoint, score=score, batch_size=2), noise(5, 3, 48, 64)
    made = judge(Media(pixels), PROMPTS)
    assert made.shape == (5,)
    assert made.dtype == torch.float64
    model = zero_shot_detector(checkpoint, CPU, torch.float32)
    for row, prompt in enumerate(PROMPTS):
        wanted = judge.requirement(prompt)
        objects = kept(model([Media(pixels)[row]], wanted.nouns)[0], 0.5)  # type: ignore[list-item]
        rule = soft_verdict if score == "soft" else verdict
        assert float(made[row]) == pytest.approx(float(rule(wanted, objects, Rules())), abs=1e-4)
    assert judge.backbone == checkpoint


def test_neither_batches_nor_order_change_a_score(checkpoint: str) -> None:
    judge, pixels = ObjectDetector(checkpoint), noise(5, 3, 48, 64)
    made = judge(Media(pixels), PROMPTS)
    alone = [float(judge(Media(pixels[n : n + 1]), PROMPTS[n : n + 1])) for n in range(5)]
    back = ObjectDetector(checkpoint, batch_size=1)(Media(pixels.flip(0)), PROMPTS[::-1]).flip(0)
    assert made.tolist() == pytest.approx(alone, rel=1e-4)
    assert made.tolist() == pytest.approx(back.tolist(), rel=1e-4)
    assert len(set(made.tolist())) > 3
    assert made.min() >= 0
    assert made.max() <= 1


def test_of_videos_the_mean_over_frames_counts(dino: str) -> None:
    judge, clips = ObjectDetector(dino), noise(6, 3, 48, 64).reshape(2, 3, 3, 48, 64)
    frames = judge(Media(clips.flatten(0, 1)), ["a clock"] * 3 + ["a cat"] * 3)
    assert judge(Media(clips), ["a clock", "a cat"]).tolist() == pytest.approx(
        frames.reshape(2, 3).mean(1).tolist()
    )


def test_the_metadata_of_a_prompt_is_its_requirement(dino: str, tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"include": [{"class": "cat", "count": 1}], "prompt": "something in a park"}')
    judge, pixels = ObjectDetector(dino, metadata=str(file)), noise(1, 3, 48, 64)
    assert judge(Media(pixels), ["something in a park"]).equal(judge(Media(pixels), ["a cat"]))
    judge.prepare(["something in a park", "two clocks"], CPU)
    with pytest.raises(UsageError, match="because of 'in'"):
        judge.prepare(["something in a garden"], CPU)


def test_it_is_registered_and_can_be_sent_to_another_process(dino: str) -> None:
    made = registry.make("verifier", "detector", {"checkpoint": dino})
    assert pickle.loads(pickle.dumps(made)) == made
    pixels = noise(1, 3, 48, 64).requires_grad_()
    with pytest.raises(UsageError, match="cannot be differentiated"):
        WeightedVerifier("detector", made).score_graph(Media(pixels), ["a cat"], ["1"])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"score": "hard"}, "score 'hard' is unknown"),
        ({"threshold": 1.0}, "threshold=1.0 must be above 0 and below 1"),
        ({"counting_threshold": 0.0}, "counting_threshold=0.0"),
        ({"max_overlap": 1.5}, r"must be in \[0, 1\]"),
        ({"softness": 0.0}, "softness=0.0"),
        ({"softness": float("inf")}, "softness=inf"),
        ({"metadata": "none.jsonl"}, "metadata file 'none.jsonl' cannot be read"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ObjectDetector("x", **options)


def test_what_is_no_detector_is_refused(tiny_clip: str, dino: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        ObjectDetector(str(tmp_path / "none")).load()
    with pytest.raises(UsageError, match="a model of type 'clip'"):
        ObjectDetector(tiny_clip).load()
    with pytest.raises(UsageError, match="cannot be loaded"):
        ObjectDetector("owner/none").load()
    with pytest.raises(UsageError, match="there is no folder"):
        segmenter(str(tmp_path / "none"), CPU)
    with pytest.raises(UsageError, match="give one of type 'sam'"):
        segmenter(dino, CPU)
    with pytest.raises(UsageError, match="more than the detector reads"):
        zero_shot_detector(dino, CPU, torch.float32)([Media(noise(1, 3, 48, 64))[0]], ["clock"] * 30)  # type: ignore[list-item]


# ---------------------------------------------------------------- colours


def test_crops_are_the_pixels_in_the_box() -> None:
    image = noise(1, 3, 10, 12)[0]
    assert torch.equal(crop(image, (2.0, 3.0, 7.0, 9.0)), image[:, 3:9, 2:7])
    assert crop(image, (11.9, 9.9, 12.0, 10.0)).shape == (3, 1, 1)
    assert crop(image, (4.0, 4.0, 4.0, 4.0)).shape == (3, 1, 1)
    mask = torch.zeros(10, 12)
    mask[4, 3] = 1
    seen = crop(image, (2.0, 3.0, 7.0, 9.0), mask)
    assert torch.equal(seen[:, 1, 1], image[:, 4, 3])
    assert seen.flatten(1).eq(GREY).all(0).sum() == 29


def test_colours_are_those_of_transformers_clip(tiny_clip: str) -> None:
    crops = [noise(1, 3, 40, 40, seed=n)[0] for n in range(3)]
    made = colour_shares(Clip(tiny_clip, None), crops, "cat")
    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPProcessor.from_pretrained(tiny_clip)
    with torch.no_grad():
        means = []
        for colour in COLOURS:
            texts = [sentence.format(colour=colour, noun="cat") for sentence in SENTENCES]
            ids = processor.tokenizer(
                texts, padding="max_length", truncation=True, max_length=48, return_tensors="pt"
            )
            out = model.get_text_features(**ids)
            words = F.normalize(getattr(out, "pooler_output", out), dim=-1)
            means.append(F.normalize(words.mean(0), dim=-1))
        pixels = processor.image_processor(
            [Media(c[None])[0] for c in crops], return_tensors="pt"
        ).pixel_values
        out = model.get_image_features(pixels)
        seen = F.normalize(getattr(out, "pooler_output", out), dim=-1)
        expected = (model.logit_scale.exp() * seen @ torch.stack(means).T).softmax(-1)
    for shares, row in zip(made, expected.tolist(), strict=True):
        assert list(shares) == list(COLOURS)
        assert list(shares.values()) == pytest.approx(row, abs=0.02)
        assert sum(shares.values()) == pytest.approx(1)


def test_a_colour_in_the_prompt_is_looked_at(dino: str, tiny_clip: str) -> None:
    judge = ObjectDetector(dino, colour_model=tiny_clip, colour_pretrained=None)
    pixels = noise(2, 3, 48, 64)
    found = judge.objects(Media(pixels), ["a red clock", "a clock"])
    assert [d.colours is None for d in found[0]["clock"]][:2] == [
        False,
        True,
    ]  # only the surest one is asked for
    assert all(d.colours is None for d in found[1]["clock"])
    top: Detection = found[0]["clock"][0]
    again = colour_shares(Clip(tiny_clip, None), [crop(pixels[0], top.box)], "clock")[0]
    assert top.colours == pytest.approx(again)
    assert judge(Media(pixels[:1]), ["a red clock"]) < judge(Media(pixels[:1]), ["a clock"])
    judge.prepare(["a red clock"], CPU)
    with pytest.raises(UsageError, match="cannot be loaded"):
        ObjectDetector(dino, colour_model="owner/none").prepare(["a red clock"], CPU)
    ObjectDetector(dino, colour_model="owner/none").prepare(["a clock"], CPU)  # not needed


def test_a_segmenter_cuts_objects_out(dino: str, tiny_clip: str, tmp_path: Path) -> None:
    eye = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
    }
    eye |= {
        "patch_size": 8,
        "output_channels": 16,
        "window_size": 4,
        "global_attn_indexes": [0],
        "num_pos_feats": 8,
    }
    asked = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=eye, prompt_encoder_config=asked, mask_decoder_config={
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    }))  # fmt: skip
    model.save_pretrained(tmp_path)
    processor = SamProcessor(
        SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    )
    processor.save_pretrained(tmp_path)
    image, boxes = noise(1, 3, 48, 64)[0], [(4.0, 4.0, 30.0, 40.0), (10.0, 2.0, 60.0, 30.0)]
    made = segmenter(str(tmp_path), CPU)(image, boxes)
    for box, mask in zip(boxes, made, strict=True):
        inputs = processor(Media(image[None])[0], input_boxes=[[list(box)]], return_tensors="pt")
        with torch.no_grad():
            out = model.eval()(**{k: v.float() if v.is_floating_point() else v for k, v in inputs.items()
                                  if "size" not in k}, multimask_output=False)  # fmt: skip
        expected = processor.image_processor.post_process_masks(
            out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0][0, 0]
        assert mask.shape == (48, 64)
        assert torch.equal(mask.bool(), expected)
    judge = ObjectDetector(dino, colour_model=tiny_clip, colour_pretrained=None, segmenter=str(tmp_path))
    top = judge.objects(Media(image[None]), ["a red clock"])[0]["clock"][0]
    cut = segmenter(str(tmp_path), CPU)(image, [top.box])[0]
    again = colour_shares(Clip(tiny_clip, None), [crop(image, top.box, cut)], "clock")[0]
    assert top.colours == pytest.approx(again)
