"""Draft and commit: what a draft changes in a call, and how many drafts are made in full.

Candidates are searched with a cheaper call: fewer steps, another scheduler, a smaller or distilled model, a cache, or
a small decoder. The best drafts are then made again by the pipeline itself, each from its own starting noise, and the
best of these wins. To reject drafts by a conformal margin is the idea of ATTS ("Asynchronous Test-Time Scaling via
Conformal Prediction", arXiv 2509.15148), which rejects those of a small language model; the margin here is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from genscale.algorithms.arm_texts import pairs_of, text_of
from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.arms import ArmSettings
from genscale.pipelines.loading import takes
from genscale.plugins.limits import COUNT, STEPS, shown

KEEP = 4
FORM = "steps=4,keep=4"


@dataclass(frozen=True, eq=False)
class Draft:
    """How candidates are drafted, and which are made in full. What is None is as in the pipeline's own call.

    steps: denoising steps of a draft. guidance: its scale; 1 leaves the unconditional branch out. model: another
        pipeline whose latents have the same shape, or its name for `load_pipeline`. scheduler: of the drafts, an object
        or the name of its class. changes: further arguments of the call of a draft.
    decoder: an autoencoder in place of the pipeline's `vae` while drafts are scored, such as an AutoencoderTiny.
    cache: a configuration of diffusers, such as FirstBlockCacheConfig, that the denoiser's `enable_cache` gets.
    keep: how many of the best drafts are made in full, for each prompt; 4 by default (ours).
    margin: drafts that score more than this below the best draft are dropped, too; in units of the search score. None
        drops none. With the margin that `genscale calibrate-steps --draft` finds for alpha, the draft of the best
        candidate is dropped with probability at most alpha, as far as `keep` is no limit.
    cost: NFE that a budget counts for one evaluation of the drafts' denoiser, in evaluations of the pipeline's own;
        1 by default, also for another model, whose cost is not known.

    UsageError: a field is of another type or out of range, or nothing would be cheaper.
    """

    steps: int | None = None
    keep: int = KEEP
    guidance: float | None = None
    model: Any = None
    scheduler: Any = None
    decoder: Any = None
    cache: Any = None
    margin: float | None = None
    cost: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number("keep", self.keep, whole=True, fits=COUNT.admits, range_=str(COUNT))
        if self.steps is not None:
            _check_number("steps", self.steps, whole=True, fits=STEPS.admits, range_=str(STEPS))
        if self.guidance is not None:
            _check_number("guidance", self.guidance, fits=math.isfinite, range_="finite")
        if self.margin is not None:
            _check_number("margin", self.margin, fits=lambda x: x >= 0, range_="0 or more")
        _check_number("cost", self.cost, fits=lambda x: 0 < x < math.inf, range_="above 0")
        self._check_parts()
        cheaper = (self.steps, self.guidance, self.model, self.scheduler, self.decoder, self.cache)
        if all(part is None for part in cheaper) and not self.changes:
            raise UsageError(
                f"a draft that changes nothing costs as much as a candidate: give a cheaper one, such as '{FORM}'."
            )

    def _check_parts(self) -> None:
        named = isinstance(self.model, str), isinstance(self.scheduler, str)
        for name, fits, wanted in (
            ("model", named[0] or callable(self.model), "a pipeline or the name of one"),
            (
                "scheduler",
                named[1] or hasattr(self.scheduler, "set_timesteps"),
                "a scheduler or the name of its class",
            ),
            ("decoder", hasattr(self.decoder, "decode"), "an autoencoder, such as an AutoencoderTiny"),
            ("changes", isinstance(self.changes, Mapping), "a mapping of arguments of the call"),
        ):
            if not fits and getattr(self, name) is not None:
                raise UsageError(f"{name}={shown(getattr(self, name))} of a draft is not {wanted}: give one.")

    @staticmethod
    def of(given: Any) -> Draft | None:
        """A draft from what a user gives: a Draft, text for `parse`, or None. UsageError: something else."""
        if given is None or isinstance(given, Draft):
            return given
        if isinstance(given, str):
            return Draft.parse(given)
        raise UsageError(
            f"draft={shown(given)} is no draft: give genscale.Draft(...) or text such as '{FORM}'."
        )

    @staticmethod
    def parse(text: str) -> Draft:
        """Read "steps=4,keep=4"; names that are no fields are arguments of the call. UsageError: it is not so."""
        found = pairs_of(text, "draft", FORM)
        known = [f.name for f in fields(Draft) if f.name not in ("changes", "decoder", "cache")]
        for name in ("decoder", "cache"):
            if name in found:
                raise UsageError(
                    f"the {name} of a draft is an object of Python: give genscale.Draft({name}=...)."
                )
        own = {name: value for name, value in found.items() if name in known}
        return Draft(**own, changes={name: value for name, value in found.items() if name not in own})

    def __str__(self) -> str:
        """Text that `parse` reads, but for what is an object of Python, of which the name of its class stands there."""
        return ",".join(f"{name}={_short(value)}" for name, value in self._given().items())

    @property
    def text(self) -> str | None:
        """The same, None where text cannot say it."""
        objects = [
            self.decoder,
            self.cache,
            *(x for x in (self.model, self.scheduler) if not isinstance(x, str)),
        ]
        return None if any(x is not None for x in objects) else text_of(self._given())

    @property
    def way(self) -> str:
        """How a draft is made, without what limits or prices it: the same text, less `keep`, `margin` and `cost`."""
        limits = ("keep", "margin", "cost")
        made = {name: value for name, value in self._given().items() if name not in limits}
        return ",".join(f"{name}={_short(value)}" for name, value in made.items())

    def _given(self) -> dict[str, Any]:
        """The fields that are not at their default, `keep` always, and the changes."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "changes"}
        unlike = {n: v for n, v in own.items() if v is not None and (n, v) != ("cost", 1.0)}
        return {**unlike, **self.changes}

    def arm(self, pipe: Any) -> ArmSettings:
        """What the draft changes in a call of the pipeline. UsageError: the call does not take it."""
        named = {
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
            "model": self.model,
        }
        changes = {name: value for name, value in named.items() if value is not None} | dict(self.changes)
        taken = takes(pipe)
        for name in self.changes:
            if name in ("prompt", "nfe"):
                raise UsageError(
                    f"a draft cannot change {name}: its prompt is that of the call, and what it counts is `cost`."
                )
            if name not in taken and name != "lora_scale":
                known = [f.name for f in fields(self) if f.name != "changes"]
                raise UsageError(
                    f"a draft changes '{name}', which the call does not take{did_you_mean(name, (*taken, *known))}: "
                    f"give an argument of the call, or one of {', '.join(known)}."
                )
        return ArmSettings.of(pipe, changes, lambda function, name: name in takes(function), taken, "a draft")

    @contextmanager
    def applied(self, arm: ArmSettings) -> Iterator[None]:
        """The pipeline with the scheduler, decoder and cache of the drafts. UsageError: it has no place for one."""
        pipe = arm.function
        with ExitStack() as stack:
            stack.enter_context(arm.applied())
            if self.decoder is not None:
                if getattr(pipe, "vae", None) is None:
                    raise UsageError(
                        f"a draft's decoder takes the place of a vae, and {type(pipe).__name__} has none: leave it out."
                    )
                stack.enter_context(_replaced(pipe, "vae", self.decoder))
            if self.cache is not None:
                stack.enter_context(_cached(pipe, self.cache))
            yield

    def chosen(self, scores: Sequence[float]) -> int:
        """How many of the best drafts are made in full, at least 1. scores: of all drafts, best first."""
        if self.margin is None:
            return min(self.keep, len(scores))
        least = scores[0] - self.margin
        return max(1, min(self.keep, sum(score >= least for score in scores)))


def _check_number(name: str, value: Any, *, fits: Any, range_: str, whole: bool = False) -> None:
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(
            f"{name}={shown(value)} of a draft is no {'whole ' if whole else ''}number: give one."
        )
    if not fits(value):
        raise UsageError(f"{name}={shown(value)} of a draft must be {range_}.")


def _short(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else type(value).__name__


@contextmanager
def _replaced(pipe: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(pipe, name)
    setattr(pipe, name, value)
    try:
        yield
    finally:
        setattr(pipe, name, before)


@contextmanager
def _cached(pipe: Any, config: Any) -> Iterator[None]:
    """The denoiser with a cache of diffusers. UsageError: it takes none, or has one already."""
    denoiser: Any = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if not hasattr(denoiser, "enable_cache"):
        raise UsageError(
            f"a draft's cache needs a denoiser with enable_cache, and {type(pipe).__name__} has none: leave it out."
        )
    if denoiser.is_cache_enabled:
        raise UsageError(
            "the denoiser has a cache already: disable it, so that only drafts are made with one."
        )
    try:
        denoiser.enable_cache(config)
    except ValueError as error:  # no configuration, or not for this model
        raise UsageError(
            f"cache={shown(config)} of a draft is refused ({error}): give a configuration of diffusers, such as "
            "FirstBlockCacheConfig."
        ) from error
    try:
        yield
    finally:
        denoiser.disable_cache()
