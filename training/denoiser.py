"""What training the denoisers shares: batches, the average of the weights, the auxiliary loss, the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection

from genscale.toy.shapes import COLOURS, KINDS
from training import latents
from training.common import descend, set_rates
from training.optimiser import optimisers
from training.run import Run
from training.text import text_config, tokenizer


class Denoiser(nn.Module):
    """A denoiser, its text encoder, and a head for training only.

    The head reads colour and kind of every cell from a middle layer.
    """

    def __init__(
        self, denoiser: nn.Module, text_encoder: nn.Module, middle: nn.Module, width: int, cells: int
    ) -> None:
        super().__init__()
        self.denoiser, self.text_encoder = denoiser, text_encoder
        self.head = nn.Linear(width, cells * (1 + len(COLOURS) + 1 + len(KINDS)))
        self.cells = cells
        self._seen: list[torch.Tensor] = []
        middle.register_forward_hook(lambda _module, _inputs, output: self._seen.append(output))

    def auxiliary(self, labels: torch.Tensor, tokens: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of colour and kind, `labels` [n, 2, 8, 8], after a forward pass."""
        output = self._seen.pop()
        self._seen.clear()
        logits = self.head(tokens(output))  # [n, tokens, cells * classes], tokens row by row
        side = 8 // int(self.cells**0.5)
        part = 8 // side
        logits = (
            logits.view(len(labels), side, side, part, part, -1)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(len(labels) * 64, -1)
        )
        colour, kind = logits.split([1 + len(COLOURS), 1 + len(KINDS)], dim=1)
        labels = labels.long()
        return nn.functional.cross_entropy(colour, labels[:, 0].flatten()) + nn.functional.cross_entropy(
            kind, labels[:, 1].flatten()
        )


def text_encoder(folder: Path) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(tokenizer(folder)))


def batches(folder: Path, n: int, drop: float, run: Run) -> Iterator[dict[str, torch.Tensor]]:
    """Random batches of latents, captions and labels; a part `drop` of the captions is empty."""
    data = latents.load(folder)
    empty = torch.ones(data["captions"].shape[1], dtype=torch.uint8)
    empty[0] = 0  # beginning, end, end, ...: what the tokenizer makes of ""
    while True:
        rows = torch.from_numpy(run.rng.integers(len(data["latents"]), size=n))
        captions = data["captions"][rows]
        captions[torch.from_numpy(run.rng.random(n) < drop)] = empty
        yield {
            "latents": data["latents"][rows].float().to(run.device),
            "captions": captions.long().to(run.device),
            "labels": data["labels"][rows].to(run.device),
        }


def train(
    model: Any,
    loss_of: Callable[[Any, dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
    args: Any,
    inner: str,
    decay: float = 0.6,
    compiled: bool = False,
) -> None:
    """Minimise `loss_of` (main loss, auxiliary loss) until the minutes are over.

    `args.out` keeps the model and its average. args: of `common.denoiser_options`. inner: see `optimisers`.
    """
    average = copy.deepcopy(model).requires_grad_(False)
    run = Run(args.out, args.minutes, {"model": model, "average": average})
    model.to(run.device), average.to(run.device)
    tools = optimisers(model, args.muon, args.adam, inner)
    for tool, state in zip(tools, run.extra.get("optimisers", []), strict=False):
        tool.load_state_dict(state)
    run.on_save = lambda: {"optimisers": [tool.state_dict() for tool in tools]}
    if compiled:
        model.denoiser.compile(dynamic=False), model.text_encoder.compile(dynamic=False)
    ours, theirs = list(model.parameters()), list(average.parameters())
    for step, rows in zip(run.steps(), batches(args.data, args.batch, 0.1, run), strict=False):
        set_rates(tools, run, warmup=100, decay=decay)
        loss, extra = loss_of(model, rows)
        norm = descend(tools, loss + args.auxiliary * extra, ours)
        if step % 4 == 3:  # an average over about the last tenth of the steps, whatever their number
            with torch.no_grad():
                torch._foreach_lerp_(theirs, ours, min(1.0, 4 * 10 / (step + 10)))
        run.log(
            step, loss=loss.item(), extra=extra.item(), norm=norm.item(), rate=tools[-1].param_groups[0]["lr"]
        )
    run.save()
