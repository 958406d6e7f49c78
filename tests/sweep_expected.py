"""Derived pipelines that are not searched, and why: refusals that are meant, and faults that wait to be mended."""

from __future__ import annotations

NO_NOISE = "the initial latents of this call do not depend on noise"
NO_ITEM = "so that a candidate is no single item"
NO_RANDOMNESS = "has no scheduler, so there is no denoising loop to search"
BRIGHT = "which is no image or video: return pixels in [0, 1]"


def _of(words: str, names: str) -> dict[str, str]:
    return {f"{name}Pipeline": words for name in names.split()}


# Words of the one sentence that refuses the pipeline.
REFUSED: dict[str, str] = (
    _of(NO_RANDOMNESS, "FluxPriorRedux")
    | _of(NO_ITEM, "MarigoldIntrinsics")
    | _of(BRIGHT, "LTX2HDR")
    | _of(NO_NOISE, "StableDiffusionDiffEdit")
)

# What is wrong with the search of a pipeline that runs alone: each is to be mended, and then to leave this table.
FAULTS: dict[str, str] = {}
