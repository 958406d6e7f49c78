"""The exact judge of the world of moving shapes: what moves where in a video, by geometry.

Every frame's objects are found as the judge of images finds them (`genscale.verifiers.shapes`). Objects of
consecutive frames are joined into tracks by nearness alone, so that a change of colour or kind is seen as one. No
network is involved, so the judge can be held out while a learned verifier steers a search.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from genscale.errors import UsageError
from genscale.toy.moving_shapes import DIRECTIONS, SIZE, Motion, Prompt, parse
from genscale.toy.shapes import Shape
from genscale.verifiers.shapes import objects

LEAST = 3  # frames that show a motion
ZOOM = 2
JUMP = 5.5  # pixels that an object may move between two frames
BACK = 0.5  # pixels that it may fall back in one frame: the centre of a small shape is known to about half a pixel
SLOWEST = 1.2  # pixels a frame, on the mean over the video; videos are drawn with 2 to 3
STRAY = 0.5  # of the way that may be gone across it
HELD = 0.75  # of the frames in which an object must have its colour, and of those in which its kind
SWELL = 1.4  # largest radius by smallest

PARTS = ("shape", "colour", "direction", "consistency")


@dataclass(frozen=True)
class Track:
    """One object through the frames from `start` on."""

    start: int
    shapes: tuple[Shape, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.shapes)


def detect(clip: npt.NDArray[np.uint8]) -> list[list[Shape]]:
    """The objects of every frame of `clip` [frames, height, width, 3]; lengths in the world's pixels.

    Frames are brought to ZOOM times the world's size: so small an outline is seen better between the pixels.
    """
    side = (ZOOM * SIZE, ZOOM * SIZE)
    pictures = (Image.fromarray(frame).resize(side, Image.Resampling.BILINEAR) for frame in clip)
    return [[_smaller(s) for s in objects(np.asarray(picture, np.float32))] for picture in pictures]


def _smaller(shape: Shape) -> Shape:
    return replace(shape, x=shape.x / ZOOM, y=shape.y / ZOOM, radius=shape.radius / ZOOM)


def tracks(found: Sequence[Sequence[Shape]]) -> list[Track]:
    """Objects joined from frame to frame, nearest pairs first, none further than JUMP apart."""
    done: list[Track] = []
    live: list[Track] = []
    for frame, shapes in enumerate(found):
        pairs = sorted(
            (math.hypot(t.shapes[-1].x - s.x, t.shapes[-1].y - s.y), i, j)
            for i, t in enumerate(live)
            for j, s in enumerate(shapes)
        )
        joined: dict[int, int] = {}  # shape: track
        for distance, i, j in pairs:
            if distance <= JUMP and j not in joined and i not in joined.values():
                joined[j] = i
        done += [t for i, t in enumerate(live) if i not in joined.values()]
        live = [
            Track(live[joined[j]].start, (*live[joined[j]].shapes, s)) if j in joined else Track(frame, (s,))
            for j, s in enumerate(shapes)
        ]
    return done + live


def moves(track: Track, way: str) -> bool:
    """Whether the track goes this way, steadily and straight."""
    path = np.array([(s.x, s.y) for s in track.shapes])
    along, across = path @ np.array(DIRECTIONS[way]), path @ np.array(DIRECTIONS[way][::-1])
    gone = float(along[-1] - along[0])
    return (
        len(path) > 1
        and gone >= SLOWEST * (len(path) - 1)
        and float(np.ptp(across)) <= STRAY * gone
        and float(np.diff(along).min()) >= -BACK
    )


def verdicts(track: Track, motion: Motion, frames: int) -> dict[str, bool]:
    """What of `motion` holds of a track, by part."""
    radii = [s.radius for s in track.shapes]
    most = max(Counter(s.noun for s in track.shapes).values())
    whole = track.start == 0 and track.end == frames
    return {
        "shape": sum(s.kind == motion.kind for s in track.shapes) >= HELD * frames,
        "colour": sum(s.colour == motion.colour for s in track.shapes) >= HELD * frames,
        "direction": whole and moves(track, motion.way),
        "consistency": whole and most >= HELD * frames and max(radii) <= SWELL * min(radii),
    }


def fraction(found: Sequence[Sequence[Shape]], prompt: Prompt) -> float:
    """The part of the caption that a video's objects meet, in [0, 1]; 1 exactly where all of it is met.

    Every object asked for has four parts, and every track beyond those asked for counts as four
    that are not met. Of the ways to take tracks for objects the best counts.
    """
    there, frames = tracks(found), len(found)
    parts = len(PARTS) * max(len(there), len(prompt.motions))
    met = [[sum(verdicts(t, m, frames).values()) for t in there] for m in prompt.motions]
    missing = [0] * max(0, len(prompt.motions) - len(there))
    best = max(
        sum(row[j] if j < len(there) else 0 for row, j in zip(met, order, strict=True))
        for order in itertools.permutations(range(len(there) + len(missing)), len(prompt.motions))
    )
    return best / parts


@dataclass(frozen=True)
class MovingShapes:
    """1 where a video shows what its caption says and nothing else, all the time, else 0; with `graded`, the fraction
    of the caption that is met.

    Each object must be there in every frame, keep its colour and its kind in three quarters of the frames, keep its
    size, and go the way that the caption says: at least 1.2 pixels a frame, straight, and steadily. Knows the captions
    of `genscale.toy.moving_shapes` only; another caption is a ValueError that says which words there are.

    graded: the fraction in place of 0 and 1.
    """

    graded: bool = False

    name: ClassVar[str] = "moving_shapes"
    judges_clips: ClassVar[bool] = True

    def __call__(self, media: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        """Scores [n], float32 in [0, 1], of `n` videos (lists of PIL images, or uint8 arrays [frames, h, w, 3])."""
        wanted = [parse(prompt) for prompt in prompts]
        scores = [fraction(detect(_frames(clip)), w) for clip, w in zip(media, wanted, strict=True)]
        return torch.tensor(scores if self.graded else [float(s == 1) for s in scores])


def _frames(clip: Any) -> npt.NDArray[np.uint8]:
    if isinstance(clip, Image.Image):
        raise UsageError(
            "moving_shapes judges videos and was given an image: take a model of videos, or shapes as judge."
        )
    frames = clip if isinstance(clip, np.ndarray) else np.stack([np.asarray(f.convert("RGB")) for f in clip])
    if len(frames) < LEAST:
        raise UsageError(
            f"moving_shapes cannot tell motion from {len(frames)} frame(s): give at least {LEAST}."
        )
    return frames
