"""Tiny pipelines whose loops edit their latents or draw noise: one class, and a table of what its loop does.

`FORMS[name]` is a subclass of `EditedLoop`, a small copy of the loop of Stable Diffusion with three hooks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor


class EditedLoop(StableDiffusionPipeline):
    def begin(self, latents: Any, timesteps: Any, generator: Any) -> dict[str, Any]:
        """What the loop keeps. Images behind the mask are as noisy as the latents at each step."""
        picture = torch.linspace(-1, 1, latents[0].numel()).reshape(1, *latents.shape[1:]).to(latents)
        mask = torch.zeros_like(latents[:1, :1])
        mask[..., : mask.shape[-1] // 2] = 1
        noise = latents / self.scheduler.init_noise_sigma
        return {"picture": picture, "mask": mask, "noise": noise, "timesteps": timesteps}

    def before(self, i: int, latents: Any, kept: dict[str, Any], generator: Any) -> Any:
        return latents

    def output(self, i: int, predicted: Any, kept: dict[str, Any], generator: Any) -> Any:
        return predicted

    def after(self, i: int, latents: Any, last: Any, kept: dict[str, Any], generator: Any) -> Any:
        return latents

    def noisy(self, i: int, kept: dict[str, Any], noise: Any) -> Any:
        return self.scheduler.add_noise(kept["picture"], noise, kept["timesteps"][i : i + 1])

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any = None,
        height: int = 16,
        width: int = 16,
        num_inference_steps: int = 4,
        guidance_scale: float = 3.0,
        num_images_per_prompt: int = 1,
        generator: Any = None,
        latents: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Any = ("latents",),
    ) -> Any:
        return self.run(**{k: v for k, v in locals().items() if k not in ("self", "__class__")})

    @torch.no_grad()
    def run(self, prompt, height, width, num_inference_steps, guidance_scale, num_images_per_prompt, generator,
            latents, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs):  # fmt: skip
        from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput

        self._guidance_scale, self._interrupt, device = guidance_scale, False, self._execution_device
        rows = (len(prompt) if isinstance(prompt, list) else 1) * num_images_per_prompt
        wanted, unwanted = self.encode_prompt(prompt, device, num_images_per_prompt, True)
        embeds = torch.cat([unwanted, wanted])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        latents = self.prepare_latents(
            rows, self.unet.config.in_channels, height, width, embeds.dtype, device, generator, latents
        )
        kept = self.begin(latents, timesteps, generator)
        extra = self.prepare_extra_step_kwargs(generator, 0.0)
        for i, t in enumerate(timesteps):
            if self._interrupt:
                continue
            latents = self.before(i, latents, kept, generator)
            doubled = self.scheduler.scale_model_input(torch.cat([latents] * 2), t)
            negative, positive = self.unet(doubled, t, encoder_hidden_states=embeds, return_dict=False)[
                0
            ].chunk(2)
            predicted = negative + guidance_scale * (positive - negative)
            predicted = self.output(i, predicted, kept, generator)
            last = latents
            latents = self.scheduler.step(predicted, t, latents, **extra, return_dict=False)[0]
            latents = self.after(i, latents, last, kept, generator)
            if callback_on_step_end is not None:
                names = {"latents": latents}
                latents = callback_on_step_end(self, i, t, names).pop("latents", latents)
        if output_type != "latent":
            latents = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
            latents = self.image_processor.postprocess(
                latents, output_type=output_type, do_denormalize=[True] * latents.shape[0]
            )
        return StableDiffusionPipelineOutput(latents, None) if return_dict else (latents,)


class WithoutCallback(EditedLoop):
    @torch.no_grad()
    def __call__(
        self,
        prompt: Any = None,
        height: int = 16,
        width: int = 16,
        num_inference_steps: int = 4,
        guidance_scale: float = 3.0,
        num_images_per_prompt: int = 1,
        generator: Any = None,
        latents: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        return self.run(**given, callback_on_step_end=None, callback_on_step_end_tensor_inputs=None)


def blended(x: Any, other: Any, mask: Any) -> Any:
    return other * mask + x * (1 - mask)


class Before(EditedLoop):
    """Differential image-to-image: blends at the top of the iteration."""

    def before(self, i, latents, kept, generator):
        return blended(latents, self.noisy(i, kept, kept["noise"]), kept["mask"]) if i else latents


class BeforeSoft(EditedLoop):
    """Blends by parts, so that doing it twice is not doing it once; at step 0, too."""

    def before(self, i, latents, kept, generator):
        return blended(latents, self.noisy(i, kept, kept["noise"]), 0.3 * kept["mask"])


class BeforeFirstRow(EditedLoop):
    """Blends with the noise of the first row, whatever the number of rows."""

    def before(self, i, latents, kept, generator):
        return blended(latents, self.noisy(i, kept, kept["noise"][:1]), kept["mask"])


class BeforeReplaced(EditedLoop):
    """The loop begins with other latents than those that were prepared."""

    def before(self, i, latents, kept, generator):
        if i == 0:
            return self.noisy(0, kept, kept["noise"][:1])
        return blended(latents, self.noisy(i, kept, kept["noise"]), kept["mask"])


class After(EditedLoop):
    """Inpainting: blends after the step."""

    def after(self, i, latents, last, kept, generator):
        end = i + 1 == len(kept["timesteps"])
        return blended(
            latents, kept["picture"] if end else self.noisy(i + 1, kept, kept["noise"]), kept["mask"]
        )


class AfterSoft(EditedLoop):
    """Noise is left in the picture after the last step, too."""

    def after(self, i, latents, last, kept, generator):
        return blended(latents, self.noisy(i, kept, kept["noise"]), 0.3 * kept["mask"])


class AfterKept(EditedLoop):
    """DeepFloyd IF inpainting: what is behind the mask stays as it was before the step."""

    def after(self, i, latents, last, kept, generator):
        return blended(latents, last, kept["mask"])


class AfterMomentum(EditedLoop):
    """The latents lag behind."""

    def after(self, i, latents, last, kept, generator):
        return 0.8 * latents + 0.2 * last


class Both(After):
    def before(self, i, latents, kept, generator):
        return latents * (1 - 0.1 * kept["mask"])


class DrawnBefore(EditedLoop):
    """LTXConditionPipeline: noise on a part of the latents before each model call."""

    def before(self, i, latents, kept, generator):
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        return blended(latents, kept["picture"] + 0.3 * noise, kept["mask"])


class DrawnBeforeGlobally(EditedLoop):
    """GLIGEN inpainting: one draw from the global stream for all rows."""

    def before(self, i, latents, kept, generator):
        return blended(latents, self.noisy(i, kept, torch.randn_like(kept["picture"])), kept["mask"])


class DrawnAfter(EditedLoop):
    def after(self, i, latents, last, kept, generator):
        return latents + 0.1 * randn_tensor(latents.shape, generator=generator, dtype=latents.dtype)


class DrawnAfterGlobally(EditedLoop):
    def after(self, i, latents, last, kept, generator):
        return latents + 0.1 * torch.randn(latents.shape)


class DrawnOnce(EditedLoop):
    """Noise that is drawn at the first step and used at all."""

    def before(self, i, latents, kept, generator):
        if i == 0:
            kept["drawn"] = randn_tensor(latents.shape, generator=generator, dtype=latents.dtype)
        return latents + 0.05 * kept["drawn"]


class DrawnForOutput(EditedLoop):
    """Draws between the model call and the step, and edits nothing else."""

    def output(self, i, predicted, kept, generator):
        return predicted + 0.1 * randn_tensor(predicted.shape, generator=generator, dtype=predicted.dtype)


class DrawnTwice(EditedLoop):
    """From both streams, before and after the step."""

    def before(self, i, latents, kept, generator):
        return latents + 0.05 * randn_tensor(latents.shape, generator=generator)

    def after(self, i, latents, last, kept, generator):
        return (
            latents
            + 0.05 * torch.randn_like(latents)
            + 0.05 * randn_tensor(latents.shape, generator=generator)
        )


class MaskedOutput(EditedLoop):
    """A mask on the model's output: the latents are not edited."""

    def output(self, i, predicted, kept, generator):
        return predicted * (1 - 0.5 * kept["mask"])


class Uniform(EditedLoop):
    def before(self, i, latents, kept, generator):
        return latents + 0.05 * torch.rand(latents.shape, generator=generator)


class OtherStream(EditedLoop):
    """Draws from a stream that is not torch's."""

    def before(self, i, latents, kept, generator):
        return latents + 0.05 * torch.from_numpy(np.random.randn(*latents.shape)).to(latents)


_FORMS = (
    Before, BeforeSoft, BeforeFirstRow, BeforeReplaced, After, AfterSoft, AfterKept, AfterMomentum, Both, DrawnBefore,
    DrawnBeforeGlobally, DrawnAfter, DrawnAfterGlobally, DrawnOnce, DrawnForOutput, DrawnTwice, MaskedOutput,
)  # fmt: skip

FORMS: dict[str, type] = {}
for _form in _FORMS:
    FORMS[_form.__name__] = _form
    FORMS[f"{_form.__name__}, no callback"] = type(_form.__name__, (_form, WithoutCallback), {
        "__call__": WithoutCallback.__call__,
    })  # fmt: skip


def build(form: type, scheduler: str = "DDIMScheduler") -> Any:
    from tests import zoo_unets
    from tests.zoo import with_scheduler

    made = zoo_unets.stable_diffusion()
    pipe = form(**made.components)
    pipe.set_progress_bar_config(disable=True)
    return with_scheduler(pipe, scheduler)
