"""Pipeline classes of diffusers that are not swept, each with the reason."""

from __future__ import annotations


def _because(reason: str, names: str) -> dict[str, str]:
    return {f"{name}Pipeline": reason for name in names.split()}


SKIPPED: dict[str, str] = (
    _because("reads the embedding of a CLAP model as transformers 4 gives it", "MusicLDM")
    | _because("not built yet: a processor of texts and pictures for its model of text", "DiffusionGemma")
    | _because("it makes proteins", "RFD4Proteina")
    | _because("reads guidance_embeds, which its transformer's configuration does not have", "ChromaInpaint")
    | _because("calls encode_prompt with an argument that it does not take", "EasyAnimateControl")
    | _because(
        "its transformer blocks refuse an argument that its UNet gives", "VersatileDiffusionDualGuided"
    )
    | _because("it has no call of its own, only three methods", "VersatileDiffusion")
    | _because("needs a text encoder with a vision tower (T5Gemma 2), not built yet", "MotifVideoImage2Video")
    | _because("needs a camera path and kernels of its transformer, not built yet", "SanaWM")
    | _because("edits pictures of 1024 x 1024 and no smaller ones", "JoyImageEdit JoyImageEditPlus")
    | _because("casts its pictures to bfloat16 whatever its weights are", "ZImageOmni")
    | _because("not built yet: positions of a prompt and its pictures do not fit tiny parts", "QwenImage21")
    | _because("not built yet: positions of its layers do not fit tiny parts", "QwenImageLayered")
    | _because("not built yet: a Q-Former", "BlipDiffusion BlipDiffusionControlNet")
    | _because("its tiny parts give NaN, alone, too", "Kandinsky5I2V")
    | _because("renders 20 views, a minute a call even for tiny parts", "ShapE ShapEImg2Img")
    | _because("not built yet: a decoder of text beside the pictures", "UniDiffuser")
    | _because("not built yet: a language model that writes the codes of pictures", "GlmImage")
    | _because(
        "not built yet: many parts that no other pipeline shares", "Cosmos3Omni Kandinsky6SR Kandinsky6TI2VA"
    )
    | _because("needs keyframes or an upsampler of LTX-2.5, not built yet", "LTX2DFR LTX2DFRTemporalRefine")
    | _because(
        "has no denoising loop or needs a decoder of LTX-2.5", "LTX2LatentUpsample LTX2VideoDiffusionDecode"
    )
)
