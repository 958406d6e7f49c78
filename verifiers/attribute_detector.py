"""A small convolutional detector of coloured shapes: where an object may be, its kind, its colour, and how surely.

It is trained on drawn scenes only (`training/attributes.py`), and shares no code with the exact judge in
`verifiers/shapes.py`, which can so be held out. The network answers per cell of 4 x 4 pixels in the manner of CenterNet
(Zhou et al. 2019, arXiv 1904.07850); cells that speak of the same object are then joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import genscale
from genscale.errors import UsageError
from genscale.toy.captions import COLOURS, KINDS
from genscale.toy.shapes import SIZE

FOLDER = Path(genscale.__file__).parent / "models" / "shapes-attributes"
CELL = 4  # pixels a side
CELLS = SIZE // CELL
APART = 10.0  # pixels; cells whose objects would be nearer to each other speak of one object
LEAST = 0.03  # least probability of an object that is counted
MOST = 6  # objects that are counted, the surest first

Numbers = npt.NDArray[np.float64]


class Detection(NamedTuple):
    """What may be one object.

    there: the probability that it is. x, y: its centre in the world's pixels. kinds: probabilities of `KINDS` and,
    last, of no known kind. colours: of `COLOURS` and, last, of no single one.
    """

    there: float
    x: float
    y: float
    kinds: Numbers
    colours: Numbers

    def noun(self, colour: str, kind: str) -> float:
        """The probability that the object, if there, is a `colour` `kind`; colour "": of any known."""
        of_kind = float(self.kinds[KINDS.index(kind)])
        return of_kind * float(self.colours[list(COLOURS).index(colour)] if colour else 1 - self.colours[-1])

    @property
    def known(self) -> float:
        """The probability that the object, if there, has a kind and a colour of the world."""
        return float((1 - self.kinds[-1]) * (1 - self.colours[-1]))


class Detector(nn.Module):
    """Images [n, 3, SIZE, SIZE] in [0, 1] to logits and places of every cell [n, CHANNELS, CELLS, CELLS]."""

    # object, its offset (x, y) in cells, its kind, its colour
    SPLIT: ClassVar[list[int]] = [1, 2, len(KINDS) + 1, len(COLOURS) + 1]

    def __init__(self, width: int = 64, inner: int = 80) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2 * CELL, CELL, CELL // 2)
        self.fine = nn.Sequential(Block(width), Block(width))
        self.down = _conv(width, inner, 2)
        self.coarse = nn.Sequential(Block(inner), Block(inner), Block(inner))
        self.up = nn.Conv2d(inner, width, 1)
        self.last = Block(width)
        self.head = nn.Conv2d(width, sum(self.SPLIT), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        fine = self.fine(self.stem(2 * pixels - 1))
        coarse = self.coarse(self.down(fine))
        wide = nn.functional.interpolate(self.up(coarse), scale_factor=2.0, mode="nearest")
        answer: Tensor = self.head(self.last(fine + wide))
        return answer


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), _conv(width, width), nn.GELU(), _conv(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.layers(x)
        return changed


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, 1)


def read_detector(folder: Path = FOLDER) -> Detector:
    """The trained detector in `folder`, in float32, frozen. UsageError: its file is missing."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise UsageError(f"shapes_attributes needs '{path}', which is missing: install genscale again.")
    detector = Detector()
    detector.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return detector.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def detections(detector: Detector, pixels: Tensor, batch_size: int) -> list[list[Detection]]:
    """What may be in each image of `pixels` [n, 3, h, w] in [0, 1], the surest first.

    Other sizes are resized to SIZE x SIZE, so places are in the world's pixels.
    """
    device = detector.head.weight.device
    found: list[list[Detection]] = []
    for part in torch.split(pixels, batch_size):
        part = resized(part.to(device, torch.float32))
        answers = detector(part.contiguous(memory_format=torch.channels_last))
        found += [_joined(answer) for answer in answers.double().cpu()]
    return found


def resized(pixels: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] as the detector takes them: [n, 3, SIZE, SIZE] in [0, 1]."""
    if pixels.shape[-2:] != (SIZE, SIZE):
        smaller = pixels.shape[-1] < SIZE
        pixels = nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear" if smaller else "area")
    return pixels.clamp(0, 1)


def soft_loss(answers: Tensor, wanted: Tensor) -> Tensor:
    """The training loss of answers [n, CHANNELS, CELLS, CELLS], the labels being other answers.

    Kind, colour and offset count as much as the labels are sure of an object there.
    """
    there, offset, kind, colour = torch.split(answers, Detector.SPLIT, 1)
    sure, place, kinds, colours = torch.split(wanted, Detector.SPLIT, 1)
    sure = sure.sigmoid()
    each = sure[:, 0] / (sure.sum() + 1e-3)
    of_kind = nn.functional.cross_entropy(kind, kinds.softmax(1), reduction="none")
    of_colour = nn.functional.cross_entropy(colour, colours.softmax(1), reduction="none")
    rest = of_kind + 0.7 * of_colour + (offset - place).abs().mean(1)
    loss: Tensor = 10 * nn.functional.binary_cross_entropy_with_logits(there, sure) + (each * rest).sum()
    return loss


def _joined(answer: Tensor) -> list[Detection]:
    """The cells of one image [CHANNELS, CELLS, CELLS] that may hold an object, one cell for each object."""
    there, offset, kind, colour = torch.split(answer.flatten(1), Detector.SPLIT)
    sure = there[0].sigmoid().numpy()
    kinds, colours = kind.softmax(0).T.numpy(), colour.softmax(0).T.numpy()
    rows, columns = np.divmod(np.arange(CELLS * CELLS), CELLS)
    places = CELL * (np.stack([columns, rows], 1) + 0.5 + offset.T.numpy())
    found: list[Detection] = []
    for i in np.argsort(-sure, kind="stable"):
        if sure[i] < LEAST or len(found) == MOST:
            break
        x, y = places[i]
        if all(np.hypot(x - f.x, y - f.y) >= APART for f in found):
            found.append(Detection(float(sure[i]), float(x), float(y), kinds[i], colours[i]))
    return found
