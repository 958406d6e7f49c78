"""Where the official scorer of each benchmark looks for its files.

geneval         00000/metadata.jsonl, 00000/samples/0000.png, 00000/grid.png: README of github.com/djghosh13/geneval,
                "Image generation"; four images a prompt; metadata.jsonl holds the prompt's line of the benchmark's file
t2i-compbench   samples/PROMPT_000000.png, numbered through all images: Readme of github.com/Karine-Huang/T2I-CompBench,
                "Evaluation", and its inference_eval.py; ten images a prompt
dpg             ID.png, four images in a square, row by row, without borders: README of
                github.com/TencentQQGYLab/ELLA, "DPG-Bench", and its compute_dpg_bench.py, which cuts them apart
vbench          PROMPT-0.mp4: prompts/README.md of github.com/Vchitect/VBench; five videos a prompt
                (and see prompt_sets.FLICKER)
drawbench, partiprompts   00000-0.png and metadata.jsonl. People rate these: there is no official scorer. The form is
                that of "imagefolder" of huggingface.co/docs/datasets/image_dataset; four images a prompt
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genscale.bench.prompt_sets import BenchPrompt
from genscale.errors import UsageError, did_you_mean, quoted

LONGEST = 220
"""Bytes of a file name: file systems hold 255, and a file is written under a longer name first."""


@dataclass(frozen=True)
class Layout:
    """The files of a benchmark.

    samples: images or videos of a prompt, as the benchmark asks for. kind: "png" or "mp4". sample: (prompt, sample,
    samples of each prompt) -> path of one sample, None where samples have no files of their own. grid: prompt ->
    path of one picture of all samples, None where there is none. record: prompt -> path of a file with its record.
    listing: path of a file that lists all samples, as JSON lines. most: samples that there may be.
    """

    name: str
    samples: int
    kind: str = "png"
    sample: Callable[[BenchPrompt, int, int], str] | None = None
    grid: Callable[[BenchPrompt], str] | None = None
    record: Callable[[BenchPrompt], str] | None = None
    listing: str | None = None
    most: int = 10_000

    def count(self, prompt: BenchPrompt, samples: int | None) -> int:
        """How many samples there are of a prompt. samples: what the user asks for."""
        return samples or prompt.samples or self.samples

    def paths(self, prompt: BenchPrompt, samples: int | None = None) -> list[str]:
        """All files of a prompt, relative to the folder that the scorer is given."""
        count = self.count(prompt, samples)
        own = [] if self.sample is None else [self.sample(prompt, n, count) for n in range(count)]
        return own + [make(prompt) for make in (self.grid, self.record) if make is not None]

    def check(self, prompts: Sequence[BenchPrompt], samples: int | None) -> None:
        """UsageError: a prompt cannot be part of a file's name, or two have the same file."""
        if samples is not None and not 1 <= samples <= self.most:
            raise UsageError(f"{self.name} has 1 to {self.most} samples of a prompt, not {samples}.")
        taken: dict[str, str] = {}
        for prompt in prompts:
            for path in self.paths(prompt, samples):
                _check_names(path, prompt, self.name)
                if taken.setdefault(path, prompt.prompt) != prompt.prompt or path.startswith("/"):
                    raise UsageError(
                        f"{self.name} names two prompts alike, {quoted(path)}: give each an id of its own."
                    )

    def lines(self, prompts: Sequence[BenchPrompt], samples: int | None) -> str:
        """What the listing holds: a line for each sample, with what the benchmark says of its prompt."""
        assert self.sample is not None
        found = []
        for prompt in prompts:
            count = self.count(prompt, samples)
            for n in range(count):
                record = json.loads(prompt.record) if prompt.record else {"prompt": prompt.prompt}
                found.append(
                    json.dumps({"file_name": self.sample(prompt, n, count), **record}, ensure_ascii=False)
                )
        return "".join(f"{line}\n" for line in found)


def _check_names(path: str, prompt: BenchPrompt, name: str) -> None:
    stem = prompt.id if name == "dpg" else prompt.prompt
    ends = {"dpg": ".", "t2i-compbench": "_"}.get(name, "/")  # where the scorer cuts the name off
    in_name = name in ("dpg", "t2i-compbench", "vbench")
    if in_name and (set(stem) & {"/", "\0", ends} or stem.strip() in ("", "..")):
        raise UsageError(
            f"{name} names files after prompts, and no file can be named {quoted(stem)}: leave it out."
        )
    longest = max(len(part.encode()) for part in path.split("/"))
    if longest > LONGEST:
        raise UsageError(
            f"{name} names files after prompts, and {quoted(stem)} is too long: its file's name would have {longest} "
            f"bytes, and {LONGEST} is the most."
        )


def _inside(prompt: BenchPrompt, path: str) -> str:
    return f"{prompt.folder}/{path}" if prompt.folder else path


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "geneval",
            4,
            sample=lambda p, n, count: f"{p.index:05d}/samples/{n:04d}.png",
            grid=lambda p: f"{p.index:05d}/grid.png",
            record=lambda p: f"{p.index:05d}/metadata.jsonl",
        ),
        Layout(
            "t2i-compbench",
            10,
            sample=lambda p, n, count: _inside(p, f"samples/{p.prompt}_{p.place * count + n:06d}.png"),
        ),
        Layout("dpg", 4, grid=lambda p: f"{p.id}.png", most=4),
        Layout(
            "drawbench",
            4,
            sample=lambda p, n, count: f"{p.index:05d}-{n}.png",
            listing="metadata.jsonl",
        ),
        Layout(
            "partiprompts",
            4,
            sample=lambda p, n, count: f"{p.index:05d}-{n}.png",
            listing="metadata.jsonl",
        ),
        Layout("vbench", 5, kind="mp4", sample=lambda p, n, count: f"{p.prompt}-{n}.mp4"),
    )
}
"""Layouts by the name of their benchmark."""


def layout_of(name: str) -> Layout:
    """UsageError: there is no benchmark of this name."""
    if name not in LAYOUTS:
        raise UsageError(
            f"benchmark '{name}' is unknown{did_you_mean(name, LAYOUTS)}: there are {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]
