"""Exceptions of the user's code, of models and of every other component come through, once and unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.errors import UsageError, VerifierError
from tests.quick import quick, third
from tests.zoo import ZOO


class Cancelled(Exception):
    pass


class Stopped(BaseException):
    pass


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(p.mean()) * 255 for p in media.pixels]


class FailsOnce:
    """Raises `error` when it is called for the `at`-th time, and does its work at all other times."""

    def __init__(self, work: Callable[..., Any], error: BaseException, at: int) -> None:
        self.work, self.error, self.at, self.calls = work, error, at, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.work(*args, **kwargs)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("a value"),
    "RuntimeError": lambda: RuntimeError("The size of tensor a (6) must match the size of tensor b (2)"),
    "IndexError": lambda: IndexError("an index"),
    "StopIteration": lambda: StopIteration("the end"),
    "Cancelled": lambda: Cancelled("by the user"),
    "Stopped": lambda: Stopped("by the user"),
}


def fail(pipe: Any, place: str, error: BaseException, at: int) -> dict[str, Any]:
    """Let a component raise; the arguments for the call that lets a callback raise."""
    if place == "callback":
        return {"callback_on_step_end": FailsOnce(lambda p, i, t, tensors: {}, error, at)}
    if place == "decoder":
        pipe.vae.decode = FailsOnce(pipe.vae.decode, error, at)
        return {}
    module = getattr(pipe, place)
    module.forward = FailsOnce(module.forward, error, at)
    return {}


PLACES = [
    (place, at, prompts)
    for place, most in (("callback", 4), ("unet", 4), ("controlnet", 3), ("decoder", 2), ("text_encoder", 1))
    for at in range(1, most + 1)
    for prompts in (1, 2)
]


@pytest.mark.parametrize("error", quick(ERRORS, ["RuntimeError"]))
@pytest.mark.parametrize("where", third(PLACES))
def test_an_exception_comes_through_once(where: tuple[str, int, int], error: str) -> None:
    place, at, prompts = where
    pipe = ZOO["sdxl_controlnet"].build()
    raised = ERRORS[error]()
    given = fail(pipe, place, raised, at)
    before = dict(pipe.__dict__)
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=2)
    with pytest.raises(type(raised)) as caught:
        scaled(**ZOO["sdxl_controlnet"].arguments(prompts), **given, output_type="np")
    assert caught.value is raised
    assert pipe.__dict__ == before
    assert "enumerate" not in type(pipe).__call__.__globals__


def test_a_fault_that_stays_comes_through_as_well() -> None:
    """From any batch: the pipeline is not called again in another way until it runs."""
    for name, prompts in (("sdxl_controlnet", 2), ("sd_inpaint4", 2), ("flux", 1)):
        pipe = ZOO[name].build()
        denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        works, seen = denoiser.forward, []

        def broken(*args: Any, works: Any = works, seen: list[int] = seen, **kwargs: Any) -> Any:
            seen.append(1)
            if len(seen) > 1:
                raise RuntimeError("out of order")
            return works(*args, **kwargs)

        denoiser.forward = broken
        with pytest.raises(RuntimeError, match="out of order"):
            genscale.scale(pipe, verifier=brightness, candidates=3)(**ZOO[name].arguments(prompts))
        assert len(seen) <= 3  # once more at most, if its inputs look as if rows were the reason


@pytest.mark.parametrize("error", [ValueError("a value"), Stopped("now"), StopIteration("the end")])
def test_what_a_verifier_raises(error: BaseException) -> None:
    pipe = ZOO["stable_diffusion"].build()
    verifier = FailsOnce(brightness, error, 2)
    scaled = genscale.scale(pipe, verifier=verifier, candidates=3, wave=1)
    wanted = VerifierError if isinstance(error, Exception) else type(error)
    with pytest.raises(wanted, match=str(error)):
        scaled(**ZOO["stable_diffusion"].arguments(1))
    assert verifier.calls == 2


def test_what_the_listener_of_events_raises() -> None:
    for error in (ValueError("a value"), Stopped("now"), StopIteration("the end")):
        pipe = ZOO["stable_diffusion"].build()
        listener = FailsOnce(lambda event: None, error, 3)
        with pytest.raises(type(error)) as caught:
            genscale.scale(pipe, verifier=brightness, on_event=listener, candidates=3)(
                **ZOO["stable_diffusion"].arguments(1)
            )
        assert caught.value is error


def loop_of(step: Callable[..., Any]) -> Any:
    """A pipeline whose loop is `step(pipe, latents, t, prompt_embeds)`, one row a prompt."""
    from diffusers import StableDiffusionPipeline

    class Own(StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(
            self,
            prompt: Any,
            num_inference_steps: int = 3,
            num_images_per_prompt: int = 1,
            generator: Any = None,
            output_type: str = "pil",
            return_dict: bool = True,
        ) -> Any:
            prompts = [prompt] if isinstance(prompt, str) else prompt
            embeds, _ = self.encode_prompt(prompts, "cpu", num_images_per_prompt, False)
            self.scheduler.set_timesteps(num_inference_steps)
            latents = self.prepare_latents(len(embeds), 4, 16, 16, embeds.dtype, embeds.device, generator)
            for t in self.scheduler.timesteps:
                latents = step(self, latents, t, embeds)
            images = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
            images = self.image_processor.postprocess(images, output_type, [True] * len(images))
            return type(self).output(images)

        @staticmethod
        def output(images: Any) -> Any:
            from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

            return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)

    made = ZOO["stable_diffusion"].build()
    return Own(**made.components, requires_safety_checker=False)


def ordinary(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    return pipe.scheduler.step(pipe.unet(x, t, embeds).sample, t, x).prev_sample


def first_row_only(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    value = pipe.unet(x[:1], t, embeds[:1]).sample
    return pipe.scheduler.step(value, t, x).prev_sample


def one_step_for_all(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    x = x.mean(0, keepdim=True)
    return pipe.scheduler.step(pipe.unet(x, t, embeds[:1]).sample, t, x).prev_sample


def blends_rows(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    """Fails with other rows than the call's, in code of the loop."""
    x = x + 0.01 * embeds.mean((1, 2))[:, None, None, None]
    if len(x) != len(embeds):
        raise ValueError(f"{len(x)} latents for {len(embeds)} prompts")
    return pipe.scheduler.step(pipe.unet(x, t, embeds).sample, t, x).prev_sample


def stacks_rows(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
    """Fails with other rows than the call's, in the model: its conditioning has the rows in the second dimension."""
    return pipe.scheduler.step(pipe.unet(x, t, embeds.transpose(0, 1)).sample, t, x).prev_sample


def unstack(pipe: Any) -> None:
    """Let the denoiser take conditioning [length, rows, channels]."""
    forward = pipe.unet.forward
    pipe.unet.forward = lambda x, t, embeds: forward(x, t, embeds.transpose(0, 1))


@pytest.mark.parametrize("step", [first_row_only, one_step_for_all])
def test_a_loop_that_steps_other_rows_ends_in_a_sentence(step: Callable[..., Any]) -> None:
    call = {"prompt": ["a red cube", "a blue ball"], "output_type": "np"}
    with pytest.raises(UsageError, match=r"with one prompt at a time|2 prompts made 1 rows") as caught:
        genscale.scale(loop_of(step), verifier=brightness, candidates=3)(**call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", [first_row_only, one_step_for_all])
def test_one_that_can_step_one_row_alone_is_given_one_at_a_time(step: Callable[..., Any]) -> None:
    pipe = loop_of(step)
    call = {"prompt": "a red cube", "output_type": "np"}
    alone = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    totals = []
    for batch_size in (1, 4):
        scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=batch_size)
        search = scaled(**call, generator=torch.Generator().manual_seed(1)).search
        assert np.array_equal(search.media([search.base()]).pixels.movedim(1, -1).numpy(), alone)
        totals.append([e.total for e in search.entries])
    assert totals[0] == totals[1]


@pytest.mark.parametrize("step", [ordinary, blends_rows, stacks_rows])
@pytest.mark.parametrize("prompts", [1, 2])
def test_a_loop_that_takes_its_own_rows_only_is_called_with_more(
    step: Callable[..., Any], prompts: int
) -> None:
    pipe = loop_of(step)
    if step is stacks_rows:
        unstack(pipe)
    call = {"prompt": ["a red cube", "a blue ball"][:prompts], "output_type": "np"}

    def totals(batch_size: int) -> list[float]:
        scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=batch_size)
        search = scaled(**call, generator=torch.Generator().manual_seed(1)).search
        return [e.total for s in search.searches for e in s.finals]

    assert totals(4) == pytest.approx(totals(1), abs=1e-3)


@pytest.mark.parametrize("at", [5, 6, 7])
@pytest.mark.parametrize("step", [ordinary, blends_rows, stacks_rows])
def test_a_fault_of_the_loop_is_not_taken_for_one_of_rows(step: Callable[..., Any], at: int) -> None:
    """Raised once by the loop's own code, in a batch of other rows than the call's or in its rehearsal."""
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (1)")
    once = FailsOnce(lambda *given: None, error, at)

    def failing(pipe: Any, x: Any, t: Any, embeds: Any) -> Any:
        value = step(pipe, x, t, embeds)
        once()
        return value

    pipe = loop_of(failing)
    if step is stacks_rows:
        unstack(pipe)
    with pytest.raises(RuntimeError) as caught:
        genscale.scale(pipe, verifier=brightness, candidates=5, batch_size=2)(prompt="a red cube")
    assert caught.value is error


class Smooth:
    """A verifier that can be differentiated."""

    name = "smooth"

    def __call__(self, media: Any, prompts: Any) -> Any:
        return self.score_tensor(media.pixels, prompts)

    def score_tensor(self, pixels: Any, prompts: Any) -> Any:
        return pixels.float().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("place", "at"),
    quick(
        [*(("unet", n) for n in (1, 2, 3, 4)), *(("decoder", n) for n in (1, 2, 3))],
        [("unet", 2), ("decoder", 2)],
        sets=True,
    ),
)  # the decoder is called three times
def test_an_exception_while_gradients_are_taken(place: str, at: int) -> None:
    """Also one of a call that is repeated in the backward pass, and of the decoder with a graph."""
    pipe = ZOO["stable_diffusion"].build()
    raised = RuntimeError("out of order")
    given = fail(pipe, place, raised, at)
    scaled = genscale.scale(pipe, "das", Smooth(), particles=2, batch_size=1)
    with pytest.raises(RuntimeError) as caught:
        scaled(**ZOO["stable_diffusion"].arguments(1), **given)
    assert caught.value is raised


def test_lists_of_outputs_as_long_as_there_are_rows() -> None:
    """Residuals of a ControlNet are a list of tensors that have rows; a list of latents has one tensor a row."""
    from genscale.pipelines.watched_models import zeros_like

    residuals = [torch.ones(4, 3, size, size) for size in (8, 8, 4, 4)]
    assert [tuple(x.shape) for x in zeros_like(residuals, 4, 6)] == [(6, 3, s, s) for s in (8, 8, 4, 4)]
    latents = [torch.ones(4, 1, 8, 8) for _ in range(4)]
    assert [tuple(x.shape) for x in zeros_like(latents, 4, 6, row_lists=True)] == [(4, 1, 8, 8)] * 6
