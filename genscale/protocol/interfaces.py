"""The interfaces of the package: what a sampler, a verifier and a solver provide, and what a sampler may rely on.

A sampler never calls a model or a verifier. Its `search` is a generator that yields queries (`protocol.queries`) and is
sent their answers. The engine joins the queries of many searches into full batches, counts every evaluation, and ends
a search when its budget is spent. So one sampler runs on any pipeline, on a closed-form model, or in a plan without
any model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

from genscale.diffusion.kernels import Kernel, Transition
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.answers import Prediction
from genscale.protocol.calibration import Calibration
from genscale.protocol.particles import Candidate, Memory, Particles
from genscale.protocol.population import Population
from genscale.protocol.queries import Query


class Process(Protocol):
    """The reverse process of one prompt, as a sampler sees it. None of its methods calls the model.

    A step is one model call. `steps` of them lead from noise (step 0) to clean latents (step `steps`).

    Candidate 0 is the pipeline's own result, bit for bit. Where a method here, or a Solve with a kernel, moves it
    otherwise, the particles that come back carry a new candidate with an id below 0 in its place.
    """

    # ---- the grid of steps

    @property
    def steps(self) -> int: ...
    @property
    def model_steps(self) -> int:
        """Steps with a model call: all of them."""

    @property
    def own_steps(self) -> bool:
        """Whether the pipeline's own scheduler can step on this grid (Solve without a kernel)."""

    @property
    def own_restarts(self) -> bool:
        """Whether that scheduler can continue in the middle of a run from latents that it did not make itself."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels of the grid. UsageError where those of the scheduler cannot be read."""

    def nearest(self, time: float) -> int:
        """The step whose noise level is nearest to `time`, among those at which a solve may begin; the first of equals.

        time: of the rectified flow, sigma / (alpha + sigma), in [0, 1].
        """

    @property
    def off_grid(self) -> str | None:
        """Why the model cannot be called at noise levels between those of the grid; None if it can."""

    def check_off_grid(self, what: str) -> None:
        """UsageError if the model cannot be called between the levels of the grid.

        what: what needs such calls, for the message.
        """

    def regridded(self, times: Sequence[float] | None = None) -> Process:
        """The same process on other noise levels, on which only kernels can step; for `SamplerHooks.grid`.

        times: decreasing linear times of all model calls; those above the pipeline's first level are left out. None:
        the pipeline's own levels, without the second model calls of second-order schedulers (and the same process
        where there are none). UsageError: the model cannot be called at such levels.
        """

    # ---- budget and costs

    @property
    def open_ended(self) -> bool:
        """Whether a budget (NFE, seconds or verifier calls) or a stop rule ends the search, so that it may go on."""

    @property
    def scores_end(self) -> bool:
        """Whether scores of finished candidates can end the search: a target score or a stop rule was given.

        Independent candidates are then best asked for one at a time: what is in the same query as the one that ends
        the search is computed in vain. Candidates of other prompts fill the batches.
        """

    @property
    def together(self) -> int | None:
        """How many candidates are made at once, where more of them would only wait; None: batches may have any size."""

    @property
    def target(self) -> float | None:
        """The search total from which on the budget ends the search (`target`, `p`); None without one, or where it asks
        select verifiers."""

    @property
    def results(self) -> int:
        """How many finished candidates the call returns (num_images_per_prompt); a search should finish as many."""

    @property
    def nfe_left(self) -> int | None:
        """NFE that the budget still allows this prompt; None if it does not limit them. Of a budget that prompts share:
        what is left of those granted (Ask)."""

    @property
    def calls_left(self) -> int | None:
        """Verifier calls that the budget still allows this prompt; None if it does not limit them."""

    @property
    def time_left(self) -> float:
        """NFE of the whole run, all prompts together, that fit into the budget's seconds; inf where these do not limit
        it, 0 after the user asked to stop. It is an estimate from the time of those so far."""

    def nfe(self, start: int = 0, stop: int | None = None, kernel: Kernel | None = None) -> int:
        """NFE of one particle from step `start` to `stop` (None: the end).

        NFE are denoiser evaluations; with classifier-free guidance a step counts 2.
        kernel: what steps, since some kernels call the model several times a step; None: the pipeline's own scheduler.
        """

    @property
    def arms(self) -> tuple[int, ...]:
        """NFE of a whole candidate of each configuration of the call (`SamplerHooks.arms`); empty without arms."""

    def branch_nfe(self, step: int) -> int:
        """NFE of one branch of classifier-free guidance for one row. UsageError if the model has no branches."""

    def gradient_nfe(
        self, step: int, calls: Sequence[int] = (), through: str = "model", each: bool = False
    ) -> int:
        """NFE that one row of a Gradient counts.

        Its forward passes, BACKWARD for each pass backward through the model, and where several calls are unrolled one
        more forward each, since checkpointing computes them again.
        """

    def calls(self, previews: int, finals: int) -> int:
        """Verifier calls of scoring that many previews and finished candidates."""

    # ---- the request

    @property
    def prompt(self) -> str: ...
    @property
    def verifiers(self) -> tuple[str, ...]:
        """Names of the search verifiers, in the order of the columns of `Scores.raw`."""

    @property
    def probability(self) -> bool:
        """Whether the totals are P(the finished candidate is right): one search verifier, which answers that."""

    @property
    def calibration(self) -> Calibration | None:
        """How that verifier's probabilities behave; None where it does not tell, or where totals are no probability."""

    def weight_sum(self, step: int) -> float | None:
        """Sum of the weights of the mix at a step; None without a mix (genscale.diffusion.mixtures)."""

    def mix_weights(self, step: int) -> tuple[float, ...] | None:
        """The weights of the mix at a step, one for each source; None without a mix."""

    # ---- noise and starts

    def start(self, candidates: Sequence[Candidate], noise: Tensor | None = None) -> Particles:
        """Particles at step 0. noise: [n, *latent] in place of what the candidates' keys would draw."""

    def noise(self, candidate: Candidate) -> Tensor:
        """The standard normal noise [*latent], float32, on the CPU, that a candidate starts from."""

    def injected(self, candidate: Candidate, step: int) -> Tensor:
        """The standard normal noise [*latent] that a kernel adds for a candidate in the transition from `step`."""

    def to_noise(self, gradient: Tensor) -> Tensor:
        """A gradient [n, *latent] with respect to initial latents, as one with respect to their noise; on the CPU."""

    # ---- moves; none of them costs NFE

    def renoise(self, particles: Particles, step: int, candidates: Sequence[Candidate]) -> Particles:
        """Particles taken back to a noisier step, with fresh noise from the keys of the new `candidates`."""

    def move(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Particles:
        """Step with a kernel and a prediction at the present step; noise is drawn from the candidates' keys.

        Of a kernel with several model calls this is the first; a Solve with the same kernel makes the others.
        """

    def transition(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Transition:
        """The Gaussian transition to the next step, of a kernel with one model call."""

    def take(self, particles: Particles, transition: Transition) -> Particles:
        """Step with a transition; noise is drawn from the candidates' keys."""

    def estimate(
        self, particles: Particles, prediction: Prediction, candidates: Sequence[Candidate]
    ) -> Particles:
        """The clean estimates as the states of `candidates` after the last model call; a Solve finishes them."""


class Sampler(Protocol):
    """A search method. Built-in ones are frozen dataclasses whose fields are their hyperparameters.

    `search` is all that is required. What else a sampler may define is listed in `SamplerHooks`; `bibtex`, the BibTeX
    entries of its paper, is for `genscale.citation`.
    """

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        """Yield queries and use their answers. The best scored clean candidate of the search wins.

        key: where all randomness of the search is drawn from. A sampler that weights its candidates returns them as a
        Population.
        """


@dataclass(frozen=True)
class SamplerHooks:
    """What a sampler may define beside `search`, as class attributes or methods of the same names, and the defaults.

    needs: of {"noise", "schedule", "mix", "branches"}, what the pipeline must provide; "gradient": the search verifiers
        must be differentiable. Where something is missing, the run ends with a UsageError before anything is spent.
    cost: (process) -> NFE that a search spends when no budget stops it; None if it runs until the budget is spent, or
        if that is not known before.
    grid: (process) -> the process that `search` gets, made by `process.regridded`, for samplers whose kernels step on
        other noise levels than the pipeline's scheduler. None: the pipeline's own.
    independent: whether the finished candidates are independent draws of the model. Only then a KL divergence from the
        model is reported, and calibrations may pool the candidates.
    accepts: (process) -> the search score from which on a finished candidate is good enough and ends the search; None
        if there is none. A run then records for each prompt whether a candidate was accepted.
    previews_at: name of the field that holds the fractions of the run at which previews are scored; a calibration
        drops those at which scores mean nothing yet. `window` and `rungs` are recognised without it. With every sampler
        fraction f is the preview of model call round(f T), counted from 0 (genscale.algorithms.preview_steps).
    asks: whether `search` yields Ask before each piece of work that it could end without, and plans nothing by
        `nfe_left` before. Only then prompts can share a budget (`pool`).
    arms: configurations of the call that its candidates are made with, `details["arm"]` of each says which
        (genscale.algorithms.arms). All candidates of a query have one arm.
    keeps_states: whether `search` keeps states with their predictions, to continue from them later. A plan then counts
        them among the latents that are held.
    """

    needs: frozenset[str] = frozenset()
    cost: Callable[[Process], int | None] = lambda process: None
    grid: Callable[[Any], Process] | None = None
    independent: bool = False
    accepts: Callable[[Process], float | None] = lambda process: None
    previews_at: str = ""
    asks: bool = False
    arms: tuple[Any, ...] = ()
    keeps_states: bool = False

    @staticmethod
    def of(sampler: object) -> SamplerHooks:
        """What a sampler defines, and the defaults of what it does not. Of a class, its methods are unbound."""
        names = [f.name for f in fields(SamplerHooks) if hasattr(sampler, f.name)]
        return SamplerHooks(**{name: getattr(sampler, name) for name in names})


class Verifier(Protocol):
    """A score of what a pipeline makes: any callable `(media, prompts) -> n scores`, higher is better.

    media: a sequence of n PIL images (of videos: n lists of PIL frames), with the same as a tensor in `media.pixels`.
        Of other kinds see `genscale.media.Media`.
    prompts: one text for each.

    Optional:
    `judges = ("audio",)`: the kinds of media that it judges (`genscale.media_items.KINDS`), images and videos without
        it. It is refused, before anything is spent, on pipelines that make something else.
    `judges_videos = True`: it scores videos as a whole. Other verifiers get frames of a video as images
        (`verifiers/frames.py`).
    `reads_prompts = False`: its scores do not depend on the prompts, so it may score calls that give embeddings without
        their text. True: it is refused where there is no text.
    `prepare(prompts, device)`: called before anything is generated or written, with the prompts of the run and the
        torch.device of the images, also by `genscale plan`. It loads what it needs, and raises a UsageError where that
        cannot be had or a prompt cannot be scored.
    `answers_probability = True`: its score is the probability, in [0, 1], that the image is right for its prompt.
    `gives_answers = True`: its score is a number that stands for an answer, the same for the same answers, and below 0
        for none. It is counted by the ensemble "vote", and refused by others.
    `gives_embeddings = True`: it answers a row of numbers for each, [n, d], and the score of a candidate is the mean
        cosine similarity of its row to those of all others, as `medoid` has it.
    `score_at(media, prompts, progress)`: called in a search in place of the plain call, with the share of the run's
        model calls [n] that each image has behind it: 1 for finished candidates, less for previews (clean estimates).
        A score of a preview is then about the candidate that it will become.
    `calibration`: a `genscale.protocol.calibration.Calibration`, how its probabilities behave, for samplers that choose
        thresholds.
    `score_scale`: a `genscale.protocol.calibration.ScoreScale`, the mean and sd of its scores and their noise, for
        ensembles that compare verifiers by standardised scores, and for `abstain`.
    `score_tensor(pixels, prompts)`: scores [n] that keep the graph to `pixels` ([n, 3, h, w] in [0, 1]; of other kinds
        `media.data`), for gradients.
    `preview_features(media, prompts)`: numbers [n, F] from which the final score of previews is learned, the first
        being the score; `preview_network`, `preview_answers`, `preview_loss`: its network, for tuning copies of it
        (docs/how-to/learned-previews.md).
    `remote = True`: it asks a server. It is called in a thread of its own, tried again after an exception (`retries`
        times, 3 by default), and not waited for when the budget's seconds end.
    `timeout`: seconds that a call may take.
    `embed(pixels)`: embeddings [n, width] of images, [n, frames, width] of videos, by which the diversity of the best
        candidates is measured.
    `backbone`: the name of the pretrained network that it sees with, or several. A held-out verifier that shares one
        with a verifier of the search is warned of.

    A score that is NaN or infinite drops its candidate from the search; -inf is a way to reject an image. Images and
    prompts are the verifier's own: what it writes into them is seen by nobody else.
    """

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any: ...


class Solver(Protocol):
    """One step of an ODE or SDE solver, as a function of explicit state."""

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, Memory | None]:
        """New latents [n, *latent] and memory.

        output: of the model, [n, ...]. draw(j): the j-th noise [n, *latent] that this step asks for.
        """
