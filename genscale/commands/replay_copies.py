"""What `genscale replay` compares: the content of a file, and of the one that was made again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from genscale.errors import UsageError
from genscale.media_items import Audio
from genscale.report import audio_files, data_files, image_files, item_pictures, video_files

if TYPE_CHECKING:
    from genscale.media import Item

PIXELS, SAMPLES, NUMBERS = "pixels", "samples", "numbers"
TOLD = ("clip", "content")  # what the metadata says of the content of a video, and of other items than images


@dataclass(frozen=True)
class Content:
    """values: all that a file holds, or of a video its first frame; None where the format has lost some or holds only a
    picture of it. told: what its metadata says of it (`image_files.fingerprint`); empty for an image."""

    values: np.ndarray | None
    told: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """What its numbers are called."""
        if "content" not in self.told:
            return PIXELS
        return SAMPLES if "sampling_rate" in self.told["content"] else NUMBERS

    @property
    def formats(self) -> tuple[str, ...]:
        """In which files it can be written."""
        if "clip" in self.told:
            return ("png", *video_files.FORMATS)
        if self.unit == SAMPLES:
            return ("png", *audio_files.FORMATS)
        return ("png",) if self.unit == PIXELS else ("png", self.own_format)

    @property
    def own_format(self) -> str:
        """The file that holds it without loss, as far as there is one."""
        if self.unit == PIXELS:
            return "png"
        kind = self.told["content"].get("kind")
        return "wav" if self.unit == SAMPLES else {"text": "txt", "mesh": "glb"}.get(kind, "npz")

    @staticmethod
    def of_file(path: Path, told: Mapping[str, Any]) -> Content:
        """UsageError: a video file that does not say what its frames were."""
        ending, told = path.suffix.lower(), {name: told[name] for name in TOLD if told.get(name)}
        if ending in video_files.VIDEOS and "clip" not in told:
            raise UsageError(f"'{path}' does not say what its frames were: replay the PNG beside it.")
        if ending == ".wav":
            return Content(audio_files.read_audio(path).waveform, told)
        if ending in data_files.ENDINGS:
            return Content(data_files.read_values(path), told)
        if ending != ".png" or "content" in told:
            return Content(None, told)
        with Image.open(path) as opened:
            return Content(np.asarray(opened.convert("RGB")), told)

    @staticmethod
    def of_item(item: Item) -> Content:
        told = image_files.fingerprint(item)
        if isinstance(item, Image.Image | list):
            return Content(np.asarray(item_pictures.picture(item).convert("RGB")), told)
        return Content(item.waveform if isinstance(item, Audio) else data_files.values_of(item), told)

    def compared(self, made: Content) -> dict[str, Any]:
        """How what was made again differs from this: same, differing, of, largest, unit, and of videos frames."""
        if self.values is None or made.values is None:
            found: dict[str, Any] = {"same": True, "differing": None, "of": None, "largest": None}
        else:
            found = difference(self.values, made.values)
        found |= {"same": found["same"] and dict(self.told) == dict(made.told), "unit": self.unit}
        return found | ({"frames": self.told["clip"].get("frames")} if "clip" in self.told else {})


def difference(wanted: np.ndarray, made: np.ndarray) -> dict[str, Any]:
    """How many differ, and by how much at most; where shapes differ all do.

    Of 8-bit images [h, w, 3] pixels count, which differ in any channel; of other arrays numbers.
    """
    image = wanted.dtype == np.uint8 and wanted.ndim == 3
    total = wanted.size // (3 if image else 1)
    if wanted.shape != made.shape:
        return {"same": False, "differing": total, "of": total, "largest": None}
    gap = (
        np.abs(wanted.astype(np.int16) - made.astype(np.int16))
        if wanted.dtype == np.uint8
        else np.abs(wanted - made)
    )
    differing = int((gap.max(axis=-1) > 0).sum()) if image else int((wanted != made).sum())
    largest = gap.max(initial=0)
    return {
        "same": differing == 0,
        "differing": differing,
        "of": total,
        "largest": int(largest) if image else float(largest),
    }


@dataclass(frozen=True)
class Copy:
    """What was made again, and the bytes of the file to write."""

    content: Content
    file: bytes

    def save(self, path: Path) -> None:
        path.write_bytes(self.file)

    @staticmethod
    def of_item(item: Item, kind: str, request: Mapping[str, Any]) -> Copy:
        """kind: the format of the file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"copy.{kind}"
            if kind == "png":
                item_pictures.picture(item).save(path)
            else:
                image_files.writer(item, kind, request, None)(path)
            return Copy(Content.of_item(item), path.read_bytes())

    @staticmethod
    def of_files(path: Path, kind: str, told: Mapping[str, Any]) -> Copy:
        """From the files that a search wrote under one name. told: the metadata of the PNG at `path`."""
        said = Content(None, {name: told[name] for name in TOLD if told.get(name)})
        return Copy(
            Content.of_file(path.with_suffix(f".{said.own_format}"), told),
            path.with_suffix(f".{kind}").read_bytes(),
        )
