"""Does search work for videos that continue a given first frame? Accuracy of the exact judge for base and best of N.

The first frame is drawn for the prompt, the video made by the bundled text-to-video model with the frame put into its
latents (genscale.pipelines.first_frame). Searched with `shapes_video_clip`; the judge `moving_shapes` is held out.
Every prompt has its own seed and frame; candidates are nested; intervals are 95 %, normal, over prompts, and gains are
paired by prompt.

    python -m benchmarks.image_to_video --json benchmarks/results/image-to-video.json --sheet docs/image-to-video.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import genscale
from benchmarks.common import interval, parser_for, quiet_pipeline
from genscale.pipelines.first_frame import with_first_frame
from genscale.toy.moving_shapes import FRAMES, PROMPTS, SIZE, Prompt, render, sample_scene
from genscale.verifiers.video_clip import LENGTH

NESTED = (1, 2, 4, 8)
CALL = {
    "num_inference_steps": 12, "guidance_scale": 2.0, "height": SIZE, "width": SIZE, "num_frames": FRAMES,
    "max_sequence_length": LENGTH + 3,
}  # fmt: skip


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    bundled = quiet_pipeline("shapes-video", options.threads)
    pipe = with_first_frame(bundled)
    pipe.set_progress_bar_config(disable=True)
    scaled = genscale.scale(
        pipe,
        "best_of_n",
        "shapes_video_clip",
        held_out="moving_shapes",
        candidates=NESTED[-1],
        keep=NESTED[-1],
    )
    prompts = [PROMPTS[i * len(PROMPTS) // options.prompts] for i in range(options.prompts)]
    correct: dict[int, list[float]] = {n: [] for n in NESTED}
    shown = []
    for seed, prompt in enumerate(prompts):
        frame = first_frame(prompt, seed)
        found = scaled.search(prompt.text, image=frame, generator=torch.Generator().manual_seed(seed), **CALL)
        for n in NESTED:
            best = [p for p in found.curve(0) if p["candidate"] < n][-1]
            correct[n].append(best["held_out"]["moving_shapes"])
        if seed % max(1, len(prompts) // 8) == 0:
            pair = found.media([found.base(), found.ranking(0)[0]])
            shown.append((frame, pair, correct[1][-1], correct[NESTED[-1]][-1]))
    each = scaled.plan(prompts[0].text, image=first_frame(prompts[0], 0), **CALL).nfe_per_candidate
    print(table(correct, each))
    if options.json:
        record = {"n": len(prompts), "nfe_per_candidate": each, "correct": correct}
        options.json.write_text(json.dumps(record) + "\n")
    if options.sheet:
        sheet(shown).save(options.sheet)


def first_frame(prompt: Prompt, seed: int) -> Image.Image:
    """The first frame of a clip that shows the prompt."""
    return Image.fromarray(render([sample_scene(prompt, np.random.default_rng(100 + seed))])[0][0])


def table(correct: dict[int, list[float]], each: int) -> str:
    lines = ["| N | NFE | right, by the held-out judge | gain over N = 1 |", "|---|---|---|---|"]
    for n, values in correct.items():
        gain = [a - b for a, b in zip(values, correct[1], strict=True)]
        mean, half = interval(values)
        more = "" if n == 1 else "{:+.3f} ± {:.3f}".format(*interval(gain))
        lines.append(f"| {n} | {each * n} | {mean:.3f} ± {half:.3f} | {more} |")
    lines.append(f"\n{len(correct[1])} prompts, one seed each; ± is a 95 % interval over prompts.")
    return "\n".join(lines)


def sheet(shown: list[tuple[Image.Image, Any, float, float]]) -> Image.Image:
    """A row a prompt: the given frame, the base clip, the best of N; a green or red line is the judge's verdict."""
    tile = 2 * SIZE
    width = (1 + 2 * FRAMES) * (tile + 2) + 48
    page = Image.new("RGB", (width, len(shown) * (tile + 10)), "white")
    for row, (frame, pair, *verdicts) in enumerate(shown):
        top = row * (tile + 10)
        page.paste(_large(frame, tile), (0, top))
        for column, (clip, right) in enumerate(zip(pair, verdicts, strict=True)):
            left = tile + 24 + column * (FRAMES * (tile + 2) + 24)
            for k, picture in enumerate(clip):
                page.paste(_large(picture, tile), (left + k * (tile + 2), top))
            colour = (0, 170, 0) if right else (210, 0, 0)
            page.paste(colour, (left, top + tile + 2, left + FRAMES * (tile + 2) - 2, top + tile + 5))
    return page


def _large(picture: Image.Image, tile: int) -> Image.Image:
    return picture.resize((tile, tile), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
