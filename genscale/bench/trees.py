"""Writes finished samples where the scorer of a benchmark looks for them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from genscale.bench.layouts import Layout
from genscale.bench.prompt_sets import BenchPrompt
from genscale.errors import UsageError
from genscale.report.read_image import read_image
from genscale.storage.durable_files import save_bytes, save_file

Samples = Mapping[int, Path]
"""Files of a prompt by the number of their sample."""


def write_prompt(
    tree: Path, layout: Layout, prompt: BenchPrompt, found: Samples, samples: int | None
) -> None:
    """All files of one prompt. What is there already stays: files are written whole or not at all.

    tree: the folder for the scorer. found: the samples; one that is missing, since all its candidates failed, has no
    file. samples: how many the user asks for. UsageError: a file cannot be written.
    """
    count = layout.count(prompt, samples)
    try:
        for n in range(count):
            if layout.sample is not None and n in found:
                _write(tree / layout.sample(prompt, n, count), partial(shutil.copyfile, found[n]))
        if layout.grid is not None and found:
            path = tree / layout.grid(prompt)
            if not path.exists():
                picture = _grid(layout, [found.get(n) for n in range(count)])
                _write(path, partial(picture.save, format="PNG"))
        if layout.record is not None:
            path = tree / layout.record(prompt)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(path, prompt.record.encode())
    except OSError as error:
        raise UsageError(
            f"'{error.filename or tree}' cannot be written: {error.strerror or error}."
        ) from error


def write_listing(tree: Path, layout: Layout, prompts: Sequence[BenchPrompt], samples: int | None) -> None:
    """The file that lists the samples of all prompts, also of those that other shards make."""
    if layout.listing is not None:
        tree.mkdir(parents=True, exist_ok=True)
        save_bytes(tree / layout.listing, layout.lines(prompts, samples).encode())


def tiled(images: Sequence[Image.Image | None], columns: int) -> Image.Image:
    """Images of one size row by row, without borders; black where there is none. UsageError: they differ in size."""
    there = [image for image in images if image is not None]
    width, height = there[0].size
    if any(image.size != (width, height) for image in there):
        raise UsageError("images of several sizes make no grid: give --size.")
    canvas = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height))
    for n, image in enumerate(images):
        if image is not None:
            canvas.paste(image, (n % columns * width, n // columns * height))
    return canvas


def _grid(layout: Layout, files: Sequence[Path | None]) -> Image.Image:
    images = [None if file is None else read_image(file, f"'{file}'") for file in files]
    if layout.name == "dpg":
        first = next(image for image in images if image is not None)
        if first.width != first.height:
            raise UsageError(
                f"dpg cuts its pictures into squares, and these images are {first.width} x {first.height}: give --size "
                f"{first.width}."
            )
    return tiled(images, math.ceil(math.sqrt(len(images))))


def _write(path: Path, save: object) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(path, save)  # type: ignore[arg-type]
