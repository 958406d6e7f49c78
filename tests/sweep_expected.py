"""Derived pipelines that are not searched, and why: refusals that are meant, and faults that wait to be mended."""

from __future__ import annotations

NO_NOISE = "the initial latents of this call do not depend on noise"
NO_ITEM = "so that a candidate is no single item"
SEVERAL = "and a call is one candidate: let it make one image a call"
NOT_TORCH = "it draws random numbers in its loop that are not torch's"
NO_RANDOMNESS = "has no scheduler, so there is no denoising loop to search"
BRIGHT = "which is no image or video: return pixels in [0, 1]"


def _of(words: str, names: str) -> dict[str, str]:
    return {f"{name}Pipeline": words for name in names.split()}


# Words of the one sentence that refuses the pipeline.
REFUSED: dict[str, str] = (
    _of(NO_RANDOMNESS, "FluxPriorRedux")
    | _of(
        NO_ITEM, "KandinskyPrior KandinskyV22Prior KandinskyV22PriorEmb2Emb MarigoldIntrinsics VideoToVideoSD"
    )
    | _of(SEVERAL, "TextToVideoZero TextToVideoZeroSDXL VisualCloze")
    | _of(BRIGHT, "LTX2HDR")
    | _of(NOT_TORCH, "LTXCondition")
    | _of(NO_NOISE, "StableDiffusionDiffEdit")
)

ROWS = "tensors that it makes for its rows are not gathered to those of a batch"

# What is wrong with the search of a pipeline that runs alone: each is to be mended, and then to leave this table.
FAULTS: dict[str, str] = (
    _of(ROWS, "Cosmos2_5_Transfer")
    | _of("fails without a generator, which a search takes from it", "VisualClozeGeneration")
    | _of("attention maps of an earlier loop are missing in a search", "StableDiffusionPix2PixZero")
    | _of("totals depend on the size of batches", "StableDiffusionPanorama")
    | _of(
        "its own attention runs along the batch, so that rows are mixed",
        "StableDiffusionXLControlNetUnionImg2Img",
    )
)
