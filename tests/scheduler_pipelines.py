"""Small pipelines for schedulers that Stable Diffusion and SD3 do not take, and a plain loop that takes nearly all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from tests.zoo_configs import TWO_LEVELS
from tests.zoo_parts import make, pipeline, scheduler


class PlainLoopPipeline(DiffusionPipeline):
    """The loop that all schedulers are made for, without prompts; pictures are the latents themselves."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self, batch_size: int = 1, num_inference_steps: int = 4, generator: Any = None, output_type: str = "np",
        return_dict: bool = True,
    ) -> Any:  # fmt: skip

        self.scheduler.set_timesteps(num_inference_steps)
        latents = randn_tensor((batch_size, 3, 8, 8), generator=generator)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        more = (
            {"generator": generator}
            if "generator" in inspect.signature(self.scheduler.step).parameters
            else {}
        )
        for t in self.scheduler.timesteps:
            x = (
                self.scheduler.scale_model_input(latents, t)
                if hasattr(self.scheduler, "scale_model_input")
                else latents
            )
            latents = self.scheduler.step(self.unet(x, t).sample, t, latents, **more).prev_sample
        return self.pictures(latents, output_type, return_dict)

    def pictures(self, latents: Any, output_type: str, return_dict: bool) -> Any:
        from diffusers import ImagePipelineOutput

        images = (latents / 2 + 0.5).clamp(0, 1)
        if output_type == "np":
            images = images.permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def unet2d(**config: Any) -> Any:
    small = {
        **TWO_LEVELS,
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    return make("UNet2DModel", **small | config)


def plain_loop() -> Any:
    pipe = PlainLoopPipeline(unet2d(), scheduler("DDIMScheduler", clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def consistency() -> Any:
    return pipeline(
        "ConsistencyModelPipeline", unet=unet2d(), scheduler=scheduler("CMStochasticIterativeScheduler")
    )


@dataclass(frozen=True)
class Special:
    title: str
    build: Callable[[], Any]
    arguments: Callable[[], dict[str, Any]]
    takes: tuple[str, ...]


SPECIAL = (
    Special(
        "Consistency Models",
        consistency,
        lambda: {"num_inference_steps": 3},
        ("CMStochasticIterativeScheduler",),
    ),
)
