"""Train the learned judge of videos: contrastively, with captions that are wrong in one word and videos that go wrong.

Videos are drawn ones, blurred and noised at random and, with --autoencoder, a part as the autoencoder gives them back
from noisy latents, so that the judge carries over to generated videos. Beside the other captions of the batch each
clip is held against captions that are wrong in one thing; beside the other videos each caption is held against its own
clip spoiled: another video takes over, or shines through, from some frame on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from genscale.toy.moving_shapes import DIRECTIONS, FRAMES, Prompt
from genscale.toy.shapes import COLOURS
from genscale.verifiers.video_clip import Towers, word_indices
from training.common import contrastive_loss, descend, options, set_rates, started
from training.moving_data import draw, to_unit
from training.optimiser import optimisers
from training.run import Run
from training.video_autoencoder import encode, load

HARD = 2  # wrong captions a video


def wrong(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """A caption that differs in one word, or in two that have changed places."""
    motions = list(prompt.motions)
    i = int(rng.integers(len(motions)))
    part = ("colour", "way")[int(rng.integers(2))]
    if len(motions) == 2 and rng.random() < 0.4:
        a, b = (getattr(m, part) for m in motions)
        if a != b:
            return Prompt((replace(motions[0], **{part: b}), replace(motions[1], **{part: a})))
    used = [m.colour for m in motions] if part == "colour" else [getattr(motions[i], part)]
    options = tuple(COLOURS if part == "colour" else DIRECTIONS)
    others = [o for o in options if o not in used]
    motions[i] = replace(motions[i], **{part: others[int(rng.integers(len(others)))]})
    return Prompt(tuple(motions))


def worsen(clips: torch.Tensor) -> torch.Tensor:
    """Some videos [n, frames, 3, h, w] in [0, 1] blurred, some noised."""
    n = len(clips)
    flat = nn.functional.pad(clips.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    blurred = nn.functional.avg_pool2d(flat, 3, 1).view_as(clips)
    share = 1.5 * (torch.rand(n, 1, 1, 1, 1) - 0.4).clamp(min=0)
    noise = 0.08 * torch.rand(n, 1, 1, 1, 1) * torch.randn_like(clips)
    return clips.lerp(blurred, share.clamp(max=1)) + noise


def spoil(clips: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """From some frame on another video of the batch takes over, or shines through by half."""
    n = len(clips)
    first = torch.from_numpy(rng.integers(0, FRAMES, n)).view(n, 1, 1, 1, 1)
    share = torch.from_numpy(np.where(rng.random(n) < 0.5, 0.5, 1.0)).float().view(n, 1, 1, 1, 1)
    later = (torch.arange(FRAMES).view(1, FRAMES, 1, 1, 1) >= first).float()
    return clips.lerp(clips.roll(1 + int(rng.integers(n - 1)), 0), later * share)


@torch.no_grad()
def softened(clips: np.ndarray, checkpoint: Path) -> torch.Tensor:
    """uint8 videos as the autoencoder gives them back, from latents with noise of a strength up to 0.6."""
    model = load(checkpoint)
    parts = []
    for start in range(0, len(clips), 64):
        with torch.autocast("cpu", torch.bfloat16):
            latents = encode(model, to_unit(clips[start : start + 64]))
            strength = 0.6 * torch.rand(len(latents), 1, 1, 1, 1) ** 2
            decoded = model.decode(latents + strength * torch.randn_like(latents)).sample
        parts.append(decoded.float().clamp(-1, 1).add(1).mul(127.5).byte().permute(0, 2, 3, 4, 1))
    return torch.cat(parts)


def main() -> None:
    parser = options(__doc__, minutes=5, batch=128, out="checkpoint and log")
    parser.add_argument("--autoencoder", type=Path, help="checkpoint of training.video_autoencoder")
    parser.add_argument("--export", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--clips", type=int, default=8192)
    parser.add_argument("--soft", type=int, default=2048, help="how many of them the autoencoder softens")
    args = started(parser)
    model = Towers()
    run = Run(args.out, args.minutes, {"towers": model}, seed=5)
    tools = optimisers(model, 2e-3, 1e-3, "see.|read.layers")
    parts = [draw(256, run.rng) for _ in range(args.clips // 256)]
    clips = torch.from_numpy(np.concatenate([part[0] for part in parts]))
    prompts = [p for part in parts for p in part[1]]
    if args.autoencoder:
        clips[: args.soft] = softened(clips[: args.soft].numpy(), args.autoencoder)
    for step in run.steps():
        set_rates(tools, run, warmup=50)
        rows = run.rng.integers(len(prompts), size=args.batch)
        chosen = [prompts[i] for i in rows]
        batch = clips[torch.from_numpy(rows)].permute(0, 1, 4, 2, 3).float().div(255)
        both = torch.cat([worsen(batch), worsen(spoil(batch, run.rng))])
        texts = [p.text for p in (*chosen, *(wrong(p, run.rng) for p in chosen for _ in range(HARD)))]
        with torch.autocast("cpu", torch.bfloat16):
            seen, named = model.clips(both).float(), model.captions(word_indices(texts)).float()
        n, scale = args.batch, model.logit_scale.exp().clamp(max=60)
        wrongs = named[n:].view(n, HARD, -1)
        loss, best = contrastive_loss(scale, seen[:n], named[:n], wrongs, texts[:n], spoiled=seen[n:])
        descend(tools, loss, list(model.parameters()))
        run.log(step, every=25, loss=loss.item(), hard_right=best.item())
    run.save()
    args.export.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()}, args.export / "model.safetensors"
    )


if __name__ == "__main__":
    main()
