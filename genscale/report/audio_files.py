"""Audio files: WAV of 32-bit floats, which keeps every sample, and FLAC, which is smaller and rounds to 24 bits.

WAV is written here, since its metadata may be of any length and the same sound gives the same bytes. Other formats are
read and written by the package soundfile.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genscale.errors import UsageError
from genscale.media_items import Audio

FORMATS = ("wav", "flac")
AUDIOS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Endings of files that are read as sounds."""
_FLOAT, _LARGEST = 3, 2**32 - 1
MISSING = "needs the package soundfile: pip install 'genscale[audio]'"


def write_audio(path: Path, kind: str, audio: Audio, comment: str | None = None) -> None:
    """kind: one of FORMATS. comment: text stored in the file. UsageError: the package for it is missing."""
    {"wav": _write_wav, "flac": _write_flac}[kind](path, audio, comment)


def check_format(kind: str) -> None:
    """UsageError: the package that writes this format is missing."""
    if kind != "wav":
        _soundfile(f"a {kind} file")


def read_audio(path: Path) -> Audio:
    """The sound in a file. UsageError where it cannot be read."""
    try:
        found = _read_float_wav(path) if path.suffix.lower() == ".wav" else None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read as a sound: {error.strerror}.") from None
    if found is not None:
        return found
    library = _soundfile(f"'{path}'")
    try:
        samples, rate = library.read(str(path), dtype="float32", always_2d=True)
    except Exception as error:  # damaged files make readers raise exceptions of any kind
        raise UsageError(f"'{path}' cannot be read as a sound: {type(error).__name__}.") from None
    if len(samples) == 0:
        raise UsageError(f"'{path}' cannot be read as a sound: it has no samples.")
    return Audio(np.ascontiguousarray(samples.T), int(rate))


def comment_of(path: Path) -> str | None:
    """The comment in a sound file; None where it has none. OSError where it cannot be read."""
    if path.suffix.lower() == ".wav":
        return _comment_of_wav(path)
    library = _soundfile(f"'{path}'")
    try:
        with library.SoundFile(str(path)) as file:
            return file.comment or None
    except library.LibsndfileError:
        raise OSError(None, "it is not a sound") from None


def fingerprint(audio: Audio) -> dict[str, Any]:
    """The size of a sound, and a hash of all its samples."""
    channels, samples = audio.waveform.shape
    digest = hashlib.sha256(np.ascontiguousarray(audio.waveform, dtype="<f4").tobytes()).hexdigest()
    return {"shape": [channels, samples], "sampling_rate": audio.sampling_rate, "sha256": digest}


# ---------------------------------------------------------------- WAV


def _write_wav(path: Path, audio: Audio, comment: str | None) -> None:
    """RIFF: the format, the comment as ICMT of an INFO list, the samples."""
    channels, samples = audio.waveform.shape
    data = np.ascontiguousarray(audio.waveform.T, dtype="<f4").tobytes()
    rate, frame = audio.sampling_rate, 4 * channels
    chunks = _chunk(b"fmt ", struct.pack("<HHIIHHH", _FLOAT, channels, rate, rate * frame, frame, 32, 0))
    chunks += _chunk(b"fact", struct.pack("<I", samples))
    if comment is not None:
        chunks += _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment.encode() + b"\0"))
    size = len(b"WAVE") + len(chunks) + 8 + len(data)
    if size > _LARGEST:
        raise UsageError(f"a sound of {samples:,} samples is too long for a WAV file: give --formats flac.")
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", size) + b"WAVE" + chunks)
        file.write(b"data" + struct.pack("<I", len(data)) + data)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of the chunks of a RIFF file; what is behind a damaged one is left out."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _riff(path: Path) -> dict[bytes, bytes]:
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise OSError(None, "it is not a sound")
    return dict(_chunks(data))


def _comment_of_wav(path: Path) -> str | None:
    found = _riff(path).get(b"LIST", b"")
    if found[:4] != b"INFO":
        return None
    inside = dict(_chunks(b"\0" * 12 + found[4:]))
    text = inside.get(b"ICMT", b"").split(b"\0")[0]
    return text.decode(errors="replace") or None


def _read_float_wav(path: Path) -> Audio | None:
    """A file as `_write_wav` makes them; None of any other."""
    chunks = _riff(path)
    form, data = chunks.get(b"fmt ", b""), chunks.get(b"data", b"")
    if len(form) < 16:
        return None
    code, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if (code, bits) != (_FLOAT, 32) or not channels or frame != 4 * channels or not data or len(data) % frame:
        return None
    samples = np.frombuffer(data, dtype="<f4").reshape(-1, channels)
    return Audio(np.ascontiguousarray(samples.T.astype(np.float32)), rate)


# ---------------------------------------------------------------- soundfile


def _write_flac(path: Path, audio: Audio, comment: str | None) -> None:
    """24 bits; what is beyond full scale is cut."""
    library = _soundfile("a flac file")
    channels = len(audio.waveform)
    with library.SoundFile(
        str(path), "w", audio.sampling_rate, channels, format="FLAC", subtype="PCM_24"
    ) as file:
        if comment is not None:
            file.comment = comment
        file.write(np.nan_to_num(audio.waveform.T).clip(-1, 1))


def _soundfile(what: str) -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its library is missing
        raise UsageError(f"{what} {MISSING}.") from None
    return soundfile
