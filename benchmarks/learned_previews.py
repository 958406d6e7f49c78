"""What learned previews gain: how previews rank as the finished images do, and the held-out judge at equal NFE.

The learned preview is made first, from the development half of the hard prompts (genscale.toy.hard_prompts):

    genscale generate --prompts development.txt --model shapes-flow --sampler best_of_n --candidates 16 --steps 4 \
        --previews 0,0.25,0.5,0.75 --guidance 3 --seed 2000 --verifier shapes_attributes --out runs/development
    genscale train-preview runs/development --verifier shapes_attributes --tune 3 --out runs/learned
    python -m benchmarks.learned_previews --learned runs/learned --json benchmarks/results/learned-previews-flow-4.json

Then the verifier and its learned preview are calibrated on the same other candidates of development prompts, their
previews are compared on candidates of the report half, and accept_reject and smc search there with each. Intervals are
95 %, over prompts; gains are paired by prompt. AUC is of right and wrong by the exact judge, over all candidates, and
the mean within a prompt of those that have both.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interval, parser_for, quiet_pipeline
from benchmarks.pays import IMAGES_WORLD, LARGEST, Bench, run
from genscale.commands.labelled_runs import read_scored
from genscale.numerics.probability_curve import auc
from genscale.numerics.rank_correlation import agreement
from genscale.runs import verifier_specs
from genscale.toy.hard_prompts import DEVELOPMENT, REPORT

JUDGE, GUIDANCE = IMAGES_WORLD.judge, IMAGES_WORLD.call["guidance_scale"]
SAMPLERS, WORDS = ("accept_reject", "smc"), ("own", "learned")


def genscale_command(*words: object) -> None:
    """Run a command of genscale. SystemExit: it failed."""
    from genscale.cli.app import main

    if main([str(word) for word in words]):
        raise SystemExit(f"genscale {words[0]} failed")


def candidates(options: Any, prompts: list[str], specs: list[str], seed: int, folder: Path) -> None:
    """A run of best_of_n with previews, scored by all verifiers and labelled by the judge."""
    previews = ",".join(f"{i / options.steps:g}" for i in range(options.steps))
    verifiers = [word for spec in specs for word in ("--verifier", spec)]
    (folder.parent / f"{folder.name}.txt").write_text("\n".join(prompts) + "\n")
    genscale_command(
        "generate", "--prompts", folder.parent / f"{folder.name}.txt", "--model", options.model,
        "--sampler", "best_of_n", "--candidates", options.candidates, "--previews", previews,
        "--steps", options.steps, "--guidance", GUIDANCE, "--batch-size", LARGEST, "--seed", seed,
        *verifiers, "--select", JUDGE, "--out", folder, "--json",
    )  # fmt: skip


def agreements(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """By verifier and model call: rank correlation with its final score, and AUC of right and wrong."""
    found = read_scored(folder, names)
    right = np.array([f.select[JUDGE] for f in found.finals])
    prompts = np.array([f.prompt for f in found.finals])
    rows = []
    for k, name in enumerate(names):
        finals = np.array([f.scores[name] for f in found.finals])
        for step in range(1, found.steps + 1):
            early = finals
            if step < found.steps:
                early = np.array([found.previews[f.prompt, f.candidate.id][step][k] for f in found.finals])
            pools = [prompts == i for i in np.unique(prompts)]
            rho = agreement([early[p] for p in pools], [finals[p] for p in pools])
            within = [a for p in pools if (a := auc(early[p], right[p])) is not None]
            mean, half = interval(within)
            rows.append(
                {"verifier": name, "calls": step, "rho": rho.rho, "low": rho.low, "high": rho.high,
                 "auc": auc(early, right), "auc_within": mean, "auc_within_half": half, "prompts": len(within)}
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--learned", type=Path, required=True, help="folder of genscale train-preview")
    parser.add_argument("--verifier", default="shapes_attributes", help="whose previews were learned")
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--most", type=int, default=240, help="prompts of each half, at most")
    parser.add_argument("--images", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--together", type=int, default=40)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = [p.text for p in REPORT][: options.most]
    specs = [options.verifier, f"learned_preview:{options.learned}"]
    names = [verifier_specs.scored_as(spec) for spec in specs]
    bench = Bench(
        quiet_pipeline(options.model, options.threads), options.model, options.steps, report, [], options.together,
        IMAGES_WORLD,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        known = [p.text for p in DEVELOPMENT][: options.most]
        candidates(options, known, specs, 3000, folder / "known")
        candidates(options, report, specs, 4000, folder / "report")
        rows = agreements(folder / "report", names)
        for word, spec in zip(WORDS, specs, strict=True):
            genscale_command(
                "calibrate-verifier", "--runs", folder / "known", "--verifier", spec, "--judge", JUDGE,
                "--out", folder / word,
            )  # fmt: skip
        gains: list[dict[str, Any]] = []
        for images in options.images:
            for sampler in SAMPLERS:
                for word in WORDS:
                    [(verifier, _)] = verifier_specs.weighted_verifiers([f"calibrated:{folder / word}"])
                    run(bench, f"{sampler}, {images} images, {word}", sampler, verifier, f"{images}images")
                gains.append(compared(bench, sampler, images))
                save(options, bench, rows, gains)


def save(options: Any, bench: Bench, agreement: list[dict[str, Any]], gains: list[dict[str, Any]]) -> None:
    """Write what is there, after each comparison."""
    if options.json:
        about = {
            "model": options.model,
            "steps": options.steps,
            "n": len(bench.prompts),
            "most": options.most,
        }
        about |= {"candidates": options.candidates, "verifier": options.verifier}
        about["learned"] = json.loads((options.learned / "preview.json").read_text())["about"]
        found = {**about, "agreement": agreement, "gains": gains, "rows": bench.rows}
        options.json.write_text(json.dumps(found) + "\n")


def compared(bench: Bench, sampler: str, images: int) -> dict[str, Any]:
    """The gain of the learned preview over the own one: right images and NFE, paired by prompt."""
    by_name = {row["name"]: row for row in bench.rows}
    own, learned = (by_name[f"{sampler}, {images} images, {word}"] for word in WORDS)
    told: dict[str, Any] = {"sampler": sampler, "images": images}
    for what in ("right", "nfe"):
        differences = [a - b for a, b in zip(learned[what], own[what], strict=True)]
        told[what], told[f"{what}_half"] = interval(differences)
    print(told, flush=True)
    return told


if __name__ == "__main__":
    main()
