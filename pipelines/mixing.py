"""A mix on a pipeline: which rows, models and branches its sources need, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from genscale.mix import Mix, Moment
from genscale.mixer import Mixer
from genscale.pipelines.variants import Variant, variants
from genscale.prediction import View


class Mixing:
    """The mix of one call.

    texts: the call's prompts. more: (row, text) of every further row that the call must have, for sources with a prompt
    of their own. variants: how to call the other models.
    """

    def __init__(self, pipe: Any, mix: Mix, models: Mapping[str, Any], texts: list[str]) -> None:
        self.mix = mix
        self.variants: dict[str, Variant] = variants(pipe, {s.model for s in mix.sources}, models)
        self._places: dict[tuple[int, str], int] = {}
        self.more: list[tuple[int, str]] = []
        for source in mix.sources:
            for row, text in enumerate(texts):
                asked = (row, source.prompt or "")
                if source.prompt is None or asked in self._places:
                    continue
                self._places[asked] = len(texts) + len(self.more)
                self.more.append((row, source.prompt.replace("{prompt}", text)))

    def row(self, prompt: int, text: str | None) -> int:
        """The row of the call for a source's prompt in place of a row's own."""
        return prompt if text is None else self._places[prompt, text]

    def evaluations(self, each: list[int], view: View | str, of_branch: Callable[[int], int]) -> list[int]:
        """NFE of one row at each step, from those of the pipeline's own call."""
        totals = []
        for step, own in enumerate(each):
            weights = self.mix.weights(Moment.at(view, step, len(each)))
            active = [s for s, w in zip(self.mix.sources, weights, strict=True) if w != 0]
            totals.append(sum(own if s.branch is None else of_branch(step) for s in active))
        return totals

    def mixer(self, view: View | str, steps: int, rated: bool) -> Mixer:
        return Mixer(self.mix, view, steps, self.row, rated)
