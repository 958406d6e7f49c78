"""Turns clean latents into images or videos, by the code that a pipeline runs after its loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.intercepted_call import LoopDriver
from genscale.pipelines.latent_layout import as_own_latents
from genscale.pipelines.output_media import as_media, join_outputs, length
from genscale.pipelines.pipeline_call import PipelineCall

LatentDecoder = Callable[[Tensor, Sequence[int]], Media]


class DecodingDriver(LoopDriver):
    """Skips the loop and lets the pipeline decode the given clean latents [n, *latent].

    tail_key: of random draws after the loop (some video decoders add noise); None: the pipeline's own draws.
    composition: prompt index of every row, if the pipeline is called with one row for each latent.
    """

    def __init__(
        self, call: PipelineCall, latents: Tensor, tail_key: Key | None, composition: tuple[int, ...] | None
    ) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.probe, self.latents, self.tail_key = call.probe, latents, tail_key
        self.reads_expected = call.probe.reads_expected
        self.order = call.solver.orders.get(len(call.probe.evaluations))
        self.replay = call.probe.replay_for(composition)

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def draw_after_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None if self.tail_key is None else self.tail_key.fold(j).normal(shape)

    @property
    def needs_graph(self) -> bool:
        return self.latents.requires_grad

    def first_step(self) -> int:
        """The last step, where a loop that edits latents leaves clean ones unchanged."""
        return len(self.probe.evaluations) - 1

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        return self.probe.state_at(step)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        with torch.set_grad_enabled(self.needs_graph):
            latents = as_own_latents(self.latents, self.probe.latents, self.order)
            return self.probe.layout.from_rows(latents), None


class Decoder:
    """Decodes latents of one pipeline call.

    with_callback: images for the verifiers are made with the user's callback, as the final output is.
    """

    def __init__(self, call: PipelineCall, with_callback: bool = False) -> None:
        self.call, self.with_callback = call, with_callback
        self._pixel_type = "pt"
        self._row_per_output = False  # set when decoding other rows than the call's fails

    def media(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """Pixels of clean latents [n, *latent]; with an autograd graph if the latents have one.

        prompts: index of each latent's prompt in the call.
        """
        if latents.requires_grad and torch.is_grad_enabled():
            return self._media_with_graph(latents, prompts)
        if self._pixel_type == "pt":
            try:
                return self._media(latents, prompts)
            except ValueError:  # not every pipeline returns tensors of pixels in [0, 1]
                self._pixel_type = "np"
        return self._media(latents, prompts)

    def _media(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        arguments = self.call.arguments
        given = arguments.quiet(output_type=self._pixel_type, return_dict=True)
        if self.call.probe.callback_edits and self.with_callback:
            given["callback_on_step_end"] = arguments.given["callback_on_step_end"]
        return as_media(self._run(given, latents, prompts, Key((0,)).fold("tail")))

    def _media_with_graph(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """UsageError: the pipeline's decoding does not keep the graph."""
        why = "gives no tensors of pixels in [0, 1]"
        self.call.models.prepare()
        try:
            with self.call.models.decoding():
                media = self._media(latents, prompts) if self._pixel_type == "pt" else None
            if media is not None and media.pixels.requires_grad:
                return media
            why = why if media is None else "cuts the graph"
        except (torch.cuda.OutOfMemoryError, UsageError):
            raise
        except ValueError:
            self._pixel_type = "np"
        except RuntimeError as error:
            why = f"fails with a graph ({str(error).splitlines()[0]})"
        raise UsageError(
            f"{type(self.call.pipe).__name__} has no gradient from its images to its latents, since its decoding "
            f"{why}: use a sampler that needs no gradients."
        )

    def output(self, latents: Tensor, prompts: tuple[int, ...], at_once: int | None = None) -> Any:
        """The pipeline's own output, of its own class, for the chosen latents; at most `at_once` decoded at a time.

        All at once by default, and one by one where that does not fit the accelerator's memory. The user's callback
        is called for the last step and may change the latents: the search left the loop inside that step.
        """
        given = self.call.arguments.given
        given = given | {k: None for k in ("callback",) if k in given}
        if at_once is None or at_once >= len(prompts):
            try:
                return self._run(given, latents, prompts, None)
            except torch.cuda.OutOfMemoryError:
                if len(prompts) == 1:
                    raise
            at_once = 1
        return join_outputs(
            [
                self._run(given, latents[i : i + at_once], prompts[i : i + at_once], None)
                for i in range(0, len(prompts), at_once)
            ]
        )

    def _run(
        self, given: dict[str, Any], latents: Tensor, prompts: tuple[int, ...], tail_key: Key | None
    ) -> Any:
        """Call the pipeline to decode; with one row for each latent where it cannot decode another number."""
        call = self.call
        own_rows = prompts == tuple(range(call.rows))
        if own_rows or not self._row_per_output:
            try:
                output = call.run(given, DecodingDriver(call, latents, tail_key, None))
                if own_rows or length(output) == len(prompts):
                    return output
            except (torch.cuda.OutOfMemoryError, UsageError):
                raise
            except Exception:
                if own_rows:
                    raise
            self._row_per_output = True
        given = call.arguments.composed(given, call.rows, prompts)
        if isinstance(given.get("generator"), list):
            given["generator"] = None
        return call.run(given, DecodingDriver(call, latents, tail_key, prompts))


def latent_decoder(pipe: Any, **arguments: Any) -> LatentDecoder:
    """A function that decodes latents [n, *latent] of an earlier search, given the prompt index of each.

    arguments: those of the pipeline call, as in the search.
    """
    call = PipelineCall(pipe, Arguments(pipe, (), arguments))
    decoder = Decoder(call)

    def decode(latents: Tensor, prompts: Sequence[int]) -> Media:
        return decoder.media(latents.to(call.latents.device, call.latents.dtype), tuple(prompts))

    return decode
