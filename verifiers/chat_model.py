"""A vision-language model of transformers that answers questions here, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from genscale.errors import UsageError
from genscale.verifiers.chat import Question, Unanswered
from genscale.verifiers.checkpoints import is_path, refusing, whole

_loaded: WeakValueDictionary[tuple[Any, ...], ChatModel] = WeakValueDictionary()


def chat_model(checkpoint: str, device: torch.device, dtype: torch.dtype) -> ChatModel:
    """The model; the same object for the same settings, while it is in use. UsageError: it cannot be loaded."""
    key = (checkpoint, device, dtype)
    found = _loaded.get(key)
    if found is None:
        with torch.inference_mode(False):
            found = _loaded[key] = _load(checkpoint, device, dtype)
    return found


@dataclass(eq=False)
class ChatModel:
    """The loaded model. It answers with its likeliest tokens, so that the same question has the same answer."""

    module: Any
    processor: Any
    weights: tuple[object, ...]
    device: torch.device

    def asked(self, max_tokens: int | None, batch_size: int) -> LocalChat:
        return LocalChat(self, max_tokens or 512, batch_size)

    def texts(self, questions: Sequence[Question], max_tokens: int) -> list[str]:
        """The answers of one batch."""
        more = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        written = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": _content(question)}],
                tokenize=False,
                add_generation_prompt=True,
                **more,
            )
            for question in questions
        ]
        pictures = [[i.convert("RGB") for i in question.images] for question in questions]
        given = {"images": pictures} if any(pictures) else {}
        inputs = self.processor(text=written, padding=True, return_tensors="pt", **given).to(self.device)
        with torch.no_grad():
            made = self.module.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answers = made[:, inputs["input_ids"].shape[1] :]
        return [str(t) for t in self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)]


@dataclass(frozen=True)
class LocalChat:
    """A loaded model, asked `batch_size` questions at a time."""

    model: ChatModel
    max_tokens: int
    batch_size: int

    @property
    def identity(self) -> tuple[object, ...]:
        return ("local", *self.model.weights, str(self.model.module.dtype), self.max_tokens)

    def answers(
        self, questions: Sequence[Question], readable: Callable[[str], bool]
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """As `Chat.answers`. An answer that cannot be read would be the same again, so it is not asked for again."""
        for start in range(0, len(questions), self.batch_size):
            some = questions[start : start + self.batch_size]
            for place, text in enumerate(self.model.texts(some, self.max_tokens), start):
                fine = readable(text)
                yield place, text if fine else Unanswered("no answer of the form that was asked for")


def _content(question: Question) -> list[dict[str, str]]:
    return [*({"type": "image"} for _ in question.images), {"type": "text", "text": question.text}]


def _load(checkpoint: str, device: torch.device, dtype: torch.dtype) -> ChatModel:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(checkpoint).expanduser()
    if is_path(checkpoint) and not folder.is_dir():
        raise UsageError(
            f"there is no folder '{checkpoint}': give one with a vision-language model, or a Hugging Face id."
        )
    where = str(folder) if folder.is_dir() else checkpoint
    advice = "fetch it where there is a network, or give a folder with its safetensors, or url= of a server"
    with refusing(f"the vision-language model '{checkpoint}'", advice):
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        processor.tokenizer.padding_side = "left"  # the answers of all rows begin at one place
        safe = {"trust_remote_code": False, "use_safetensors": True, "torch_dtype": dtype}
        module = whole(AutoModelForImageTextToText, where, checkpoint, "image-text model", advice, **safe)
    for name in ("temperature", "top_p", "top_k"):  # of sampling, which is not done
        setattr(module.generation_config, name, None)
    module.eval().requires_grad_(False).to(device)
    return ChatModel(module, processor, _weights(checkpoint, folder), device)


def _weights(checkpoint: str, folder: Path) -> tuple[object, ...]:
    """What tells these weights from others of the same name: the files of a folder; of the hub its revision."""
    if folder.is_dir():
        files = sorted(folder.glob("*.safetensors"))
        return (checkpoint, *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(checkpoint, "config.json")
    return (checkpoint, Path(found).parent.name if isinstance(found, str) else "")
