"""Arguments of a pipeline call: lists, wrappers that pass them on, generators of images, how many images come back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale.errors import UsageError
from tests.quick import quick, third
from tests.zoo import ZOO, images, text, with_scheduler
from tests.zoo_parts import make
from tests.zoo_unets import XL, sdxl


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generators(n: int) -> list[torch.Generator]:
    return [seeded(7 + i) for i in range(n)]


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(p.mean()) * 255 for p in media.pixels]


def array(output: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in output[0]])


# ------------------------------------------------------------------------------ lists


def two_controlnets() -> Any:
    hints = [make("ControlNetModel", i, conditioning_embedding_out_channels=(8, 16), **XL) for i in (0, 1)]
    return sdxl("StableDiffusionXLControlNetPipeline", controlnet=hints)


def two_adapters() -> Any:
    """Two IP-Adapters, whose images are given as embeddings."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    pipe = ZOO["stable_diffusion"].build()
    torch.manual_seed(0)
    unet, processors = pipe.unet, {}
    for name, old in unet.attn_processors.items():
        cross = "attn2" in name
        module = functools.reduce(getattr, name.removesuffix(".processor").split("."), unet)
        processors[name] = old
        if cross:
            processors[name] = IPAdapterAttnProcessor2_0(
                module.to_q.out_features, cross_attention_dim=8, num_tokens=(2, 2), scale=[1.0, 1.0]
            )
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(16, 8, 2) for _ in range(2)])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    return pipe


def embeds() -> list[Tensor]:
    return [torch.randn(2, 1, 16, generator=seeded(i)) for i in range(2)]


LISTS: dict[str, tuple[Callable[[], Any], Callable[[int], dict[str, Any]]]] = {
    "an image a ControlNet": (
        two_controlnets,
        lambda n: {"image": list(images(2)[:, None]), "controlnet_conditioning_scale": [0.9, 0.3]},
    ),
    "a scale a ControlNet": (
        two_controlnets,
        lambda n: {
            "image": [images(n), images(2 * n)[n:]],
            "controlnet_conditioning_scale": [2.0, 0.1],
            "control_guidance_start": [0.0, 0.4],
        },
    ),
    "embeddings an adapter": (two_adapters, lambda n: {"ip_adapter_image_embeds": embeds()}),
    "timesteps": (
        lambda: with_scheduler(ZOO["stable_diffusion"].build(), "EulerDiscreteScheduler"),
        lambda n: {"timesteps": [901, 301]},
    ),
    "sigmas": (ZOO["flux"].build, lambda n: {"sigmas": [1.0, 0.4], "max_sequence_length": 32}),
    "an image a prompt": (
        lambda: ZOO["sd_img2img"].build(),
        lambda n: {"image": list(images(n)), "strength": 0.7, "num_inference_steps": 4},
    ),
    "an image and a mask a prompt": (
        lambda: ZOO["sd_inpaint4"].build(),
        lambda n: {"image": list(images(n)), "mask_image": [images(1)[0, :1].round() for _ in range(n)]},
    ),
    "a ControlNet image a prompt": (ZOO["sdxl_controlnet"].build, lambda n: {"image": list(images(n))}),
    "a negative prompt a prompt": (
        ZOO["sdxl_controlnet"].build,
        lambda n: {"negative_prompt": ["fog", "rain", "snow"][:n], "image": images(n)},
    ),
}


def call_of(name: str, prompts: int) -> tuple[Any, dict[str, Any]]:
    build, more = LISTS[name]
    size = {} if name in ("an image a prompt",) else {"height": 16, "width": 16}
    steps = {} if name in ("timesteps", "sigmas") else {"num_inference_steps": 3}
    return build(), {"prompt": text(prompts), "output_type": "np", **size, **steps, **more(prompts)}


@pytest.mark.parametrize("prompts", quick([2, 3], [2]))
@pytest.mark.parametrize("batch_size", quick([1, 2, 3, 16], [3]))
@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_what_the_pipeline_takes_it_for(name: str, batch_size: int, prompts: int) -> None:
    """Candidate 0 is the pipeline's own result in batches of any size, and among other candidates."""
    pipe, call = call_of(name, prompts)
    alone = pipe(**call, generator=seeded()).images
    scaled = genscale.scale(pipe, candidates=2, verifier=brightness, batch_size=batch_size, keep=2)
    search = scaled(**call, generator=seeded()).search
    found = search.media([search.base(i) for i in range(prompts)]).pixels.movedim(-3, -1).numpy()
    # in one-row batches floats round differently
    assert np.abs(found - alone).max() < 1e-4


def test_what_cannot_be_told_apart_is_refused() -> None:
    """A pipeline that is called with a row for each candidate, and accepts a list for its own rows only."""
    pipe, call = call_of("an image and a mask a prompt", 2)

    class Picky(type(pipe)):  # type: ignore[misc]
        def check_inputs(self, *args: Any, **kwargs: Any) -> None:
            if len(args[0]) != 2:
                raise ValueError("two prompts, please")

    picky = Picky(**pipe.components, requires_safety_checker=False)
    with pytest.raises(
        UsageError, match="one entry for each of the 2 prompts is not clear: call it with one prompt"
    ):
        genscale.scale(picky, candidates=3, verifier=brightness)(**call)


# ------------------------------------------------------------------------------ wrappers


def subclass_with(body: str) -> Callable[[Any], Any]:
    """A subclass whose `__call__` has this code, in a module of its own."""

    def make_one(pipe: Any) -> Any:
        space: dict[str, Any] = {"Parent": type(pipe), "functools": functools}
        exec(f"class Child(Parent):\n{body}", space)
        return space["Child"](**pipe.components)

    return make_one


FORWARDING = {
    "kwargs": subclass_with(
        "    def __call__(self, prompt, **kwargs):\n        return super().__call__(prompt, **kwargs)\n"
    ),
    "kw": subclass_with(
        "    def __call__(self, prompt=None, *, my_own=3, **kw):\n"
        "        return super().__call__(prompt=prompt, **kw)\n"
    ),
    "everything": subclass_with(
        "    def __call__(self, *args, **options):\n        return super().__call__(*args, **options)\n"
    ),
    "named": subclass_with(
        "    def __call__(self, prompt, image, num_inference_steps=50, num_images_per_prompt=1, generator=None,\n"
        "                 output_type='pil', return_dict=True, **rest):\n"
        "        return super().__call__(prompt=prompt, image=image, num_inference_steps=num_inference_steps,\n"
        "            num_images_per_prompt=num_images_per_prompt, generator=generator, output_type=output_type,\n"
        "            return_dict=return_dict, **rest)\n"
    ),
    "decorated": subclass_with(
        "    def __call__(self, *args, **kwargs):\n        return Parent.__call__(self, *args, **kwargs)\n"
        "    __call__ = functools.wraps(Parent.__call__)(__call__)\n"
    ),
    "helper": subclass_with(
        "    def run(self, given):\n        return super().__call__(**given)\n"
        "    def __call__(self, prompt, **given):\n        return self.run({'prompt': prompt, **given})\n"
    ),
}


@pytest.mark.parametrize("name", quick(FORWARDING, ["kwargs", "everything", "named"]))
def test_arguments_pass_through_a_wrapper(name: str) -> None:
    """A ControlNet that is used for a part of the steps reads a list by the step's number, in the parent's loop."""
    pipe = FORWARDING[name](ZOO["sdxl_controlnet"].build())
    pipe.set_progress_bar_config(disable=True)
    call = ZOO["sdxl_controlnet"].arguments(1) | {"num_inference_steps": 4, "control_guidance_end": 0.5}
    call |= {"output_type": "np", "guidance_scale": 3.0}
    alone = pipe(**call, generator=seeded()).images
    before = dict(vars(pipe))
    output = genscale.scale(pipe, candidates=1)(**call, generator=seeded())
    assert np.array_equal(alone, output.images)
    assert output.search.ledger.probes == 0
    several = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=2)(
        **call, num_images_per_prompt=2, generator=seeded()
    )
    assert len(several.images) == 2
    base = several.search.media([several.search.base()]).pixels.movedim(1, -1).numpy()
    assert np.abs(base - alone).max() < 1e-4
    assert vars(pipe) == before
    for cls in type(pipe).__mro__:
        assert "enumerate" not in getattr(vars(cls).get("__call__"), "__globals__", {})


def test_a_replaced_call_and_a_loop_in_a_helper() -> None:
    """`__call__` of the class is replaced by one that knows nothing of its arguments."""
    pipe = ZOO["sdxl_controlnet"].build()
    call = ZOO["sdxl_controlnet"].arguments(1) | {"control_guidance_end": 0.5, "output_type": "np"}
    alone = pipe(**call, generator=seeded()).images

    class Replaced(type(pipe)):  # type: ignore[misc]
        pass

    def around(function: Any) -> Any:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(self, *args, **kwargs)

        return __call__

    Replaced.__call__ = around(type(pipe).__call__)
    replaced = Replaced(**pipe.components)
    replaced.set_progress_bar_config(disable=True)
    output = genscale.scale(replaced, candidates=3, verifier=brightness, batch_size=2)(
        **call, generator=seeded()
    )
    base = output.search.media([output.search.base()]).pixels.movedim(1, -1).numpy()
    assert np.abs(base - alone).max() < 1e-4
    prompt = call.pop("prompt")
    by_position = genscale.scale(replaced, candidates=1)(prompt, **call, generator=seeded())
    assert np.array_equal(by_position.images, alone)


def test_an_enumerate_of_the_pipelines_own_stays() -> None:
    pipe = ZOO["stable_diffusion"].build()
    module = type(pipe).__call__.__globals__

    def own(*args: Any) -> Any:
        return enumerate(*args)

    module["enumerate"] = own
    try:
        genscale.scale(pipe, candidates=1)(**ZOO["stable_diffusion"].arguments(1))
        assert module["enumerate"] is own
    finally:
        del module["enumerate"]


# ------------------------------------------------------------------------------ output types


@pytest.mark.parametrize("refused", [("pt",), ("pt", "np")])
def test_an_output_type_that_the_pipeline_refuses(refused: tuple[str, ...]) -> None:
    pipe = ZOO["stable_diffusion"].build()

    class Picky(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, output_type: str = "pil", **kwargs: Any) -> Any:
            if output_type in refused:
                raise ValueError(f"The output type should not be {output_type}")
            return super().__call__(*args, output_type=output_type, **kwargs)

    picky = Picky(**pipe.components, requires_safety_checker=False)
    picky.set_progress_bar_config(disable=True)
    call = ZOO["stable_diffusion"].arguments(2)
    wanted = genscale.scale(pipe, candidates=3, verifier=brightness)(**call, generator=seeded()).search
    found = genscale.scale(picky, candidates=3, verifier=brightness)(**call, generator=seeded()).search
    for a, b in zip(wanted.ranking(), found.ranking(), strict=True):
        assert a.total == pytest.approx(b.total, abs=0.6)


def test_a_padded_crop_can_be_scored() -> None:
    """padding_mask_crop of inpainting wants PIL images in and out."""
    from PIL import Image

    pipe = ZOO["sd_inpaint4"].build()
    picture = Image.fromarray((images(1, 48)[0].movedim(0, -1).numpy() * 255).astype("uint8"))
    mask = Image.new("L", (48, 48))
    mask.paste(255, (16, 16, 30, 30))
    call = {"prompt": "a cat", "image": picture, "mask_image": mask, "padding_mask_crop": 4}
    call |= {"num_inference_steps": 3, "height": 16, "width": 16, "strength": 1.0}
    output = genscale.scale(pipe, candidates=3, verifier=brightness, batch_size=2)(**call, generator=seeded())
    assert output.images[0].size == (48, 48)
    assert len({e.total for e in output.search.ranking()}) == 3


# ------------------------------------------------------------------------------ how many images


LIMITS: list[dict[str, Any]] = [
    {"budget": "target=0"},
    {"budget": "target=-1,200nfe"},
    {"stop": "patience:1"},
    {"budget": "0.001s"},
    {"budget": "18nfe"},
    {"candidates": 3},
    {"halt": lambda: True},
    {"sampler": "zero_order", "neighbours": 2, "budget": "target=0"},
]


@pytest.mark.parametrize("number", third(range(len(LIMITS))))
def test_each_prompt_has_all_its_images(number: int) -> None:
    limits = LIMITS[number]
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(2) | {"num_images_per_prompt": 3, "output_type": "np"}
    output = genscale.scale(
        pipe, **{"wave": 1} | limits if "sampler" not in limits else limits, verifier=brightness
    )(**call, generator=seeded())
    assert len(output.images) == 6
    for prompt in (0, 1):
        ranking = output.search.ranking(prompt)
        assert len(ranking) >= 3
        shown = [float(image.mean()) * 255 for image in output.images[3 * prompt : 3 * prompt + 3]]
        assert shown == pytest.approx([entry.total for entry in ranking[:3]], abs=0.01)


@pytest.mark.parametrize(
    "limits", [{"budget": "12nfe"}, {"budget": "2images"}, {"budget": "2calls"}, {"candidates": 2}]
)
def test_too_few_candidates_for_the_images_are_refused_at_once(limits: dict[str, Any]) -> None:
    pipe = ZOO["stable_diffusion"].build()
    pipe.unet.forward = None  # nothing is evaluated
    call = ZOO["stable_diffusion"].arguments(2) | {"num_images_per_prompt": 3}
    with pytest.raises(UsageError, match="fewer than the 3 images or videos that are asked for") as caught:
        genscale.scale(pipe, verifier=brightness, **limits)(**call)
    assert "\n" not in str(caught.value)


def test_after_an_interrupt_no_prompt_has_images_of_another() -> None:
    pipe = ZOO["stable_diffusion"].build()
    seen: list[int] = []

    def verifier(media: Any, prompts: Any) -> list[float]:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return brightness(media, prompts)

    call = ZOO["stable_diffusion"].arguments(2) | {"num_images_per_prompt": 3, "output_type": "np"}
    with pytest.warns(UserWarning, match="they are repeated"):
        output = genscale.scale(pipe, verifier=verifier, candidates=4, wave=1)(**call, generator=seeded())
    assert len(output.images) == 6
    for prompt in (0, 1):
        totals = {round(entry.total, 1) for entry in output.search.ranking(prompt)}
        shown = {round(float(i.mean()) * 255, 1) for i in output.images[3 * prompt : 3 * prompt + 3]}
        assert shown <= totals


# ------------------------------------------------------------------------------ generators and latents of images


IMAGES = [
    (name, scheduler)
    for name in (
        "stable_diffusion",
        "sdxl",
        "sd_img2img",
        "sdxl_controlnet",
        "flux",
        "sd3",
        "wan",
    )
    for scheduler in (None, "EulerAncestralDiscreteScheduler")
    if scheduler is None or scheduler in ZOO[name].schedulers
]


def _count(pipe: Any) -> str:
    from genscale.pipelines.loading import takes

    return next(n for n in ("num_images_per_prompt", "num_videos_per_prompt") if n in takes(pipe))


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("family", quick(IMAGES, IMAGES[:2] + IMAGES[4:5]))
def test_a_generator_for_each_image(family: tuple[str, str | None], prompts: int) -> None:
    """Without a verifier, as many candidates as images are the pipeline's own images, bit for bit."""
    name, scheduler = family
    pipe = ZOO[name].build()
    if scheduler is not None:
        pipe = with_scheduler(pipe, scheduler)
    call = ZOO[name].arguments(prompts) | {"output_type": "np", _count(pipe): 3}
    left = generators(3 * prompts), generators(3 * prompts)
    alone = array(pipe(**call, generator=left[0]))
    call = ZOO[name].arguments(prompts) | {"output_type": "np", _count(pipe): 3}
    output = genscale.scale(pipe, candidates=3)(**call, generator=left[1])
    assert np.array_equal(alone, array(output))
    for a, b in zip(*left, strict=True):
        assert torch.equal(a.get_state(), b.get_state())


@pytest.mark.parametrize("name", ["sd_inpaint4", "flux_kontext", "z_image"])
def test_a_generator_for_each_prompt_of_a_call_with_a_row_for_each_latent(name: str) -> None:
    pipe, call = ZOO[name].build(), {"output_type": "np"}
    alone = array(pipe(**ZOO[name].arguments(2), **call, generator=generators(2)))
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=5, keep=3)
    search = scaled(**ZOO[name].arguments(2), **call, generator=generators(2)).search
    own = [entry.total for prompt in (0, 1) for entry in search.ranking(prompt) if entry.candidate.id == 0]
    assert own == pytest.approx([float(image.mean()) * 255 for image in alone], abs=0.01)


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("several", [False, True])
def test_latents_for_each_image(prompts: int, several: bool) -> None:
    pipe = with_scheduler(ZOO["stable_diffusion"].build(), "EulerAncestralDiscreteScheduler")
    latents = torch.randn(2 * prompts, 4, 8, 8, generator=seeded())
    call = ZOO["stable_diffusion"].arguments(prompts) | {"num_images_per_prompt": 2, "output_type": "np"}

    def given() -> dict[str, Any]:
        return {"generator": generators(2 * prompts) if several else seeded(5), "latents": latents.clone()}

    alone = pipe(**call, **given()).images
    assert np.array_equal(alone, genscale.scale(pipe, candidates=2)(**call, **given()).images)


def test_the_pipelines_own_images_compete_with_further_candidates() -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(1) | {"num_images_per_prompt": 2, "output_type": "np"}
    alone = pipe(**call, generator=generators(2)).images
    output = genscale.scale(pipe, verifier=brightness, candidates=5, keep=5)(**call, generator=generators(2))
    entries = {e.candidate.id: e for e in output.search.ranking()}
    own = [float(image.mean()) * 255 for image in alone]
    assert [entries[i].total for i in (0, 1)] == pytest.approx(own, abs=1e-2)
    assert [e.total for e in output.search.ranking()][:2] == pytest.approx(
        [float(image.mean()) * 255 for image in output.images], abs=1e-2
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": 3}, "3 generators are given for 2 prompts of 2 images"),
        ({"generator": 4, "latents": 2}, "but not its latents"),
        ({"generator": 2, "latents": 4}, "but not its generator"),
    ],
)
def test_generators_and_latents_that_fit_nothing(given: dict[str, int], message: str) -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(2) | {"num_images_per_prompt": 2}
    call["generator"] = generators(given["generator"])
    if "latents" in given:
        call["latents"] = torch.zeros(given["latents"], 4, 8, 8)
    with pytest.raises(UsageError, match=message):
        genscale.scale(pipe, verifier=brightness, candidates=3)(**call)


@pytest.mark.parametrize("name", ["sd_inpaint", "sd_inpaint4"])
def test_generators_whose_noise_is_not_only_in_the_latents_are_refused(name: str) -> None:
    pipe = ZOO[name].build()
    pipe.unet.forward = None
    call = ZOO[name].arguments(1) | {"num_images_per_prompt": 2, "generator": generators(2)}
    with pytest.raises(UsageError, match="more than initial latents of each image's generator"):
        genscale.scale(pipe, candidates=2)(**call)


# ------------------------------------------------------------------------------ what is no pipeline, no number


def test_an_object_around_a_pipeline_is_called_as_a_whole() -> None:
    pipe = ZOO["stable_diffusion"].build()

    class Around:
        def __init__(self) -> None:
            self.pipe, self.scheduler = pipe, pipe.scheduler

        def __call__(self, **kwargs: Any) -> Any:
            return self.pipe(**kwargs)

    def call() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        return {"prompt": "a cat", "num_inference_steps": 2, "generator": generator, "output_type": "pt"}

    with pytest.warns(UserWarning, match="is not a DiffusionPipeline") as caught:
        found = genscale.scale(Around(), candidates=1).search(**call())
    assert "\n" not in str(caught[0].message)
    assert torch.equal(found.media(found.ranking()).pixels, pipe(**call()).images)


@pytest.mark.parametrize("name", ["batch_size", "decode_batch", "keep"])
@pytest.mark.parametrize("value", quick([0, -1, 1.5, "two"], [0]))
def test_numbers_of_rows_are_whole_and_positive(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}={value!r} must be a whole number, at least 1"):
        genscale.scale(ZOO["stable_diffusion"].build(), **{name: value})


def test_a_budget_without_a_unit_is_refused() -> None:
    with pytest.raises(UsageError, match="100images"):
        genscale.scale(ZOO["stable_diffusion"].build(), budget=100)  # type: ignore[arg-type]
