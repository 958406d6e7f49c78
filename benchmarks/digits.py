"""Scikit-learn's 8x8 digits: a diffusion model without classes, a classifier that steers it, and a judge that does not.

The 1797 real digits are split once: half trains the diffusion model and the classifier (`seen`), a quarter trains the
judge (`judge`), and a quarter (`unseen`) is only what samples are compared with. All is trained here, in a minute or
two on one core, and kept under out/, which git ignores. With the classifier's log-probability of a class as reward,
strength 1, the tilted law is the model's own class-conditional law, p(x) p(c | x) / p(c).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bed import Bed
from genscale.diffusion.kernels import Ddim
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import Limit
from genscale.media import Media

GREYS, SIDE, CLASSES = 16, 8, 10
STEPS, WIDTH, BLOCKS, BATCH = 6000, 256, 4, 256
CACHE = Path("out/posterior")


@dataclass(frozen=True)
class Part:
    """Real digits: latents in [-1, 1] float32 [n, 64], classes [n]."""

    x: Tensor
    y: Tensor

    def of(self, digit: int) -> Tensor:
        return self.x[self.y == digit]

    def __getitem__(self, rows: Tensor) -> Part:
        return Part(self.x[rows], self.y[rows])


def real(seed: int = 0) -> dict[str, Part]:
    """The three parts, with every class in the same shares."""
    from sklearn.datasets import load_digits

    data = load_digits()
    whole = Part(torch.tensor(data.data).float() / (GREYS / 2) - 1, torch.tensor(data.target))
    g = torch.Generator().manual_seed(seed)
    rows: dict[str, list[Tensor]] = {"seen": [], "judge": [], "unseen": []}
    for digit in range(CLASSES):
        mine = (whole.y == digit).nonzero()[:, 0]
        mine = mine[torch.randperm(len(mine), generator=g)]
        half, quarter = len(mine) // 2, len(mine) * 3 // 4
        for name, part in zip(rows, mine.tensor_split((half, quarter)), strict=True):
            rows[name].append(part)
    return {name: whole[torch.cat(parts)] for name, parts in rows.items()}


def picture(x: Tensor) -> Tensor:
    """Latents [n, 64] to images [n, 1, 8, 8] in the 17 greys of the data, 0 to 1."""
    grey = ((x.float() + 1) * (GREYS / 2)).round().clamp(0, GREYS) / GREYS
    return grey.view(-1, 1, SIDE, SIDE)


# ---------------------------------------------------------------- the diffusion model


class Denoiser(nn.Module):
    """v-prediction at a time t of the cosine schedule, alpha = cos(pi t / 2): a residual MLP on 64 pixels."""

    def __init__(self, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(SIDE**2, width), nn.Linear(width, SIDE**2)
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.shifts = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * math.pi * torch.arange(1, 17, dtype=x.dtype)
        time, h = self.time(torch.cat([angle.sin(), angle.cos()], 1)), self.enter(x)
        for block, shift in zip(self.blocks, self.shifts, strict=True):
            h = h + block(h + shift(time))
        return self.leave(h)


def train_denoiser(part: Part, steps: int, seed: int, say: Callable[[str], None]) -> Denoiser:
    """AdamW with a cosine rate, and the exponential moving average of the weights (EMA 0.999) as the model."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed + 1)
    net, mean = Denoiser(), Denoiser()
    mean.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    start, losses = time.perf_counter(), []
    for step in range(steps):
        rows = torch.randint(len(part.x), (BATCH,), generator=g)
        # Within half a grey: images are rounded to greys in the end.
        x0 = part.x[rows] + (torch.rand(BATCH, SIDE**2, generator=g) - 0.5) * (2 / GREYS)
        eps = torch.randn(BATCH, SIDE**2, generator=g)
        t = torch.rand(BATCH, generator=g)
        alpha, sigma = (t * math.pi / 2).cos()[:, None], (t * math.pi / 2).sin()[:, None]
        loss = (net(alpha * x0 + sigma * eps, t) - (alpha * eps - sigma * x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        with torch.no_grad():
            keep = min(0.999, (1 + step) / (10 + step))
            for old, new in zip(mean.parameters(), net.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        losses.append(float(loss.detach()))
        if (step + 1) % 1000 == 0:
            taken, loss_now = time.perf_counter() - start, sum(losses[-500:]) / 500
            say(f"denoiser: step {step + 1}, loss {loss_now:.4f}, {taken:.0f} s")
    return mean.eval().requires_grad_(False)


def levels(steps: int) -> NoiseSchedule:
    """The cosine's levels, even in t, from just below pure noise (where no kernel would add any) to the data."""
    t = torch.linspace(0.999, 0.0, steps + 1, dtype=torch.float64) * math.pi / 2
    alpha, sigma = t.cos(), t.sin()
    alpha[-1], sigma[-1] = 1.0, 0.0
    return NoiseSchedule(alpha, sigma)


# ---------------------------------------------------------------- classifiers


class Classifier(nn.Module):
    """Log-probabilities of the classes of images [n, 1, 8, 8]; `temperature` is fitted on digits it did not learn
    from, so that they are calibrated."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE**2, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 16), nn.Tanh()
        )  # fmt: skip
        self.head = nn.Linear(16, CLASSES)
        self.register_buffer("temperature", torch.ones(()))

    def features(self, pictures: Tensor) -> Tensor:
        return self.body(pictures.float() * 2 - 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return (self.head(self.features(pictures)) / self.temperature).log_softmax(1)


def train_classifier(part: Part, seed: int, epochs: int = 400) -> Classifier:
    """On four fifths of a part; the last fifth sets the temperature, by the likelihood."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed + 1)
    order = torch.randperm(len(part.x), generator=g)
    held, used = part[order[: len(order) // 5]], part[order[len(order) // 5 :]]
    net = Classifier()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(used.x), generator=g).split(128):
            noisy = picture(used.x[rows] + 0.1 * torch.randn(len(rows), SIDE**2, generator=g))
            loss = nn.functional.nll_loss(net(noisy), used.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval().requires_grad_(False)
    grid = torch.linspace(-1.5, 1.5, 121).exp()
    logits = net.head(net.features(picture(held.x)))
    nll = torch.stack([nn.functional.cross_entropy(logits / t, held.y) for t in grid])
    net.temperature.fill_(float(grid[nll.argmin()]))
    return net


def quality(net: Classifier, part: Part) -> dict[str, float]:
    """On digits it has not seen: accuracy, mean log-likelihood, and the expected calibration error in ten bins."""
    log_p = net(picture(part.x)).double()
    sure, said = log_p.exp().max(1)
    right = (said == part.y).double()
    bins = (sure * 10).long().clamp(max=9)
    gaps = [(sure - right)[bins == b].sum().abs() for b in bins.unique()]
    return {
        "accuracy": float(right.mean()),
        "log_likelihood": float(log_p.gather(1, part.y[:, None]).mean()),
        "calibration_error": float(sum(gaps) / len(part.y)),
        "temperature": float(net.temperature),
    }


# ---------------------------------------------------------------- all together


@dataclass(frozen=True, eq=False)
class World:
    """The parts, the model and both classifiers."""

    parts: dict[str, Part]
    denoiser: Denoiser
    steers: Classifier
    judge: Classifier

    def bed(self, steps: int) -> Bed:
        def model(x: Tensor, level: NoiseLevel) -> Tensor:
            t = 2 / math.pi * math.atan2(level.sigma, level.alpha)
            return self.denoiser(x, torch.full((len(x),), t))

        def reward(media: Media, prompts: Any) -> Tensor:
            wanted = torch.tensor([int(p) for p in prompts])
            return self.steers(media.pixels).double().gather(1, wanted[:, None])[:, 0]

        return Bed((SIDE**2,), levels(steps), "v_prediction", Ddim(1.0), model, picture, reward, Limit(1.0))


def world(
    seed: int = 0, steps: int = STEPS, folder: Path = CACHE, say: Callable[[str], None] = print
) -> World:
    """Trained now, or read from where an earlier call of the same settings left it."""
    from safetensors.torch import load_file, save_file

    parts = real(seed)
    path = folder / f"digits-{seed}-{steps}-{WIDTH}x{BLOCKS}.safetensors"
    nets: dict[str, Any] = {"denoiser": Denoiser(), "steers": Classifier(), "judge": Classifier()}
    if path.exists():
        stored = load_file(path)
        for name, net in nets.items():
            mine = {k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")}
            net.load_state_dict(mine)
            net.eval().requires_grad_(False)
    else:
        nets["denoiser"] = train_denoiser(parts["seen"], steps, seed, say)
        nets["steers"] = train_classifier(parts["seen"], seed + 100)
        nets["judge"] = train_classifier(parts["judge"], seed + 200)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}
        save_file({k: v.contiguous() for k, v in weights.items()}, path)
    return World(parts, **nets)
