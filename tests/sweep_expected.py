"""Which derived pipelines are not searched, and why: refusals that are meant, and faults that wait for their mending."""

from __future__ import annotations

NO_LOOP = "cannot be searched: it never calls scheduler.step"
NO_SCHEDULER = "has no scheduler, so there is no denoising loop to search"
OWN_STEP = "has no parameters named 'model_output' and 'sample'"


def _of(words: str, names: str) -> dict[str, str]:
    return {f"{name}Pipeline": words for name in names.split()}


# Words of the one sentence that refuses the pipeline.
REFUSED: dict[str, str] = (
    _of(NO_SCHEDULER, "FluxPriorRedux LTXLatentUpsample UnCLIP UnCLIPImageVariation")
    | _of(NO_LOOP, "KandinskyCombined KandinskyImg2ImgCombined KandinskyInpaintCombined")
    | _of(NO_LOOP, "KandinskyV22Combined KandinskyV22Img2ImgCombined KandinskyV22InpaintCombined")
    | _of(NO_LOOP, "StableDiffusionParadigms")
    | _of(OWN_STEP, "KarrasVe ScoreSdeVe")
)

# What is wrong with the search of a pipeline that runs alone: each is to be mended, and then to leave this table.
FAULTS: dict[str, str] = {}
