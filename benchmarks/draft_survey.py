"""Which draft pays: rank agreement with the final scores, and what is kept of best-of-16's gain, for many drafts.

Each way to draft makes the same 16 candidates of each prompt; previews are those of the whole run. What a search with
`keep` would find is read from the two tables of scores, which is exact, since what is made in full is what best_of_n
has. Seconds are the subject of benchmarks/drafts.py.

    python -m benchmarks.draft_survey --model shapes-flow --prompts 24 --out benchmarks/results/draft_survey_flow.json
    python -m benchmarks.draft_survey --table benchmarks/results/draft_survey_flow.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import genscale
from benchmarks.common import parser_for, quiet_pipeline, spread_prompts
from benchmarks.drafts import N, ratio_of_means
from genscale.numerics.rank_correlation import agreement
from genscale.pipelines.loading import EMBEDDED

KEEPS = (1, 2, 4)
PREVIEWS = (0.2, 0.3, 0.4, 0.5)  # of the run
FULL = "full"

Scores = dict[str, list[list[float]]]  # by draft: [prompts][candidates]


def drafts_of(pipe: Any, model: str) -> dict[str, tuple[int, float | None, Any]]:
    """Steps, guidance (None: the model's own) and scheduler (None: its own) of each draft, by name."""
    if "flow" in model:
        uni = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=pipe.scheduler.config.shift
        )
        own = {f"UniPC, {k} steps": (k, None, uni) for k in (4, 6)}
        more = {"no guidance, 6 steps": (6, 1.0, None)}
    else:
        dpm = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        own, more = {f"DPM-Solver++, {k} steps": (k, None, dpm) for k in (4, 6)}, {}
    steps = {f"{k} steps": (k, None, None) for k in (4, 6)}
    return {**own, **steps, "no guidance, 10 steps": (10, 1.0, None), **more}


def measure(model: str, count: int) -> Scores:
    pipe, world = quiet_pipeline(model, threads=1), EMBEDDED[model]
    texts, own = [prompt.text for prompt in spread_prompts(count)], pipe.scheduler

    def search(steps: int, guidance: float | None, **more: Any) -> Any:
        scaled = genscale.scale(pipe, "best_of_n", world.verifier, candidates=N, batch_size=64, **more)
        return scaled.search(
            prompt=texts,
            num_inference_steps=steps,
            guidance_scale=world.guidance if guidance is None else guidance,
            width=world.size,
            height=world.size,
            generator=torch.Generator().manual_seed(0),
        )

    found: Scores = {}
    result = search(world.steps, None, previews=PREVIEWS)
    for step in sorted({e.step for e in result.entries}):
        name = FULL if step == world.steps else f"preview after {step} calls"
        found[name] = table_of([e for e in result.entries if e.step == step], count)
    for name, (steps, guidance, scheduler) in drafts_of(pipe, model).items():
        pipe.scheduler = own if scheduler is None else scheduler
        found[name] = table_of(search(steps, guidance).entries, count)
        pipe.scheduler = own
    return found


def table_of(entries: Any, count: int) -> list[list[float]]:
    scores = {(e.prompt, e.candidate.id): e.total for e in entries}
    return [[scores[p, c] for c in range(N)] for p in range(count)]


def table(path: Path) -> str:
    data = json.loads(path.read_text())
    finals = np.array(data["scores"][FULL])
    mean = finals.mean(1)
    gain = finals.max(1) - mean
    heads = " | ".join(f"keep {keep}" for keep in KEEPS)
    lines = [
        f"{data['model']}: {len(gain)} prompts, gain of best of {N} {gain.mean():.4f}",
        f"| draft | rank correlation | {heads} |",
        "|---|---|" + "---|" * len(KEEPS),
    ]
    for name, scores in data["scores"].items():
        if name == FULL:
            continue
        drafts = np.array(scores)
        rho = agreement(drafts, finals).rho
        cells = []
        for keep in KEEPS:
            chosen = np.argsort(-drafts, axis=1, kind="stable")[:, :keep]
            kept = np.take_along_axis(finals, chosen, 1).max(1) - mean
            cells.append("{:.2f} ± {:.2f}".format(*ratio_of_means(kept, gain)))
        lines.append(f"| {name} | {rho:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="shapes-flow")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("draft_survey.json"))
    parser.add_argument("--table", type=Path, help="only print the table of a file")
    options = parser.parse_args()
    if options.table is None:
        scores = measure(options.model, options.prompts)
        options.out.write_text(json.dumps({"model": options.model, "scores": scores}) + "\n")
    print(table(options.table or options.out))


if __name__ == "__main__":
    main()
