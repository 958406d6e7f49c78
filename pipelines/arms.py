"""What an arm changes in a call: arguments, the prompt, the LoRA scale, the scheduler, or the model itself.

{"guidance_scale": 7, "num_inference_steps": 8}: arguments of the call ("guidance" and "steps" for short).
{"prompt": "{}, a photograph"}: the prompt, {} standing for the call's own.
{"lora_scale": 0.5}: the scale of all LoRAs of the pipeline (`set_adapters`).
{"scheduler": DDIMScheduler(...)}: another scheduler of the pipeline; its class by name has the pipeline's settings.
{"model": other}: another pipeline or function, called with the same arguments; a name is loaded by `load_pipeline`.
{"nfe": 3}: what one call of a function counts; of a pipeline it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.call_signature import COUNTS
from genscale.plugins.limits import shown

_SHORT = {"guidance": "guidance_scale", "steps": "num_inference_steps", "negative": "negative_prompt"}
_OWN = ("model", "scheduler", "lora_scale", "prompt", "nfe")
_NOT_CHANGED = {
    **dict.fromkeys(("generator", "seed", "latents"), "it is what makes one candidate differ from another"),
    **dict.fromkeys(COUNTS, "it is how many of the best the call returns, so give it to the call"),
}


@dataclass(frozen=True)
class ArmSettings:
    """One arm. function: what is called. changes: arguments of the call. text: of the prompt."""

    function: Any
    changes: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    scheduler: Any = None
    lora_scale: float | None = None
    nfe: int | None = None

    @staticmethod
    def of(
        function: Any,
        arm: Mapping[str, Any],
        takes: Callable[[Any, str], bool],
        names: Any = (),
        of: str = "an arm",
    ) -> ArmSettings:
        """UsageError: the arm changes what cannot be changed. takes: whether a function takes an argument.

        names: known arguments, for "did you mean". of: what this is, for messages.
        """
        function = _model(arm.get("model"), function)
        changes = {_long(k, function, takes): v for k, v in arm.items() if k not in _OWN}
        for name in changes:
            if name in _NOT_CHANGED:
                raise UsageError(f"{of} cannot change {name}: {_NOT_CHANGED[name]}.")
            if not takes(function, name):
                raise UsageError(
                    f"{of} changes '{name}', which the call does not take{did_you_mean(name, (*names, *_OWN))}."
                )
        text, scale, nfe = arm.get("prompt"), arm.get("lora_scale"), arm.get("nfe")
        if text is not None and (not isinstance(text, str) or text.count("{}") > 1):
            raise UsageError(
                f"the prompt of {of}, {shown(text)}, must be a text with one {{}} for the call's own."
            )
        if nfe is not None and not (isinstance(nfe, int) and nfe > 0):
            raise UsageError(f"nfe={shown(nfe)} of {of} must be a whole number above 0.")
        if scale is not None and not hasattr(function, "set_adapters"):
            raise UsageError(f"lora_scale of {of} needs a pipeline with LoRAs, and this one takes none.")
        scheduler = arm.get("scheduler")
        if scheduler is not None and not hasattr(function, "scheduler"):
            raise UsageError(f"scheduler of {of} needs a pipeline with a scheduler, and this one has none.")
        scheduler = _scheduler(scheduler, function, of) if isinstance(scheduler, str) else scheduler
        return ArmSettings(function, changes, text, scheduler, scale, nfe)

    def prompt(self, text: str) -> str:
        """The prompt of the call in this arm."""
        return text if self.text is None else self.text.replace("{}", text)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The scheduler and LoRA scale of the arm on the pipeline, for one call."""
        pipe = self.function
        if self.scheduler is None and self.lora_scale is None:
            yield
            return
        before = getattr(pipe, "scheduler", None)
        scale = 1.0 if self.lora_scale is None else self.lora_scale
        weights = {} if self.lora_scale is None else _weights(pipe)
        try:
            if self.scheduler is not None:
                pipe.scheduler = self.scheduler
            if weights:
                pipe.set_adapters(list(weights), [scale * w for w in weights.values()])
            yield
        finally:
            if self.scheduler is not None:
                pipe.scheduler = before
            if weights:
                pipe.set_adapters(list(weights), list(weights.values()))


def _model(given: Any, function: Any) -> Any:
    if not isinstance(given, str):
        return function if given is None else given
    return _loaded(given, getattr(function, "dtype", None), str(getattr(function, "device", "cpu")))


@lru_cache(maxsize=4)
def _loaded(name: str, dtype: Any, device: str) -> Any:
    from genscale.pipelines.loading import load_pipeline

    pipe = load_pipeline(name, dtype=dtype, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _scheduler(name: str, pipe: Any, of: str) -> Any:
    import diffusers

    from genscale.pipelines import remasking_scheduler

    own = name == "RemaskingScheduler"
    cls = getattr(remasking_scheduler if own else diffusers, name, None)
    if not name.endswith("Scheduler") or cls is None:
        known = [n for n in dir(diffusers) if n.endswith("Scheduler")] + ["RemaskingScheduler"]
        raise UsageError(
            f"scheduler '{name}' of {of} is unknown{did_you_mean(name, known)}: name one of diffusers."
        )
    if own and "mask_token_id" not in pipe.scheduler.config:
        raise UsageError(
            f"scheduler {name} of {of} masks tokens again, and {type(pipe.scheduler).__name__} makes no tokens: it "
            "is for aMUSEd."
        )
    return cls.from_config(pipe.scheduler.config)


def _long(name: str, function: Any, takes: Callable[[Any, str], bool]) -> str:
    long = _SHORT.get(name, name)
    return long if takes(function, long) else name


def _weights(pipe: Any) -> dict[str, float]:
    """The active LoRAs of a pipeline and their scales."""
    names = pipe.get_active_adapters()
    if not names:
        raise UsageError("lora_scale needs a LoRA, and none is loaded: load one, or leave lora_scale out.")
    scales: dict[str, float] = {}
    for module in pipe.components.values():
        for part in module.modules() if hasattr(module, "modules") else ():
            scaling = getattr(part, "scaling", None)
            for name in names:
                if isinstance(scaling, dict) and name in scaling and name not in scales:
                    rank, alpha = getattr(part, "r", {}).get(name), getattr(part, "lora_alpha", {}).get(name)
                    base = alpha / rank if rank and alpha else 1.0
                    scales[name] = float(scaling[name]) / base
    return {name: scales.get(name, 1.0) for name in names}
