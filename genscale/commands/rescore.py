"""`genscale rescore`: other verifiers score what a run has kept; nothing is generated again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.commands.score_files import verifiers_of
from genscale.engine.judged_kinds import check_judges
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.errors import UsageError
from genscale.numerics.rank_correlation import agreement
from genscale.report import contact_sheet
from genscale.report.contact_sheet import SheetRow, Tile
from genscale.report.prompt_summary import ROWS
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import Decode, Final, SavedRun, decoder_of, read_run


def rescore(
    folder: Path, verifiers: Sequence[str], display: Display, *, trust: bool = False
) -> dict[str, Any]:
    """What is printed, and written as rescore-NAME.json with a contact sheet of the old and new winners."""
    panel = verifiers_of(verifiers)  # may refuse, before anything is read
    run = read_run(folder)
    panel = verifiers_of(verifiers, run.request.per_frame)
    pools = [[f for f in finals if f.file is not None] for finals in run.finals]
    if not any(pools):
        raise UsageError(
            f"no latents are left in '{folder}/latents': rescoring needs those of the finished candidates."
        )
    decode = decoder_of(run, trust=trust)
    first = next(f for pool in pools for f in pool)
    texts = [text for text, pool in zip(run.request.prompts, pools, strict=True) if pool]
    media = decode([first])
    check_judges(Roles(panel), {media.kind}, "the pipeline of this run makes")
    panel.prepare(texts, media.device)  # before all the others are decoded
    scores = score_finals(run, pools, panel, decode, display)
    found = [_verdict(run, pools, scores, panel, k) for k in range(len(panel.names))]
    record = {
        "folder": str(run.folder),
        "searched": run.searched,
        "candidates": sum(map(len, pools)),
        "without_latents": sum(map(len, run.finals)) - sum(map(len, pools)),
        "verifiers": found,
    }
    stem = "rescore-" + re.sub(r"\W+", "-", "+".join(panel.names)).strip("-")
    target = RunFolder(run.folder)
    sheet = contact_sheet.sheet(
        _rows(pools, found, decode, run)[:ROWS], f"{record['searched']} against others"
    )
    target.write(f"{stem}.png", partial(sheet.save, format="PNG"))
    record["files"] = [f"{stem}.json", f"{stem}.png"]
    target.write_json(f"{stem}.json", record)
    return record


def score_finals(
    run: SavedRun, pools: Sequence[Sequence[Final]], panel: VerifierSet, decode: Decode, display: Display
) -> dict[tuple[int, int], Tensor]:
    """{(prompt, candidate): raw scores [verifiers]}, in batches of the run's size."""
    finals = [f for pool in pools for f in pool]
    found: dict[tuple[int, int], Tensor] = {}
    size = run.request.decode_batch or run.request.batch_size
    for at in range(0, len(finals), size):
        some = finals[at : at + size]
        texts = [run.request.prompts[f.prompt] for f in some]
        labels = [f"candidate {f.candidate.id} of '{t}'" for f, t in zip(some, texts, strict=True)]
        raw = panel.score(decode(some), texts, labels, Ledger())
        found |= {(f.prompt, f.candidate.id): row for f, row in zip(some, raw, strict=True)}
        if at + size < len(finals):
            display.say(f"{at + len(some)} of {len(finals)} candidates scored")
    return found


def _verdict(
    run: SavedRun,
    pools: Sequence[Sequence[Final]],
    scores: dict[tuple[int, int], Tensor],
    panel: VerifierSet,
    k: int,
) -> dict[str, Any]:
    """How one verifier's ranks agree with the search's, and which candidates it would have picked."""
    early, late = [], []
    prompts: list[dict[str, Any]] = []
    for i, pool in enumerate(pools):
        if not pool:
            continue
        rows = torch.stack([scores[i, f.candidate.id] for f in pool])
        new = panel.readable(rows)[:, k].tolist()
        won = next(pool.index(f) for f in run.ranking(i) if f in pool)
        would = max(range(len(pool)), key=lambda n: (new[n], n == won, -n))  # among equals the winner
        early.append(np.array([f.total for f in pool]))
        late.append(np.array(new))
        each = [
            {"candidate": f.candidate.id, "searched": f.total, "score": s}
            for f, s in zip(pool, new, strict=True)
        ]
        rank = 1 + sum(s > new[won] for s in new)
        prompts.append(
            {
                "prompt": run.request.prompts[i],
                "index": i,
                "winner": each[won] | {"rank": rank},
                "would_win": each[would],
                "candidates": each,
            }
        )
    told = asdict(agreement(early, late))
    same = sum(p["winner"]["candidate"] == p["would_win"]["candidate"] for p in prompts)
    return {"verifier": panel.names[k], "rank_correlation": told, "same_winner": same, "prompts": prompts}


def _rows(
    pools: Sequence[Sequence[Final]], found: Sequence[dict[str, Any]], decode: Decode, run: SavedRun
) -> list[SheetRow]:
    """The winner of each prompt, and beside it what each verifier would have picked."""
    rows = []
    for n, told in enumerate(found[0]["prompts"][:ROWS]):
        pool = {f.candidate.id: f for f in pools[told["index"]]}
        picks = [("won", told["winner"]["candidate"])]
        picks += [(f"{v['verifier']} picks", v["prompts"][n]["would_win"]["candidate"]) for v in found]
        media = decode([pool[c] for _, c in picks])
        tiles = []
        for (label, c), item in zip(picks, media, strict=True):
            lines = [f"candidate {c}", f"searched  {pool[c].total:.4g}"]
            lines += [f"{v['verifier']}  {_score(v['prompts'][n], c):.4g}" for v in found]
            tiles.append(Tile.of(item, label, tuple(lines), winner=label == "won"))
        rows.append(SheetRow(told["prompt"], tuple(tiles)))
    return rows


def _score(prompt: dict[str, Any], candidate: int) -> float:
    return next(float(c["score"]) for c in prompt["candidates"] if c["candidate"] == candidate)
