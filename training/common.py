"""What the training scripts share: options, the latents on disk, losses, and one step of the optimisers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from genscale.toy.shapes import GROUND
from training.run import Run

Optimisers = Sequence[torch.optim.Optimizer]


# ---------------------------------------------------------------- options


def options(doc: str | None, *, minutes: float, batch: int, out: str | None = None, threads: int = 1) -> Any:
    """A parser with the options of every training run."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--threads", type=int, default=threads)
    return parser


def denoiser_options(doc: str | None, data: str, *, minutes: float, batch: int, muon: str) -> Any:
    """A parser for training a denoiser. data: the module that writes the latents. muon: help of --muon."""
    parser = options(doc, minutes=minutes, batch=batch)
    parser.add_argument("--data", type=Path, required=True, help=f"folder written by {data}")
    parser.add_argument("--muon", type=float, default=2e-3, help=muon)
    parser.add_argument("--adam", type=float, default=1e-3)
    parser.add_argument("--auxiliary", type=float, default=0.1)
    return parser


def started(parser: Any, seed: bool = True) -> Any:
    """The options as given, with threads (and seed) set."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if seed:
        torch.manual_seed(0)
    return args


# ---------------------------------------------------------------- latents


def latent_options(doc: str | None, autoencoder: str | None, n: int) -> Any:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--autoencoder", type=Path, required=True, help=autoencoder)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=n)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def write_latents(
    args: Any,
    words: Any,
    length: int,
    draw_caption: Callable[[np.random.Generator], Any],
    draw_scene: Callable[[Any, np.random.Generator], Any],
    encode: Callable[[list[Any]], torch.Tensor],
    cells: Callable[[Any], np.ndarray],
) -> None:
    """Write `part-<seed>.npz`: latents (float16), token ids of captions [n, length], labels of cells.

    words: the tokenizer. encode: scenes to latents on the CPU.
    """
    rng = np.random.default_rng((7, args.seed))
    latents, captions, labels = [], [], []
    for start in range(0, args.n, 64):
        wanted = [draw_caption(rng) for _ in range(min(64, args.n - start))]
        scenes = [draw_scene(caption, rng) for caption in wanted]
        latents.append(encode(scenes).contiguous().half().numpy())
        captions.append(words([c.text for c in wanted], padding="max_length", max_length=length)["input_ids"])
        labels.append(np.stack([cells(scene) for scene in scenes]))
    np.savez(
        args.out / f"part-{args.seed}.npz",
        latents=np.concatenate(latents),
        captions=np.concatenate([np.asarray(c, np.uint8) for c in captions]),
        labels=np.concatenate(labels),
    )


# ---------------------------------------------------------------- losses


def reconstruction_loss(
    latents: torch.Tensor, decoded: torch.Tensor, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of an autoencoder, and the plain mean squared error.

    latents: [n, channels, ...], held near mean 0 and variance 1 in every channel. images: [n, 3, ...] in [-1, 1]; the
    pixels of shapes count five times as much as those of the ground.
    """
    rest = (0, *range(2, latents.ndim))
    mean, variance = latents.mean(rest), latents.var(rest)
    standard = (mean**2 + (variance - 1) ** 2).mean()
    ground = torch.tensor(GROUND, device=images.device).view(1, 3, *[1] * (images.ndim - 2)) / 127.5 - 1
    weight = 1 + 4 * ((images - ground).abs().amax(1, keepdim=True) > 0.1)
    difference = decoded - images
    loss = (weight * (difference.abs() + 2 * difference**2)).mean() + 0.1 * standard
    return loss, (difference**2).mean().detach()


def stratified_sigma(n: int, shift: float, device: torch.device) -> torch.Tensor:
    """Noise levels [n] for flow matching: logit-normal, stratified over the batch, shifted."""
    strata = (torch.randperm(n) + torch.rand(n)).to(device) / n
    sigma = torch.sigmoid(torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)))
    return shift * sigma / (1 + (shift - 1) * sigma)


def contrastive_loss(
    scale: torch.Tensor,
    seen: torch.Tensor,
    named: torch.Tensor,
    wrong: torch.Tensor,
    keys: Sequence[Hashable],
    spoiled: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss both ways, and how often the right caption beats its wrong ones.

    seen: images [n, d]. named: their captions [n, d]. wrong: hard negatives of each image [n, k, d]. keys: pairs with
    equal keys are no negatives of each other. spoiled: a hard negative of each caption [n, d].
    """
    n, device = len(keys), seen.device
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    group = torch.tensor([numbers[key] for key in keys], device=device)
    same = (group[:, None] == group[None, :]) & ~torch.eye(n, dtype=torch.bool, device=device)
    logits = (scale * seen @ named.T).masked_fill(same, -1e4)
    hard = scale * torch.einsum("nd,nkd->nk", seen, wrong)
    to_image = logits.T
    if spoiled is not None:
        to_image = torch.cat([to_image, scale * (spoiled * named).sum(-1, keepdim=True)], 1)
    target = torch.arange(n, device=device)
    loss = nn.functional.cross_entropy(torch.cat([logits, hard], 1), target)
    loss = loss + nn.functional.cross_entropy(to_image, target)
    return loss, (logits.diag()[:, None] > hard).all(1).float().mean()


# ---------------------------------------------------------------- steps


def set_rates(tools: Optimisers, run: Run, warmup: int, decay: float = 0.7) -> None:
    for tool in tools:
        for group in tool.param_groups:
            group["lr"] = run.rate(group["top"], warmup=warmup, decay=decay)


def descend(tools: Optimisers, loss: torch.Tensor, parameters: list[nn.Parameter]) -> torch.Tensor:
    """One step of all optimisers, gradients clipped to length 1; their length before."""
    for tool in tools:
        tool.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, 1.0)
    for tool in tools:
        tool.step()
    return norm
