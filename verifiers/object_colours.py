"""The colour of an object, by a CLIP: which of ten words its crop fits best.

GenEval (Ghosh et al. 2023, arXiv 2310.11513, section 3.2) asks a CLIP ViT-L/14 about the crop of an object, with
everything outside its mask painted over with grey 0.6 (#999), by three sentences whose embeddings are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.verifiers.clip import Clip
from genscale.verifiers.detections import Box
from genscale.verifiers.requirements import COLOURS

SENTENCES = (
    "a photo of a {colour} {noun}",
    "a photo of a {colour}-colored {noun}",
    "a photo of a {colour} object",
)
GREY = 0.6


def crop(image: Tensor, box: Box, mask: Tensor | None = None) -> Tensor:
    """The part [3, h, w] of an image [3, height, width] inside a box, at least one pixel each way.

    mask: [height, width] in [0, 1]; what it leaves out is painted over with GREY.
    """
    height, width = image.shape[-2:]
    left, upper = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, lower = max(round(box[2]), left + 1), max(round(box[3]), upper + 1)
    if mask is not None:
        image = mask * image + (1 - mask) * GREY
    return image[:, upper:lower, left:right]


def colour_shares(clip: Clip, crops: Sequence[Tensor], noun: str) -> list[dict[str, float]]:
    """How much each crop [3, h, w] of a noun looks like each of COLOURS: a distribution, softmax of CLIP's logits."""
    if not crops:
        return []
    with torch.no_grad():
        device = crops[0].device
        texts = [s.format(colour=c, noun=noun) for c in COLOURS for s in SENTENCES]
        apart = clip.embed_texts(texts, device).reshape(len(COLOURS), len(SENTENCES), -1)
        words = F.normalize(apart.mean(1), dim=-1)
        seen = torch.cat([clip.embed(one[None]) for one in crops])
        shares = (clip.scale(device) * seen @ words.T).softmax(-1).tolist()
    return [dict(zip(COLOURS, row, strict=True)) for row in shares]
