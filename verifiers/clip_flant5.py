"""VQAScore by its authors' own model, CLIP-FlanT5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import check_pairs
from genscale.verifiers.clip_t5 import ClipT5, clip_t5
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings
from genscale.verifiers.vqa_score import QUESTION

SCALES = ("log_odds", "log_probability", "probability")


@dataclass(frozen=True)
class ClipFlanT5(LoadedPerDevice[ClipT5], ModelSettings, Differentiable):
    """Log-odds of the answer Yes to "Does this figure show ...?", by CLIP-FlanT5; for videos the mean over frames.

    Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (arXiv 2404.01291), with the
    paper's model: CLIP ViT-L/14 at 336 px, the patches of its last layer but one, two linear layers, FlanT5. The
    paper's score is exp of the mean log-probability of the answer's tokens, its end included. `vqa_score` asks the same
    of a Qwen-VL. Images are filled up to a square of CLIP's mean colour; no part is cut off.

    Blind spots: how good the image looks; small things, since 336 x 336 pixels are seen.

    checkpoint: Hugging Face id or folder: zhiqiulin/clip-flant5-xl (3 B) or -xxl (11 B, 23 GB in bfloat16).
    vision: Hugging Face id or folder of its CLIP; None: as the checkpoint says, openai/clip-vit-large-patch14-336.
    tokenizer: Hugging Face id or folder of FlanT5's; None: the checkpoint's, else google/flan-t5-xxl.
    question: what is asked, with {prompt}. answer: the answer that counts.
    scale: "log_odds", log p - log(1 - p) of the paper's score p, which orders images as p does and neither ties nor
        loses its gradient near 0 and 1; "log_probability", log p; or "probability", p.
    device: where it runs; None: where the images are. dtype: None is bfloat16 on an accelerator, else float32.
    batch_size: images or frames in one model call.
    """

    checkpoint: str = "zhiqiulin/clip-flant5-xxl"
    vision: str | None = None
    tokenizer: str | None = None
    question: str = QUESTION
    answer: str = "Yes"
    scale: str = "log_odds"
    batch_size: int = field(default=8, kw_only=True)

    name: ClassVar[str] = "clip_flant5"
    reads_prompts: ClassVar[bool] = True

    @property
    def answers_probability(self) -> bool:
        """Whether the score is the paper's probability."""
        return self.scale == "probability"

    @property
    def backbone(self) -> str:
        """What its model is built on."""
        return self.checkpoint

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{prompt}" not in self.question:
            raise UsageError("the question of clip_flant5 does not name the prompt: write {prompt} in it.")
        if self.scale not in SCALES:
            raise UsageError(f"scale '{self.scale}' is unknown: choose one of {', '.join(SCALES)}.")

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model, and read answer and questions. UsageError: one of them cannot be used."""
        model = self._model(device)
        model.answer(self.answer)
        for prompt in prompts:
            model.tokens(self.question.replace("{prompt}", prompt))

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float64, of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_pairs(pixels, prompts)
        model, frames = self._model(pixels.device), pixels.shape[1] if pixels.ndim == 5 else 1
        questions = [self.question.replace("{prompt}", p) for p in prompts for _ in range(frames)]
        flat, found = pixels.flatten(0, -4), []
        for start in range(0, len(flat), self.batch_size):
            stop = start + self.batch_size
            found.append(model.log_probability(flat[start:stop], questions[start:stop], self.answer))
        return self._scaled(torch.cat(found)).reshape(len(pixels), -1).mean(1)

    def _scaled(self, log_p: Tensor) -> Tensor:
        if self.scale == "log_odds":
            return log_p - (-torch.expm1(log_p)).log()
        return log_p.exp() if self.answers_probability else log_p

    def _load_on(self, device: torch.device) -> ClipT5:
        dtype = getattr(torch, self.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
        return clip_t5(self.checkpoint, self.vision, self.tokenizer, device, dtype)
