"""`genscale.adaptive_blocks`: AdaBlock, a masked text model whose blocks end at delimiters, such as line ends.

`diffusers.LLaDA2Pipeline` fills in blocks of one length, which is a local of its call, so the loop over blocks is
written again here. A step in a block, and when a block or text is finished, are its scheduler's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError


@dataclass(frozen=True, eq=False)
class AdaptiveBlocks:
    """A pipeline as a function `(prompt, generator) -> text`. Made by `adaptive_blocks`."""

    pipe: Any
    delimiters: tuple[int, ...]
    delimiter_threshold: float
    window: float

    __name__: ClassVar[str] = "adaptive_blocks"

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipe._execution_device)

    @property
    def identity(self) -> list[Any]:
        """What decides its texts, for `out=`."""
        pipe = self.pipe
        parts = [type(pipe.model), pipe.model, pipe.tokenizer.get_vocab(), dict(pipe.scheduler.config)]
        return [*parts, self.delimiters, self.delimiter_threshold, self.window]

    @torch.no_grad()
    def __call__(
        self, prompt: str, generator: torch.Generator | None = None, *, gen_length: int = 512, block_length: int = 32,
        num_inference_steps: int = 32, temperature: float = 0.0, threshold: float = 0.9,
        editing_threshold: float | None = None, max_post_steps: int = 16, eos_early_stop: bool = True,
        top_p: float | None = None, top_k: int | None = None, mask_token_id: int | None = None,
        use_chat_template: bool = True,
    ) -> str:  # fmt: skip
        """One text. The arguments are those of LLaDA2Pipeline, with the paper's defaults; block_length is that of
        blocks that no delimiter ends."""
        pipe, device = self.pipe, self.device
        tokens, seen = pipe._prepare_input_ids(
            prompt=prompt, messages=None, input_ids=None, use_chat_template=use_chat_template,
            add_generation_prompt=True, chat_template_kwargs=None,
        )  # fmt: skip
        mask = pipe.mask_token_id if mask_token_id is None else mask_token_id
        if mask is None:
            raise UsageError("the tokenizer of this pipeline has no mask token: give mask_token_id=.")
        begin, end = tokens.shape[1], tokens.shape[1] + gen_length
        padding = (0, gen_length + block_length)
        tokens = torch.nn.functional.pad(tokens.to(device), padding, value=mask)
        seen = torch.nn.functional.pad(seen.to(device), padding, value=1)
        seen[:, end:] = 0
        step = {
            "temperature": temperature, "threshold": threshold, "editing_threshold": editing_threshold,
            "top_p": top_p, "top_k": top_k, "sampling_method": "multinomial", "generator": generator,
        }  # fmt: skip
        text = _Text(pipe, tokens, seen, begin, end, mask, pipe.eos_token_id if eos_early_stop else None)
        start, steps = begin // block_length * block_length, min(num_inference_steps, gen_length)
        while (
            start < end and not text.finished
        ):  # the first block holds the end of the prompt, as in the pipeline
            stop = self._stop(text, start, start + block_length)
            text.fill(start, stop, steps, max_post_steps, step)
            start = stop
        return text.decoded()

    def _stop(self, text: _Text, start: int, usual: int) -> int:
        """Where the block ends that begins at `start`: behind the surest delimiter of the window, or at `usual`."""
        first = max(start, text.begin)
        last = min(first + max(1, int(self.window * (text.end - text.begin))), text.end)
        if math.isinf(self.delimiter_threshold):
            return usual
        chances, likely = text.logits(last)[0, first:].float().softmax(-1).max(-1)
        wanted = torch.isin(likely, torch.tensor(self.delimiters, device=likely.device))
        chances = chances.where(wanted, -1.0)
        surest = int(chances.argmax())
        return first + surest + 1 if float(chances[surest]) >= self.delimiter_threshold else usual


@dataclass
class _Text:
    """A text under way.

    tokens, seen: [1, length], the prompt, what is to be made, and a rest that no token sees. begin, end: of what is to
    be made. eos: the token that ends a text early, or None.
    """

    pipe: Any
    tokens: Tensor
    seen: Tensor
    begin: int
    end: int
    mask: int
    eos: int | None
    finished: bool = False

    def logits(self, stop: int) -> Tensor:
        """Of the tokens before `stop`, which see each other and nothing behind: [1, stop, words]."""
        places = torch.arange(stop, device=self.tokens.device)[None]
        view = self.tokens[:, :stop], self.seen[:, :stop]
        found: Tensor = self.pipe.model(view[0], attention_mask=view[1], position_ids=places).logits
        return found

    def fill(self, start: int, stop: int, steps: int, most_post: int, step: Mapping[str, Any]) -> None:
        """Fill in one block. step: further arguments of the scheduler's step."""
        scheduler, device = self.pipe.scheduler, self.tokens.device
        scheduler.set_timesteps(steps, device=device, block_length=stop - start)
        given = torch.arange(start, stop, device=device) < self.begin
        number, post, going, done = 0, 0, True, torch.tensor([False], device=device)
        while going:
            block = self.tokens[:, start:stop]
            masked = bool((block == self.mask).any())
            post += not masked
            made = scheduler.step(
                self.logits(stop)[:, start:],
                number,
                block,
                mask_token_id=self.mask,
                prompt_mask=given,
                **step,
            )
            changed = made.transfer_index | made.editing_transfer_index
            self.tokens[:, start:stop] = torch.where(changed, made.prev_sample, block)
            if self.eos is not None:
                done = scheduler.check_eos_finished(
                    self.tokens[:, :stop], made.sampled_tokens, changed, done, self.eos, self.mask, self.begin
                )
            number += masked
            going = scheduler.check_block_should_continue(
                number,
                masked,
                (step["editing_threshold"] or 0) > 0,
                made.editing_transfer_index,
                post,
                most_post,
                done,
            )
        self.finished = bool(done.all())

    def decoded(self) -> str:
        """What was made, up to the first end of text."""
        made = self.tokens[0, self.begin : self.end]
        eos = self.pipe.eos_token_id
        ends = [] if eos is None else (made == eos).nonzero().flatten().tolist()
        made = made[: ends[0] + 1] if ends else made
        text: str = self.pipe.tokenizer.decode(made, skip_special_tokens=True)
        return text


def adaptive_blocks(
    pipe: Any,
    delimiters: Sequence[str | int] = ("\n",),
    delimiter_threshold: float = 0.3,
    window: float = 0.25,
) -> AdaptiveBlocks:
    """AdaBlock (Lu et al. 2025, "AdaBlock-dLLM: Semantic-Aware Diffusion LLM Inference via Adaptive Block Size", arXiv
    2509.26432, section 4): a generator of texts for `genscale.scale` whose blocks end where the text has a delimiter.

    Before each block the model is asked once about the tokens ahead. Among those whose most probable token is a
    delimiter the surest ends the block, if its probability is at least delimiter_threshold; else the block has
    `block_length`. The window ahead is in view, and masked, as a block is in the pipeline.

    pipe: `diffusers.LLaDA2Pipeline` with its tokenizer. delimiters: texts of one token each, or numbers of tokens; the
    line end, as published. delimiter_threshold: in [0, 1], 0.3 as published for LLaDA (0.5 for Dream); infinity ends no
    block, and gives what the pipeline gives, bit for bit. window: in (0, 1], the share of gen_length ahead, 0.25 as in
    the authors' code.

    Cost: one call of the model more for each block. UsageError: a value is out of its range, or a delimiter is no
    token.
    """
    if getattr(pipe, "tokenizer", None) is None or not hasattr(pipe, "_prepare_input_ids"):
        raise UsageError(
            f"adaptive_blocks needs a LLaDA2Pipeline with its tokenizer, and was given {type(pipe).__name__}."
        )
    if not (0 <= delimiter_threshold <= 1 or delimiter_threshold == math.inf):
        raise UsageError(f"delimiter_threshold={delimiter_threshold} must be in [0, 1], or infinity.")
    if not 0 < window <= 1:
        raise UsageError(f"window={window} must be a share of gen_length, in (0, 1].")
    numbers = [_token(pipe.tokenizer, d) if isinstance(d, str) else int(d) for d in delimiters]
    return AdaptiveBlocks(pipe, tuple(numbers), delimiter_threshold, window)


def _token(tokenizer: Any, text: str) -> int:
    numbers = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(numbers) != 1:
        raise UsageError(
            f"the delimiter {text!r} is {len(numbers)} tokens: give texts of one token, or its number."
        )
    return int(numbers[0])
