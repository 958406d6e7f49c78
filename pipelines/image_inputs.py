"""Generators and latents that a call gives for each image, such as num_images_per_prompt=4 with four generators.

A search has one row for each prompt. Of such a call each prompt keeps its first generator or latents for that row, and
the pipeline itself makes the initial latents of all images, once, just as it would alone. The candidates 0, 1, ... of
a prompt then begin with those of its images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genscale.errors import UsageError
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.probe import Probe
from genscale.pipelines.row_gather import sample_of
from genscale.pipelines.watched_models import PlaceholderOutputs


def inputs_of_images(given: Mapping[str, Any], results: int) -> dict[str, Any]:
    """Those of `generator` and `latents` with one entry for each image, where each prompt makes several (`results`).

    UsageError: a list of generators of another length.
    """
    prompts = _prompts(given)
    found: dict[str, Any] = {}
    generator, latents = given.get("generator"), given.get("latents")
    if isinstance(generator, list | tuple) and results > 1 and len(generator) not in (1, prompts):
        if len(generator) != prompts * results:
            raise UsageError(
                f"{len(generator)} generators are given for {prompts} prompts of {results} images or videos each: give "
                f"one, one for each prompt, or {prompts * results}."
            )
        found["generator"] = list(generator)
    if isinstance(latents, Tensor) and results > 1 and latents.ndim and latents.shape[0] == prompts * results:
        found["latents"] = latents
    if found and "latents" not in found and latents is not None:
        raise UsageError(
            "each image has its generator, but not its latents: give latents for all images, or none."
        )
    if "latents" in found and isinstance(generator, list | tuple) and 1 < len(generator) != prompts * results:
        raise UsageError(
            "each image has its latents, but not its generator: give one generator, or one for each image."
        )
    return found


def first_of_prompts(found: Mapping[str, Any], results: int) -> dict[str, Any]:
    """The same inputs with one entry for each prompt: that of its first image."""
    return {name: value[::results] for name, value in found.items()}


def _prompts(given: Mapping[str, Any]) -> int:
    """For how many prompts a call is."""
    prompt = given.get("prompt")
    if isinstance(prompt, list | tuple):
        return len(prompt)
    embeds = (v for k, v in given.items() if k.endswith("embeds") and isinstance(v, Tensor))
    first = None if prompt is not None else next(embeds, None)
    return 1 if first is None else int(first.shape[0])


class ImageProbe(Probe):
    """The call of all images. conditions: whether its denoiser gets conditions as a part of the latents."""

    def __init__(
        self, encoder_cache: EncoderCache, placeholders: PlaceholderOutputs, given: dict[str, Any]
    ) -> None:
        super().__init__(encoder_cache, placeholders, given)
        self.conditions = False
        self._sample: Any = None

    def call_model(self, name: str, module: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        self._sample = sample_of(args, kwargs)
        return super().call_model(name, module, forward, args, kwargs)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        sample, latents = self._sample, call["sample"]
        if isinstance(sample, Tensor):
            self.conditions = sample[0].numel() != latents[0].numel()
        return super().on_step(call)

    def check(self, pipe: Any) -> None:
        """UsageError: what is drawn from an image's generator goes into more than its initial latents."""
        if self.edits_latents or (self.conditions and len(self.draws) > self.rows_drawn):
            raise UsageError(
                f"{type(pipe).__name__} makes more than initial latents of each image's generator, which candidates "
                "of one prompt share: give one generator, or each image its own call."
            )

    @property
    def rows_drawn(self) -> int:
        """Draws for initial latents alone: one for each image, or one for all."""
        assert self.latents is not None
        return self.latents.shape[0] if self.draws and self.draws[0].shape[0] == 1 else 1
