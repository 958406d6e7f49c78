"""Query and tell: what a sampler may ask, what it is answered, and what it can count on.

A sampler never calls a model or a verifier. Its `search` is a generator that yields questions; the
engine answers them, merges the questions of many samplers into full batches, counts every evaluation
and stops when the budget does. So one sampler runs on a pipeline, on an analytic model, or remotely.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from genscale.diffusion.kernels import Kernel, Transition
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.answers import Prediction
from genscale.protocol.particles import Candidate, Memory, Particles
from genscale.protocol.population import Population
from genscale.protocol.queries import Query


class Process(Protocol):
    """The reverse process of one prompt: everything a sampler may know without asking.

    It evaluates nothing. Steps are model calls: `steps` of them lead from noise to clean latents.
    """

    @property
    def steps(self) -> int: ...
    @property
    def model_steps(self) -> int:
        """Steps with a model call; one more may follow in which the pipeline's loop edits the latents for nothing."""

    @property
    def own_steps(self) -> bool:
        """Whether the pipeline's own scheduler can step on this grid (Solve without a kernel)."""

    @property
    def own_restarts(self) -> bool:
        """Whether it can go on from latents that it did not make itself, in the middle of a run."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels of the grid. UsageError where the scheduler's cannot be read."""

    @property
    def open_ended(self) -> bool:
        """Whether a budget (NFE, seconds or verifier calls) or a stop rule will end the search, so it may go on."""

    @property
    def nfe_left(self) -> int | None:
        """NFE that the budget still allows this prompt, None if it sets no limit."""

    @property
    def calls_left(self) -> int | None:
        """Verifier calls that the budget still allows this prompt, None if it sets no limit."""

    @property
    def prompt(self) -> str: ...
    @property
    def verifiers(self) -> tuple[str, ...]:
        """Names of the verifiers that steer the search, in the order of `Scores.raw`."""

    def nfe(self, start: int = 0, stop: int | None = None, kernel: Kernel | None = None) -> int:
        """Evaluations of carrying one particle from step start to stop (CFG counted)."""

    def weight_sum(self, step: int) -> float | None:
        """Sum of the weights of a mixture's predictions at a step; None without one (genscale.diffusion.mixtures)."""

    def mix_weights(self, step: int) -> tuple[float, ...] | None:
        """These weights."""

    def branch_nfe(self, step: int) -> int:
        """Evaluations of one branch of classifier-free guidance for one row. UsageError where there are none."""

    def calls(self, previews: int, finals: int) -> int:
        """Verifier calls of judging so many previews and finished candidates."""

    def gradient_nfe(
        self, step: int, calls: Sequence[int] = (), through: str = "model", each: bool = False
    ) -> int:
        """What one row of a Gradient counts: forwards, BACKWARD for each that is gone back through, and one more
        forward where several calls are unrolled, which are computed again on the way back to save memory."""

    def start(self, candidates: Sequence[Candidate], noise: Tensor | None = None) -> Particles:
        """Initial latents of candidates; `noise` [n, *latent] replaces what their keys would draw."""

    def noise(self, candidate: Candidate) -> Tensor:
        """The standard normal noise [*latent], float32, that a candidate with a key starts from."""

    def injected(self, candidate: Candidate, step: int) -> Tensor:
        """The standard normal noise [*latent] that a kernel adds for a candidate in the transition from a step."""

    def to_noise(self, gradient: Tensor) -> Tensor:
        """A gradient with respect to initial latents [n, *latent] as one with respect to their noise, on the CPU."""

    def nearest(self, time: float) -> int:
        """The step whose noise level is nearest to a time of the rectified flow, sigma / (alpha + sigma) in
        [0, 1], among those at which a solve may begin; among equals the first."""

    def renoise(self, particles: Particles, step: int, candidates: Sequence[Candidate]) -> Particles:
        """Take particles back to a noisier step with fresh noise of the new candidates' keys."""

    def move(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Particles:
        """Begin the transition to the next step with a prediction that is known already; the noise is drawn from
        the candidates' keys. Costs nothing; of a kernel with several calls, Solve does the others."""

    def transition(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Transition:
        """The Gaussian transition to the next step, of a kernel of one model call."""

    def take(self, particles: Particles, transition: Transition) -> Particles:
        """Step by a transition, with noise drawn from the candidates' keys."""

    def estimate(
        self, particles: Particles, prediction: Prediction, candidates: Sequence[Candidate]
    ) -> Particles:
        """The clean estimates as candidates at the end of the last model call; Solve finishes them at no cost."""


class Sampler(Protocol):
    """A search: a frozen dataclass whose fields are its hyperparameters.

    It may say `independent`: its finished candidates are independent draws of the model, as they come.
    It may name in `previews_at` the field that says at which fractions of the run it looks at previews: a calibration
    moves these to where previews mean something (`window` and `rungs` are known).
    Every sampler takes `candidates=N`, about how many images it explores side by side. One that has no field
    `candidates` names its own in `size_option: ClassVar[str] = "particles"`; values of other fields that have to
    follow come from a class method `sized(n) -> dict` (genscale/plugins/candidates.py).
    """

    needs: ClassVar[frozenset[str]]
    """Of {"noise", "schedule", "mix", "branches"}: what the pipeline must be able to give; "gradient": so must the
    search verifiers."""

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        """Query, and look at the answers. The best scored clean candidate wins; a sampler that weighs its candidates
        returns them with their weights."""

    def cost(self, process: Process) -> int | None:
        """NFE that a search spends when no budget stops it; None where it runs until the budget does."""


class Verifier(Protocol):
    """A judge of images: any callable `(media, prompts) -> n scores`, higher is better.

    media is a sequence of PIL images (for videos: of lists of PIL frames) that has the tensor as
    `media.pixels`; prompts has one text for each.

    Where it scores videos as a whole it says so by `judges_videos = True`; the commands show every other verifier
    frames of a video as images (`verifiers/frames.py`).
    """

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any: ...


class Solver(Protocol):
    """One step of an ODE or SDE solver as a function of explicit state."""

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, Memory | None]:
        """New latents and memory; `draw(j)` gives the j-th noise [n, *latent] that this step asks for."""
