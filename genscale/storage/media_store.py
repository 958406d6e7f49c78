"""Images, videos and texts by their content: where a search keeps what it did not make of latents.

Each is a file of its own, under the digest of its bytes: 8-bit images as PNG, texts as they are, all else as
safetensors. What a search
carries along in the place of latents is that digest, as numbers.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.storage.durable_files import save_bytes, stored, sync_folder

FOLDER = "media"
STORED = "stored"  # in the heading of an archive: where its images and videos are, if they were not made of latents
WORDS = 8  # 32-bit words of a digest; float64 holds each exactly, and NaN where there is no content
_PNG = b"\x89PNG"
_TEXT = b"\xef\xbb\xbf"  # the mark of UTF-8 files: no other kind begins with it
_SUFFIXES = {_PNG: ".png", _TEXT: ".txt", b"": ".safetensors"}


def missing() -> Tensor:
    """In place of a digest, where nothing was made; float64 [WORDS]."""
    return torch.full((WORDS,), float("nan"), dtype=torch.float64)


class MediaStore:
    """folder: of the run; None keeps everything in memory. Threads may share it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = None if folder is None else folder / FOLDER
        self._held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def put(self, item: Tensor | str) -> Tensor:
        """Keep an image [3, h, w] or a video [frames, 3, h, w], uint8 or float, or a text; its digest, float64 [WORDS].

        UsageError: it cannot be written.
        """
        data = _encoded(item)
        digest = hashlib.blake2b(data, digest_size=4 * WORDS).digest()
        name = digest.hex()
        with self._lock:
            if self.folder is None:
                self._held[name] = data
            else:
                self._write(self.folder, name, data)
        return torch.from_numpy(np.frombuffer(digest, dtype="<u4").astype(np.float64))

    def get(self, digest: Tensor) -> Tensor | str:
        """The pixels, in [0, 1], float, or the text. UsageError: they are not there, or the file was damaged."""
        name = name_of(digest)
        data = self._held.get(name)
        if data is None:
            data = self._read(name)
        return _decoded(data)

    def keep_only(self, digests: Iterable[Tensor]) -> None:
        """Forget what is in memory and not among these. Files stay."""
        names = set(map(name_of, digests))
        with self._lock:
            self._held = {name: data for name, data in self._held.items() if name in names}

    def copy(self, digests: Iterable[Tensor], folder: Path) -> None:
        """Write these into the folder of another run. OSError: it cannot be written."""
        there = folder / FOLDER
        for name in sorted(set(map(name_of, digests))):
            data = self._held.get(name) or self._read(name)
            path = _path(there, name, data)
            if not path.exists():
                there.mkdir(parents=True, exist_ok=True)
                save_bytes(path, data)

    def _write(self, folder: Path, name: str, data: bytes) -> None:
        path = _path(folder, name, data)
        try:
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                save_bytes(path, data, sync_name=False)
                sync_folder(folder)
        except OSError as error:
            raise UsageError(
                f"cannot write to '{folder}' ({error.strerror or error}): make room there and repeat the call, which "
                "goes on with what is there, or choose another output folder."
            ) from None

    def _read(self, name: str) -> bytes:
        if self.folder is None:
            raise UsageError("this image or video was not kept: give scale() a larger keep=.")
        paths = [self.folder / (name + suffix) for suffix in _SUFFIXES.values()]
        path = next((p for p in paths if p.exists()), paths[0])
        try:
            data = stored(path)
            if hashlib.blake2b(data, digest_size=4 * WORDS).hexdigest() == name:
                return data
            why = "it was damaged"
        except OSError as error:
            why = str(error.strerror or error)
        raise UsageError(
            f"'{path}' cannot be read ({why}): restore the file, or repeat the run in another folder."
        )


def name_of(digest: Tensor) -> str:
    """The file name of a digest [WORDS]."""
    return digest.cpu().numpy().astype("<u4").tobytes().hex()


def _path(folder: Path, name: str, data: bytes) -> Path:
    return folder / (name + next(suffix for mark, suffix in _SUFFIXES.items() if data.startswith(mark)))


def _encoded(item: Tensor | str) -> bytes:
    from PIL import Image
    from safetensors.torch import save

    if isinstance(item, str):
        return _TEXT + item.encode("utf-8", "surrogatepass")
    plain = item.detach().cpu().contiguous()
    if plain.dtype != torch.uint8 or plain.ndim != 3:
        return bytes(save({"pixels": plain}))
    file = io.BytesIO()
    Image.fromarray(plain.movedim(0, -1).numpy()).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _decoded(data: bytes) -> Tensor | str:
    from PIL import Image
    from safetensors.torch import load

    if data.startswith(_TEXT):
        return data[len(_TEXT) :].decode("utf-8", "surrogatepass")
    if data.startswith(_PNG):
        with Image.open(io.BytesIO(data)) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)
    else:
        pixels = load(data)["pixels"]
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
