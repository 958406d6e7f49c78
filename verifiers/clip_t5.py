"""CLIP-T5: a T5 that reads the patches of a CLIP through two linear layers, and the probability of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genscale.errors import UsageError, quoted
from genscale.safe_json import read_json
from genscale.verifiers.checkpoints import refusing, whole
from genscale.verifiers.clip_image import Preparation, from_transformers
from genscale.verifiers.sharded_weights import all_tensors, checkpoint_folder, fill

IMAGE = "<image>"
CHAT = (  # the conversation that the checkpoints were trained on, as the authors' code writes it
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    f"and polite answers to the user's questions. USER: {IMAGE}\n{{question}} ASSISTANT: "
)
CONTEXT = 2048  # tokens of the conversation that are read
VISION, WORDS = "openai/clip-vit-large-patch14-336", "google/flan-t5-xxl"
TOWER, PROJECTOR = "vision_tower.vision_tower.", "mm_projector."
UNUSED = ("embed_tokens.weight", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # both are `shared`
REMEMBERED = 4096  # questions whose tokens are kept
CPU = torch.device("cpu")

_loaded: WeakValueDictionary[tuple[Any, ...], ClipT5] = WeakValueDictionary()


def clip_t5(
    checkpoint: str, vision: str | None, tokenizer: str | None, device: torch.device, dtype: torch.dtype
) -> ClipT5:
    """The model; the same object for the same settings, while it is in use."""
    key = (checkpoint, vision, tokenizer, device, dtype)
    found = _loaded.get(key)
    if found is None:
        with torch.inference_mode(False):  # inference tensors would have no gradient later
            found = _loaded[key] = _load(checkpoint, vision, tokenizer).to(device, dtype)
    return found


@dataclass(eq=False)
class ClipT5:
    """The loaded model. Parameters are frozen; images keep their gradients.

    layer: of the vision tower, whose hidden states are read. scaled: whether the decoder's states are divided by the
    root of their width, as in the first T5, whose output layer is its embedding.
    """

    language: Any
    vision: Any
    projector: nn.Module
    tokenizer: Any
    prepare: Preparation
    layer: int
    scaled: bool
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    _ids: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    def to(self, device: torch.device, dtype: torch.dtype) -> ClipT5:
        for part in (self.language, self.vision, self.projector):
            part.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.device, self.dtype = device, dtype
        return self

    def log_probability(self, pixels: Tensor, questions: Sequence[str], answer: str) -> Tensor:
        """[n], float64: the mean log-probability of the answer's tokens, its end included.

        pixels: images [n, 3, h, w] in [0, 1], with a question each.
        """
        states, mask = self._read(self._patches(pixels), questions)
        encoded = self.language.encoder(inputs_embeds=states, attention_mask=mask)[0]
        wanted = torch.tensor(self.answer(answer), device=self.device).expand(len(questions), -1)
        start = torch.full_like(wanted[:, :1], self.language.config.decoder_start_token_id)
        said: Tensor = self.language.decoder(
            input_ids=torch.cat([start, wanted[:, :-1]], dim=1),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0]
        said = said.to(torch.promote_types(said.dtype, torch.float32))
        said = said * said.shape[-1] ** -0.5 if self.scaled else said
        logits = F.linear(
            said, self.language.lm_head.weight.to(said)
        ).double()  # in bfloat16 images would tie
        return logits.log_softmax(-1).gather(2, wanted[..., None])[..., 0].mean(1)

    def answer(self, answer: str) -> list[int]:
        """The tokens of an answer and the end. UsageError: it is empty."""
        ids = list(self.tokenizer(answer).input_ids)
        if len(ids) < 2:
            raise UsageError("an empty answer has no probability: give a word, as Yes.")
        return ids

    def tokens(self, question: str) -> tuple[list[int], list[int]]:
        """Tokens of the conversation before and after the image. UsageError: the question has the mark of an image.

        Each part ends in the end of a text: so did the authors tokenise it, in training, too.
        """
        if question not in self._ids:
            if IMAGE in question:
                raise UsageError(
                    f"the question {quoted(question)} contains the model's mark of an image, {IMAGE}: leave it out."
                )
            text = CHAT.replace("{question}", question)
            before, after = (list(self.tokenizer(part).input_ids) for part in text.split(IMAGE))
            self._ids[question] = before, after[: CONTEXT - len(before) - 1]
            while len(self._ids) > REMEMBERED:
                del self._ids[next(iter(self._ids))]
        return self._ids[question]

    def _patches(self, pixels: Tensor) -> Tensor:
        """[n, patches, width], as the T5 reads them."""
        x = self.prepare(squared(pixels.to(self.device), self.prepare.mean)).to(self.dtype)
        seen = self.vision(pixel_values=x, output_hidden_states=True).hidden_states[self.layer]
        read: Tensor = self.projector(seen[:, 1:])  # without the class token
        return read

    def _read(self, patches: Tensor, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [n, length, width] of conversations with their images, filled up with zeros, and their mask."""
        embed, rows = self.language.shared, []
        for image, question in zip(patches, questions, strict=True):
            before, after = (embed(torch.tensor(ids, device=self.device)) for ids in self.tokens(question))
            rows.append(torch.cat([before, image, after]))
        mask = nn.utils.rnn.pad_sequence([row.new_ones(len(row)) for row in rows], batch_first=True)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def squared(pixels: Tensor, mean: Sequence[float]) -> Tensor:
    """Images [n, 3, h, w] in the middle of a square of the mean colour, in whole levels of 255."""
    height, width = pixels.shape[-2:]
    side = max(height, width)
    ground = pixels.new_tensor([int(255 * level) / 255 for level in mean]).view(3, 1, 1)
    square = ground.expand(len(pixels), 3, side, side).clone()
    top, left = (side - height) // 2, (side - width) // 2
    square[..., top : top + height, left : left + width] = pixels
    return square


def _load(checkpoint: str, vision: str | None, words: str | None) -> ClipT5:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPVisionModel

    folder = checkpoint_folder(checkpoint, "a CLIP-FlanT5")
    advice = "give the folder of a CLIP-FlanT5"
    with refusing(f"the CLIP-FlanT5 '{checkpoint}'", advice):
        config = read_json(folder / "config.json", f"the configuration of '{checkpoint}'")
        tower = vision or config.get("mm_vision_tower", VISION)
    with refusing(
        f"the vision tower '{tower}' of clip_flant5", "give a folder with CLIP ViT-L/14-336 as vision"
    ):
        where = str(Path(tower).expanduser()) if Path(tower).expanduser().is_dir() else tower
        eye = whole(CLIPVisionModel, where, tower, "CLIP", "give one with its vision tower")
        prepare = from_transformers(CLIPImageProcessor.from_pretrained(where))
    if words is None:
        own = any((folder / f).is_file() for f in ("spiece.model", "tokenizer.json"))
        words = str(folder) if own else WORDS
    with refusing(f"the tokenizer '{words}' of clip_flant5", "give a folder with FlanT5's as tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(words, use_fast=False)
    with refusing(f"the CLIP-FlanT5 '{checkpoint}'", advice):
        state = all_tensors(folder)
        seen = {key[len(TOWER) :]: state.pop(key) for key in list(state) if key.startswith(TOWER)}
        if seen:  # a copy of the tower, which may have been tuned
            flat = {key.removeprefix("vision_model."): value for key, value in seen.items()}
            flat = {key: value for key, value in flat.items() if not key.endswith("position_ids")}
            prefix = "vision_model." if any(k.startswith("vision_model.") for k in eye.state_dict()) else ""
            fill(eye, {prefix + key: value for key, value in flat.items()}, "a CLIP-FlanT5's tower", advice)
        projector = _projector(state, advice)
        language = _language(state, config, advice)
    scaled = config.get("tie_word_embeddings", True)
    return ClipT5(
        language,
        eye,
        projector,
        tokenizer,
        prepare,
        int(config.get("mm_vision_select_layer", -2)),
        bool(scaled),
    )


def _projector(state: dict[str, Tensor], advice: str) -> nn.Module:
    """Linear layers with GELU between, taken out of `state`; their places are 0, 2, ... as `mlp2x_gelu` names them."""
    own = {key[len(PROJECTOR) :]: state.pop(key) for key in list(state) if key.startswith(PROJECTOR)}
    widths = [tuple(own[key].shape) for key in sorted(own) if key.endswith("weight")]
    if len(widths) != 2:
        raise UsageError(f"these weights have {len(widths)} layers between CLIP and T5, and not 2: {advice}.")
    with torch.device("meta"):
        (middle, width), (last, _) = widths
        layers = nn.Sequential(nn.Linear(width, middle), nn.GELU(), nn.Linear(middle, last))
    fill(layers, own, "a CLIP-FlanT5's projector", advice)
    return layers


def _language(state: Mapping[str, Tensor], config: Mapping[str, Any], advice: str) -> Any:
    """The T5. Its output layer is that of the weights: transformers 5 would make it the embedding, which FlanT5's
    is not."""
    from transformers import T5Config, T5ForConditionalGeneration

    known = {key: value for key, value in state.items() if key not in UNUSED}
    known |= {key: state["shared.weight"] for key in EMBEDDINGS if "shared.weight" in state}
    if "lm_head.weight" not in known and config.get("tie_word_embeddings", True) and "shared.weight" in state:
        known["lm_head.weight"] = state["shared.weight"]
    settings = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    with torch.device("meta"):
        language = T5ForConditionalGeneration(T5Config(**settings))
    fill(language, known, "a CLIP-FlanT5", advice)
    return language
