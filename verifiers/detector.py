"""An object detector as a verifier: are the objects there that the prompt asks for, so many, so coloured, so placed?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.checkpoints import check_pairs, runs_on
from genscale.verifiers.clip import Clip
from genscale.verifiers.detections import MARGIN, Detection, kept
from genscale.verifiers.differentiable import LoadedPerDevice, ModelSettings
from genscale.verifiers.object_colours import colour_shares, crop
from genscale.verifiers.object_metadata import read_metadata
from genscale.verifiers.object_prompts import read_prompt
from genscale.verifiers.requirements import (
    COUNTING_THRESHOLD,
    THRESHOLD,
    Requirement,
    Rules,
    soft_verdict,
    verdict,
)
from genscale.verifiers.segmenter import Segmenter, segmenter
from genscale.verifiers.zero_shot_detector import ZeroShotDetector, zero_shot_detector

SCORES = ("soft", "verdict")

Objects = dict[str, list[Detection]]


@dataclass(frozen=True)
class ObjectDetector(LoadedPerDevice[ZeroShotDetector], ModelSettings):
    """Whether the objects of the prompt are in the image, by a zero-shot detector and the rules of GenEval; 0 to 1.

    Ghosh et al. 2023, "GenEval" (arXiv 2310.11513): a detector finds the objects; they must be as many as asked for, a
    CLIP tells their colours, and the places of their boxes their relations. GenEval's detector knows 80 nouns; here it
    is Grounding DINO (arXiv 2303.05499) or OWLv2 (arXiv 2306.09683), which know any, so results are not GenEval's.
    The requirement is read from the prompt ("a photo of two red clocks", "a dog right of a teddy bear": see
    object_prompts.py; any other prompt is refused before the search) or given as metadata. For videos the mean over
    frames.

    Blind spots: everything but objects, such as style, actions, anatomy and beauty; what is painted in the image counts
    as an object; two of one noun that overlap count once (max_overlap); one object may be found under two nouns.

    checkpoint: Hugging Face id or folder (safetensors) of a Grounding DINO ("IDEA-Research/grounding-dino-tiny", -base)
        or OWLv2 ("google/owlv2-base-patch16-ensemble").
    metadata: a file in the form of GenEval's evaluation_metadata.jsonl (see object_metadata.py); its prompts, compared
        letter by letter, have the requirement that is written there. None: every prompt is read.
    score: "soft", a number that orders images (see requirements.py), or "verdict", 0 or 1.
    softness: of the soft score, above 0; towards 0 it becomes the verdict.
    threshold: least score of an object; counting_threshold: the same where a number is asked for. GenEval's, .3 and .9,
        which were chosen for a Mask2Former. Grounding DINO and OWLv2 give lower scores: their own examples use .25 and
        .1, so give both as about .3 or .1 for verdicts.
    max_overlap: of two objects of one noun whose intersection over union is so much or more, the surer one counts. .5
        is common; 1 is GenEval's, whose detector separates objects itself.
    margin: share of the sizes by which the distance of two objects is shortened before their relation is read.
    colour_model, colour_pretrained: the CLIP that tells colours, as of `clip`; loaded if a prompt names one.
    segmenter: Hugging Face id or folder of a SAM ("facebook/sam-vit-base"), which cuts an object out before its colour
        is told, as GenEval's masks do. None: the colour of all that is in the box.
    device, dtype: as for `clip`. batch_size: images or frames in one model call.
    """

    checkpoint: str = "IDEA-Research/grounding-dino-base"
    metadata: str | None = None
    score: str = "soft"
    softness: float = 1.0
    threshold: float = THRESHOLD
    counting_threshold: float = COUNTING_THRESHOLD
    max_overlap: float = 0.5
    margin: float = MARGIN
    colour_model: str = "ViT-L-14"
    colour_pretrained: str | None = "openai"
    segmenter: str | None = None
    batch_size: int = field(default=8, kw_only=True)

    name: ClassVar[str] = "detector"
    reads_prompts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in SCORES:
            raise UsageError(f"score '{self.score}' is unknown: choose one of {', '.join(SCORES)}.")
        for option in ("threshold", "counting_threshold"):
            if not 0 < getattr(self, option) < 1:
                raise UsageError(f"{option}={getattr(self, option)} must be above 0 and below 1.")
        for option in ("max_overlap", "margin"):
            if not 0 <= getattr(self, option) <= 1:
                raise UsageError(f"{option}={getattr(self, option)} must be in [0, 1].")
        if not 1e-6 <= self.softness < math.inf:
            raise UsageError(f"softness={self.softness} must be above 0 (0.000001 at least) and finite.")
        _ = self._given, self._clip  # a file that cannot be read is refused now

    @property
    def backbone(self) -> str:
        """The name of its detector."""
        return self.checkpoint

    def requirement(self, prompt: str) -> Requirement:
        """What a prompt asks for. UsageError: it is not in the metadata, and cannot be read."""
        found = self._given.get(prompt.strip())
        return read_prompt(prompt) if found is None else found

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Read the prompts, and load what they need. UsageError: one cannot be read, or a model is missing."""
        wanted = [self.requirement(prompt) for prompt in prompts]
        self.load(device)
        if any(requirement.coloured for requirement in wanted):
            self._clip.load(device)
            self._segmenter(device)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n], float64 in [0, 1]."""
        pixels = media.pixels
        rules = Rules(self.threshold, self.counting_threshold, self.margin)
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        asked = [prompt for prompt in prompts for _ in range(frames)]
        found = self.objects(Media(pixels.flatten(0, -4)), asked)
        scores = [
            soft_verdict(self.requirement(prompt), objects, rules, self.softness)
            if self.score == "soft"
            else float(verdict(self.requirement(prompt), objects, rules))
            for prompt, objects in zip(asked, found, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64).reshape(len(pixels), -1).mean(1)

    def objects(self, media: Media, prompts: Sequence[str]) -> list[Objects]:
        """What is found of the nouns of each image's prompt: by noun, the surest first, of any score."""
        check_pairs(media.pixels, prompts)
        wanted = [self.requirement(prompt) for prompt in prompts]
        model = self._model(media.pixels.device)
        found: list[Objects] = [{} for _ in prompts]
        for nouns in dict.fromkeys(requirement.nouns for requirement in wanted):
            rows = [row for row, requirement in enumerate(wanted) if requirement.nouns == nouns]
            for start in range(0, len(rows), self.batch_size):
                some = rows[start : start + self.batch_size]
                for row, detections in zip(some, model([media[r] for r in some], nouns), strict=True):  # type: ignore[misc]
                    found[row] = self._coloured(
                        kept(detections, self.max_overlap), wanted[row], media.pixels[row]
                    )
        return found

    def _coloured(self, objects: Objects, wanted: Requirement, image: Tensor) -> Objects:
        """With the colours of those whose colour matters."""
        for noun in wanted.coloured:
            most = max(part.count for part in wanted.wanted if part.noun == noun and part.colour is not None)
            seen = objects.get(noun, [])[:most]
            cut = self._segmenter(image.device)
            masks = [None] * len(seen) if cut is None else cut(image, [one.box for one in seen])
            crops = [crop(image, one.box, mask) for one, mask in zip(seen, masks, strict=True)]
            shares = colour_shares(self._clip, crops, noun)
            named = [replace(one, colours=share) for one, share in zip(seen, shares, strict=True)]
            objects = objects | {noun: [*named, *objects.get(noun, [])[most:]]}
        return objects

    def _segmenter(self, device: torch.device) -> Segmenter | None:
        return None if self.segmenter is None else segmenter(self.segmenter, runs_on(self.device, device))

    @cached_property
    def _given(self) -> dict[str, Requirement]:
        return {} if self.metadata is None else read_metadata(Path(self.metadata).expanduser())

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.colour_model, self.colour_pretrained, **self.model_settings)

    def _load_on(self, device: torch.device) -> ZeroShotDetector:
        return zero_shot_detector(self.checkpoint, device, getattr(torch, self.dtype or "float32"))
