"""Carrying out `genscale replay`: the picture again from what it says of itself, and whether its pixels are the same.

A picture that started from a key of its own and ran on the pipeline's own scheduler is made alone. Batched kernels
may round otherwise than in the search's batches; where that shows, and for every other kind of candidate (branches,
neighbours, mutants, kernels of their own), the whole search is run again as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from genscale import archive, generation, jury, outputs, plugins
from genscale import request as requests
from genscale.arguments import arguments
from genscale.errors import Refusal
from genscale.key import Key
from genscale.particles import OWN, Candidate
from genscale.progress import Display
from genscale.protocol import Ask, Process, Score, Solve
from genscale.request import Request
from genscale.run_folder import RunFolder

CANDIDATE, SEARCH = "candidate", "search"


@dataclass(frozen=True)
class One:
    """One candidate from its recipe, carried to the end by the pipeline's own scheduler. Cost: f."""

    candidate: Candidate

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Ask, Any, None]:
        finished = yield Solve(process.start([self.candidate]))
        yield Score(finished)

    def cost(self, process: Process) -> int | None:
        return process.nfe()


@dataclass(frozen=True)
class Origin:
    """What a picture says of itself. shows: its candidate, None in pictures of earlier versions."""

    request: Request
    index: int
    file: str
    shows: Candidate | None
    versions: dict[str, str]

    @staticmethod
    def read(picture: Path) -> Origin:
        data = requests.metadata(picture)
        request = requests.load_request(picture)
        try:
            shows = archive.candidate_of(data["shows"]) if "shows" in data else None
            index = int(data.get("index", 0))
            request.prompts[index]
        except (KeyError, TypeError, ValueError, IndexError):
            raise Refusal(f"picture '{picture}' carries genscale metadata that cannot be read.") from None
        stem = "base" if data.get("is_base") else "best"
        stem = f"{index:03d}-{stem}" if len(request.prompts) > 1 else stem
        return Origin(request, index, data.get("file", f"{stem}.png"), shows, data.get("versions", {}))

    @property
    def alone(self) -> Candidate | None:
        """The candidate, if it can be made without its search: from a key, on the pipeline's own scheduler and grid."""
        if self.shows is None or self.shows.origin not in ("own", "prior") or self.shows.step != 0:
            return None
        sampler = plugins.load("sampler", self.request.sampler)
        kernel = self.request.sampler_fields.get("kernel", getattr(sampler, "kernel", None))
        own = kernel in (None, "own") and getattr(sampler, "grid", None) is None
        return self.shows if own or (self.shows.id == OWN and self.file.endswith("base.png")) else None


def replay(
    picture: Path, out: Path | None, display: Display, *, device: str | None = None, trust: bool = False
) -> dict[str, Any]:
    """Make the picture again, write it, compare: same, differing (pixels), of, largest (difference of 255), how."""
    origin = Origin.read(picture)
    request = replace(origin.request, trust_remote_code=trust)
    origin = replace(origin, request=request if device is None else replace(request, device=device))
    with Image.open(picture) as image:
        wanted = image.convert("RGB")
    path = (out or picture.with_name(f"{picture.stem}-replay.png")).expanduser()
    if path.resolve() == picture.expanduser().resolve():
        raise Refusal(f"--out '{path}' is the picture itself: choose another file.")
    folder = RunFolder(path.parent)
    folder.claim()
    made, how, nfe = _made(origin, wanted, display)
    folder.write(path.name, partial(made.save, format="PNG"))
    here = outputs.versions()
    return {
        "picture": str(picture),
        "replay": str(path),
        **difference(wanted, made),
        "how": how,
        "nfe": nfe,
        "other_versions": {k: [v, here.get(k)] for k, v in origin.versions.items() if here.get(k) != v},
    }


def difference(wanted: Image.Image, made: Image.Image) -> dict[str, Any]:
    """Pixels that differ in any channel, and by how much at most; of pictures of two sizes all differ."""
    total = wanted.width * wanted.height
    if wanted.size != made.size:
        return {"same": False, "differing": total, "of": total, "largest": None}
    gap = np.abs(np.asarray(wanted, dtype=np.int16) - np.asarray(made.convert("RGB"), dtype=np.int16))
    differing = int((gap.max(axis=-1) > 0).sum())
    return {"same": differing == 0, "differing": differing, "of": total, "largest": int(gap.max())}


def _made(origin: Origin, wanted: Image.Image, display: Display) -> tuple[Image.Image, str, int]:
    """(picture, how, NFE)."""
    candidate, spent = origin.alone, 0
    if candidate is not None:
        made, spent = _candidate(origin, candidate)
        if difference(wanted, made)["same"]:
            return made, CANDIDATE, spent
        display.say("made alone, its pixels are not the same (batches round otherwise): searching again")
    request = origin.request
    foreign = jury.foreign([*request.verifiers, *request.select])
    if foreign:
        raise Refusal(
            f"its search asks for code from a module ({foreign[0]}): name it again, with genscale generate --from "
            "PICTURE --verifier."
        )
    held_out = tuple(name for name in request.report if not jury.foreign([name]))  # they decide nothing
    origin = replace(origin, request=replace(request, report=held_out or generation.NONE))
    made, nfe = _searched(origin, display)
    return made, SEARCH, spent + nfe


def _candidate(origin: Origin, candidate: Candidate) -> tuple[Image.Image, int]:
    """The one candidate. The pipeline's own latents are a row of the whole call's; other noises are the key's alone."""
    request = replace(generation.completed(origin.request), images=1)
    index = origin.index
    if candidate.id != OWN:
        request, index = replace(request, prompts=(request.prompts[index],)), 0
    pipe, parts = generation.pipe_alone(request)
    scaled = generation.scaled_pipe(pipe, request, replace(parts, sampler=One(candidate)))
    output = scaled(**arguments(pipe, request, parts.pictures))
    if output.search.stopped is not None:
        raise KeyboardInterrupt
    items = output.frames if hasattr(output, "frames") else output.images
    return _still(items[index]), output.search.ledger.evaluations


def _searched(origin: Origin, display: Display) -> tuple[Image.Image, int]:
    """The picture of that name after the whole search, all prompts of it, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        record = generation.generate(replace(origin.request, metadata=True), Path(folder), display)
        if record["stopped"] is not None:
            raise KeyboardInterrupt
        path = Path(folder) / origin.file
        if not path.is_file():
            raise Refusal(
                f"the search gave no {origin.file} this time: it had another end, with other options."
            )
        with Image.open(path) as image:
            found = Origin.read(path).shows
            if origin.shows is not None and found != origin.shows:
                display.say(
                    f"the search ended with candidate {found.id if found else '?'}, not {origin.shows.id}: it was "
                    "interrupted, or ended by seconds, or this machine rounds otherwise"
                )
            return image.convert("RGB"), record["ledger"]["evaluations"]


def _still(item: Any) -> Image.Image:
    picture: Image.Image = item[0] if isinstance(item, list) else item
    return picture.convert("RGB")
