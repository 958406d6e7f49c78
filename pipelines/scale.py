"""`genscale.scale(pipe, ...)`: any diffusers pipeline, called as before, with a search inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from genscale.diffusion.mixtures import Mix
from genscale.engine.budget import Budget
from genscale.engine.events import Event
from genscale.engine.plan import Plan, plan
from genscale.engine.stopping import Rule, Stop
from genscale.engine.verifier_roles import Roles, panel
from genscale.errors import UsageError
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.describe_search import describe_search, replayable
from genscale.pipelines.mixture_sources import mix_of
from genscale.pipelines.run import Run
from genscale.pipelines.search_call import open_run
from genscale.plugins import registry
from genscale.protocol.interfaces import Sampler
from genscale.results.result import SearchResult


def _ignore(event: Event) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Scaled:
    """A pipeline with a search inside. Made by `scale`; every other attribute is the pipeline's own."""

    pipe: Any
    sampler: Sampler
    roles: Roles
    budget: Budget
    batch_size: int = 16
    decode_batch: int | None = None
    out: Path | None = None
    keep: int = 1
    on_event: Callable[[Event], None] = _ignore
    stop: Stop | None = None
    mix: Mix | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    halt: Callable[[], bool] = _never
    mix_given: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call as the pipeline itself. Returns its output class, best first, with the search as `.search`.

        num_images_per_prompt (num_videos_per_prompt) is how many of the best come back for each prompt.
        generator gives candidate 0 its latents, as in the pipeline alone, and its seed to all other
        randomness. With return_dict=False the SearchResult is the last member of the tuple.

        Raises UsageError for what cannot be done (nothing is written then), VerifierError when a verifier
        fails (what was found stays in the archive), KeyboardInterrupt before anything was finished;
        after that an interrupt returns the best so far.
        """
        result, output = self._searched(args, kwargs, finish=True)
        return _attach(output, result)

    def search(self, *args: Any, **kwargs: Any) -> SearchResult:
        """The same without the pipeline's output: nothing more is decoded, so memory does not grow with the prompts.

        `result.media(entries)` decodes what is asked for. Raises as the call does.
        """
        return self._searched(args, kwargs, finish=False)[0]

    def _searched(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], finish: bool
    ) -> tuple[SearchResult, Any]:
        call = Arguments(self.pipe, args, kwargs)
        fresh = replayable(call.generator)  # before anything is drawn from it
        run = Run(self.pipe, call, self.mix, self.models)
        heading = self._heading(run)
        return open_run(
            run,
            self.sampler,
            self.roles,
            self.budget,
            batch_size=self.batch_size,
            decode_batch=self.decode_batch,
            folder=self.out,
            heading=heading,
            keep=self.keep,
            on_event=self.on_event,
            stop=self.stop,
            halt=self.halt,
            finish=finish,
            describe=partial(describe_search, self, call, run.texts, run.seeds[0], fresh, heading),
        )

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would cost. Nothing is generated or written."""
        run = Run(self.pipe, Arguments(self.pipe, args, kwargs), self.mix, self.models)
        return plan(self.sampler, run.processes()[0], self.budget, self.roles, run.rows, self.stop)

    def _heading(self, run: Run) -> dict[str, Any]:
        """What makes two runs the same, so that one may go on with the other's archive."""
        panels = {
            role: [[j.name, j.weight] for j in getattr(self.roles, role).members]
            for role in ("search", "select", "held_out")
        }
        return {
            "prompts": run.texts,
            "seeds": run.seeds,
            "pipeline": type(self.pipe).__name__,
            "model": Path(str(getattr(self.pipe.config, "_name_or_path", ""))).name,
            "steps": len(run.probe.evaluations),
            "latent": list(run.latents.shape[1:]),
            "sampler": type(self.sampler).__name__,
            "options": registry.described(self.sampler),
            "verifiers": panels,
            "ensemble": self.roles.judge.ensemble,
            "mix": None if self.mix is None else repr(self.mix),
            "limits": {
                "budget": str(self.budget),
                "stop": None if self.stop is None else str(self.stop),
                "batch_size": self.batch_size,
            },
        }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "pipe":
            raise AttributeError(name)
        return getattr(self.pipe, name)


def scale(
    pipe: Any,
    sampler: str | Sampler = "best_of_n",
    verifier: Any = None,
    *,
    select: Any = None,
    held_out: Any = None,
    ensemble: str = "weighted",
    budget: Budget | str | None = None,
    stop: Stop | Rule | Sequence[Rule] | str | None = None,
    batch_size: int = 16,
    decode_batch: int | None = None,
    out: str | Path | None = None,
    keep: int = 1,
    on_event: Callable[[Event], None] | None = None,
    mix: Mix | str | Sequence[str] | None = None,
    guide: Any = None,
    models: Mapping[str, Any] | None = None,
    halt: Callable[[], bool] | None = None,
    report: Any = None,
    **options: Any,
) -> Scaled:
    """Put a search into a diffusers pipeline; the pipeline itself stays as it is.

    sampler: a name (`genscale samplers` lists them) with its fields as further keyword arguments, or an object.
    verifier: what steers the search: a name, an object, a callable `(media, prompts) -> scores`, a pair
        (any of these, weight), or a list of them, joined by `ensemble` ("weighted" sum or mean "rank").
    select: what picks the winner, if not the same.
    held_out: a second score that the search never sees; it only measures. report: its former name.
    budget: a Budget, or text such as "480nfe", "60s", "480nfe,60s"; NFE are counted per prompt.
    stop: when the scores say that it is enough: text such as "patience:8", "gain:0.02", "adaptive:0.9" or several
        joined by commas, or rules (genscale.engine.stopping); each prompt by itself, whichever of this and the
        budget comes first. Looked at after each wave of the sampler: best_of_n(wave=4) stops sooner than the default.
    batch_size: latents through the model at once; halved when the accelerator's memory runs out.
    decode_batch: latents decoded and judged at once; None is batch_size for images, and 1 for videos, so that no more
        than one is held as pixels. Given, the results are decoded so, too; else as the pipeline itself decodes them.
    out: folder for the archive; a call with the same arguments resumes what is there.
    keep: how many of the best candidates keep their latents, for `result.search.media`.
    on_event: told of progress (genscale.engine.events).
    mix: predictions to combine at every model call (genscale.diffusion.mixtures): a Mix such as `rlg("base", 1.6)`, or
        texts such as "base:-0.6", "prompt=a dog:0.3", "weak:-1"; the pipeline's own prediction has what is left to 1.
    guide: how the branches of classifier-free guidance are combined, in place of the pipeline's own rule: a Mix such as
        `Cfg(7.5, start=0.2, stop=0.8)`, a guider of `diffusers.guiders`, or text such as "cfg(7.5, 0.2, 0.8)",
        "cfg++(0.6)", "apg(guidance_scale=7.5)".
    models: pipelines or modules that share the latent space, under the names that the mix uses.
    halt: asked before every batch, such as the `is_set` of a threading.Event; after the first yes the search ends, as
        soon as every prompt has a finished candidate, with the best so far, as an interrupt ends it.
    """
    if isinstance(sampler, str):
        sampler = registry.make("sampler", sampler, options)
    elif options:
        raise UsageError(
            f"options {', '.join(options)} go with a sampler's name; set them on the sampler object."
        )
    if not callable(getattr(sampler, "search", None)):
        raise UsageError(
            f"{sampler!r} is not a sampler: give a name or an object with a search(process, key) method."
        )
    if batch_size < 1 or keep < 1 or (decode_batch or 1) < 1:
        raise UsageError("batch_size, decode_batch and keep must be at least 1.")
    if report is not None and held_out is not None:
        raise UsageError("held_out= and its former name report= are both given: give held_out= alone.")
    held_out = report if held_out is None else held_out
    roles = Roles(panel(verifier, ensemble), panel(select, ensemble), panel(held_out, "weighted"))
    _warn_of_overlap(roles)
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    return Scaled(
        pipe,
        sampler,  # type: ignore[arg-type]
        roles,
        budget or Budget(),
        batch_size,
        decode_batch,
        None if out is None else Path(out),
        keep,
        on_event or _ignore,
        Stop.of(stop),
        mix_of(mix, guide),
        dict(models or {}),
        halt or _never,
        {name: value for name, value in (("mix", mix), ("guide", guide)) if value is not None},
    )


def _warn_of_overlap(roles: Roles) -> None:
    both = set(roles.held_out.names) & {*roles.search.names, *roles.select.names}
    if both:
        import warnings

        warnings.warn(
            f"'{sorted(both)[0]}' both steers and reports: a score that was optimised says nothing about quality; "
            "report with a verifier that was held out",
            stacklevel=3,
        )


def _attach(output: Any, result: SearchResult) -> Any:
    if isinstance(output, tuple):
        return (*output, result)
    object.__setattr__(output, "search", result)
    return output
