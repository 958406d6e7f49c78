"""The images of the README: base against best of one run, the curve of best_of_n, and the badges.

    python -m benchmarks.readme_images --run runs/first      # runs/first: what the README's first command writes

docs/strip.png is made from that run's images and run.json, docs/best-of-n.png from benchmarks/results/shapes-flow.json.
The badges in docs/assets/ are fixed texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.shapes import interval

DOCS = Path(__file__).parents[1] / "docs"
FLOW = Path(__file__).parent / "results" / "shapes-flow.json"
STYLE = {
    "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "figure.facecolor": "white",
}  # fmt: skip
BADGES = {
    "license": ("license", "Apache-2.0"),
    "python": ("python", "3.10 or later"),
    "tests": ("tests", "offline, on a CPU"),
    "types": ("types", "mypy, strict"),
}
RIGHT, WRONG, INK, GREY = "#1a7f37", "#c62828", "#24292f", "#6e7781"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the folder of the README's first command")
    options = parser.parse_args()
    for name, (subject, said) in BADGES.items():
        (DOCS / "assets" / f"{name}.svg").write_text(badge(subject, said))
    with rc_context(STYLE):
        save(strip(options.run), DOCS / "strip.png")
        save(curve(), DOCS / "best-of-n.png")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    print(path)


def strip(run: Path) -> Figure:
    """A column for each prompt: the pipeline's own image above, the best one below, each with the judge's verdict."""
    prompts = json.loads((run / "run.json").read_text())["prompts"]
    figure = Figure(figsize=(2 * len(prompts) + 0.55, 4.75))
    axes = figure.subplots(2, len(prompts), squeeze=False)
    figure.subplots_adjust(left=0.055, right=0.995, top=0.93, bottom=0.065, wspace=0.06, hspace=0.16)
    for column, prompt in zip(axes.T, prompts, strict=True):
        column[0].set_title(prompt["prompt"], fontsize=9, color=INK, pad=6)
        for axis, kind in zip(column, ("base", "best"), strict=True):
            draw(axis, run / prompt["files"][kind][0], prompt[kind]["held_out"]["shapes"] == 1)
    for axis, label in zip(axes[:, 0], ("the model alone", "best of 8"), strict=True):
        axis.set_ylabel(label, fontsize=10, color=INK)
    return figure


def draw(axis: Any, image: Path, right: bool) -> None:
    shown = Image.open(image).convert("RGB")
    axis.imshow(shown.resize((4 * shown.width, 4 * shown.height), Image.Resampling.LANCZOS))
    colour = RIGHT if right else WRONG
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.set_xlabel("✓ right" if right else "✗ wrong", fontsize=9, color=colour, labelpad=3)
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.6)


def curve() -> Figure:
    """The searched score and the held-out judge of best_of_n against NFE, with 95 % intervals over prompts."""
    rows = json.loads(FLOW.read_text())["rows"]
    rows = [r for r in rows if r["search"] == "base" or r["search"].startswith("best_of_")]
    figure = Figure(figsize=(8.6, 2.7))
    panels = (
        ("clip", "searched: the bundled CLIP", "#1565c0"),
        ("correct", "held out: the exact judge", RIGHT),
    )
    for axis, (key, title, colour) in zip(figure.subplots(1, 2), panels, strict=True):
        means, halves = zip(*(interval(r[key]) for r in rows), strict=True)
        nfe = [r["nfe"] for r in rows]
        axis.errorbar(nfe, means, halves, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.6)
        axis.set_title(title, fontsize=10, color=INK, loc="left")
        axis.set_xscale("log", base=2)
        axis.set_xticks(nfe, [f"N = {n // nfe[0]}\n{n} NFE" for n in nfe], color=GREY)
        axis.minorticks_off()
    figure.tight_layout()
    return figure


def badge(subject: str, said: str) -> str:
    """A small SVG with two fields, for fonts about as wide as Verdana."""
    left, right = (round(6.6 * len(text)) + 12 for text in (subject, said))
    field = '<text x="{x}" y="14" fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{text}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">'
        f"<title>{subject}: {said}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="#1f6feb"/>'
        f'<path d="M3 0h{left - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444c56"/>'
        + field.format(x=6, text=subject)
        + field.format(x=left + 6, text=said)
        + "</svg>\n"
    )


if __name__ == "__main__":
    main()
