"""`RemaskingScheduler`: aMUSEd's scheduler, with tokens that may be masked again (ReMDM, arXiv 2503.00307).

    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, rule="rescale", eta=0.05)

aMUSEd commits the surest tokens first, a fixed number in each step, and never changes one again. The mathematics of
masking them again is `genscale.diffusion.remasking`; this is its place in a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genscale.diffusion.remasking import Remasking, remask_step
from genscale.errors import UsageError
from genscale.plugins.limits import shown

ORDERS = ("confidence", "random")

if TYPE_CHECKING:
    RemaskingScheduler: Any
    """aMUSEd's scheduler with tokens that may be masked again: a subclass of `diffusers.AmusedScheduler`.

    Options beside those of aMUSEd: rule, eta, switch and loop, as of `genscale.diffusion.remasking.Remasking`, and
    order, "confidence" (aMUSEd's own) or "random" (the paper's).
    """


def __getattr__(name: str) -> Any:
    """`RemaskingScheduler`, made when it is asked for: its base class is of diffusers."""
    if name == "RemaskingScheduler":
        return _scheduler_class()
    raise AttributeError(name)


class _Remasking:
    """The methods of RemaskingScheduler; `_scheduler_class` joins them to `diffusers.AmusedScheduler`.

    free: bool [n, length], the tokens that were masked where the run began: given ones (image-to-image, inpainting) are
    never masked again. psi: float [n, length], the probability that each had when it was committed. before: float
    [n, 1], alpha_t of the free tokens.
    """

    config: Any
    timesteps: Any
    free: Tensor | None = None
    psi: Tensor
    before: Tensor

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """As of `AmusedScheduler`. A run begins."""
        super().set_timesteps(*args, **kwargs)  # type: ignore[misc]
        self.free = None

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        starting_mask_ratio: Any = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """As of `AmusedScheduler`, and the same bit for bit where nothing is masked again, in the order of confidence.

        sample: tokens [n, h, w] or [n, length]. model_output: logits [n, tokens, h, w] or [n, length, tokens].
        """
        shape = sample.shape
        if sample.ndim == 3 and model_output.ndim == 4:
            sample, model_output = sample.flatten(1), model_output.flatten(2).transpose(1, 2)
        masked = sample == self.config.mask_token_id
        if self.free is None or self.free.shape != masked.shape:
            self.free, self.psi = masked, model_output.new_zeros(masked.shape, dtype=torch.float32)
            self.before = self.psi.new_zeros(len(masked), 1)
        rule, index = remasking_of(self.config), int((self.timesteps == timestep).nonzero()[0])
        kept = sample.shape[1] * (starting_mask_ratio * self._masked_share(rule, index))  # tokens left masked
        after = (1 - kept / self.free.sum(-1, keepdim=True).clamp(min=1)).clamp(0.0, 1.0).maximum(self.before)
        committed = self.free & ~masked
        rates = rule.rates(self.before, after, committed, masked, self.psi)
        rates = rates * float(rule.is_on(1 - index / len(self.timesteps)))
        ratio, again = starting_mask_ratio, torch.zeros_like(masked)
        last, random = index == len(self.timesteps) - 1, self.config.order == "random"
        if not last and not random and (rule.loop is not None or bool((rates * committed).any())):
            kept = kept.floor()
            again = _chosen(rates * committed, _uniform(rates, generator), kept - 1)
            plain_share = self._masked_share(Remasking(), index)
            ratio = (kept - again.sum(-1, keepdim=True) + 0.5) / (sample.shape[1] * plain_share)
        made, predicted = super().step(model_output, timestep, sample, ratio, generator, return_dict=False)  # type: ignore[misc]
        if random and not last:
            uniform = _uniform(rates, generator)
            made = remask_step(sample, predicted, rates, committed, self.before, after, self.mask, uniform)
        made = torch.where(again, self.mask, made)
        self._remember(model_output, masked & (made != self.mask), made)
        self.before = after
        made, predicted = made.reshape(shape), predicted.reshape(shape)
        return _output(made, predicted) if return_dict else (made, predicted)

    @property
    def mask(self) -> int:
        """The number of the mask token."""
        return int(self.config.mask_token_id)

    def _masked_share(self, rule: Remasking, index: int) -> Tensor:
        """The share of tokens that the schedule leaves masked after a step, [1, 1], in the base class's own numbers."""
        cosine = self.config.masking_schedule == "cosine"
        ratio = (self.timesteps == self.timesteps[index]).nonzero() + 1
        ratio = ratio / len(self.timesteps)
        if rule.loop is not None:
            level = math.acos(1 - rule.loop[2]) * 2 / math.pi if cosine else rule.loop[2]
            ratio = torch.full_like(ratio, rule.warped(float(ratio), level))
        return torch.cos(ratio * math.pi / 2) if cosine else 1 - ratio

    def _remember(self, logits: Tensor, new: Tensor, made: Tensor) -> None:
        """psi of the tokens that were committed in this step."""
        if self.config.rule == "conf":
            token = made.clamp(max=logits.shape[-1] - 1)[..., None]
            found = logits.softmax(-1).gather(-1, token)[..., 0].to(self.psi.dtype)
            self.psi = torch.where(new, found, self.psi)


def remasking_of(config: Any) -> Remasking:
    """The remasking that a scheduler's config says. UsageError: a value is out of its range."""
    loop = None if config.loop is None else tuple(config.loop)
    return Remasking(config.rule, config.eta, config.switch, loop)  # type: ignore[arg-type]


def _uniform(like: Tensor, generator: Any) -> Tensor:
    """Numbers in [0, 1) for each token, float64, drawn where the generator is."""
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device, dtype=torch.float64).to(like.device)


def _chosen(rates: Tensor, uniform: Tensor, most: Tensor) -> Tensor:
    """Which tokens are masked again, each with its own chance, at most so many of a row: bool [n, length].

    At least one token that was masked stays so in the base class, and the number that the schedule says is kept.
    """
    chosen = uniform < rates
    place = torch.where(chosen, uniform, 2.0).argsort(-1).argsort(-1)
    return chosen & (place < most)


def _output(made: Tensor, predicted: Tensor) -> Any:
    from diffusers.schedulers.scheduling_amused import AmusedSchedulerOutput

    return AmusedSchedulerOutput(made, predicted)


@cache
def _scheduler_class() -> Any:
    from diffusers import AmusedScheduler
    from diffusers.configuration_utils import register_to_config

    class RemaskingScheduler(_Remasking, AmusedScheduler):  # type: ignore[misc]
        """aMUSEd's scheduler with tokens that may be masked again (ReMDM, arXiv 2503.00307).

        mask_token_id, masking_schedule: as of `diffusers.AmusedScheduler`.
        rule, eta, switch, loop: which tokens are masked again, as of `genscale.diffusion.remasking.Remasking`. eta=0 in
            the order of confidence is AmusedScheduler, bit for bit.
        order: which masked tokens are committed. "confidence": as many as aMUSEd commits, and as many more as were
            masked again, the surest first; that is aMUSEd's order, and the schedule holds exactly. "random": each by
            itself with the paper's probability, as in MDLM; the schedule holds on average.

        UsageError: a value is out of its range.
        """

        __module__ = __name__

        @register_to_config  # type: ignore[untyped-decorator]
        def __init__(
            self, mask_token_id: int, masking_schedule: str = "cosine", rule: str = "rescale",
            eta: float | None = None, order: str = "confidence", switch: float | None = None,
            loop: tuple[float, float, float] | None = None,
        ) -> None:  # fmt: skip
            if order not in ORDERS:
                raise UsageError(
                    f"order={shown(order)} of RemaskingScheduler is unknown: it is one of {', '.join(ORDERS)}."
                )
            remasking_of(self.config)
            self.temperatures = self.timesteps = None

        @classmethod
        def from_config(cls, config: Any = None, **given: Any) -> Any:
            """As of diffusers, and with the masking schedule that the inpainting pipeline has put there, which the
            config still marks as a default, and defaults are not taken over."""
            if isinstance(config, Mapping) and "masking_schedule" in config:
                given.setdefault("masking_schedule", config["masking_schedule"])
            return super().from_config(config, **given)

    RemaskingScheduler.__qualname__ = "RemaskingScheduler"
    return RemaskingScheduler
