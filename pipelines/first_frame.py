"""Videos that begin with a given picture, from a text-to-video model of the flow kind that was trained without any.

The latent frame of the picture is put into the latents after every step, with the noise of that step's level, as
inpainting pipelines restore what is not painted (RePaint, arXiv 2201.09865, without its resampling). The model sees it
beside the frames that it makes and continues it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOISE_SEED = 0  # of the noise on the first frame, the same for all videos


def with_first_frame(pipe: Any) -> Any:
    """A pipeline like `WanPipeline`, of the same components, whose call also takes `image=`.

    image: a PIL image, or a tensor [1, 3, h, w] in [0, 1], of the video's size.
    """
    cls = type(f"FirstFrame{type(pipe).__name__}", (FirstFrame, type(pipe)), {})
    return cls(**pipe.components)


class FirstFrame:
    """Comes before a text-to-video pipeline among the bases of a class; see `with_first_frame`."""

    vae: Any
    scheduler: Any
    video_processor: Any

    def __call__(self, prompt: Any = None, image: Any = None, **call: Any) -> Any:
        if image is not None:
            call["callback_on_step_end"] = self._restore(
                self._latent(image), call.get("callback_on_step_end")
            )
        return super().__call__(prompt=prompt, **call)  # type: ignore[misc]

    @torch.no_grad()
    def _latent(self, image: Any) -> Tensor:
        """The latent frame [1, channels, 1, h, w] of a picture, as the denoiser knows latents."""
        pixels = self.video_processor.preprocess(image).to(self.vae.device, self.vae.dtype)
        encoded = self.vae.encode(pixels[:, :, None]).latent_dist.mode()
        mean, std = (
            torch.tensor(values, device=encoded.device, dtype=encoded.dtype).reshape(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        latent: Tensor = (encoded - mean) / std
        return latent

    def _restore(self, first: Tensor, then: Any) -> Any:
        """A `callback_on_step_end` that puts the first frame into the latents. then: the user's own, called after."""
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(first)

        def at_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            level = float(self.scheduler.sigmas[step + 1])
            latents = tensors["latents"].clone()
            latents[:, :, :1] = (1 - level) * first + level * noise
            tensors["latents"] = latents
            return tensors if then is None else then(pipe, step, timestep, tensors)

        return at_step_end
