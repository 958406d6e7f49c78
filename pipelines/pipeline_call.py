"""One call of a pipeline as the search sees it: its rows, noise, noise levels and cost, found by a probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.interpolants import LINEAR
from genscale.diffusion.mixtures import Mix
from genscale.diffusion.prediction import View
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.errors import NoLoop, UsageError
from genscale.key import Key
from genscale.pipelines.bound_call import CALLBACKS, ENTRIES, Arguments, root_seeds
from genscale.pipelines.branches import Branches, BranchProbe, identify_branches
from genscale.pipelines.cache_work import CacheWork
from genscale.pipelines.differentiable_models import DifferentiableModels
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.followed_loop import FollowedLoop
from genscale.pipelines.image_inputs import ImageProbe
from genscale.pipelines.initial_latents import find_prior
from genscale.pipelines.intercepted_call import LoopDriver, UnsupportedLoop, intercept
from genscale.pipelines.loop_noise import global_states, restore_global
from genscale.pipelines.mixture_sources import Mixing
from genscale.pipelines.model_caches import caches_of
from genscale.pipelines.modular_blocks import block_modules, guiders_for
from genscale.pipelines.noise_interception import Draws, Replay, joined
from genscale.pipelines.pipeline_noise import PipelineNoise, generator_states, restore_generators
from genscale.pipelines.probe import Probe
from genscale.pipelines.probe_attempts import probe_of
from genscale.pipelines.probe_memory import ProbeMemory
from genscale.pipelines.row_lists import RowLists, UnclearRows, find_row_lists
from genscale.pipelines.scheduler_levels import read_schedule, timestep_of
from genscale.pipelines.scheduler_proxy import OffGrid
from genscale.pipelines.settings_checks import check_pipeline
from genscale.pipelines.solver import SchedulerSolver, restarts
from genscale.pipelines.step_numbering import modules_of_call
from genscale.pipelines.watched_models import PlaceholderOutputs, is_compiled


class PipelineCall:
    """What a probe found out about one call of a pipeline; the pipeline is called again to evaluate and to decode.

    mix: predictions to combine at every model call. models: those that it names. memory: of earlier calls.

    latents: the pipeline's initial latents [rows, *latent], one row a prompt. images: the probe of all images, where
    the call has a generator or latents for each; None elsewhere. texts: the prompt of each row. seeds: the seed of each
    row's keys. solver: the pipeline's scheduler as a function of explicit state.
    row_per_latent: the pipeline must be called with one row for each latent of a batch, instead of one for each prompt.
    own_rows: latents are evaluated in groups of exactly the call's own rows; found out while serving, as that is.
    compiled: a model is, as a whole or in parts. caches: of the pipeline's models. cache_work: what they spared.
    loop: how to follow a loop that edits its latents or draws noise; None where it does neither.
    """

    def __init__(
        self, pipe: Any, arguments: Arguments, mix: Mix | None = None, models: Mapping[str, Any] | None = None,
        memory: ProbeMemory | None = None,
    ) -> None:  # fmt: skip
        check_pipeline(pipe)
        self.pipe, self.arguments = pipe, arguments
        self.caches, self.cache_work = caches_of(pipe.components), CacheWork()
        self.compiled = any(is_compiled(m) for m in pipe.components.values())
        self.encoder_cache, self.ledger = EncoderCache(), Ledger()
        self.placeholders = PlaceholderOutputs(self.ledger)
        self.encoder_cache.loop_modules = [*modules_of_call(type(pipe)), *block_modules(pipe)]
        self.encoder_cache.guiders = {} if mix is None else guiders_for(pipe, mix)
        memory = ProbeMemory() if memory is None else memory
        self.known = memory.find(pipe, arguments)
        if self.known is not None:
            self.encoder_cache.loop_modules = list(self.known.modules)
        self.known_branches: Branches | None = None
        self._row_lists: RowLists | None = None
        device = torch.device(getattr(pipe, "device", "cpu"))
        before = global_states(device)
        with self.ledger.clock("probe"):
            state = generator_states(arguments.generator)
            self.probe = self._probe(arguments.given)
            self.images = self._probe_images(state) if arguments.of_images else None
        # Of torch's global generators, as they are where the loop begins.
        self.global_states = global_states(device)
        if arguments.generator is not None:  # the same call draws the same again, whatever draws globally
            restore_global(before, device)
        assert self.probe.latents is not None
        self.latents: Tensor = self.probe.latents
        self.rows = self.latents.shape[0]
        # Set when a batch of other rows than the call's fails, and when a call for other rows fails, too.
        self.row_per_latent, self.own_rows = False, False
        if self.probe.layout.joint:
            self.use_own_rows()
        self.texts = arguments.texts(self.rows)
        self.mixing = None if mix is None else Mixing(pipe, mix, models or {}, self.texts)
        self.models = DifferentiableModels(pipe, None if self.mixing is None else self.mixing.modules)
        self.seeds = root_seeds(arguments.generator, self.latents)
        known = None if self.probe.walk is None else self.probe.walk.solver.timesteps
        self.solver = SchedulerSolver(self.probe.own_scheduler, self.probe.start, known)
        own = self.images or self.probe
        self.noise = PipelineNoise(own.step_draws(), len(self._own_latents), own.layout)
        self.loop: FollowedLoop | None = None
        if self.probe.edits_latents or self.probe.loop_draws:
            with self.ledger.clock("probe"):
                self.loop, self.row_per_latent = FollowedLoop(self), True
        if self.images is None:
            memory.keep(pipe, arguments, self.probe.found())

    # ---------------------------------------------------------------- calling the pipeline

    def run(self, given: dict[str, Any], driver: LoopDriver) -> Any:
        """Call the pipeline with these arguments under a driver; its output, or None if the driver ended the call."""
        try:
            return intercept(self.pipe, given, driver)
        except UnsupportedLoop as error:
            raise self.unsupported(str(error)) from error

    def find_row_lists(self) -> RowLists:
        """Which arguments, and which lists that models are given, have one entry for each row."""
        if self._row_lists is None:
            self._row_lists = find_row_lists(self.pipe, self.arguments, self.probe)
        return self._row_lists

    def per_row(self, model: str, name: str) -> bool:
        """Whether a list that a model is given may have one entry a row. NeedsRowPerLatent: it is not known."""
        return self._row_lists is None or self._row_lists.per_row(model, name)

    def row_arguments(self) -> frozenset[str]:
        """Names of the arguments with one entry for each row. UsageError: it is not known."""
        if len(self.sources) == 1:
            return frozenset()
        names = self.find_row_lists().arguments
        if names is None:
            raise UnclearRows(
                f"{type(self.pipe).__name__} must be called with one row for each candidate, and which of its "
                f"arguments have one entry for each of the {self.rows} prompts is not clear: call it with one prompt "
                "at a time."
            )
        return names

    def use_own_rows(self) -> None:
        """From now on evaluate the call's own rows at a time. UsageError: a cache would decide about them together."""
        if self.rows > 1 and self.caches.apart:
            raise UsageError(
                f"{type(self.pipe).__name__} was called with {self.rows} prompts, which it evaluates together, and a "
                "cache of its model decides about all of them at once: call it with one prompt at a time, or disable "
                "the cache."
            )
        self.row_per_latent, self.own_rows = False, True

    def latents_of(self, rows: tuple[int, ...]) -> Tensor:
        """The pipeline's own initial latents [n, *latent] for these rows of `sources`."""
        return self.latents[[self.sources[row] for row in rows]]

    @property
    def sources(self) -> tuple[int, ...]:
        """Row of the probed call that each row of a serving call repeats: a mix may need further rows."""
        more = () if self.mixing is None else self.mixing.more
        return (*range(self.rows), *(row for row, _ in more))

    def given_for(self, composition: tuple[int, ...] | None) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Arguments of a pipeline call that serves batches, and the row of the probed call behind each of its rows.

        composition: row of `sources` of each latent, for a call with one row for each; None: all `sources`.
        """
        sources, more = self.sources, () if self.mixing is None else self.mixing.more
        if self.probe.lists and len(sources) > 1:
            self.find_row_lists()  # before the loop, since it calls the pipeline, too
        per_row = self.row_arguments() if more or composition is not None else frozenset()
        given = self.arguments.extended(self.rows, more, per_row)
        given = {k: v for k, v in given.items() if k in self.arguments.names or k not in CALLBACKS}
        changed = {k for k, v in given.items() if more and v is not self.arguments.given.get(k)}
        per_row |= {name for name in changed if name + ENTRIES not in per_row}
        if "generator" in (*self.arguments.names, *given):
            given["generator"] = self.arguments.stand_in()
        if composition is not None:
            given = self.arguments.composed(given, len(sources), composition, per_row)
            sources = tuple(sources[i] for i in composition)
        return given, sources

    def unsupported(self, why: str) -> UsageError:
        return NoLoop(
            f"{type(self.pipe).__name__} cannot be searched: {why}; genscale needs a pipeline that iterates over "
            "scheduler.timesteps and calls scheduler.step once for each."
        )

    def _probe(self, given: dict[str, Any]) -> Probe:
        probe = probe_of(self, given)
        if probe.latents is None or not probe.evaluations:
            raise self.unsupported("it never calls scheduler.step")
        return probe

    def _probe_images(self, state: list[Tensor]) -> ImageProbe:
        """The call of all images. state: of the generators before the first probe, which drew from some."""
        restore_generators(self.arguments.generator, state)
        given = self.arguments.all_images()
        probe = ImageProbe(self.encoder_cache, self.placeholders, given)
        probe.reads_expected = self.probe.reads_expected
        self.run(given, probe)
        probe.check(self.pipe)
        return probe

    @property
    def _own_latents(self) -> Tensor:
        """The pipeline's own initial latents, one row a prompt, or one an image where the call gives each its own."""
        found = self.latents if self.images is None else self.images.latents
        assert found is not None
        return found

    # ---------------------------------------------------------------- initial noise

    def priors(self) -> list[Prior]:
        """How each row's initial latents are made of noise."""
        draws = joined(self.probe.draws, self.rows)
        if draws and not isinstance(self.arguments.given.get("latents"), Tensor):
            return find_prior(self.latents, draws, self.initial_latents)
        # The user gave the latents: look how the pipeline would have made others.
        given = self.arguments.quiet(latents=None)
        probe = Probe(self.encoder_cache, self.placeholders, given, _own_draws(), whole=False)
        intercept(self.pipe, given, probe)
        assert probe.latents is not None
        found = find_prior(probe.latents, joined(probe.draws, self.rows), self.initial_latents)
        if self.loop is not None:
            self.loop.fresh = probe.draws
        return [replace(p, own=x) for p, x in zip(found, self.latents, strict=True)]

    def initial_latents(self, draws: list[Tensor]) -> Tensor:
        """Initial latents [rows, *latent] that the pipeline makes when these are its draws."""
        given = self.arguments.quiet(latents=None)
        replay = Replay(draws, self.rows)
        probe = Probe(self.encoder_cache, self.placeholders, given, replay, whole=False)
        intercept(self.pipe, given, probe)
        assert probe.latents is not None
        return probe.latents

    # ---------------------------------------------------------------- noise levels

    @property
    def timesteps(self) -> Tensor:
        assert self.probe.timesteps is not None
        return self.probe.timesteps

    def view(self) -> View | str:
        """The noise levels of the loop and the meaning of the model's output; a text that says why they are unknown."""
        try:
            return read_schedule(self.solver.scheduler, self.timesteps, self.probe.start)
        except ValueError as error:
            return str(error)

    def level_of(self, time: float) -> OffGrid:
        """What to show to the loop for a linear time between those of its grid. ValueError: there is no rule."""
        view = self.view()
        if isinstance(view, str):
            raise ValueError(view)
        step = timestep_of(self.solver.scheduler, self.timesteps, view, time)
        return OffGrid(step, LINEAR.kappa(time))

    def off_grid(self) -> str | None:
        """Why the model cannot be called between the levels of the grid; None if it can."""
        if self.loop is not None:
            return "the pipeline edits latents or draws noise in its loop, between grid levels"
        try:
            self.level_of(0.5)
        except ValueError as error:
            return str(error)
        return None

    # ---------------------------------------------------------------- classifier-free guidance

    def branches(self) -> Branches:
        """How the pipeline evaluates the two branches of classifier-free guidance. UsageError where it does not."""
        if self.known_branches is None:
            per_row = [e // self.rows for e in self.probe.evaluations]
            step = per_row.index(2) if 2 in per_row else 0
            both, second = (self._branch_probe(step, filled) for filled in ((0, 1), (1,)))
            self.known_branches = identify_branches(both, second, self.rows)
        return self.known_branches

    def _branch_probe(self, step: int, filled: tuple[int, ...]) -> BranchProbe:
        probe = BranchProbe(
            self.encoder_cache,
            self.placeholders,
            self.probe,
            step,
            self.rows,
            filled,
        )
        self.run(self.arguments.quiet(), probe)
        return probe

    def branch_nfe(self, step: int) -> int:
        """NFE of one branch at a step."""
        self.branches()
        if self.probe.evaluations[step] != 2 * self.rows:
            raise UsageError(
                f"{type(self.pipe).__name__} evaluates no two branches of classifier-free guidance at step {step}."
            )
        return 1

    # ---------------------------------------------------------------- what a search is given

    def processes(self) -> list[dict[str, Any]]:
        """The arguments of each prompt's `PromptProcess`."""
        steps = len(self.probe.evaluations)
        order = getattr(self.solver.scheduler, "order", 1)
        start = self.probe.start
        nfe = [e // self.rows for e in self.probe.evaluations]
        if self.mixing is not None:
            nfe = self.mixing.evaluations(nfe, self.view(), self.branch_nfe)
        shared = {
            "evaluations": tuple(nfe),
            "solver": self.solver,
            "view": self.view(),
            "off_grid": self.off_grid(),
            "own_restarts": restarts(self.solver.scheduler),
            "of_branch": self.branch_nfe,
            "remembers": bool(self.caches),
            "mix": None if self.mixing is None else self.mixing.mix,
            "restarts": tuple(i for i in range(steps) if (start + i) % 2 == 0) if order == 2 else (),
        }
        priors = self.priors()
        if self.images is None:
            made = [
                shared | {"prior": prior, "own_draw": partial(self.noise.row, row)}
                for row, prior in enumerate(priors)
            ]
            if self.loop is not None:
                self.loop.priors = priors
                made = [p | {"origins": o} for p, o in zip(made, self.loop.origins, strict=True)]
            return made
        made, n = [], self.arguments.results
        for row, prior in enumerate(priors):
            own, *further = self._own_latents[row * n : (row + 1) * n]
            noise = partial(self.noise.of_image, row * n)
            prior = replace(prior, own=own, further=tuple(further))
            made.append(shared | {"prior": prior, "own_draw": partial(noise, 0), "further_draw": noise})
        return made

    def key(self, row: int) -> Key:
        """A prompt's keys depend on its text and seed, not on the other prompts of the call."""
        earlier = self.texts[:row].count(self.texts[row])
        return Key.from_seed(self.seeds[row]).fold("prompt", self.texts[row], earlier)


def _own_draws() -> Draws:
    """Normal draws from a generator of our own: torch's global one is shared with other threads."""
    generator = torch.Generator().manual_seed(0)
    return lambda j, shape: torch.randn(shape, generator=generator)
