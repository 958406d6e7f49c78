"""Model calls of some rows, one after the other with their graph, and the backward pass through them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genscale.engine.gradient_checks import kernel_of
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.protocol.answers import Prediction
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import Particles
from genscale.protocol.queries import Gradient


class Unroll:
    """The unrolled model calls of n rows whose queries are of one kind.

    query: one of these queries; process: that of its prompt. noises: [transitions, n, *latent] of all rows.
    leaf: the latents [n, *latent] that gradients are taken with respect to. forwards: NFE so far. prediction: of the
    first call. x0: clean estimates [n, *latent] of the last call, once it is made; with the graph to `leaf` if the
    gradient goes through the model.
    """

    def __init__(
        self, process: PromptProcess, query: Gradient, particles: Particles, noises: Tensor | None
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise UsageError(
                "inside torch.inference_mode() there are no gradients: call the pipeline outside of it."
            )
        self.process, self.query, self.steps = process, query, (particles.step, *query.calls)
        self.through_model = query.through == "model"
        self.leaf = particles.x.detach().float().clone().requires_grad_(self.through_model)
        self.noises = None if noises is None else noises.detach().to(self.leaf).clone().requires_grad_()
        self.particles = Particles(self.leaf, particles.step, particles.candidates)
        self.memory = particles.memory  # of the solver, until the first transition
        self.forwards = self.at = 0
        self.prediction: Prediction | None = None
        self.x0: Tensor | None = None

    @property
    def checkpointed(self) -> bool:
        """Whether calls are recomputed in the backward pass, so that only one call's graph is in memory."""
        return self.through_model and len(self.steps) > 1

    def batch(self, prompts: tuple[int, ...]) -> Batch:
        """The next model call."""
        with torch.set_grad_enabled(self.through_model):
            x, time = self.process.model_input(self.particles, None)
        place = self.process.place(self.particles.step)
        return Batch(
            x, place, prompts, time, grad=self.through_model, checkpoint=self.checkpointed, memory=self.memory
        )

    def absorb(self, output: Output) -> bool:
        """Step to the next call; True after the last."""
        self.forwards += output.evaluations
        if self.through_model and not (output.value.requires_grad and output.x.requires_grad):
            raise UsageError(
                "the model's output keeps no graph to the latents, so there is no gradient: use a pipeline whose "
                "denoiser can be differentiated, or ask for gradients through the decoder only."
            )
        with torch.set_grad_enabled(self.through_model):
            rate = None if output.rate is None else output.rate.detach()
            prediction = self.process.predict(self.particles, output.value, output.x)
            if self.prediction is None:
                self.prediction = Prediction(prediction.x0.detach(), prediction.eps.detach(), rate)
            if self.at + 1 == len(self.steps):
                self.x0 = prediction.x0
                return True
            noise = None if self.noises is None else self.noises[self.at]
            self.at += 1
            self.memory = None
            self.particles = self.process.leap(
                self.particles, prediction, kernel_of(self.query), self.steps[self.at], noise
            )
        return False

    def back(self, pulls: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Backward pass of each of `pulls` [n, *latent]: its gradient at the latents and (or None) at the noises."""
        assert self.x0 is not None
        if not self.through_model:
            alpha = self.process.schedule.level(self.steps[0]).alpha
            return [(pull.float() / alpha, None) for pull in pulls]
        leaves = (self.leaf,) if self.noises is None else (self.leaf, self.noises)
        found: list[tuple[Tensor, Tensor | None]] = []
        for i, pull in enumerate(pulls):
            try:
                made = pulled_back(self.x0, leaves, pull, again=i + 1 < len(pulls))
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:  # in-place operations of a denoiser fail only here
                if _in_a_module(error):  # a checkpointed call is repeated, and fails itself
                    raise
                raise UsageError(
                    f"this denoiser is not differentiable ({str(error).splitlines()[0]}): use another pipeline, "
                    "or ask for gradients through the decoder only."
                ) from error
            found.append((made[0], made[1] if len(made) > 1 else None))
        return found


def _in_a_module(error: BaseException) -> bool:
    """Whether an exception passed through the forward of a module."""
    trace, call = error.__traceback__, torch.nn.Module._call_impl.__code__
    while trace is not None and trace.tb_frame.f_code is not call:
        trace = trace.tb_next
    return trace is not None


def pulled_back(outputs: Tensor, leaves: Sequence[Tensor], pull: Tensor, again: bool) -> list[Tensor]:
    """Vector-Jacobian products of rows that do not depend on each other; again: the graph will be used once more.

    outputs, pull: [n, ...]. leaves: the first [n, ...], further ones [transitions, n, ...]; the result is 0 where a
    leaf is unused. Each row of `pull` is scaled to a maximum of 1 and scaled back afterwards, since the gradient of a
    score is often too small for float16.
    """
    size = pull.detach().float().flatten(1).abs().amax(1)
    size = torch.where(size == 0, 1.0, size)

    def times(t: Tensor, factor: Tensor, dim: int) -> Tensor:
        return t * factor.to(t).view(*(1,) * dim, -1, *(1,) * (t.ndim - dim - 1))

    made = torch.autograd.grad(
        outputs,
        list(leaves),
        times(pull.to(torch.promote_types(pull.dtype, torch.float32)), 1 / size, 0).to(outputs),
        retain_graph=again,
        allow_unused=True,
        materialize_grads=True,  # a kernel without noise leaves the noises unused
    )
    return [times(t, size, int(k > 0)) for k, t in enumerate(made)]
