"""Reinforcement-learning guidance on the bundled toy flow model and its reward-tuned LoRA: reward, judge and diversity.

For every scale w the prediction is base + w (tuned - base), both from one copy of the weights (the LoRA switched on and
off). Reward: the bundled CLIP, which the LoRA was tuned to (training/reward_lora.py). Held out: the exact judge.
Diversity: mean distance of the CLIP embeddings of two images of one prompt, and of their pixels (root mean square).
Means over prompts, which the LoRA was not tuned on; bars are 95 % intervals over prompts.

    python benchmarks/rlg.py --json benchmarks/results/rlg.json --png docs/rlg.png
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from common import interval, parser_for, quiet_pipeline, spread_prompts

import genscale
from genscale.diffusion.mixtures import rlg
from genscale.pipelines.loading import folder_of
from genscale.verifiers.clip import ShapesClip
from genscale.verifiers.shapes import Shapes

LORA = folder_of("shapes-flow-reward") / "pytorch_lora_weights.safetensors"


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 0.5, 1, 1.5, 2, 3, 4, 6, 8])
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--each", type=int, default=16, help="images of one prompt")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    pipe = quiet_pipeline("shapes-flow", options.threads, device="cpu", dtype="float32", lora=[str(LORA)])
    prompts = [prompt.text for prompt in spread_prompts(options.prompts)]
    rows: list[dict[str, Any]] = []
    for guidance in options.guidance:
        for scale in options.scales:
            rows.append(measured(pipe, prompts, scale, guidance, options))
            print(line(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(
                    json.dumps({"options": vars(options), "rows": rows}, default=str, indent=1)
                )
    if options.png:
        draw(rows, options.png)


def measured(pipe: Any, prompts: list[str], scale: float, guidance: float, options: Any) -> dict[str, Any]:
    """Per prompt: mean reward, mean verdict, diversity; NFE of one image."""
    clip, judge, found = (
        ShapesClip(),
        Shapes(),
        dict[str, list[float]](reward=[], correct=[], clip=[], pixels=[]),
    )
    scaled = genscale.scale(
        pipe, "best_of_n", clip, candidates=options.each, wave=options.each, mix=rlg("base", scale), batch_size=256,
        keep=options.each,
    )  # fmt: skip
    nfe = 0.0
    for start in range(0, len(prompts), 15):
        some = prompts[start : start + 15]
        generators = [torch.Generator().manual_seed(1000 + start + i) for i in range(len(some))]
        search = scaled(
            some, num_inference_steps=options.steps, guidance_scale=guidance, generator=generators
        ).search
        nfe = statistics.fmean(s.spent / options.each for s in search.searches)
        for row, text in enumerate(some):
            media = search.media(search.searches[row].finals)
            texts = [text] * len(media)
            found["reward"].append(float(torch.as_tensor(clip(media, texts)).mean()))
            found["correct"].append(float(torch.as_tensor(judge(media, texts)).double().mean()))
            with torch.no_grad():
                seen = clip._clip.embed(media.pixels)
            found["clip"].append(spread(seen))
            found["pixels"].append(spread(media.pixels.flatten(1)) / media.pixels[0].numel() ** 0.5)
    return {"scale": scale, "guidance": guidance, "nfe": nfe, **found}


def spread(x: torch.Tensor) -> float:
    """Mean distance of two rows."""
    return float(torch.pdist(x.float()).mean())


def line(row: dict[str, Any]) -> str:
    cells = "  ".join(
        "{} {:.4f} ± {:.4f}".format(k, *interval(row[k])) for k in ("reward", "correct", "clip", "pixels")
    )
    return f"cfg {row['guidance']} w {row['scale']}: {cells}  ({row['nfe']:.0f} NFE)"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3)
    what = (
        ("reward", "reward (CLIP, tuned to)"),
        ("correct", "held-out judge: right images"),
        ("clip", "diversity (CLIP distance)"),
    )
    for k, guidance in enumerate(dict.fromkeys(r["guidance"] for r in rows)):
        mine = [r for r in rows if r["guidance"] == guidance]
        for panel, (key, title) in zip(panels, what, strict=True):
            curve = [interval(r[key]) for r in mine]
            panel.errorbar(
                [r["scale"] for r in mine], [m for m, _ in curve], [h for _, h in curve], label=f"CFG {guidance:g}",
                marker="os^"[k], markersize=4, linewidth=1.3, elinewidth=0.8, color=f"C{k}",
            )  # fmt: skip
            panel.set(xlabel="RLG scale w (0: base, 1: tuned)", title=title)
            panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
