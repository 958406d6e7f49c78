"""Ask and tell: what a sampler may ask, what it is answered, and what it can count on.

A sampler never calls a model or a verifier. Its `search` is a generator that yields questions; the
engine answers them, merges the questions of many samplers into full batches, counts every evaluation
and stops when the budget does. So one sampler runs on a pipeline, on an analytic model, or remotely.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genscale.diffusion.kernels import Kernel, Transition
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.particles import Candidate, Memory, Particles
from genscale.protocol.population import Population
from genscale.diffusion.noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class Solve:
    """Carry particles to step `until` (None: to the clean end) with a kernel (None: the pipeline's own scheduler).

    Answer: Particles; those that are there already come back as they are. When the budget does not reach for
    all rows, the answer holds the first rows that it reaches for; when it reaches for none, BudgetExhausted
    is thrown into the sampler. A row goes to the clean end only where its score can be paid, too.
    """

    particles: Particles
    until: int | None = None
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Denoise:
    """One model call at `particles.step`, without stepping. Answer: Prediction.

    It goes whole, or BudgetExhausted is thrown; only where time runs short before anything was finished, the answer
    holds just the first rows, which can still be brought to the end.
    The prediction is the first of the transition that begins there: `process.move` goes on with it at no cost.
    branch: "cond" or "uncond" for the prediction of one branch of classifier-free guidance alone, without a mix.
    """

    particles: Particles
    branch: str | None = None


@dataclass(frozen=True)
class Score:
    """Decode and judge: clean latents at the end of the process, else the clean estimates `particles.x0`.

    Answer: Scores. As for Solve, the answer may hold only the first rows. Clean particles that were scored
    take part in the final choice; previews never do.
    """

    particles: Particles


@dataclass(frozen=True)
class Gradient:
    """How the combined search score of clean estimates changes with the latents. Answer: Graded.

    The model is called at `particles.step`, and again at each step of `calls` (increasing, of this grid), stepping from
    one to the next with `kernel`; the clean estimate of the last call is decoded and scored by the search verifiers,
    which must be differentiable (Refusal else). As for Solve, the answer may hold only the first rows. BudgetExhausted
    is thrown before anything was finished, too, where time is left only for the way to the clean end: Solve then.

    Its price is `process.gradient_nfe`; scores count as those of previews, and none becomes a candidate's.

    calls: further steps at which the model is called; () is one call, all later ones unroll the whole run.
    kernel: of one model call a transition, the ode where None; from one call to the next it may jump over steps.
    through: "model", back through every call; "decoder", with the noise of the (single) call held constant, so that
        d x0 / d x = 1 / alpha and nothing goes back through the denoiser. There is none at pure noise, alpha = 0.
    noises: standard normal noise [transitions, n, *latent] of the kernel's transitions, instead of that of the
        candidates' keys; its gradient is answered, too.
    each: answer the gradient of every verifier by itself, too: as many backwards as there are search verifiers.
    pull: [n, *latent], what is pulled back from the clean estimates instead of the scores' gradient: then nothing is
        decoded or scored.
    """

    particles: Particles
    calls: tuple[int, ...] = ()
    kernel: Kernel | None = None
    through: str = "model"
    noises: Tensor | None = None
    each: bool = False
    pull: Tensor | None = None


Ask = Solve | Denoise | Score | Gradient

BACKWARD = 2
"""NFE that going back through one row of a model call counts.

The gradients of a layer's inputs and of its weights cost one forward each; with frozen weights only the first is left,
so that about one is spent. Two is what is charged, as it is for training, and covers kernels that are slower backwards
(benchmarks/gradient_memory.py measures it). What a checkpoint computes again is a forward, and counts as one.
"""


@dataclass(frozen=True)
class Prediction:
    """The model's opinion at one noise level, canonical and float32: x = alpha x0 + sigma eps."""

    x0: Tensor  # [n, *latent]
    eps: Tensor  # [n, *latent]
    rate: Tensor | None = None  # [n] float64, of a mix: d log w / d log(alpha / sigma), see genscale.diffusion.mixtures

    def __len__(self) -> int:
        return self.x0.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> Prediction:
        i = rows if isinstance(rows, slice) else torch.as_tensor(list(rows), device=self.x0.device)
        rate = self.rate
        if rate is not None:
            rate = rate[i if isinstance(i, slice) else i.to(rate.device)]
        return Prediction(self.x0[i], self.eps[i], rate)

    @staticmethod
    def cat(parts: Sequence[Prediction]) -> Prediction:
        rates = [p.rate for p in parts if p.rate is not None]
        return Prediction(
            torch.cat([p.x0 for p in parts]),
            torch.cat([p.eps for p in parts]),
            torch.cat(rates) if len(rates) == len(parts) else None,
        )


@dataclass(frozen=True)
class Scores:
    """Raw scores of every search verifier, and the rule that makes one number of them.

    raw: float64 [n, verifiers], higher is better. A rank ensemble depends on the pool that is compared,
    so comparisons across rounds join the raw scores first: `Scores.cat([old, new]).total`.
    """

    raw: Tensor
    combine: Callable[[Tensor], Tensor]

    @property
    def total(self) -> Tensor:
        """One number a row [n], float64, for a comparison within this pool."""
        return self.combine(self.raw)

    def __len__(self) -> int:
        return self.raw.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> Scores:
        return Scores(self.raw[rows], self.combine)

    @staticmethod
    def cat(parts: Sequence[Scores]) -> Scores:
        return Scores(torch.cat([p.raw for p in parts]), parts[0].combine)

    def best(self) -> int:
        """Row with the highest total; among equals the first."""
        return int(torch.argmax(self.total))

    def ranking(self) -> list[int]:
        """Rows from best to worst; among equals the first comes first."""
        return torch.sort(self.total, descending=True, stable=True).indices.tolist()


@dataclass(frozen=True)
class Graded:
    """Scores of clean estimates and their gradients, float32, detached.

    gradient: of the combined score, d total / d x [n, *latent] (of `pull`: its pull-back). noises: the same for the
    noises [transitions, n, *latent]. each: d raw / d x [verifiers, n, *latent], unweighted, and each_noises
    [verifiers, transitions, n, *latent], if asked. x0: the clean estimates [n, *latent] that were scored.
    prediction: of the first model call, for `process.move`. scores: None where `pull` was given.
    """

    gradient: Tensor
    x0: Tensor
    prediction: Prediction
    scores: Scores | None = None
    noises: Tensor | None = None
    each: Tensor | None = None
    each_noises: Tensor | None = None

    def __len__(self) -> int:
        return self.gradient.shape[0]

    def __getitem__(self, rows: slice) -> Graded:
        def second(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[:, rows]

        return Graded(
            self.gradient[rows],
            self.x0[rows],
            self.prediction[rows],
            None if self.scores is None else self.scores[rows],
            second(self.noises),
            second(self.each),
            None if self.each_noises is None else self.each_noises[:, :, rows],
        )

    @staticmethod
    def cat(parts: Sequence[Graded]) -> Graded:
        def joined(name: str, dim: int) -> Tensor | None:
            tensors = [getattr(p, name) for p in parts]
            return None if tensors[0] is None else torch.cat(tensors, dim)

        scores = [p.scores for p in parts if p.scores is not None]
        return Graded(
            torch.cat([p.gradient for p in parts]),
            torch.cat([p.x0 for p in parts]),
            Prediction.cat([p.prediction for p in parts]),
            Scores.cat(scores) if scores else None,
            joined("noises", 1),
            joined("each", 1),
            joined("each_noises", 2),
        )


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
        """Noise levels of the grid. Refusal where the scheduler's cannot be read."""

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
        """Sum of the weights that predictions are mixed with at a step; None where there is no mix (genscale.diffusion.mixtures)."""

    def mix_weights(self, step: int) -> tuple[float, ...] | None:
        """These weights."""

    def branch_nfe(self, step: int) -> int:
        """Evaluations of one branch of classifier-free guidance for one row. Refusal where there are none."""

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
    """

    needs: ClassVar[frozenset[str]]
    """Of {"noise", "schedule", "mix", "branches"}: what the pipeline must be able to give; "gradient": so must the
    search verifiers."""

    def search(self, process: Process, key: Key) -> Generator[Ask, Any, Population | None]:
        """Ask, and look at the answers. The best scored clean candidate wins; a sampler that weighs its candidates
        returns them with their weights."""

    def cost(self, process: Process) -> int | None:
        """NFE that a search spends when no budget stops it; None where it runs until the budget does."""


class Verifier(Protocol):
    """A judge of pictures: any callable `(media, prompts) -> n scores`, higher is better.

    media is a sequence of PIL pictures (for clips: of lists of PIL frames) that has the tensor as
    `media.pixels`; prompts has one text for each.

    Where it judges clips as a whole it says so by `judges_clips = True`; the commands show every other verifier
    frames of a clip as pictures (`verifiers/frames.py`).
    """

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any: ...


class Solver(Protocol):
    """One step of an ODE or SDE solver as a function of explicit state."""

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, Memory | None]:
        """New latents and memory; `draw(j)` gives the j-th noise [n, *latent] that this step asks for."""


@dataclass(frozen=True)
class Batch:
    """A question of the engine to a model: rows of any prompts, all at one step."""

    x: Tensor  # [n, *latent]
    step: int
    prompts: tuple[int, ...]  # prompt index of each row
    time: float | None = None  # linear time of the noise level, where it is not that of the step
    branch: str | None = None  # "cond" or "uncond": one branch of classifier-free guidance alone
    model: str = ""  # which of the models that share the latent space; "" is the pipeline's own
    grad: bool = False  # keep the graph from x to the output
    checkpoint: bool = False  # keep x only, and compute the call again when it is gone back through


@dataclass(frozen=True)
class Output:
    """The answer: the model's guided output, and the latents that it saw (a pipeline may change them)."""

    value: Tensor  # [n, ...]
    x: Tensor  # [n, *latent]
    evaluations: int  # rows through the denoiser
    rate: Tensor | None = None  # [n] float64, see Prediction


Decode = Callable[[Tensor, tuple[int, ...]], Media]
"""Clean latents [n, *latent] and the prompt index of each row, to pictures or clips."""
