"""A list of yes-no questions about each prompt, answered by a vision-language model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError, did_you_mean, quoted
from genscale.media import Media
from genscale.plugins import registry
from genscale.verifiers.axis_judge import pictures_of
from genscale.verifiers.by_chat import ByChat
from genscale.verifiers.chat import Question
from genscale.verifiers.chat_model import chat_model
from genscale.verifiers.checkpoints import check_pairs, runs_on
from genscale.verifiers.judge_answers import json_values
from genscale.verifiers.question_file import question_of, read_questions
from genscale.verifiers.question_rules import questions_of
from genscale.verifiers.questions import YesNo, check_questions, counted
from genscale.verifiers.vqa_score import VqaScore
from genscale.verifiers.yes_no import ANSWER, read_yes

RULES, MODEL = "rules", "model"
ASK_FOR = """Write yes-no questions that check whether a picture shows exactly what this prompt says: {prompt}
Ask about one thing at a time: first whether each object is there, then each of its attributes, its number, and each
relation between objects. Yes must be the right answer to all of them. A question that makes no sense unless another one
is answered by yes has that one's number, counted from 1, among its parents.
Answer with one JSON list and nothing else: [{{"question": "...", "parents": []}}, ...]"""


@dataclass(frozen=True)
class QuestionList(ByChat):
    """The mean P(yes) over questions about the prompt, where a question that depends on a no counts 0; 0 to 1.

    TIFA (Hu et al. 2023, arXiv 2303.11897) with the dependencies of the Davidsonian scene graph (Cho et al. 2024, arXiv
    2310.18235); with independent questions it is the DA-score (Singh & Zheng 2023, arXiv 2307.04749), which CARINOX
    combines. Probabilities in place of their 0 or 1 keep images from tying. `answered` says what failed. P(yes) is
    against P(no) alone.

    Blind spots: what no question asks, such as how the image looks; a model that says yes too often; the grammar's
    limits (genscale.verifiers.question_rules).

    questions: rules, by a small English grammar; model, by the model itself, once for a prompt; or a file of them, JSON
        or CSV (genscale.verifiers.question_file).
    verifier: who answers, a name or any callable `(media, questions) -> P(yes)`; None: `checkpoint`, a Qwen-VL as for
        `vqa_score`, which is differentiable; or the server at `url`, whose probabilities of tokens are used
        where it gives them.
    """

    questions: str = RULES
    verifier: str | Callable[..., Any] | None = None

    kind: ClassVar[str] = "question_list"
    judges_videos: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions not in (RULES, MODEL):
            self._file  # noqa: B018  refuses a file that cannot be read
        if self.verifier is not None and self.url is not None and self.questions != MODEL:
            raise UsageError("question_list has a verifier and a url: give one of them to answer.")

    @property
    def backbone(self) -> str | None:
        """The model that answers; None where a verifier does that does not say."""
        return super().backbone if self.verifier is None else getattr(self._answerer, "backbone", None)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Find the questions of all prompts, and load who answers. UsageError: a prompt has none."""
        self._cache.prepare()
        if self._endpoint is not None:
            self._endpoint.prepare()
        self._find(prompts, device)
        answerer = self._answerer
        if (prepare := getattr(answerer, "prepare", None)) is not None:
            prepare([q.text for prompt in prompts for q in self._found[prompt]], device)

    def load(self, device: str | torch.device = "cpu") -> None:
        """Load who answers now, if it can be."""
        if (load := getattr(self._answerer, "load", None)) is not None:
            load(device)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n] in [0, 1]; NaN where a question has no answer."""
        with torch.no_grad():
            return self._scores(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [n] of [n, 3, h, w] in [0, 1]; differentiable where a model that is loaded here answers."""
        if self._answerer is None or not hasattr(self._answerer, "score_tensor"):
            raise UsageError("question_list gives no gradients by a server: let checkpoint= answer.")
        return self._scores(pixels, prompts, graph=True)

    def answered(self, media: Media, prompts: Sequence[str]) -> list[dict[str, float]]:
        """P(yes) by question, for each image, before dependencies are looked at; NaN without an answer."""
        self._find(prompts, media.device)
        with torch.no_grad():
            rows = self._probabilities(media.pixels, prompts, graph=False)
        return [
            {q.text: p for q, p in zip(self._found[prompt], row.tolist(), strict=True)}
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def asked(self, prompt: str, device: str | torch.device = "cpu") -> tuple[YesNo, ...]:
        """The questions about a prompt."""
        self._find([prompt], torch.device(device))
        return self._found[prompt]

    def _scores(self, pixels: Tensor, prompts: Sequence[str], graph: bool = False) -> Tensor:
        if pixels.ndim != 4:
            raise UsageError(
                "question_list asks about images: use frames(verifier=question_list) for videos."
            )
        check_pairs(pixels, prompts)
        self._find(prompts, pixels.device)
        rows = self._probabilities(pixels, prompts, graph)
        pairs = zip(rows, prompts, strict=True)
        return torch.stack([counted(row[None], self._found[p]).mean() for row, p in pairs])

    def _probabilities(self, pixels: Tensor, prompts: Sequence[str], graph: bool) -> list[Tensor]:
        """P(yes) [questions] for each image; all questions about all images are one call."""
        counts = [len(self._found[p]) for p in prompts]
        texts = [q.text for p in prompts for q in self._found[p]]
        owners = [i for i, n in enumerate(counts) for _ in range(n)]
        answerer = self._answerer
        if answerer is None:
            flat = self._by_server(Media(pixels), owners, texts)
        elif graph:
            flat = self._as_probability(answerer.score_tensor(pixels[owners], texts))
        else:
            raw = answerer(Media(pixels[owners]), texts)
            flat = self._as_probability(raw if isinstance(raw, Tensor) else torch.tensor(list(raw)))
        return list(torch.split(flat, counts))

    def _by_server(self, media: Media, owners: Sequence[int], texts: Sequence[str]) -> Tensor:
        pictures = [pictures_of(item, 1) for item in media]
        asked = [
            Question(f"{text} {ANSWER}", pictures[i], yes_no=True)
            for i, text in zip(owners, texts, strict=True)
        ]
        found = self._ask(asked, read_yes, media.device)
        return torch.tensor([math.nan if p is None else p for p in found], dtype=torch.float64)

    def _as_probability(self, raw: Tensor) -> Tensor:
        """Log-odds of yes against no, of our own model, as P(yes)."""
        return raw.sigmoid() if self.verifier is None else raw

    @cached_property
    def _answerer(self) -> Any:
        """Who answers; None: the server."""
        if isinstance(self.verifier, str):
            return registry.make("verifier", self.verifier, {})
        if self.verifier is not None:
            return self.verifier
        if self.url is not None:
            return None
        where = {"device": self.device, "dtype": self.dtype, "batch_size": self.batch_size}
        settings: dict[str, Any] = {"question": f"{{prompt}} {ANSWER}", "scale": "margin", **where}
        return VqaScore(self.checkpoint, **settings)

    # ---- where the questions are from

    @cached_property
    def _found(self) -> dict[str, tuple[YesNo, ...]]:
        return {}

    @cached_property
    def _file(self) -> dict[str, tuple[YesNo, ...]]:
        return read_questions(Path(self.questions).expanduser())

    def _find(self, prompts: Sequence[str], device: torch.device) -> None:
        """Find the questions of prompts that have none yet. UsageError: there are none."""
        fresh = [p for p in dict.fromkeys(prompts) if p not in self._found]
        if self.questions == RULES:
            self._found.update({p: questions_of(p) for p in fresh})
        elif self.questions == MODEL:
            self._found.update(self._written(fresh, device))
        else:
            for prompt in fresh:
                if prompt not in self._file:
                    hint = did_you_mean(prompt, self._file)
                    raise UsageError(
                        f"file of questions '{self.questions}' has none about {quoted(prompt)}{hint}."
                    )
                self._found[prompt] = self._file[prompt]

    def _written(self, prompts: Sequence[str], device: torch.device) -> dict[str, tuple[YesNo, ...]]:
        """Questions that the model writes; a model that is loaded for it is not kept."""
        if not prompts:
            return {}
        asked = [Question(ASK_FOR.format(prompt=json.dumps(p))) for p in prompts]
        found = self._ask(asked, _read_list, device)
        for prompt, questions in zip(prompts, found, strict=True):
            if questions is None:
                raise UsageError(
                    f"the model wrote no questions about {quoted(prompt)}: use questions=rules, or a file of them."
                )
        return {p: q for p, q in zip(prompts, found, strict=True) if q is not None}

    def _chat(self, device: torch.device) -> Any:
        if self._endpoint is not None:
            return self._endpoint
        where = runs_on(self.device, device)
        dtype = getattr(torch, self.dtype or ("float32" if where.type == "cpu" else "bfloat16"))
        return chat_model(self.checkpoint, where, dtype).asked(self.max_tokens, self.batch_size)


def _read_list(answer: str) -> tuple[YesNo, ...]:
    """The last list of questions in an answer. ValueError: there is none."""
    lists = [found for found in json_values(answer) if isinstance(found, list) and found]
    if not lists:
        raise ValueError("there is no list")
    return check_questions([question_of(item, "the model's list") for item in lists[-1]], "the model's list")
