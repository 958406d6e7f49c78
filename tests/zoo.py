"""A zoo of tiny diffusers pipelines with random weights: offline, and the same every time.

`ZOO[name].build()` makes the pipeline and `ZOO[name].arguments(n)` what to call it with for n
prompts. Images are 16 to 64 pixels wide and videos have 2 or 3 latent frames, so that a forward
takes milliseconds. The pipelines mean nothing, but they listen: to the noise and to the prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tests import zoo_transformers as transformers
from tests import zoo_unets as unets
from tests import zoo_videos as videos

THINGS = ("a red cube", "one blue ball", "two green cones", "the old grey cat", "a yellow boat")

DIFFUSION = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)
UNIPC = ("UniPCMultistepScheduler",)  # the one further flow scheduler that takes sigmas
FLOW = ("DPMSolverMultistepScheduler", *UNIPC)
FLOW_HEUN = ("FlowMatchHeunDiscreteScheduler", *FLOW)  # for pipelines that pass no sigmas


@dataclass(frozen=True)
class Entry:
    """A family: how to build its pipeline, and what to call it with for n prompts."""

    build: Callable
    arguments: Callable[[int], dict]
    video: bool = False
    schedulers: tuple[str, ...] = ()


def with_scheduler(pipe, name):
    """Give `pipe` a scheduler of the named class, made from the configuration of its own."""
    import diffusers

    config = pipe.scheduler.config
    flow, options = "FlowMatch" in type(pipe.scheduler).__name__, {}
    if name.startswith("FlowMatch"):
        options = {} if flow else {"shift": config.flow_shift}
    elif flow:
        options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        options |= {"flow_shift": config.shift}
    pipe.scheduler = getattr(diffusers, name).from_config(config, **options)
    return pipe


def text(n):
    """`n` distinct prompts of different lengths."""
    return [f"{THINGS[i % len(THINGS)]} {i}" for i in range(n)]


def images(n, size=16):
    """`n` distinct smooth images, [n, 3, size, size] in 0..1."""
    ramp = torch.linspace(0, 3, size)
    phase = torch.arange(3 * n, dtype=torch.float32).reshape(n, 3, 1, 1)
    return (torch.sin(ramp[:, None] * 2 + ramp + phase) + 1) / 2


def masks(n, size=16):
    """`n` equal masks, [n, 1, size, size]: repaint the right half."""
    mask = torch.zeros(n, 1, size, size)
    mask[..., size // 2 :] = 1
    return mask


def image_arguments(n, size=16, **more):
    return {"prompt": text(n), "num_inference_steps": 3, "height": size, "width": size} | more


def video_arguments(n, size=16, frames=5, **more):
    return image_arguments(n, size, num_frames=frames, max_sequence_length=32) | more


def image(build, schedulers=(), **more):
    """The entry of a family that makes images of a prompt."""
    return Entry(build, partial(image_arguments, **more), schedulers=schedulers)


def video(build, schedulers=(), **more):
    """The entry of a family that makes videos of a prompt."""
    return Entry(build, partial(video_arguments, **more), video=True, schedulers=schedulers)


def _kandinsky_arguments(n):
    wanted, unwanted = torch.randn(n, 2, 16, generator=torch.Generator().manual_seed(0)).unbind(1)
    arguments = image_arguments(n, image_embeds=wanted, negative_image_embeds=unwanted)
    del arguments["prompt"]
    return arguments


def _img2img_arguments(n):
    return {"prompt": text(n), "image": images(n), "num_inference_steps": 4, "strength": 0.75}


def _inpaint_arguments(n, **more):
    return image_arguments(n, image=images(n), mask_image=masks(n), **more)


def _inpaint(**config):
    return unets.stable_diffusion("StableDiffusionInpaintPipeline", unet=unets.unet(**config))


ZOO = {
    "stable_diffusion": image(unets.stable_diffusion, DIFFUSION),
    "sdxl": image(unets.sdxl, DIFFUSION),
    "sd_img2img": Entry(
        partial(unets.stable_diffusion, "StableDiffusionImg2ImgPipeline"),
        _img2img_arguments,
        schedulers=DIFFUSION,
    ),
    "sd_inpaint": Entry(partial(_inpaint, in_channels=9), _inpaint_arguments, schedulers=DIFFUSION),
    "sd_inpaint4": Entry(_inpaint, _inpaint_arguments, schedulers=DIFFUSION),
    "sdxl_controlnet": Entry(
        unets.sdxl_controlnet,
        lambda n: image_arguments(n, image=images(n), controlnet_conditioning_scale=0.5),
        schedulers=DIFFUSION,
    ),
    "pag": image(partial(unets.stable_diffusion, "StableDiffusionPAGPipeline"), DIFFUSION),
    "lcm": image(unets.lcm),
    "kandinsky": Entry(
        unets.kandinsky,
        _kandinsky_arguments,
        schedulers=("DPMSolverMultistepScheduler",),
    ),
    "kandinsky3": image(unets.kandinsky3, ("DDIMScheduler", "DPMSolverMultistepScheduler")),
    "sd3": image(transformers.sd3, FLOW_HEUN, max_sequence_length=32),
    "flux": image(transformers.flux, FLOW, max_sequence_length=32),
    "flux_true_cfg": image(
        partial(transformers.flux, guidance_embeds=False),
        FLOW,
        max_sequence_length=32,
        negative_prompt="grey fog",
        true_cfg_scale=3.0,
    ),
    "flux_kontext": Entry(
        partial(transformers.flux, "FluxKontextPipeline"),
        lambda n: image_arguments(
            n, image=images(n), max_sequence_length=32, max_area=256, _auto_resize=False
        ),
        schedulers=UNIPC,
    ),
    "flux_fill": Entry(
        partial(transformers.flux, "FluxFillPipeline", in_channels=48),
        partial(_inpaint_arguments, max_sequence_length=32),
    ),
    "chroma": image(transformers.chroma, UNIPC, max_sequence_length=32),
    "pixart_sigma": image(
        transformers.pixart_sigma,
        DIFFUSION,
        max_sequence_length=32,
        use_resolution_binning=False,
        clean_caption=False,
    ),
    "hunyuan_dit": image(transformers.hunyuan_dit, DIFFUSION, use_resolution_binning=False),
    "sana": image(
        transformers.sana,
        ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", *UNIPC),
        size=32,
        max_sequence_length=32,
        use_resolution_binning=False,
        complex_human_instruction=None,
    ),
    "lumina2": image(
        transformers.lumina2,
        UNIPC,
        size=64,
        max_sequence_length=64,
        system_prompt="Paint.",
    ),
    "auraflow": image(transformers.auraflow, FLOW_HEUN, max_sequence_length=32),
    "qwen_image": image(
        transformers.qwen_image,
        UNIPC,
        negative_prompt="grey fog",
        true_cfg_scale=3.0,
    ),
    "z_image": image(transformers.z_image, max_sequence_length=64),
    "flux2": image(transformers.flux2, FLOW, max_sequence_length=64, text_encoder_out_layers=(1,)),
    "flux2_klein": image(
        partial(transformers.flux2, "Flux2KleinPipeline", guidance_embeds=False),
        FLOW,
        max_sequence_length=64,
        text_encoder_out_layers=(1,),
    ),
    "hidream": image(transformers.hidream, UNIPC, max_sequence_length=32),
    "wan": video(videos.wan, FLOW_HEUN),
    "wan22": video(videos.wan22, FLOW_HEUN),
    "wan_i2v": Entry(
        videos.wan_i2v,
        lambda n: video_arguments(n, image=images(1)),  # one image for all prompts
        video=True,
        schedulers=FLOW_HEUN,
    ),
    "ltx": video(videos.ltx, UNIPC, size=32),
    "ltx_i2v": Entry(
        partial(videos.ltx, "LTXImageToVideoPipeline"),
        lambda n: video_arguments(n, size=32, image=images(n, 32)),
        video=True,
    ),
    "cogvideox": video(
        videos.cogvideox,
        ("CogVideoXDPMScheduler", "DDIMScheduler"),
        size=32,
        frames=9,
    ),
    "mochi": video(videos.mochi, UNIPC, size=32, frames=7),
    "hunyuan_video": video(
        videos.hunyuan_video,
        UNIPC,
        size=32,
        prompt_template={"template": "{}", "crop_start": 0},
    ),
    "animatediff": Entry(
        unets.animatediff,
        lambda n: image_arguments(n, num_frames=3),
        video=True,
        schedulers=DIFFUSION,
    ),
}
