"""Calls that are unusual in themselves: their search must be the pipeline itself, too, and each row that latent."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale.samplers.best_of_n import BestOfN
from tests.test_passthrough import TOLERANCE, Collect, equal, pixels
from tests.test_scale import arguments, brightness, seeded
from tests.zoo import ZOO, image_arguments, images
from tests.zoo_configs import AXES, HEADS
from tests.zoo_parts import clip, clip_tokenizer, make, pipeline, stable, vae
from tests.zoo_transformers import flux, sd3


def solved(pipe: Any, call: Any, n: int, batch_size: int) -> list[Tensor]:
    torch.manual_seed(0)
    sampler = Collect(n)
    genscale.scale(pipe, sampler, equal, batch_size=batch_size)(**call(), generator=seeded())
    return sampler.latents


def assert_inverted(pipe: Any, call: Any, n: int = 3) -> None:
    """One candidate is the pipeline itself, and in a batch each row is that latent alone."""
    torch.manual_seed(0)
    alone = pixels(pipe(**call(), generator=seeded()))
    torch.manual_seed(0)
    assert torch.equal(alone, pixels(genscale.scale(pipe, candidates=1)(**call(), generator=seeded())))
    for one, together in zip(solved(pipe, call, n, 1), solved(pipe, call, n, n), strict=True):
        spread = float((one[1] - one[0]).abs().max())
        assert spread > 0.1
        assert float((one - together).abs().max()) < TOLERANCE * spread


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    pipe = ZOO[name].build().to(dtype)
    assert_inverted(pipe, lambda: ZOO[name].arguments(1) | {"output_type": "np"})
    call = arguments(name) | {"num_inference_steps": 4}
    search = genscale.scale(pipe, BestOfN(4, prune=(0.5,)), brightness, keep=2)(**call).search
    assert [e.x.dtype for e in search.ranking()] == [dtype] * 2


def test_timesteps_that_are_read_before_the_loop() -> None:
    """SDXL filters them for denoising_end."""
    pipe = ZOO["sdxl"].build()
    call = partial(ZOO["sdxl"].arguments, 2, output_type="latent", denoising_end=0.7)
    assert_inverted(pipe, lambda: ZOO["sdxl"].arguments(2) | call.keywords | {"num_inference_steps": 5})


def dit() -> Any:
    network = make(
        "DiTTransformer2DModel", sample_size=8, num_layers=2, patch_size=4, in_channels=4, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero", norm_elementwise_affine=False, **HEADS,
    )  # fmt: skip
    return pipeline("DiTPipeline", transformer=network, vae=vae(), scheduler=stable(clip_sample=False))


def text_to_video() -> Any:
    network = make(
        "UNet3DConditionModel", block_out_channels=(8, 16), layers_per_block=1, sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), attention_head_dim=4, norm_num_groups=2,
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=8,
    )  # fmt: skip
    return pipeline(
        "TextToVideoSDPipeline", vae=vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), unet=network,
        scheduler=stable(clip_sample=False),
    )  # fmt: skip


def sd3_controlnet() -> Any:
    hint = make(
        "SD3ControlNetModel", sample_size=8, patch_size=1, in_channels=4, num_layers=1, joint_attention_dim=16,
        caption_projection_dim=16, pooled_projection_dim=16, **HEADS,
    )  # fmt: skip
    parts = {k: v for k, v in sd3().components.items() if k not in ("image_encoder", "feature_extractor")}
    return pipeline("StableDiffusion3ControlNetPipeline", controlnet=hint, **parts)


UNUSUAL: dict[str, tuple[Any, Any]] = {
    # both guidance copies are stepped
    "dit": (dit, lambda n: {"class_labels": [*range(1, n + 1)], "num_inference_steps": 3}),
    # frames are folded into the rows before the step
    "text_to_video": (text_to_video, lambda n: image_arguments(n, num_frames=4)),
    # a condition is drawn once for each guidance copy
    "sd3_controlnet": (
        sd3_controlnet,
        lambda n: image_arguments(n, control_image=images(n), max_sequence_length=32),
    ),
}


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", UNUSUAL)
def test_latents_and_draws_with_other_rows_than_results(name: str, prompts: int) -> None:
    build, call = UNUSUAL[name]
    assert_inverted(build(), lambda: call(prompts) | {"output_type": "np"})


def finals(pipe: Any, call: Any, sampler: Any, batch_size: int) -> None:
    """Every finished candidate is what the plain pipeline makes of its noise."""
    pipe(**call())  # schedulers know their first noise level only after a call
    sigma = getattr(pipe.scheduler, "init_noise_sigma", 1.0)
    search = genscale.scale(pipe, sampler, brightness, keep=4, batch_size=batch_size)(**call()).search
    for entry in search.ranking():
        noise = search.searches[0].process.start([entry.candidate]).x / sigma
        alone = np.asarray(pipe(**call() | {"latents": noise})[0])[0]
        assert float(alone.mean() * 255) == pytest.approx(entry.total, abs=0.1)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("sampler", [BestOfN(4), BestOfN(4, prune=(0.5,))], ids=["plain", "pruned"])
@pytest.mark.parametrize("effect", ["guidance", "latents", "in place"])
def test_callbacks_that_change_the_loop(effect: str, sampler: Any, batch_size: int) -> None:
    """Guidance that ends half-way, and latents that are edited: for every candidate at its own step."""
    pipe = ZOO["sdxl"].build()
    names = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]

    def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if effect == "in place":
            tensors["latents"].mul_(0.9)
        elif effect == "latents":
            return {"latents": tensors["latents"] * 0.9}
        elif step == 1:
            p._guidance_scale = 0.0
            return {k: tensors[k][-1:] for k in names[1:]}
        return {}

    call = partial(
        arguments, "sdxl", num_inference_steps=5, callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )  # fmt: skip
    finals(pipe, call, sampler, batch_size)


def test_callbacks_of_diffusers() -> None:
    from diffusers.callbacks import SDXLCFGCutoffCallback

    pipe = ZOO["sdxl"].build()
    call = partial(
        arguments,
        "sdxl",
        num_inference_steps=5,
        callback_on_step_end=SDXLCFGCutoffCallback(cutoff_step_ratio=0.4),
    )
    alone = pipe(**call()).images
    output = genscale.scale(pipe, candidates=1)(**call())
    assert np.array_equal(alone, output.images)
    assert output.search.ledger.evaluations < output.search.searches[0].process.nfe()


def test_cached_models_forget_other_candidates() -> None:
    network = make(
        "FluxTransformer2DModel", in_channels=16, out_channels=16, num_layers=2, num_single_layers=2,
        joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=AXES, guidance_embeds=True, **HEADS,
    )  # fmt: skip
    pipe = flux()
    pipe.register_modules(transformer=network)
    cache = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 2000),
        current_timestep_callback=lambda: 500,
    )
    call = partial(arguments, "flux", num_inference_steps=5)
    without = pipe(**call()).images
    network.enable_cache(cache)
    assert not np.array_equal(without, pipe(**call()).images)
    finals(pipe, call, BestOfN(3), 1)
    finals(pipe, call, BestOfN(3), 2)


def test_a_verifier_may_use_the_pipeline_and_its_models() -> None:
    pipe = ZOO["stable_diffusion"].build()
    inner = genscale.scale(pipe, verifier=brightness, candidates=2)
    call = partial(arguments, "stable_diffusion")
    wanted = [pipe(**call()).images, inner(**call()).images, pipe.text_encoder(torch.tensor([[3]]))[0]]

    def verifier(media: Any, prompts: Any) -> list[float]:
        found = [pipe(**call()).images, inner(**call()).images, pipe.text_encoder(torch.tensor([[3]]))[0]]
        assert all(np.array_equal(a.detach(), b.detach()) if isinstance(a, Tensor) else np.array_equal(a, b)
                   for a, b in zip(found, wanted, strict=True))  # fmt: skip
        return brightness(media, prompts)

    alone = genscale.scale(pipe, verifier=brightness, candidates=3, wave=1)(**call())
    nested = genscale.scale(pipe, verifier=verifier, candidates=3, wave=1)(**call())
    assert np.array_equal(alone.images, nested.images)
    assert alone.search.ledger.evaluations == nested.search.ledger.evaluations


def test_pipelines_of_one_class_in_several_threads() -> None:
    call = partial(arguments, "sdxl_controlnet", num_inference_steps=4, control_guidance_start=0.5)
    pipes = [ZOO["sdxl_controlnet"].build() for _ in range(2)]

    def images(pipe: Any) -> np.ndarray:
        return genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=1)(**call()).images

    alone, found = images(pipes[0]), []
    threads = [threading.Thread(target=lambda p=p: found.append(images(p))) for p in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all(np.array_equal(alone, each) for each in found)


def test_a_second_loop_is_not_owned() -> None:
    class Twice(diffusers.DDIMPipeline):
        @torch.no_grad()
        def __call__(self, num_inference_steps: int = 2, generator: Any = None) -> Any:
            self.scheduler.set_timesteps(num_inference_steps)
            x = torch.randn(1, 3, 8, 8, generator=generator)
            for _ in range(2):
                for t in self.scheduler.timesteps:
                    x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
            return (x,)

    network = make(
        "UNet2DModel", block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4, sample_size=8,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = Twice(network, diffusers.DDIMScheduler())
    with (
        pytest.warns(UserWarning, match="more than one loop"),  # it is called as a whole
        pytest.raises(genscale.UsageError, match=r"return them in \[0, 1\]"),  # and gives no images
    ):
        genscale.scale(pipe, candidates=1)(generator=seeded())
