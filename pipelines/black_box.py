"""`genscale.scale` of what has no denoising loop that genscale could own: a function, a service, a token model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from genscale.engine.holding import DEVICE
from genscale.engine.plan import Plan
from genscale.errors import NoLoop, UsageError
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.black_box_call import BlackBoxCall
from genscale.pipelines.black_box_identity import FunctionSource
from genscale.pipelines.black_box_process import call_process, check_finished_only, no_loop
from genscale.pipelines.equal_candidates import warn_of_equal_candidates
from genscale.pipelines.function_arm import function_arms
from genscale.pipelines.generator_call import GeneratorCall
from genscale.pipelines.generator_signature import Signature, generator_name
from genscale.pipelines.pipeline_lock import Claim, claimed
from genscale.pipelines.scaled_attributes import StandsForPipeline
from genscale.pipelines.search_call import best_with_latents, plan_of, run_search
from genscale.pipelines.search_settings import SearchSettings
from genscale.protocol.interfaces import SamplerHooks
from genscale.results.result import SearchResult


@dataclass(frozen=True)
class Generated:
    """What a call of a scaled generator returns.

    images: the best of each prompt, best first: PIL images; of videos lists of PIL frames, also as `frames`; of texts
    these, also as `texts`. search: all that was found.
    """

    images: Sequence[Any]
    search: SearchResult

    def __getitem__(self, index: int) -> Any:
        """As of a tuple of the two, since many read a pipeline's output by [0]."""
        return (self.images, self.search)[index]

    def __getattr__(self, name: str) -> Any:
        images = self.__dict__.get("images", ())
        kind: Any = {"frames": list, "texts": str}.get(name)
        if kind is not None and images and isinstance(images[0], kind):
            return images
        raise AttributeError(name)


class ScaledGenerator(StandsForPipeline):
    """A generator with a search around its calls. Made by `scale`; every other attribute is the generator's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Generated:
        """Call as the generator itself. Returns the best images as `.images`, and the search as `.search`.

        Candidate 0 is the plain call, with the generator or seed that was given; the others get one from their key.
        Several prompts are called one by one. num_images_per_prompt is how many of the best come back for each.

        Raises as a scaled pipeline does. An exception of the generator drops the candidate where a remote service
        failed (timeouts, lost connections, HTTP statuses of a busy or broken service), and comes through otherwise.
        """
        with self._claimed() as claim:
            call = self._bound(args, kwargs)
            return generated(call, run_search(call, self.settings, claim))

    def __repr__(self) -> str:
        pipe = self.settings.pipe
        return super().__repr__().replace(type(pipe).__name__, generator_name(pipe), 1)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.settings.pipe)

    def search(self, *args: Any, **kwargs: Any) -> SearchResult:
        """The same without decoding the best."""
        with self._claimed() as claim:
            return run_search(self._bound(args, kwargs), self.settings, claim)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would cost, in calls (NFE). Nothing is called or written."""
        with self._claimed():
            return plan_of(self._bound(args, kwargs), self.settings)

    def _claimed(self) -> AbstractContextManager[Claim]:
        return claimed(self.settings.pipe, (), self.settings.busy)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BlackBoxCall:
        made = self.settings
        _check_batches(made)
        if made.mix is not None:
            why = no_loop(generator_name(made.pipe))
            raise UsageError(f"mix and guide combine predictions in a denoising loop, and {why}.")
        bound = GeneratorCall(made.pipe, args, kwargs)
        changes = SamplerHooks.of(made.sampler).arms
        arms = function_arms(bound, changes)
        warn_of_equal_candidates(made.pipe, bound.given, changes)
        call = BlackBoxCall(made, FunctionSource(bound), arms)
        check_finished_only(bound.signature.name, made.sampler, call.processes()[0], made.budget, made.roles)
        made.roles.prepare(bound.texts, bound.device)
        return call


def _check_batches(settings: SearchSettings) -> None:
    """UsageError: a setting is about batches of latents."""
    for name, value, usual in (
        ("hold", settings.hold, DEVICE),
        ("pad_batches", settings.pad_batches, AS_THEY_ARE),
    ):
        if value != usual:
            called = generator_name(settings.pipe)
            raise UsageError(
                f"{name}='{value}' is about latents between the calls of a denoiser, and {called} is called as a "
                f"whole: leave {name} out."
            )


def generated(call: BlackBoxCall, result: SearchResult) -> Generated:
    """The best of each prompt, decoded."""
    best = [e for search in result.searches for e in best_with_latents(search, call.results)]
    return Generated([result.media([entry])[0] for entry in best], result)


def is_black_box(pipe: Any) -> bool:
    """Whether it is called as a whole from the beginning: no pipeline, and nothing that has a scheduler."""
    if isinstance(pipe, FunctionType | MethodType):  # without importing diffusers
        return True
    from diffusers import DiffusionPipeline

    return callable(pipe) and not isinstance(pipe, DiffusionPipeline) and not hasattr(pipe, "scheduler")


def black_box_of(settings: SearchSettings, error: NoLoop) -> ScaledGenerator:
    """A pipeline whose loop cannot be owned, as a generator that is called as a whole; a warning says so.

    NoLoop, the one given: that is not possible either.
    """
    try:
        name = Signature.of(settings.pipe).name
        process = call_process(name, (1,) * max(len(SamplerHooks.of(settings.sampler).arms), 1))
        check_finished_only(name, settings.sampler, process, settings.budget, settings.roles)
    except (UsageError, TypeError):
        raise error from None
    warnings.warn(
        f"{error} It is called as a whole instead, once for each candidate; only samplers of finished candidates work.",
        stacklevel=4,
    )
    return ScaledGenerator(settings)
