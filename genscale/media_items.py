"""The kinds of media, and single items of those that neither Pillow nor Python has a class for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

IMAGE, VIDEO, AUDIO, DEPTH, NORMALS = "image", "video", "audio", "depth", "normals"
EMBEDDING, TEXT, MESH, LATENT = "embedding", "text", "mesh", "latent"

KINDS = (IMAGE, VIDEO, AUDIO, DEPTH, NORMALS, EMBEDDING, TEXT, MESH, LATENT)
PIXELS = frozenset({IMAGE, VIDEO, DEPTH, NORMALS})
"""Kinds whose tensor is of pixels."""

_PLURALS = {IMAGE: "images", VIDEO: "videos", DEPTH: "depth maps", NORMALS: "maps of normals"} | {
    EMBEDDING: "embeddings",
    MESH: "meshes",
    LATENT: "latents",
}


def plural(kind: str) -> str:
    """A kind as it is named in messages."""
    return _PLURALS.get(kind, kind)


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound. waveform: float32 [channels, samples], full scale is [-1, 1]. sampling_rate: samples a second."""

    waveform: np.ndarray
    sampling_rate: int

    @property
    def seconds(self) -> float:
        return float(self.waveform.shape[1] / self.sampling_rate)


@dataclass(frozen=True, eq=False)
class Map:
    """What a pipeline says of every pixel of an image.

    kind: DEPTH, with values float32 [h, w], larger is farther; or NORMALS, with unit vectors float32 [h, w, 3].
    """

    values: np.ndarray
    kind: str


@dataclass(frozen=True, eq=False)
class Vector:
    """An embedding or a latent: values float32 of any shape. kind: EMBEDDING or LATENT."""

    values: np.ndarray
    kind: str


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    vertices: float32 [v, 3]. faces: int64 [f, 3], indices of vertices. colours: float32 [v, 3] in [0, 1], or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray | None = field(default=None)
