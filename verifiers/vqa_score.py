"""VQAScore: the probability, by a vision-language model, that an image shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import check_pairs
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings
from genscale.verifiers.qwen_vl import QwenVl, qwen_vl

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'  # the paper's
SCALES = ("log_odds", "probability", "margin")


@dataclass(frozen=True)
class VqaScore(LoadedPerDevice[QwenVl], ModelSettings, Differentiable):
    """Log-odds of the answer Yes to "Does this figure show ...?"; for videos the mean over frames.

    Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (arXiv 2404.01291).
    The paper's score is P(Yes) among all first tokens, by its own CLIP-FlanT5; here it is read off a Qwen-VL, as the
    authors' later code does. The log-odds, log P - log(1 - P), order images exactly as P does, and
    neither tie nor lose their gradient where P is near 0 or 1. Reads counts, relations and attributes better than
    any `clip`; its gradients cost about three times its scores, and much memory.

    Blind spots: how good the image looks; fine detail, where `max_pixels` is low.

    checkpoint: Hugging Face id or folder of a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or later (safetensors).
    question: what is asked, with {prompt}. answer: the answer whose first token counts; refusal: the answer
        that `margin` compares it with.
    scale: "log_odds", "probability" (the paper's), or "margin", log P(answer) - log P(refusal), which other
        answers do not disturb.
    max_pixels: larger images are shrunk to so many; None: the checkpoint's own limit. A Qwen3-VL makes a
        token of every 32 x 32.
    device: where it runs; None: where the images are. dtype: None is bfloat16 on an accelerator, else float32.
    batch_size: images or frames in one model call.
    """

    checkpoint: str = "Qwen/Qwen3-VL-2B-Instruct"
    question: str = QUESTION
    answer: str = "Yes"
    refusal: str = "No"
    scale: str = "log_odds"
    max_pixels: int | None = None
    batch_size: int = field(default=8, kw_only=True)

    name: ClassVar[str] = "vqa_score"
    reads_prompts: ClassVar[bool] = True

    @property
    def answers_probability(self) -> bool:
        """Whether the score is P(answer)."""
        return self.scale == "probability"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{prompt}" not in self.question:
            raise UsageError("the question of vqa_score does not name the prompt: write {prompt} in it.")
        if self.scale not in SCALES:
            raise UsageError(f"scale '{self.scale}' is unknown: choose one of {', '.join(SCALES)}.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"max_pixels {self.max_pixels} leaves no image: give at least 1.")

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model, and read answers and questions. UsageError: one of them cannot be used."""
        model = self._model(device)
        for answer in (self.answer, self.refusal):
            model.token(answer)
        for prompt in prompts:
            model.tokens(self.question.replace("{prompt}", prompt), 1)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_pairs(pixels, prompts)
        model, frames = self._model(pixels.device), pixels.shape[1] if pixels.ndim == 5 else 1
        questions = [self.question.replace("{prompt}", p) for p in prompts for _ in range(frames)]
        flat, scores = pixels.flatten(0, -4), []
        for start in range(0, len(flat), self.batch_size):
            stop = start + self.batch_size
            scores.append(self._scores(model, model.logits(flat[start:stop], questions[start:stop])))
        return torch.cat(scores).reshape(len(pixels), -1).mean(1)

    def _scores(self, model: QwenVl, logits: Tensor) -> Tensor:
        answer = model.token(self.answer)
        if self.scale == "probability":
            return logits.softmax(1)[:, answer]
        if self.scale == "margin":
            return logits[:, answer] - logits[:, model.token(self.refusal)]
        others = torch.cat([logits[:, :answer], logits[:, answer + 1 :]], dim=1)
        return logits[:, answer] - others.logsumexp(1)

    @property
    def backbone(self) -> str:
        """Its checkpoint."""
        return self.checkpoint

    def _load_on(self, device: torch.device) -> QwenVl:
        dtype = getattr(torch, self.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
        return qwen_vl(self.checkpoint, self.max_pixels, device, dtype)
