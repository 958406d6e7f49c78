"""What an engine asks of a model: batches, their outputs, decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from genscale.media import Media


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
"""Clean latents [n, *latent] and the prompt index of each row, to images or videos."""
