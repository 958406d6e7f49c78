"""The exact verifier of the toy world of moving shapes: what moves where in a video, by geometry.

The objects of every frame are found as in images (`genscale.verifiers.shapes`). Objects of consecutive frames are
joined into tracks by distance alone, so that a change of colour or kind is noticed. No network is involved, so it can
be held out while a learned verifier steers a search.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from genscale.errors import UsageError
from genscale.toy.moving_shapes import DIRECTIONS, SIZE, Motion, Prompt, parse
from genscale.toy.shapes import Shape
from genscale.verifiers.shapes import check_captions, objects

MIN_FRAMES = 3  # least number of frames that show a motion
ZOOM = 2
JUMP = 5.5  # pixels that an object may move between two frames
BACKWARD = (
    0.5  # pixels that it may move backwards in one frame: centres of small shapes are known to half a pixel
)
MIN_SPEED = 1.2  # pixels a frame, mean over the video; training videos have 2 to 3
MAX_DEVIATION = 0.5  # sideways extent, as a fraction of the distance travelled
MIN_SHARE = 0.75  # of the frames in which an object must have its colour, and in which its kind
MAX_GROWTH = 1.4  # largest radius divided by smallest

PARTS = ("shape", "colour", "direction", "consistency")


class Track(NamedTuple):
    """One object through the frames from `start` on."""

    start: int
    shapes: tuple[Shape, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.shapes)


def detect(video: npt.NDArray[np.uint8]) -> list[list[Shape]]:
    """The objects of every frame of `video` [frames, height, width, 3]; lengths in the world's pixels.

    Frames are resized to ZOOM times the world's size, which locates outlines between the pixels.
    """
    side = (ZOOM * SIZE, ZOOM * SIZE)
    images = (Image.fromarray(frame).resize(side, Image.Resampling.BILINEAR) for frame in video)
    return [[_smaller(s) for s in objects(np.asarray(image, np.float32))] for image in images]


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
    """Whether the track moves in this direction, steadily and straight."""
    path = np.array([(s.x, s.y) for s in track.shapes])
    along, across = path @ np.array(DIRECTIONS[way]), path @ np.array(DIRECTIONS[way][::-1])
    distance = float(along[-1] - along[0])
    return (
        len(path) > 1
        and distance >= MIN_SPEED * (len(path) - 1)
        and float(np.ptp(across)) <= MAX_DEVIATION * distance
        and float(np.diff(along).min()) >= -BACKWARD
    )


def satisfied_parts(track: Track, motion: Motion, frames: int) -> dict[str, bool]:
    """Which parts of `motion` a track satisfies."""
    radii = [s.radius for s in track.shapes]
    most = max(Counter(s.noun for s in track.shapes).values())
    whole = track.start == 0 and track.end == frames
    return {
        "shape": sum(s.kind == motion.kind for s in track.shapes) >= MIN_SHARE * frames,
        "colour": sum(s.colour == motion.colour for s in track.shapes) >= MIN_SHARE * frames,
        "direction": whole and moves(track, motion.way),
        "consistency": whole and most >= MIN_SHARE * frames and max(radii) <= MAX_GROWTH * min(radii),
    }


def fraction(found: Sequence[Sequence[Shape]], prompt: Prompt) -> float:
    """The part of the caption that a video's objects meet, in [0, 1]; 1 exactly where all of it is met.

    Every object of the caption has four parts, and every further track counts as four parts that are not met. The best
    assignment of tracks to objects counts.
    """
    found_tracks, frames = tracks(found), len(found)
    parts = len(PARTS) * max(len(found_tracks), len(prompt.motions))
    met = [[sum(satisfied_parts(t, m, frames).values()) for t in found_tracks] for m in prompt.motions]
    missing = [0] * max(0, len(prompt.motions) - len(found_tracks))
    best = max(
        sum(row[j] if j < len(found_tracks) else 0 for row, j in zip(met, order, strict=True))
        for order in itertools.permutations(range(len(found_tracks) + len(missing)), len(prompt.motions))
    )
    return best / parts


@dataclass(frozen=True)
class MovingShapes:
    """1 where every frame of a video shows what its caption says and nothing else, else 0; with `graded`, the fraction
    of the caption that is met.

    Each object must be there in every frame, keep its colour and its kind in three quarters of the frames, keep its
    size, and go the way that the caption says: at least 1.2 pixels a frame, straight, and steadily. Knows the captions
    of `genscale.toy.moving_shapes` only; another caption is a ValueError that says which words there are.

    graded: the fraction in place of 0 and 1.
    """

    graded: bool = False

    name: ClassVar[str] = "moving_shapes"
    reads_prompts: ClassVar[bool] = True
    judges_videos: ClassVar[bool] = True

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """UsageError for a prompt that is no caption of the world."""
        check_captions("moving_shapes", parse, prompts)

    def __call__(self, media: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        """Scores [n], float32 in [0, 1], of `n` videos (lists of PIL images, or uint8 arrays [frames, h, w, 3])."""
        wanted = [parse(prompt) for prompt in prompts]
        scores = [fraction(detect(_frames(video)), w) for video, w in zip(media, wanted, strict=True)]
        return torch.tensor(scores if self.graded else [float(s == 1) for s in scores])


def _frames(video: Any) -> npt.NDArray[np.uint8]:
    if isinstance(video, Image.Image):
        raise UsageError(
            "moving_shapes scores videos and was given an image: use a video model, or the verifier shapes."
        )
    frames = (
        video if isinstance(video, np.ndarray) else np.stack([np.asarray(f.convert("RGB")) for f in video])
    )
    if len(frames) < MIN_FRAMES:
        raise UsageError(
            f"moving_shapes cannot tell motion from {len(frames)} frame(s): give at least {MIN_FRAMES}."
        )
    return frames
