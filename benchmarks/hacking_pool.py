"""The pool that benchmarks/hacking.py selects from: candidates of hard prompts, scored by imperfect verifiers, judged.

Every candidate is an image that the pipeline makes by itself. What is kept of it: the scores of `shapes_clip`, of a
classifier that only counts (`counted`), of `shapes_attributes`, the verdict of the exact judge `shapes`, how red it is,
and its CLIP embedding. The development half of the prompts has few candidates, on which the head that likes red, the
weights and the noise are fitted; of the first of them the pixels are kept, too.

Candidates come in blocks of 64 a prompt with a seed of their own, and a file holds one block of some prompts, so that a
run that was interrupted goes on. With 4 blocks all N up to 256 can be read off. The prompts are shuffled, so that the
first ones are a sample of all.

    python -m benchmarks.hacking_pool --model shapes-diffusion --blocks 4 --out FOLDER
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import parser_for, quiet_pipeline
from genscale.media import Media
from genscale.toy.captions import Prompt, Requirement
from genscale.toy.hard_prompts import DEVELOPMENT, REPORT
from genscale.verifiers.attribute_detector import Detection, detections, read_detector
from genscale.verifiers.clip import SHAPES_CLIP, Clip
from genscale.verifiers.shapes import Shapes
from genscale.verifiers.shapes_attributes import probability

BLOCK = 64
FEW = 16  # candidates of a development prompt
KEPT = 2  # of them whose pixels are kept
TOGETHER = 10  # prompts in one file
FIRSTS = range(0, len(REPORT), TOGETHER)
GUIDANCE = 3.0  # the default of the bundled models on the command line
SEED = {"report": 1_000, "development": 2_000}


def counted(found: Sequence[Detection], requirement: Requirement) -> float:
    """P(the image has as many objects as the caption says), whatever they are: the detections count, and no more.

    The number of objects is a sum of independent indicators. Where a caption only says what is absent, P(at least one).
    """
    of = np.ones(1)  # P(0), P(1), ... objects
    for one in found:
        of = np.convolve(of, [1 - one.there, one.there])
    if not requirement.nouns:
        return float(1 - of[0])
    return float(of[requirement.count]) if requirement.count < len(of) else 0.0


def redness(pixels: Tensor) -> Tensor:
    """Mean over pixels [n, 3, h, w] of how far red is above both green and blue: [n], in [0, 1]."""
    red, green, blue = pixels.unbind(1)
    return (red - torch.maximum(green, blue)).clamp(min=0).mean((1, 2))


class Scorers:
    """All that is kept of the images of one prompt."""

    def __init__(self) -> None:
        self.clip = Clip(str(SHAPES_CLIP), None, "transformers", batch_size=BLOCK)
        self.detector, self.judge = read_detector(), Shapes()

    @torch.no_grad()
    def __call__(self, pixels: Tensor, prompt: Prompt) -> dict[str, np.ndarray]:
        texts, media = [prompt.text] * len(pixels), Media(pixels)
        seen = self.clip.embed(pixels)
        named = self.clip._model(pixels.device).texts(texts[:1])
        found = detections(self.detector, pixels, BLOCK)
        return {
            "clip": (seen @ named[0]).numpy(),
            "embedding": seen.numpy().astype(np.float16),
            "count": np.array([counted(f, prompt.requirement) for f in found], np.float32),
            "attributes": np.array([probability(f, prompt.requirement) for f in found], np.float32),
            "judge": self.judge(media, texts).numpy().astype(np.uint8),
            "red": redness(pixels).numpy(),
        }


def made(pipe: Any, prompt: Prompt, n: int, seed: int, steps: int) -> Tensor:
    """Pixels [n, 3, h, w] in [0, 1] of n images of one prompt."""
    generator = torch.Generator().manual_seed(seed)
    found = pipe(
        prompt.text, num_images_per_prompt=n, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generator,
        output_type="pt",
    )  # fmt: skip
    pixels: Tensor = found.images.float().cpu().clamp(0, 1)
    return pixels


def fill(pipe: Any, scorers: Scorers, half: str, first: int, block: int, steps: int, out: Path) -> None:
    """The file of one block of the prompts from `first` on; one that is there stays."""
    prompts, n = (REPORT, BLOCK) if half == "report" else (DEVELOPMENT, FEW)
    path = _path(out, half, block, first)
    if path.exists():
        return
    start, rows = time.process_time(), list[dict[str, np.ndarray]]()
    for i, prompt in enumerate(prompts[first : first + TOGETHER], first):
        pixels = made(pipe, prompt, n, SEED[half] + i + 100_000 * block, steps)
        rows.append(scorers(pixels, prompt))
        if half == "development":
            rows[-1]["pixels"] = (pixels[:KEPT] * 255).round().byte().numpy()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    part.rename(path)
    judged = np.stack([row["judge"] for row in rows])
    print(f"{path.name}: {time.process_time() - start:.1f} s, right {judged.mean():.3f}", flush=True)


def _path(folder: Path, half: str, block: int, first: int) -> Path:
    return folder / f"{half}-{block}-{first:03d}.npz"


def read_pool(folder: Path, half: str, blocks: int = 1) -> dict[str, np.ndarray]:
    """By name, what is kept [prompts, candidates, ...] of one half: of the prompts that have so many blocks.

    Empty if none has.
    """
    rows = []
    for first in FIRSTS:
        paths = [_path(folder, half, block, first) for block in range(blocks)]
        if not all(path.exists() for path in paths):
            break
        parts = [np.load(path) for path in paths]
        rows.append({name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0].files})
    return {name: np.concatenate([row[name] for row in rows]) for name in (rows or [{}])[0]}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=1, help="of 64 candidates a prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe, scorers = quiet_pipeline(options.model, options.threads), Scorers()
    for part in (getattr(pipe, "unet", None), pipe.vae):  # convolutions are faster so, on a CPU
        if part is not None:
            part.to(memory_format=torch.channels_last)
    for first in FIRSTS:
        fill(pipe, scorers, "development", first, 0, options.steps, options.out)
    for first in FIRSTS:
        for block in range(options.blocks):
            fill(pipe, scorers, "report", first, block, options.steps, options.out)


if __name__ == "__main__":
    main()
