"""`genscale replay`: makes an image, a video or a sound again from its metadata, and compares the contents.

A candidate that started from its own key and used the pipeline's own scheduler is made alone. In another batch size
floating-point results may be rounded differently; where contents differ for that reason, and for every other kind of
candidate (branches, neighbours, mutants, other kernels), the whole search is repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from genscale.algorithms.arm_texts import arms_of
from genscale.commands.replay_copies import Content, Copy
from genscale.engine import archive
from genscale.errors import UsageError
from genscale.key import Key
from genscale.plugins import registry
from genscale.protocol.interfaces import Process, SamplerHooks
from genscale.protocol.particles import OWN, Candidate
from genscale.protocol.queries import Query, Score, Solve
from genscale.report import image_files
from genscale.results.run_files import versions
from genscale.runs import read_request, verifier_specs
from genscale.runs.complete_request import NONE, completed
from genscale.runs.file_metadata import read_metadata
from genscale.runs.generate import generate
from genscale.runs.named_code import names_code
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.progress import Display
from genscale.runs.request import Request
from genscale.runs.run_folder import RunFolder
from genscale.runs.run_record import missing_parts

CANDIDATE, SEARCH = "candidate", "search"


@dataclass(frozen=True)
class OneCandidate:
    """A sampler that finishes one given candidate with the pipeline's own scheduler. Cost: f(0, T)."""

    candidate: Candidate
    arms: tuple[Any, ...] = ()

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        finished = yield Solve(process.start([self.candidate]))
        yield Score(finished)

    def cost(self, process: Process) -> int | None:
        return process.nfe()


@dataclass(frozen=True)
class Origin:
    """The metadata of a file.

    shows: its candidate; None where the file does not say. told: the metadata itself.
    """

    request: Request
    index: int
    file: str
    shows: Candidate | None
    versions: dict[str, str]
    told: Mapping[str, Any]

    @staticmethod
    def of_file(image: Path) -> Origin:
        data = read_metadata(image)
        names = missing_parts(data)
        if names:
            raise UsageError(f"'{image}' cannot be made again: its search does not hold {names}.")
        request, index = read_request.load_request(image), data.get("index", 0)
        if index >= len(request.prompts):
            raise UsageError(
                f"image '{image}' carries genscale metadata that cannot be read: it has no prompt {index}."
            )
        shows = archive.candidate_of(data["shows"]) if "shows" in data else None
        stem = "base" if data.get("is_base") else "best"
        stem = f"{index:03d}-{stem}" if len(request.prompts) > 1 else stem
        file, versions = data.get("file", f"{stem}.png"), data.get("versions", {})
        return Origin(request, index, file, shows, versions, data)

    @property
    def is_base(self) -> bool:
        return bool(self.told.get("is_base")) or self.file.endswith("base.png")

    @property
    def alone(self) -> Candidate | None:
        """The candidate, if it can be made without its search: from a key, on the pipeline's own scheduler and grid."""
        if self.shows is None or self.shows.origin not in ("own", "prior") or self.shows.step != 0:
            return None
        sampler = registry.load("sampler", self.request.sampler)
        kernel = self.request.sampler_fields.get("kernel", getattr(sampler, "kernel", None))
        own = kernel in (None, "own") and SamplerHooks.of(sampler).grid is None
        return self.shows if own or (self.shows.id == OWN and self.is_base) else None


def replay(
    image: Path, out: Path | None, display: Display, *, device: str | None = None, trust: bool = False
) -> dict[str, Any]:
    """Make it again, write it, compare: same, differing, of, largest, unit (pixels, samples or numbers), how.

    Of pixels the largest difference is of 255. Of a video, `same` is about all its frames (`frames`), the other numbers
    about the first.
    """
    origin = Origin.of_file(image)
    if names_code(origin.request.model) and not trust:
        raise UsageError(
            f"'{image}' asks to run code of a module, its model {origin.request.model}: read that code first, then add "
            "--trust-remote-code."
        )
    request = replace(origin.request, trust_remote_code=trust and not names_code(origin.request.model))
    origin = replace(origin, request=request if device is None else replace(request, device=device))
    wanted = Content.of_file(image, origin.told)
    path = (out or image.with_name(f"{image.stem}-replay{image.suffix}")).expanduser()
    if path.resolve() == image.expanduser().resolve():
        raise UsageError(f"--out '{path}' is the image itself: choose another file.")
    kind = _kind(path, wanted)
    folder = RunFolder(path.parent)
    folder.prepare()
    made, how, nfe = _made(origin, wanted, kind, display)
    folder.write(path.name, made.save)
    here = versions()
    return {
        "picture": str(image),
        "replay": str(path),
        **wanted.compared(made.content),
        "how": how,
        "nfe": nfe,
        "other_versions": {k: [v, here.get(k)] for k, v in origin.versions.items() if here.get(k) != v},
    }


def _kind(path: Path, wanted: Content) -> str:
    """Of the file to write."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in wanted.formats:
        raise UsageError(f"--out '{path}' must end in {' or '.join('.' + name for name in wanted.formats)}.")
    return kind


def _made(origin: Origin, wanted: Content, kind: str, display: Display) -> tuple[Copy, str, int]:
    """(copy, how, NFE)."""
    candidate, spent = origin.alone, 0
    if candidate is not None:
        made, spent = _candidate(origin, candidate, kind)
        if wanted.compared(made.content)["same"]:
            return made, CANDIDATE, spent
        display.say(
            f"made alone, its {wanted.unit} are not the same (batches round otherwise): searching again"
        )
    request = origin.request
    foreign = verifier_specs.needs_trust([*request.verifiers, *request.select])
    if foreign:
        raise UsageError(
            f"its search asks for code from a module or for a server ({foreign[0]}): name it again, with "
            "genscale generate --from FILE --verifier."
        )
    held_out = tuple(
        name for name in request.held_out if not verifier_specs.needs_trust([name])
    )  # they decide nothing
    origin = replace(origin, request=replace(request, held_out=held_out or NONE))
    made, nfe = _searched(origin, wanted, kind, display)
    return made, SEARCH, spent + nfe


def _is_result(origin: Origin, record: Mapping[str, Any]) -> bool:
    """Whether the search wrote a file of this name for the prompt that the image says it shows."""
    files = record["prompts"][origin.index]["files"]
    return any(origin.file in names for names in files.values())


def _candidate(origin: Origin, candidate: Candidate, kind: str) -> tuple[Copy, int]:
    """Make only this candidate.

    Its prompt alone is enough, but for candidate 0 of a call from Python, whose latents may be one row of a joint draw,
    and of a prompt that is there twice.
    """
    request = replace(completed(origin.request), images=1)
    index = origin.index
    joint = request.from_python or request.prompts.index(request.prompts[index]) < index
    if candidate.id != OWN or not joint:
        request, index = replace(request, prompts=(request.prompts[index],)), 0
    from genscale.pipelines.output_media import items_of

    run = replace(PreparedRun.without_search(request), sampler=OneCandidate(candidate, arms_of(request.arm)))
    run = run.with_frame_rate()
    output = run.scaled()(**run.seeded_call())
    if output.search.stopped is not None:
        raise KeyboardInterrupt
    item = items_of(output, run.pipe)[index]
    return Copy.of_item(item, kind, run.request.as_dict()), output.search.ledger.evaluations


def _searched(origin: Origin, wanted: Content, kind: str, display: Display) -> tuple[Copy, int]:
    """Repeat the whole search, with all its prompts, in a temporary folder, and take the file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        formats = {wanted.own_format, kind} & set(image_files.FORMATS)
        request = replace(origin.request, metadata=True, formats=tuple(sorted(formats)))
        record = generate(PreparedRun.of(request), Path(folder), display, temporary=True)
        if record["stopped"] is not None:
            raise KeyboardInterrupt
        path = Path(folder) / origin.file
        if not _is_result(origin, record):
            raise UsageError(
                f"the search gave no {origin.file} this time: it had another end, with other options."
            )
        again = Origin.of_file(path)
        if origin.shows is not None and again.shows != origin.shows:
            display.say(
                f"the search ended with candidate {again.shows.id if again.shows else '?'}, not {origin.shows.id}: it "
                "was interrupted, or ended by seconds, or this machine rounds otherwise"
            )
        return Copy.of_files(path, kind, again.told), record["ledger"]["evaluations"]
