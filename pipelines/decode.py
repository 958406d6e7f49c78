"""Turns clean latents into images or videos, by the code that a pipeline runs after its loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.media_items import plural
from genscale.pipelines.batch_parts import batch_order, own_rows
from genscale.pipelines.bound_call import CALLBACKS
from genscale.pipelines.failures import fails, fails_again, may_be_mismatch, raised_in
from genscale.pipelines.followed_call import FollowedCall
from genscale.pipelines.followed_loop import FollowedLoop
from genscale.pipelines.intercepted_call import BEFORE, LoopDriver
from genscale.pipelines.latent_layout import as_own_latents
from genscale.pipelines.output_media import NotPixels, as_media, join_outputs, length, picked
from genscale.pipelines.pipeline_call import PipelineCall

PIXEL_TYPES = {"pt": "np", "np": "pil"}
"""Output type -> the one to ask for where a pipeline refuses it, or gives no pixels in [0, 1] for it."""


class DecodingDriver(LoopDriver):
    """Skips the loop and lets the pipeline decode the given clean latents [n, *latent].

    tail_key: of random draws after the loop (some video decoders add noise); None: the pipeline's own draws.
    composition: prompt index of every row, if the pipeline is called with one row for each latent. followed: what
    the candidates bring into a loop that edits latents or draws noise.
    """

    def __init__(
        self,
        call: PipelineCall,
        latents: Tensor,
        tail_key: Key | None,
        composition: tuple[int, ...] | None,
        followed: FollowedCall | None = None,
    ) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.probe, self.latents, self.tail_key = call.probe, latents, tail_key
        self.reads_expected = call.probe.reads_expected
        self.start, self.start_known = call.probe.start, True  # comparing timesteps would wait for the device
        self.order = call.solver.orders.get(len(call.probe.evaluations))
        self.followed, self.on_the_way = followed, False  # on the way to the last step, through earlier ones
        if followed is None:
            self.replay = call.probe.replay_for(composition)
        else:
            self.replay, self.draw_in_loop = followed.replay, followed.draw_in_loop

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def draw_after_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None if self.tail_key is None else self.tail_key.fold(j).normal(shape)

    @property
    def needs_graph(self) -> bool:
        return self.latents.requires_grad

    def first_step(self) -> int:
        """The last step: its edits of the latents are still to be made."""
        steps = len(self.probe.evaluations)
        return steps - 1 if self.followed is None else self.followed.begin_decoding(self.latents, steps)

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        return self.probe.state_at(step)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        if self.followed is not None and self.followed.path:
            self.on_the_way = True
            return self.probe.layout.from_rows(self.followed.path.pop(0)), self.index + 1
        self.on_the_way = False
        with torch.set_grad_enabled(self.needs_graph):
            latents = as_own_latents(self.latents, self.probe.latents, self.order)
            return self.probe.layout.from_rows(latents), None


class Decoder:
    """Decodes latents of one pipeline call.

    with_callback: images for the verifiers are made with the user's callback, as the final output is. of_unfinished:
    the latents are those of an interrupted run, which neither the loop nor the callback change any more.
    """

    def __init__(self, call: PipelineCall, with_callback: bool = False, of_unfinished: bool = False) -> None:
        self.call, self.with_callback, self.of_unfinished = (
            call,
            with_callback and not of_unfinished,
            of_unfinished,
        )
        self._pixel_type = "pt"
        self._row_per_output = False  # set when decoding other rows than the call's fails
        self._began = False  # whether the last pipeline call came to its loop

    def for_unfinished(self) -> Decoder:
        """The decoder of candidates that an interrupt left unfinished."""
        return Decoder(self.call, of_unfinished=True)

    def media(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """Pixels of clean latents [n, *latent]; with an autograd graph if the latents have one.

        prompts: index of each latent's prompt in the call.
        """
        if latents.requires_grad and torch.is_grad_enabled():
            return self._media_with_graph(latents, prompts)
        while True:
            try:
                return self._media(latents, prompts)
            except UsageError:
                raise
            except Exception as error:
                raw = isinstance(error, NotPixels) and self._pixel_type == "pt"
                if self._pixel_type not in PIXEL_TYPES or not (raw or self._refuses_type(error)):
                    raise
                self._pixel_type = PIXEL_TYPES[self._pixel_type]

    def _refuses_type(self, error: Exception) -> bool:
        """Whether the pipeline refuses this output type: it fails each time, and after its loop not with another."""
        if raised_in(error, (v for v in self.call.arguments.given.values() if callable(v))):
            return False
        began = self._began
        if not fails_again(error, partial(self._with_type, self._pixel_type)):
            return False
        others = {"pt": ("np", "pil"), "np": ("pil",)}.get(self._pixel_type, ())
        return not began or any(not fails(partial(self._with_type, kind)) for kind in others)

    def _with_type(self, pixel_type: str) -> Any:
        given = self.call.arguments.quiet(output_type=pixel_type, return_dict=True)
        return self._with_rows(given, self.call.latents, None, None)

    def _media(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        arguments = self.call.arguments
        given = arguments.quiet(output_type=self._pixel_type, return_dict=True)
        if self.call.probe.callback_edits and self.with_callback:
            given["callback_on_step_end"] = arguments.given["callback_on_step_end"]
        pipe = self.call.pipe
        media = as_media(self._run(given, latents, prompts, Key((0,)).fold("tail")), pipe)
        if len(media) != len(prompts):
            raise UsageError(
                f"{type(pipe).__name__} makes {len(media)} {plural(media.kind)} of {len(prompts)} latents, so that a "
                "candidate is no single item: search without a verifier."
            )
        return media

    def _media_with_graph(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """UsageError: the pipeline's decoding does not keep the graph."""
        why = "gives no tensors of pixels in [0, 1]"
        self.call.models.prepare()
        try:
            media = self._with_graph(latents, prompts) if self._pixel_type == "pt" else None
            if media is not None and isinstance(media.data, Tensor) and media.data.requires_grad:
                return media
            why = why if media is None else "cuts the graph"
        except (torch.cuda.OutOfMemoryError, UsageError):
            raise
        except ValueError as error:
            if not (isinstance(error, NotPixels) or self._refuses_type(error)):
                raise
            self._pixel_type = "np"
        except RuntimeError as error:
            if not self._needs_no_graph(error, latents, prompts):
                raise
            why = f"fails with a graph ({str(error).splitlines()[0]})"
        raise UsageError(
            f"{type(self.call.pipe).__name__} has no gradient from its images to its latents, since its decoding "
            f"{why}: use a sampler that needs no gradients."
        )

    def _with_graph(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        with self.call.models.decoding():
            return self._media(latents, prompts)

    def _needs_no_graph(self, error: Exception, latents: Tensor, prompts: tuple[int, ...]) -> bool:
        """Whether decoding fails with a graph each time, and not without one."""

        def plainly() -> Media:
            with torch.no_grad():
                return self._media(latents.detach(), prompts)

        return fails_again(error, lambda: self._with_graph(latents, prompts)) and not fails_again(
            error, plainly
        )

    def output(self, latents: Tensor, prompts: tuple[int, ...], at_once: int | None = None) -> Any:
        """The pipeline's own output, of its own class, for the chosen latents; at most `at_once` decoded at a time.

        All at once by default, and one by one where that does not fit the accelerator's memory. The user's callback
        is called for the last step and may change the latents: the search left the loop inside that step.
        """
        given = self.call.arguments.given
        if self.of_unfinished:
            given = {k: v for k, v in given.items() if k not in CALLBACKS}
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
        """Call the pipeline to decode; with one row for each latent where it fails twice for another number, and with
        its own rows at a time where that fails, too."""
        if self.call.loop is not None:
            return self._run_followed(self.call.loop, given, latents, prompts, tail_key)
        if prompts == tuple(range(self.call.rows)):
            return self._with_rows(given, latents, tail_key, None)
        if self.call.probe.layout.joint:
            return self._own_rows(given, latents, prompts, tail_key)
        arguments, failed = self.call.arguments.given, False
        if not self._row_per_output:
            try:
                output = self._with_rows(given, latents, tail_key, None)
                if length(output) == len(prompts):
                    return output
            except (torch.cuda.OutOfMemoryError, UsageError):
                raise
            except Exception as error:
                again = partial(self._with_rows, given, latents, tail_key, None)
                failed = self._began and may_be_mismatch(error, arguments) and fails_again(error, again)
                if not failed:
                    raise
        again = partial(self._with_rows, given, latents, tail_key, prompts)
        try:
            output = again()
            self._row_per_output = True
            return output
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            if not failed and not (may_be_mismatch(error, arguments) and fails_again(error, again)):
                raise
        # What belongs to just the call's own rows, such as an input image, may be needed for decoding, too.
        return self._own_rows(given, latents, prompts, tail_key)

    def _own_rows(
        self, given: dict[str, Any], latents: Tensor, prompts: tuple[int, ...], tail_key: Key | None
    ) -> Any:
        """Decode the call's own rows at a time."""
        parts, outputs = own_rows(prompts, self.call.rows), []
        for part in parts:
            output = self._with_rows(given, part.to_call(latents), tail_key, None)
            outputs.append(picked(output, part.places))
        return picked(join_outputs(outputs), batch_order(parts))

    def _with_rows(
        self,
        given: dict[str, Any],
        latents: Tensor,
        tail_key: Key | None,
        composition: tuple[int, ...] | None,
    ) -> Any:
        """Call the pipeline to decode, with its own rows or with one for each entry of `composition`."""
        call = self.call
        if composition is not None:
            given = call.arguments.composed(given, call.rows, composition, call.row_arguments())
            if isinstance(given.get("generator"), list):
                given["generator"] = None
        driver = DecodingDriver(call, latents, tail_key, composition)
        try:
            return call.run(given, driver)
        finally:
            self._began = driver.phase != BEFORE

    def _run_followed(
        self,
        loop: FollowedLoop,
        given: dict[str, Any],
        latents: Tensor,
        prompts: tuple[int, ...],
        tail_key: Key | None,
    ) -> Any:
        """Decode in a loop that is followed: each row with the draws of its candidate."""
        call, n = self.call, len(prompts)
        outputs = []
        each = tuple(loop.line_of(prompts[i], latents[i]) for i in range(n))
        for rows in [slice(n)] if loop.fits_one_call(each) else [slice(i, i + 1) for i in range(n)]:
            lines, some, composition = each[rows], latents[rows], prompts[rows]
            made = call.arguments.composed(given, call.rows, composition, call.row_arguments())
            if isinstance(made.get("generator"), list | tuple) and not loop.all_own(lines):
                made["generator"] = None
            made = loop.arguments(made, lines)
            if self.of_unfinished and "callback_on_step_end" in call.arguments.names:
                made["callback_on_step_end"] = _unchanged(call, some)
            driver = DecodingDriver(call, some, tail_key, composition, FollowedCall(loop, lines, composition))
            if not call.probe.callback_edits:  # else the steps before the last need them again
                made |= _called_at_the_end(made, driver)
            outputs.append(call.run(made, driver))
        return outputs[0] if len(outputs) == 1 else join_outputs(outputs)


def _called_at_the_end(given: dict[str, Any], driver: DecodingDriver) -> dict[str, Any]:
    """The callbacks, called for the last step alone: for those before it they were called by the search."""

    def only_last(callback: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: {} if driver.on_the_way else callback(*args)

    made: dict[str, Any] = {k: only_last(given[k]) for k in CALLBACKS if callable(given.get(k))}
    inputs = getattr(given.get("callback_on_step_end"), "tensor_inputs", None)  # of a PipelineCallback
    return made if inputs is None else made | {"callback_on_step_end_tensor_inputs": list(inputs)}


def _unchanged(call: PipelineCall, latents: Tensor) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` that undoes what the loop made of these latents after the last step."""
    last = len(call.probe.evaluations) - 1

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        own = call.probe.layout.from_rows(as_own_latents(latents, call.probe.latents))
        return {"latents": own} if step == last else {}

    return callback
