"""The guidance rules of `diffusers.guiders` as a mix, for any pipeline and any sampler.

In diffusers they work with modular pipelines only. Here the guider says which predictions it needs at a step, these
are evaluated as sources of a mix, and its own `forward` combines them. Guiders that perturb layers install their hooks
only while their source is evaluated.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from genscale.diffusion.guidance import FORMS, RULES, parse_guidance
from genscale.diffusion.mixtures import Mix, MixtureContext, Source
from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.model_variants import PerturbedModules
from genscale.safe_json import JsonError, parse_json

SHORT = {
    "apg": "AdaptiveProjectedGuidance",
    "cfg-zero*": "ClassifierFreeZeroStarGuidance",
    "tcfg": "TangentialClassifierFreeGuidance",
    "fdg": "FrequencyDecoupledGuidance",
    "mambo-g": "MagnitudeAwareGuidance",
    "slg": "SkipLayerGuidance",
    "pag": "PerturbedAttentionGuidance",
    "seg": "SmoothedEnergyGuidance",
    "auto": "AutoGuidance",
}


@dataclass(frozen=True, eq=False)
class Guider(Mix):
    """A guider of diffusers: an instance of `diffusers.guiders.BaseGuidance`.

    UsageError: one that depends on earlier steps (momentum), since a search evaluates steps in any order.
    """

    guider: Any

    def __post_init__(self) -> None:
        if any("momentum" in option and value for option, value in self.guider.config.items()):
            raise UsageError(
                f"{type(self.guider).__name__} with momentum depends on earlier steps, and a search does not evaluate "
                "steps in order: leave the momentum out."
            )

    def __repr__(self) -> str:
        return f"{type(self.guider).__name__}({json.dumps(dict(self.guider.config), default=str, sort_keys=True)})"

    @cached_property
    def _all(self) -> dict[str, Source]:
        """Every prediction that it may need, in the order in which it counts them."""
        found = {}
        perturbs = type(self.guider).prepare_models is not _base().prepare_models
        for place, name in enumerate(self.guider._input_predictions):
            branch = "uncond" if name == "pred_uncond" else "cond"
            found[name] = Source(branch=branch, model=f"@{place}" if perturbs and place else "")
        return found

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(self._all.values())

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        """1 for each prediction that it needs at this step. Its hooks in the model depend on this call, too."""
        wanted = self._wanted(moment)
        return tuple(float(name in wanted) for name in self._all)

    def _wanted(self, moment: MixtureContext) -> list[str]:
        self.guider.set_state(moment.step, moment.steps, torch.tensor(0))
        blocks = self.guider.prepare_inputs({"branch": (torch.tensor(0), torch.tensor(1))})
        return [getattr(block, self.guider._identifier_key) for block in blocks]

    def join(self, moment: MixtureContext, outputs: Mapping[Source, Tensor]) -> Tensor | None:
        given = {name: outputs[self._all[name]] for name in self._wanted(moment)}
        try:
            joined: Tensor = self.guider.forward(**given).pred
        except RuntimeError as error:  # some take tokens [n, length, channels] only
            shape = list(next(iter(given.values())).shape)
            raise UsageError(
                f"{type(self.guider).__name__} of diffusers cannot join predictions of shape {shape}: {error}."
            ) from error
        return joined

    def models(self) -> Mapping[str, PerturbedModules]:
        places = [s.model for s in self._all.values() if s.model]
        return {
            name: PerturbedModules(self._hooked(int(name[1:])), self.guider.cleanup_models) for name in places
        }

    def _hooked(self, place: int) -> Any:
        def prepare(module: nn.Module) -> None:
            try:
                put_in(module)
            except (ValueError, TypeError) as error:
                raise UsageError(
                    f"{type(self.guider).__name__} of diffusers cannot perturb {type(module).__name__}: {error}"
                ) from error

        def put_in(module: nn.Module) -> None:
            self.guider._count_prepared = place  # the guider knows by this count which prediction is next
            self.guider.prepare_models(module)
            if self.guider._count_prepared == place:  # SmoothedEnergyGuidance does not count
                self.guider._count_prepared = place + 1
                self.guider.prepare_models(module)

        return prepare


def _base() -> Any:
    from diffusers.guiders.guider_utils import BaseGuidance

    return BaseGuidance


def guider(text: str) -> Guider:
    """A guider from text such as "apg(guidance_scale=7.5, eta=0.0)" or "slg(skip_layer_guidance_layers=2+3)"."""
    import diffusers.guiders as module

    call = parse_guidance(text)
    name, placed, named = call.name, call.by_place, call.by_name
    classes = {n.lower(): c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, _base())}
    classes |= {short: classes[long.lower()] for short, long in SHORT.items() if long.lower() in classes}
    classes.pop("baseguidance", None)
    if name not in classes:
        known = {*RULES, *SHORT}
        raise UsageError(
            f"guidance '{name}' is unknown{did_you_mean(name, known)}: give one of {', '.join(sorted(known))}, such as "
            f"{FORMS}."
        )
    cls = classes[name]
    options = [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "enabled")]
    given = dict(zip(options, placed, strict=False)) | named
    unknown = sorted(set(given) - set(options))
    if unknown or len(placed) > len(options):
        raise UsageError(
            f"guidance '{name}' has no option '{', '.join(unknown) or placed[-1]}': {', '.join(options)}."
        )
    try:
        return Guider(cls(**{k: _value(k, v) for k, v in given.items()}))
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"guidance '{text}' is refused by diffusers: {error}") from error


def _value(option: str, text: str) -> Any:
    """A JSON value, a list of them joined by "+", or the text itself."""
    try:
        if option.endswith(
            "layers"
        ):  # diffusers makes a configuration of each entry, which wants a list itself
            return [[parse_json(part, option) for part in text.split("+")]]
        if "+" in text.strip("+"):
            return [parse_json(part, option) for part in text.split("+")]
        return parse_json(text.lower() if text in ("True", "False") else text, option)
    except JsonError:
        return text
