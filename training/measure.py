"""Measure a pipeline by the exact judge: the part of images that satisfy their caption.

The images of one caption are not independent, so the intervals come from the means of the
captions (two standard errors), not from single images. `any` is the part of captions that some
seed gets right: the ceiling of best-of-n for this n. With `--clip`, `chosen` is the accuracy of the
images that the small CLIP likes best of n, and its AUC is how often it prefers a right image to
a wrong one of the same caption.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from genscale.toy.shapes import CATEGORIES, PROMPTS, Prompt, fresh_prompts, held_out
from genscale.verifiers.shapes import Shapes


def generate(
    pipeline: Any, texts: list[str], seed: int, batch: int = 50, **options: Any
) -> list[Image.Image]:
    """One image a text, with the default generator seeded by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    pictures: list[Image.Image] = []
    for start in range(0, len(texts), batch):
        pictures += pipeline(texts[start : start + batch], generator=generator, **options).images
    return pictures


@torch.no_grad()
def likings(folder: Path, texts: list[str], runs: list[list[Image.Image]]) -> np.ndarray:
    """Cosine similarity [prompts, seeds] of texts and images by the CLIP in `folder`."""
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    scores = []
    for pictures in runs:
        seen = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True))
        scores.append((seen.image_embeds * seen.text_embeds).sum(-1).numpy())
    return np.stack(scores, 1)


def auc(scores: np.ndarray, right: np.ndarray) -> float:
    """How often a right image has a higher score than a wrong one of the same caption."""
    mixed = [(s, r > 0) for s, r in zip(scores, right, strict=True) if 0 < r.sum() < len(r)]
    return float(np.mean([(s[r][:, None] > s[~r][None]).mean() for s, r in mixed])) if mixed else float("nan")


def table(
    prompts: list[Prompt], right: np.ndarray, scores: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Accuracy, half its 95 % interval, `any` and `chosen` by category, of [prompts, seeds] arrays."""
    chosen = None if scores is None else right[np.arange(len(right)), scores.argmax(1)]
    groups = {c: [p.category == c for p in prompts] for c in CATEGORIES}
    groups["all"] = [True] * len(prompts)
    groups["held out"] = [held_out(p.requirement) for p in prompts]
    groups["seen, many"] = [not held_out(p.requirement) and p.requirement.count > 1 for p in prompts]
    found = {}
    for name, members in groups.items():
        part = right[np.array(members)]
        if len(part) > 1:
            half = 1.96 * part.mean(1).std(ddof=1) / len(part) ** 0.5
            found[name] = {
                "accuracy": part.mean(),
                "half": half,
                "any": part.any(1).mean(),
                "captions": len(part),
            }
            if chosen is not None:
                found[name]["chosen"] = chosen[np.array(members)].mean()
    return {name: {k: round(float(v), 4) for k, v in row.items()} for name, row in found.items()}


def sheet(pictures: list[Image.Image], right: list[bool], columns: int = 10) -> Image.Image:
    """Contact sheet; a green or red line under each image says what the judge found."""
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * 68, rows * 72), "white")
    for i, (picture, good) in enumerate(zip(pictures, right, strict=True)):
        x, y = i % columns * 68, i // columns * 72
        page.paste(picture, (x + 2, y + 2))
        page.paste((0, 170, 0) if good else (210, 0, 0), (x + 2, y + 67, x + 66, y + 69))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--prompts", type=int, default=0, help="fresh captions a category; 0: the fixed benchmark"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="of fresh captions only those left out of training"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clip", type=Path, help="folder of the CLIP that chooses")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = DiffusionPipeline.from_pretrained(args.folder)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    prompts = list(PROMPTS)
    if args.held_out:
        left_out = [
            [p for p in fresh_prompts(500 + i, 600, c) if held_out(p.requirement)]
            for i, c in enumerate(CATEGORIES[1:])
        ]
        prompts = [p for some in left_out for p in some[: args.prompts]]
    elif args.prompts:
        prompts = [p for i, c in enumerate(CATEGORIES) for p in fresh_prompts(100 + i, args.prompts, c)]
    texts = [p.text for p in prompts]
    options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    runs = [generate(pipeline, texts, seed, **options) for seed in range(args.seeds)]
    right = np.stack([Shapes()(run, texts).numpy() for run in runs], 1)
    scores = likings(args.clip, texts, runs) if args.clip else None
    found = table(prompts, right, scores)
    for name, row in found.items():
        print(name.ljust(12), row)
    result: dict[str, Any] = {"model": args.folder.name, "captions": args.prompts or "benchmark"}
    result |= {"seeds": args.seeds, **options, "table": found}
    if scores is not None:
        result["auc"] = round(auc(scores, right), 4)
        print("auc", result["auc"])
    if args.sheet:
        few = [i for i in range(len(texts)) if i % max(1, len(texts) // 100) == 0][:100]
        sheet([runs[0][i] for i in few], [bool(right[i, 0]) for i in few]).resize((1360, 1440)).save(
            args.sheet
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
