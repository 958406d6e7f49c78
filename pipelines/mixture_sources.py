"""A mix on a pipeline: the rows, models and branches of guidance that its sources need, and their NFE."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from genscale.diffusion.guidance import FORMS, rule, weighted
from genscale.diffusion.mixtures import Guided, Mix, MixtureContext
from genscale.diffusion.prediction import View
from genscale.engine.mixture_batches import Mixer
from genscale.errors import UsageError
from genscale.pipelines.guiders import Guider, guider
from genscale.pipelines.model_variants import ADAPTER, BASE, ReplacedModules, Variant, variants


class Mixing:
    """The mix of one pipeline call.

    texts: the call's prompts. more: (row, text) of every further row that the call needs, for sources with another
    prompt. variants: how to call the models that the sources name.
    """

    def __init__(self, pipe: Any, mix: Mix, models: Mapping[str, Any], texts: list[str]) -> None:
        self.mix = mix
        known = {**mix.models(), **models}
        self.variants: dict[str, Variant] = variants(pipe, {s.model for s in mix.sources}, known)
        self._places: dict[tuple[int, str], int] = {}
        self.more: list[tuple[int, str]] = []
        for source in mix.sources:
            for row, text in enumerate(texts):
                key = (row, source.prompt or "")
                if source.prompt is None or key in self._places:
                    continue
                self._places[key] = len(texts) + len(self.more)
                self.more.append((row, source.prompt.replace("{prompt}", text)))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Models of other pipelines."""
        others = [(n, v) for n, v in self.variants.items() if isinstance(v, ReplacedModules)]
        return {f"{name} of '{n}'": m for n, v in others for name, m in v.modules.items()}

    def row(self, prompt: int, text: str | None) -> int:
        """The row of the call with a source's prompt `text` in place of that of row `prompt`; None: that row itself."""
        return prompt if text is None else self._places[prompt, text]

    def evaluations(self, each: list[int], view: View | str, of_branch: Callable[[int], int]) -> list[int]:
        """NFE of one row at each step, from those of the pipeline's own call."""
        totals = []
        for step, own in enumerate(each):
            weights = self.mix.weights(MixtureContext.at(view, step, len(each)))
            active = [s for s, w in zip(self.mix.sources, weights, strict=True) if w != 0]
            totals.append(sum(own if s.branch is None else of_branch(step) for s in active))
        return totals

    def mixer(self, view: View | str, steps: int, with_rates: bool) -> Mixer:
        return Mixer(self.mix, view, steps, self.row, with_rates)


def mix_of(mix: Mix | str | Sequence[str] | None, guide: Any) -> Mix | None:
    """One mix of what the user gave: a mix, a guidance rule, or both (then the rule guides every part of the mix).

    guide: a Mix, a guider of diffusers, or text that names one of either.
    """
    mixed = mix if isinstance(mix, Mix) or mix is None else weighted([mix] if isinstance(mix, str) else mix)
    if isinstance(guide, str):
        guide = rule(guide) or guider(guide)
    elif guide is not None and not isinstance(guide, Mix):
        if not hasattr(guide, "prepare_inputs"):
            raise UsageError(
                f"guide={guide!r} is not a guidance rule: give text such as {FORMS}, or a guider of diffusers."
            )
        guide = Guider(guide)
    if guide is None or mixed is None:
        return mixed or guide
    return Guided(mixed, guide)


def named_models(terms: Sequence[str], **loading: Any) -> dict[str, Any]:
    """The pipelines that the terms of a mix name, loaded by these names; each is loaded once."""
    mixed = weighted(terms)
    names = {s.model for s in mixed.sources} - {"", BASE} if mixed else set()
    return {n: _loaded(n, **loading) for n in sorted(names) if not n.startswith(ADAPTER)}


@functools.lru_cache(maxsize=4)
def _loaded(name: str, **loading: Any) -> Any:
    from genscale.pipelines.loading import load_pipeline

    return load_pipeline(name, **loading)
