"""One call of a scaled pipeline, from the arguments to the pipeline's own output."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.interpolants import LINEAR
from genscale.diffusion.mixtures import Mix
from genscale.diffusion.prediction import View
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.pipelines.batch_exchange import BatchExchange
from genscale.pipelines.bound_call import Arguments, root_seeds
from genscale.pipelines.branches import Branches, BranchProbe, told_apart
from genscale.pipelines.decode import Decode
from genscale.pipelines.differentiable_models import Graphs
from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.initial_latents import find_prior
from genscale.pipelines.intercepted_call import Interrupted, LoopDriver, NotInvertible, Templates, intercept
from genscale.pipelines.mixture_sources import Mixing
from genscale.pipelines.noise_interception import Replay, joined
from genscale.pipelines.output_media import as_media, joined_outputs, length
from genscale.pipelines.pipeline_noise import OwnNoise, generator_states, restore_generators
from genscale.pipelines.probe import Probe
from genscale.pipelines.row_gather import NotElastic
from genscale.pipelines.scheduler_levels import read_schedule, timestep_of
from genscale.pipelines.scheduler_proxy import OffGrid
from genscale.pipelines.serve import Serve
from genscale.pipelines.solver import OwnSolver, restarts
from genscale.pipelines.user_callbacks import _callbacks


class Run:
    """The pieces of one call: what the probe found, and the visits that serve, decode and finish.

    mix: predictions to combine; models: others that it names, pipelines or modules.
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
        self.memo, self.templates, self.ledger = Memo(), Templates(), Ledger()
        self.one_row_a_picture = False  # learned when the tail fails on other than the call's rows
        self.pixel_type = "pt"
        self.judged = False
        self._branches: Branches | None = None
        with self.ledger.clock("probe"):
            self.probe = self._probe(arguments.given)
        assert self.probe.latents is not None
        self.latents: Tensor = self.probe.latents
        self.rows = self.latents.shape[0]
        # Learned when a batch of other than the call's rows fails; known where the loop joins latents and rows.
        self.one_row_a_latent = self.probe.edits and self.rows > 1
        self.texts = arguments.texts(self.rows)
        self.mixing = None if mix is None else Mixing(pipe, mix, models or {}, self.texts)
        self.graphs = Graphs(pipe, None if self.mixing is None else self.mixing.modules)
        self.seeds = root_seeds(arguments.generator, self.latents)
        self.solver = OwnSolver(self.probe.own_scheduler, self.probe.start)
        self.own_noise = OwnNoise(arguments.generator, self.latents)

    # ---------------------------------------------------------------- finding out

    def _probe(self, given: dict[str, Any]) -> Probe:
        callbacks = {k: None for k in ("callback_on_step_end", "callback") if k in given}
        for guessing in (True, False):
            self.templates.guessing = guessing
            probe = Probe(self.memo, self.templates, given)
            state = generator_states(self.arguments.generator)
            try:
                intercept(self.pipe, given | callbacks, probe)
                break
            except UsageError:
                raise
            except Exception as error:
                if isinstance(error, NotInvertible) or not guessing:
                    if isinstance(error, NotInvertible):
                        raise self._not_invertible(str(error)) from error
                    raise
                restore_generators(self.arguments.generator, state)
        self.ledger.probes = self.templates.real_rows
        self.ledger.evaluations = self.templates.real_rows
        if probe.latents is None or not probe.evaluations:
            raise self._not_invertible("it never calls scheduler.step")
        return probe

    def _visit(self, given: dict[str, Any], driver: LoopDriver) -> Any:
        try:
            return intercept(self.pipe, given, driver)
        except NotInvertible as error:
            raise self._not_invertible(str(error)) from error

    def _not_invertible(self, why: str) -> UsageError:
        return UsageError(
            f"{type(self.pipe).__name__} cannot be searched: {why}; genscale needs a pipeline that iterates over "
            "scheduler.timesteps and calls scheduler.step once for each."
        )

    def priors(self) -> list[Prior]:
        draws = joined(self.probe.draws, self.rows)
        if not draws:  # the user gave the latents: see how the pipeline would have made others
            given = self.arguments.quiet(latents=None)
            probe = Probe(self.memo, self.templates, given, whole=False)
            state = torch.get_rng_state()
            intercept(self.pipe, given, probe)
            torch.set_rng_state(state)
            assert probe.latents is not None
            found = find_prior(probe.latents, joined(probe.draws, self.rows), self._begin)
            return [Prior(p.offset, p.scale, x, p.refusal) for p, x in zip(found, self.latents, strict=True)]
        return find_prior(self.latents, draws, self._begin)

    def _begin(self, draws: list[Tensor]) -> Tensor:
        given = self.arguments.quiet(latents=None)
        probe = Probe(self.memo, self.templates, given, Replay(draws, self.rows), whole=False)
        intercept(self.pipe, given, probe)
        assert probe.latents is not None
        return probe.latents

    def view(self) -> View | str:
        try:
            return read_schedule(self.solver.scheduler, self._timesteps(), self.probe.start)
        except ValueError as error:
            return str(error)

    def level_of(self, time: float) -> OffGrid:
        """What the loop is shown for a linear time between those of its grid. ValueError: there is no rule."""
        view = self.view()
        if isinstance(view, str):
            raise ValueError(view)
        step = timestep_of(self.solver.scheduler, self._timesteps(), view, time)
        return OffGrid(step, LINEAR.kappa(time))

    def off_grid(self) -> str | None:
        """Why the model cannot be called between the levels of the grid, None if it can."""
        try:
            self.level_of(0.5)
        except ValueError as error:
            return str(error)
        return None

    def branches(self) -> Branches:
        """How the pipeline evaluates the two branches of classifier-free guidance. UsageError where it does not."""
        if self._branches is None:
            each = [e // self.rows for e in self.probe.evaluations]
            step = each.index(2) if 2 in each else 0
            given = self.arguments.quiet()
            tried = []
            for filled in ((0, 1), (1,)):
                probe = BranchProbe(
                    self.memo,
                    self.templates,
                    self.probe.replay_for(None),
                    self.probe.layout,
                    step,
                    self.rows,
                    filled,
                )
                self._visit(given, probe)
                tried.append(probe)
            self._branches = told_apart(tried[0], tried[1], self.rows)
        return self._branches

    def of_branch(self, step: int) -> int:
        """NFE of one branch at a step."""
        self.branches()
        if self.probe.evaluations[step] != 2 * self.rows:
            raise UsageError(
                f"{type(self.pipe).__name__} evaluates no two branches of classifier-free guidance at step {step}."
            )
        return 1

    def _timesteps(self) -> Tensor:
        assert self.probe.timesteps is not None
        return self.probe.timesteps

    def processes(self) -> list[dict[str, Any]]:
        """The parts of each prompt's process."""
        steps = len(self.probe.evaluations)
        order = getattr(self.solver.scheduler, "order", 1)
        start = self.probe.start
        # Where the loop edits latents after a step, one more pass shows what it makes of the last ones.
        settle = (0,) if self.probe.edits else ()
        each = [e // self.rows for e in self.probe.evaluations]
        if self.mixing is not None:
            each = self.mixing.evaluations(each, self.view(), self.of_branch)
        shared = {
            "evaluations": (*each, *settle),
            "model_calls": steps,
            "solver": self.solver,
            "view": self.view(),
            "off_grid": self.off_grid(),
            "own_restarts": restarts(self.solver.scheduler),
            "of_branch": self.of_branch,
            "mix": None if self.mixing is None else self.mixing.mix,
            "restarts": tuple(i for i in range(steps) if (start + i) % 2 == 0) if order == 2 else (),
        }
        priors = self.priors()
        return [
            shared | {"prior": prior, "own_draw": partial(self.own_noise.row, row)}
            for row, prior in enumerate(priors)
        ]

    def key(self, row: int) -> Key:
        """A prompt's keys depend on its text and seed, not on the other prompts of the call."""
        earlier = self.texts[:row].count(self.texts[row])
        return Key.from_seed(self.seeds[row]).fold("prompt", self.texts[row], earlier)

    # ---------------------------------------------------------------- serving

    def serve(self, engine: Engine, rated: bool = False) -> str | None:
        """Run the engine to its end inside the pipeline's loop; why it stopped early, if it did.

        rated: predictions of a mix come with the corrector's rate.
        """
        try:
            return self._serve(engine, rated)
        finally:
            self.graphs.restore()

    def _serve(self, engine: Engine, rated: bool) -> str | None:
        more = () if self.mixing is None else tuple(self.mixing.more)
        of_call = (
            *range(self.rows),
            *(row for row, _ in more),
        )  # the row of the probed call that each is made of
        mixer = (
            None
            if self.mixing is None
            else self.mixing.mixer(self.view(), len(self.probe.evaluations), rated)
        )
        exchange = BatchExchange(engine, self.graphs.prepare, mixer)
        while not exchange.closed:
            composition = exchange.batch.prompts if self.one_row_a_latent and exchange.batch else None
            given = self.arguments.extended(self.rows, more) | {"generator": None}
            given = {k: v for k, v in given.items() if k in self.arguments.names}
            if composition is not None:
                given = self.arguments.composed(given, len(of_call), composition)
            rows = of_call if composition is None else tuple(of_call[i] for i in composition)
            replay = self.probe.replay_for(None if rows == tuple(range(self.rows)) else rows)
            driver = Serve(
                self.memo, self.templates, self.probe, self.solver, len(rows), exchange.ask, self.level_of,
                self.graphs, self.branches, replay, self.mixing, composition,
            )  # fmt: skip
            given |= _callbacks(self.arguments, driver)
            try:
                intercept(self.pipe, given, driver)
                if not exchange.closed and exchange.error is None and not driver.prompts:
                    raise self._not_invertible("its loop does not go on")
            except torch.cuda.OutOfMemoryError as error:
                exchange.halve(error)
            except NotElastic:
                self.one_row_a_latent = True
            except (KeyboardInterrupt, Interrupted):
                return self._stopped(engine)
            except Exception:
                own_rows = exchange.batch is not None and exchange.batch.prompts == tuple(range(len(of_call)))
                if exchange.error is not None or composition is not None or own_rows:
                    raise
                self.one_row_a_latent = True
            if exchange.error is not None:
                if isinstance(exchange.error, KeyboardInterrupt):
                    return self._stopped(engine)
                raise exchange.error
        return None

    def _stopped(self, engine: Engine) -> str:
        if not all(s.finals for s in engine.searches):
            raise KeyboardInterrupt
        return "interrupted"

    # ---------------------------------------------------------------- decoding

    def decode(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """Clean latents [n, *latent] to pixels by the pipeline's own tail; with a graph, if the latents have one."""
        if latents.requires_grad and torch.is_grad_enabled():
            return self._decode_graph(latents, prompts)
        if self.pixel_type == "pt":
            try:
                return self._decode(latents, prompts)
            except ValueError:  # not every pipeline has, or keeps to, pixels in [0, 1] as tensors
                self.pixel_type = "np"
        return self._decode(latents, prompts)

    def _decode(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        given = self.arguments.quiet(output_type=self.pixel_type, return_dict=True)
        if self.probe.drifts and self.judged:  # verifiers see what `finish` will give
            given["callback_on_step_end"] = self.arguments.given["callback_on_step_end"]
        return as_media(self._tail(given, latents, prompts, Key((0,)).fold("tail")))

    def _decode_graph(self, latents: Tensor, prompts: tuple[int, ...]) -> Media:
        """UsageError: the tail does not keep the graph."""
        why = "gives no tensors of pixels in [0, 1]"
        self.graphs.prepare()
        try:
            with self.graphs.decoding():
                media = self._decode(latents, prompts) if self.pixel_type == "pt" else None
            if media is not None and media.pixels.requires_grad:
                return media
            why = why if media is None else "cuts the graph"
        except (torch.cuda.OutOfMemoryError, UsageError):
            raise
        except ValueError:
            self.pixel_type = "np"
        except RuntimeError as error:
            why = f"fails with a graph ({str(error).splitlines()[0]})"
        raise UsageError(
            f"{type(self.pipe).__name__} cannot be differentiated from its images on, since its decoding {why}: use "
            "a sampler that needs no gradients."
        )

    def finish(self, latents: Tensor, prompts: tuple[int, ...], at_once: int | None = None) -> Any:
        """The pipeline's own output, of its own class, for the chosen latents; so many decoded at once.

        All at once by default, and one by one where that does not fit the accelerator's memory. The user's callback
        is called for the last step and may change them: in the search, the loop was left inside that step, when
        enough was seen.
        """
        given = self.arguments.given
        given = given | {k: None for k in ("callback",) if k in given}
        if at_once is None or at_once >= len(prompts):
            try:
                return self._tail(given, latents, prompts, None)
            except torch.cuda.OutOfMemoryError:
                if len(prompts) == 1:
                    raise
            at_once = 1
        return joined_outputs(
            [
                self._tail(given, latents[i : i + at_once], prompts[i : i + at_once], None)
                for i in range(0, len(prompts), at_once)
            ]
        )

    def _tail(self, given: dict[str, Any], latents: Tensor, prompts: tuple[int, ...], key: Key | None) -> Any:
        """Call the pipeline for its tail; with one row a latent where it cannot take another number."""
        own_rows = prompts == tuple(range(self.rows))
        if own_rows or not self.one_row_a_picture:
            driver = Decode(self.memo, self.templates, self.probe, latents, key, None)
            try:
                output = self._visit(given, driver)
                if own_rows or length(output) == len(prompts):
                    return output
            except (torch.cuda.OutOfMemoryError, UsageError):
                raise
            except Exception:
                if own_rows:
                    raise
            self.one_row_a_picture = True
        given = self.arguments.composed(given, self.rows, prompts)
        if isinstance(given.get("generator"), list):
            given["generator"] = None
        driver = Decode(self.memo, self.templates, self.probe, latents, key, prompts)
        return self._visit(given, driver)
