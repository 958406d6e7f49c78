"""Pipelines that need no other parts than a family of the zoo has."""

from __future__ import annotations

from tests.derived_recipe import Recipe, recipes

PLAIN: dict[str, Recipe] = (
    recipes("AnimateDiffPAG AnimateDiffVideoToVideo", "animatediff")
    | recipes("ChromaImg2Img", "chroma")
    | recipes("CogVideoXVideoToVideo", "cogvideox")
    | recipes("CycleDiffusion SemanticStableDiffusion StableDiffusionModelEditing", "stable_diffusion")
    | recipes("StableDiffusionPanorama StableDiffusionSAG", "stable_diffusion")
    | recipes("Flux2KleinInpaint", "flux2_klein")
    | recipes("FluxImg2Img FluxInpaint", "flux")
    | recipes("FluxKontextInpaint", "flux_kontext")
    | recipes("HunyuanDiTPAG", "hunyuan_dit")
    | recipes("Kandinsky3Img2Img", "kandinsky3")
    | recipes("KandinskyV22Controlnet KandinskyV22ControlnetImg2Img KandinskyV22Img2Img", "kandinsky")
    | recipes("LatentConsistencyModelImg2Img", "lcm")
    | recipes("PixArtAlpha", "pixart_sigma")
    | recipes("QwenImageImg2Img QwenImageInpaint", "qwen_image")
    | recipes("SanaPAG", "sana")
    | recipes("StableDiffusion3Img2Img StableDiffusion3PAG StableDiffusion3PAGImg2Img", "sd3")
    | recipes("StableDiffusionPAGImg2Img StableDiffusionPAGInpaint", "pag")
    | recipes("StableDiffusionXLControlNetImg2Img StableDiffusionXLControlNetInpaint", "sdxl_controlnet")
    | recipes("StableDiffusionXLControlNetPAG StableDiffusionXLControlNetPAGImg2Img", "sdxl_controlnet")
    | recipes("StableDiffusionXLImg2Img StableDiffusionXLInpaint StableDiffusionXLPAG", "sdxl")
    | recipes("StableDiffusionXLPAGImg2Img StableDiffusionXLPAGInpaint", "sdxl")
    | recipes("WanVideoToVideo", "wan")
    | recipes("ZImageImg2Img ZImageInpaint", "z_image")
)
