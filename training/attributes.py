"""Train the detector of attributes: drawn scenes, made to look like generated images, and what each cell should answer.

Images are drawn ones, a part of them given back by the autoencoder from latents with noise and with a share of another
image's latents (as the clean estimates of early steps are mixtures of several images), then mirrored, blurred, noised
and tinted at random. No generated image and no judge is involved.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import nn

from genscale.toy.shapes import GROUND
from genscale.verifiers.attribute_detector import Detector
from training.attribute_data import IGNORED, draw
from training.common import descend, options, set_rates, started
from training.optimiser import optimisers
from training.run import Run

GHOST = 0.45  # largest share of another image in an image's latents
NOISE = 0.6  # largest standard deviation of the noise on latents, whose own is 1


@torch.no_grad()
def softened(images: torch.Tensor, vae: AutoencoderTiny) -> torch.Tensor:
    """uint8 images [n, 3, h, w] as the autoencoder gives them back; for a quarter with a ghost of another."""
    z = vae.encoder(images.float().div(127.5).sub(1))
    n = len(z)
    share = GHOST * torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.25)
    strength = NOISE * torch.rand(n, 1, 1, 1) ** 2
    z = torch.lerp(z, z.roll(1, 0), share) + strength * torch.randn_like(z)
    return vae.decoder(z).clamp(-1, 1).add(1).mul(127.5).round().byte()


def worsen(images: torch.Tensor) -> torch.Tensor:
    """Images [n, 3, h, w] in [0, 1], all tinted a little, some noised, the first half blurred."""
    n = len(images)
    ground = torch.tensor(GROUND).view(1, 3, 1, 1) / 255
    contrast, tint = 1 + 0.08 * torch.randn(n, 1, 1, 1), 0.015 * torch.randn(n, 3, 1, 1)
    images = ground + (images - ground) * contrast + tint
    for some in (images[: n // 2], images[: n // 4]):
        padded = nn.functional.pad(some, (1, 1, 1, 1), mode="replicate")
        some.lerp_(nn.functional.avg_pool2d(padded, 3, 1), torch.rand(len(some), 1, 1, 1))
    noised = images[::3]
    noised.add_(0.06 * torch.rand(len(noised), 1, 1, 1) * torch.randn_like(noised))
    return images.clamp(0, 1)


def mirrored(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with left and right exchanged: every kind is symmetric."""
    labels = labels.flip(-1).clone()
    labels[:, 3] = torch.where(labels[:, 3] == IGNORED, labels[:, 3], -labels[:, 3])
    return images.flip(-1), labels


def loss_of(answers: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Sum of the losses of object, kind, colour and offset; means over the cells that have a label."""
    there, offset, kind, colour = answers.split(Detector.SPLIT, 1)
    known = labels[:, 0] != IGNORED
    objects = nn.functional.binary_cross_entropy_with_logits(there[:, 0][known], labels[:, 0][known])
    kinds = nn.functional.cross_entropy(kind, labels[:, 1].long(), ignore_index=IGNORED)
    colours = nn.functional.cross_entropy(colour, labels[:, 2].long(), ignore_index=IGNORED)
    placed = labels[:, 3] != IGNORED
    difference = (offset - labels[:, 3:]).abs().mean(1)[placed]
    parts = {"objects": objects, "kinds": kinds, "colours": colours, "offset": difference.mean()}
    total = 10 * objects + kinds + 0.7 * colours + parts["offset"]
    return total, {name: float(part.detach()) for name, part in parts.items()}


def save(model: Detector, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def main() -> None:
    parser = options(__doc__, minutes=14, batch=64, out="checkpoint and log")
    parser.add_argument("--autoencoder", type=Path, default=Path("genscale/models/shapes-flow/vae"))
    parser.add_argument("--export", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--scenes", type=int, default=10_240)
    args = started(parser)
    model = Detector()
    run = Run(args.out, args.minutes, {"detector": model}, seed=5)
    model.to(run.device, memory_format=torch.channels_last)
    tools = optimisers(model, 4e-3, 2e-3, "layers|down")
    vae = AutoencoderTiny.from_pretrained(args.autoencoder).requires_grad_(False)
    parts = [draw(64, run.rng) for _ in range(args.scenes // 64)]
    images = torch.stack(
        [torch.cat([p for p, _ in parts]), torch.cat([softened(p, vae) for p, _ in parts])], 1
    )
    labels = torch.cat([found for _, found in parts])
    for step in run.steps():
        set_rates(tools, run, warmup=50)
        rows = torch.from_numpy(run.rng.integers(len(images), size=args.batch))
        which = torch.from_numpy((run.rng.random(args.batch) < 0.6).astype("int64"))
        batch, wanted = worsen(images[rows, which].float().div(255)), labels[rows]
        if step % 2:
            batch, wanted = mirrored(batch, wanted)
        batch = batch.to(run.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(run.device.type, torch.bfloat16):
            answers = model(batch)
        loss, found = loss_of(answers.float(), wanted.to(run.device))
        descend(tools, loss, list(model.parameters()))
        run.log(step, every=25, loss=loss.item(), **found)
    run.save()
    save(model, args.export)


if __name__ == "__main__":
    main()
