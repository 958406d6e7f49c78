"""`genscale score`: the scores that verifiers give to files of images, videos and sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from genscale.engine.judged_kinds import check_judges
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.errors import UsageError
from genscale.media import Media, cat_media
from genscale.media_items import AUDIO
from genscale.report import audio_files, read_image, video_files
from genscale.runs import verifier_specs
from genscale.runs.file_metadata import read_metadata
from genscale.runs.request import Request

BATCH = 16


@dataclass(frozen=True)
class Scored:
    """A file with its scores, by verifier."""

    file: str
    prompt: str
    scores: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verifiers_of(specs: Sequence[str], per_frame: int = Request.per_frame) -> VerifierSet:
    """Verifiers as on the command line, scoring separately. per_frame: frames of a video for image verifiers."""
    from genscale.engine.verifier_roles import verifier_set

    return verifier_set(
        verifier_specs.on_frames(verifier_specs.weighted_verifiers(specs), per_frame), "weighted"
    )


def score(files: Sequence[Path], prompt: str | None, verifiers: Sequence[str]) -> list[Scored]:
    """In the order of the files. Prompt and verifiers are those in the images' metadata where none are given."""
    told = [None if prompt and verifiers else _metadata(file) for file in files]
    prompts = [prompt or _prompt(file, data) for file, data in zip(files, told, strict=True)]
    panel = verifiers_of(verifiers or _verifiers(told))
    media_of = [read_media(file) for file in files]
    for file, media in zip(files, media_of, strict=True):
        check_judges(Roles(panel), {media.kind}, f"'{file}' holds")
    panel.prepare(prompts, torch.device("cpu"))
    rows: dict[int, Tensor] = {}
    for some in _alike(media_of):
        media = cat_media([media_of[i] for i in some])
        raw = panel.score(media, [prompts[i] for i in some], [f"'{files[i]}'" for i in some], Ledger())
        rows |= dict(zip(some, raw, strict=True))
    scores: dict[int, dict[str, float]] = {}
    for text in dict.fromkeys(prompts):  # files of one prompt are compared with each other
        same = [i for i, of in enumerate(prompts) if of == text]
        readable = panel.readable(torch.stack([rows[i] for i in same]))
        scores |= {i: panel.named(row) for i, row in zip(same, readable, strict=True)}
    return [Scored(str(file), prompts[i], scores[i]) for i, file in enumerate(files)]


def read_media(path: Path) -> Media:
    """The one image, video or sound in a file. UsageError where it cannot be read."""
    if path.suffix.lower() in audio_files.AUDIOS:
        _check_file(path)
        audio = audio_files.read_audio(path)
        return Media(torch.from_numpy(audio.waveform)[None], AUDIO, audio.sampling_rate)
    return Media(read_pixels(path)[None])


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"'{path}' is not a file: name images, videos or sounds.")


def read_pixels(path: Path) -> Tensor:
    """Pixels in [0, 1]: [3, h, w] of an image, [frames, 3, h, w] of a video. UsageError where it cannot be read."""
    _check_file(path)
    is_video = path.suffix.lower() in video_files.VIDEOS
    frames = video_files.read_frames(path) if is_video else read_image.read_frames(path, f"'{path}'")
    tensors = [torch.from_numpy(np.array(frame)).movedim(-1, 0).float() / 255 for frame in frames]
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors)


def print_scores(rows: Sequence[Scored], console: Console) -> None:
    """Print a table with one line per file; the prompt is above it where all files share one."""
    prompts = {row.prompt for row in rows}
    if len(prompts) == 1:
        console.print(Text(rows[0].prompt, style="dim"))
    names = list(rows[0].scores)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("file", *([] if len(prompts) == 1 else ["prompt"]), *names):
        table.add_column(title, justify="right" if title in names else "left", overflow="fold")
    for row in rows:
        middle = [] if len(prompts) == 1 else [Text(row.prompt)]
        table.add_row(Text(row.file), *middle, *(f"{row.scores[name]:.4g}" for name in names))
    console.print(table)


def _metadata(file: Path) -> dict[str, Any] | None:
    try:
        return read_metadata(file)
    except UsageError:
        return None


def _prompt(file: Path, data: dict[str, Any] | None) -> str:
    if data is None or not isinstance(data.get("prompt"), str):
        raise UsageError(f"'{file}' does not say what it shows: give --prompt TEXT.")
    return str(data["prompt"])


def _verifiers(told: Sequence[dict[str, Any] | None]) -> list[str]:
    """Those of the files' own searches, but for code from a module, which is imported only when named again."""
    found: dict[str, None] = {}
    for data in told:
        request = {} if data is None else data["request"]
        names = [n for role in ("verifiers", "select", "held_out") for n in _texts(request.get(role))]
        found |= dict.fromkeys(n for n in names if n != "none" and not verifier_specs.needs_trust([n]))
    bare = {verifier_specs.unweighted(name): None for name in found}
    return list(bare) or ["clip"]


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _alike(media: Sequence[Media]) -> list[list[int]]:
    """Indices of files of one kind, shape and sampling rate, in batches."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(media):
        groups.setdefault((one.kind, tuple(one.tensor.shape), one.sampling_rate), []).append(i)
    return [group[k : k + BATCH] for group in groups.values() for k in range(0, len(group), BATCH)]
