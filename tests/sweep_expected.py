"""Derived pipelines that are not searched, and why: refusals that are meant, and faults that wait to be mended."""

from __future__ import annotations

NO_LOOP = "cannot be searched: it never calls scheduler.step"
MANY_STEPS = "more than once for a timestep"
MANY_LOOPS = "it runs more than one loop over scheduler.timesteps"
OUTSIDE = "it calls scheduler.step outside a loop over scheduler.timesteps"
NO_SCHEDULER = "has no scheduler, so there is no denoising loop to search"
OWN_STEP = "has no parameters named 'model_output' and 'sample'"
OTHER_NOISE = "the pipeline draws other noise in every call"
KEEPS = "HeliosScheduler keeps an object of the class dict"
NOT_TORCH = "it draws random numbers in its loop that are not torch's"
NO_NOISE = "the initial latents of this call do not depend on noise"


def _of(words: str, names: str) -> dict[str, str]:
    return {f"{name}Pipeline": words for name in names.split()}


# Words of the one sentence that refuses the pipeline.
REFUSED: dict[str, str] = (
    _of(NO_SCHEDULER, "FluxPriorRedux LTXLatentUpsample UnCLIP UnCLIPImageVariation")
    | _of(NO_LOOP, "KandinskyCombined KandinskyImg2ImgCombined KandinskyInpaintCombined")
    | _of(NO_LOOP, "KandinskyV22Combined KandinskyV22Img2ImgCombined KandinskyV22InpaintCombined")
    | _of(NO_LOOP, "StableDiffusionParadigms")
    | _of(MANY_STEPS, "LTX2 LTX2Condition LTX2HDR LTX2ImageToVideo LTX2InContext")
    | _of(MANY_STEPS, "CosmosTextToWorld CosmosVideoToWorld")
    | _of(MANY_LOOPS, "AnyFlowFAR TextToVideoZero TextToVideoZeroSDXL")
    | _of(OUTSIDE, "AmusedImg2Img AmusedInpaint SkyReelsV2DiffusionForcing")
    | _of(OUTSIDE, "SkyReelsV2DiffusionForcingImageToVideo SkyReelsV2DiffusionForcingVideoToVideo")
    | _of(OWN_STEP, "KarrasVe ScoreSdeVe")
    | _of(OTHER_NOISE, "KandinskyPrior KandinskyV22Prior KandinskyV22PriorEmb2Emb")
    | _of(KEEPS, "Helios HeliosPyramid")
    | _of(NOT_TORCH, "LTXCondition")
    | _of(NO_NOISE, "StableDiffusionDiffEdit")
    | _of("AmusedScheduler draws noise in its step that no search can control", "Amused")
    | _of("VQDiffusionScheduler draws noise in its step that no search can control", "VQDiffusion")
)

BYTES = "the bytes of an expanded tensor are asked for"
NUMBERS = "its output is no picture in [0, 1], and the exception is no UsageError"
ROWS = "tensors that it makes for its rows are not gathered to those of a batch"

# What is wrong with the search of a pipeline that runs alone: each is to be mended, and then to leave this table.
FAULTS: dict[str, str] = (
    _of(BYTES, "StableCascadeCombined WuerstchenCombined")
    | _of(NUMBERS, "MarigoldNormals StableCascadePrior WuerstchenPrior")
    | _of(ROWS, "Cosmos2_5_Transfer Kandinsky5I2I VideoToVideoSD WanVACE VisualCloze VisualClozeGeneration")
    | _of("makes two pictures of one latent, which are counted as two candidates", "MarigoldIntrinsics")
    | _of("its pictures can only be had as pil or np", "StableDiffusionLDM3D")
    | _of("goes back to earlier timesteps, and its noise is another", "RePaint")
    | _of("attention maps that a placeholder does not make", "StableDiffusionAttendAndExcite")
    | _of("attention maps that a placeholder does not make", "StableDiffusionPix2PixZero")
    | _of("totals depend on the size of batches", "StableDiffusionPanorama")
    | _of("totals depend on the size of batches", "StableDiffusionXLControlNetUnionImg2Img")
)
