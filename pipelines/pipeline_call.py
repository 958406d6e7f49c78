"""One call of a pipeline as the search sees it: its rows, noise, noise levels and cost, found by a probe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.interpolants import LINEAR
from genscale.diffusion.mixtures import Mix
from genscale.diffusion.prediction import View
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.bound_call import Arguments, root_seeds
from genscale.pipelines.branches import Branches, BranchProbe, identify_branches
from genscale.pipelines.differentiable_models import DifferentiableModels
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.initial_latents import find_prior
from genscale.pipelines.intercepted_call import LoopDriver, UnsupportedLoop, intercept
from genscale.pipelines.mixture_sources import Mixing
from genscale.pipelines.noise_interception import Replay, joined
from genscale.pipelines.pipeline_noise import PipelineNoise, generator_states, restore_generators
from genscale.pipelines.probe import Probe
from genscale.pipelines.scheduler_levels import read_schedule, timestep_of
from genscale.pipelines.scheduler_proxy import OffGrid
from genscale.pipelines.solver import SchedulerSolver, restarts
from genscale.pipelines.watched_models import PlaceholderOutputs


class PipelineCall:
    """What a probe found out about one call of a pipeline; the pipeline is called again to evaluate and to decode.

    mix: predictions to combine at every model call. models: pipelines or modules that the mix names.

    latents: the pipeline's initial latents [rows, *latent], one row a prompt. texts: the prompt of each row. seeds:
    the seed of each row's keys. solver: the pipeline's scheduler as a function of explicit state. row_per_latent: the
    pipeline must be called with one row for each latent of a batch, instead of one for each prompt.
    """

    def __init__(
        self, pipe: Any, arguments: Arguments, mix: Mix | None = None, models: Mapping[str, Any] | None = None
    ) -> None:
        if getattr(pipe, "scheduler", None) is None:
            raise UsageError(
                f"{type(pipe).__name__} has no scheduler, so there is no denoising loop to search: "
                "use a diffusion or flow pipeline."
            )
        self.pipe, self.arguments = pipe, arguments
        self.encoder_cache, self.placeholders, self.ledger = EncoderCache(), PlaceholderOutputs(), Ledger()
        self._branches: Branches | None = None
        with self.ledger.clock("probe"):
            self.probe = self._probe(arguments.given)
        assert self.probe.latents is not None
        self.latents: Tensor = self.probe.latents
        self.rows = self.latents.shape[0]
        # Set when a batch of other rows than the call's fails; known where the loop blends latents with rows.
        self.row_per_latent = self.probe.edits_latents and self.rows > 1
        self.texts = arguments.texts(self.rows)
        self.mixing = None if mix is None else Mixing(pipe, mix, models or {}, self.texts)
        self.models = DifferentiableModels(pipe, None if self.mixing is None else self.mixing.modules)
        self.seeds = root_seeds(arguments.generator, self.latents)
        self.solver = SchedulerSolver(self.probe.own_scheduler, self.probe.start)
        self.noise = PipelineNoise(self.probe.step_draws(), self.rows, self.probe.layout)

    # ---------------------------------------------------------------- calling the pipeline

    def run(self, given: dict[str, Any], driver: LoopDriver) -> Any:
        """Call the pipeline with these arguments under a driver; its output, or None if the driver ended the call."""
        try:
            return intercept(self.pipe, given, driver)
        except UnsupportedLoop as error:
            raise self.unsupported(str(error)) from error

    def unsupported(self, why: str) -> UsageError:
        return UsageError(
            f"{type(self.pipe).__name__} cannot be searched: {why}; genscale needs a pipeline that iterates over "
            "scheduler.timesteps and calls scheduler.step once for each."
        )

    def _probe(self, given: dict[str, Any]) -> Probe:
        callbacks = {k: None for k in ("callback_on_step_end", "callback") if k in given}
        for guess in (
            True,
            False,
        ):  # if a guessed output does not fit the pipeline, its first call is evaluated
            self.placeholders.guess = guess
            probe = Probe(self.encoder_cache, self.placeholders, given)
            state = generator_states(self.arguments.generator)
            try:
                intercept(self.pipe, given | callbacks, probe)
                break
            except UsageError:
                raise
            except UnsupportedLoop as error:
                raise self.unsupported(str(error)) from error
            except Exception:
                if not guess:
                    raise
                restore_generators(self.arguments.generator, state)
        self.ledger.probes = self.placeholders.real_rows
        self.ledger.evaluations = self.placeholders.real_rows
        if probe.latents is None or not probe.evaluations:
            raise self.unsupported("it never calls scheduler.step")
        return probe

    # ---------------------------------------------------------------- initial noise

    def priors(self) -> list[Prior]:
        """How each row's initial latents are made of noise."""
        draws = joined(self.probe.draws, self.rows)
        if draws:
            return find_prior(self.latents, draws, self._initial_latents)
        # The user gave the latents: look how the pipeline would have made others.
        given = self.arguments.quiet(latents=None)
        probe = Probe(self.encoder_cache, self.placeholders, given, whole=False)
        state = torch.get_rng_state()
        intercept(self.pipe, given, probe)
        torch.set_rng_state(state)
        assert probe.latents is not None
        found = find_prior(probe.latents, joined(probe.draws, self.rows), self._initial_latents)
        return [Prior(p.offset, p.scale, x, p.refusal) for p, x in zip(found, self.latents, strict=True)]

    def _initial_latents(self, draws: list[Tensor]) -> Tensor:
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
        try:
            self.level_of(0.5)
        except ValueError as error:
            return str(error)
        return None

    # ---------------------------------------------------------------- classifier-free guidance

    def branches(self) -> Branches:
        """How the pipeline evaluates the two branches of classifier-free guidance. UsageError where it does not."""
        if self._branches is None:
            per_row = [e // self.rows for e in self.probe.evaluations]
            step = per_row.index(2) if 2 in per_row else 0
            both, second = (self._branch_probe(step, filled) for filled in ((0, 1), (1,)))
            self._branches = identify_branches(both, second, self.rows)
        return self._branches

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
        # Where the loop edits latents after a step, one more pass without a model call edits the last ones.
        last_edit = (0,) if self.probe.edits_latents else ()
        nfe = [e // self.rows for e in self.probe.evaluations]
        if self.mixing is not None:
            nfe = self.mixing.evaluations(nfe, self.view(), self.branch_nfe)
        shared = {
            "evaluations": (*nfe, *last_edit),
            "model_calls": steps,
            "solver": self.solver,
            "view": self.view(),
            "off_grid": self.off_grid(),
            "own_restarts": restarts(self.solver.scheduler),
            "of_branch": self.branch_nfe,
            "mix": None if self.mixing is None else self.mixing.mix,
            "restarts": tuple(i for i in range(steps) if (start + i) % 2 == 0) if order == 2 else (),
        }
        priors = self.priors()
        return [
            shared | {"prior": prior, "own_draw": partial(self.noise.row, row)}
            for row, prior in enumerate(priors)
        ]

    def key(self, row: int) -> Key:
        """A prompt's keys depend on its text and seed, not on the other prompts of the call."""
        earlier = self.texts[:row].count(self.texts[row])
        return Key.from_seed(self.seeds[row]).fold("prompt", self.texts[row], earlier)
