"""The tables of `genscale show` and `genscale rescore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.cli.summary_tables import LINES, diversity, print_dropped, print_notes, score_rows


def print_run(found: dict[str, Any], console: Console) -> None:
    """Base and best scores of every prompt, and the files."""
    state = (
        "finished" if found["finished"] else f"not finished: genscale resume {found['folder']} continues it"
    )
    draft = f" · draft {found['draft']}" if found["draft"] else ""
    heading = f"{found['model']} · {found['sampler']}{draft} · seed {found['seed']} · {state}"
    console.print(heading, style="dim", markup=False, highlight=False, soft_wrap=True)
    table = _table(("prompt", "candidates", "NFE", "score", "base", "best"), left=("prompt", "score"))
    for told in found["prompts"][:LINES]:
        for n, (name, base, best) in enumerate(score_rows(told, found["ensemble"], "none")):
            first = (told["prompt"], str(told["candidates"]), str(told["nfe"])) if n == 0 else ("", "", "")
            table.add_row(Text(first[0]), *first[1:], Text(name), base, Text(best, style="bold"))
    console.print(table)
    _more(len(found["prompts"]), console)
    print_notes(found["prompts"], console)
    _note(len(found["without_candidate"]), "prompts have no finished candidate", console)
    print_dropped(found["dropped"], console)
    if told := diversity(found["prompts"]):
        console.print(told, style="dim", highlight=False)
    for sentence in found["turned"]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    _files(found, console)


def print_rescored(found: dict[str, Any], console: Console) -> None:
    """For each verifier: its agreement with the search, which candidate won, and which would have won."""
    for told in found["verifiers"]:
        console.print(
            Text(f"{told['verifier']} against the search by {found['searched']}: {_agreement(told)}")
        )
        table = _table(
            ("prompt", "won", "its rank", "its score", "would win", "its score "), left=("prompt",)
        )
        for prompt in told["prompts"][:LINES]:
            won, would = prompt["winner"], prompt["would_win"]
            table.add_row(
                Text(prompt["prompt"]),
                str(won["candidate"]),
                f"{won['rank']} of {len(prompt['candidates'])}",
                f"{won['score']:.4g}",
                str(would["candidate"]),
                f"{would['score']:.4g}",
            )
        console.print(table)
        _more(len(told["prompts"]), console)
    _note(found["without_latents"], "candidates left no latents and are not scored", console)
    _files(found, console)


def _agreement(told: dict[str, Any]) -> str:
    rank, n = told["rank_correlation"], len(told["prompts"])
    same = f"the same winner in {told['same_winner']} of {n}"
    if rank["rho"] is None:
        return f"{same}; the candidates cannot be ranked, all scores being equal"
    between = "" if rank["low"] is None else f" (95 % interval {rank['low']:.2f} to {rank['high']:.2f})"
    return f"rank correlation {rank['rho']:.2f}{between} over {rank['prompts']} prompts, {same}"


def _table(titles: Sequence[str], left: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in titles:
        table.add_column(title.strip(), justify="left" if title in left else "right")
    return table


def _note(count: int, text: str, console: Console) -> None:
    if count:
        console.print(f"{count} {text}", style="dim")


def _more(count: int, console: Console) -> None:
    if count > LINES:
        console.print(f"... {count - LINES} more with --json", style="dim")


def _files(found: dict[str, Any], console: Console) -> None:
    for name in found["files"]:
        console.print(f"{found['folder']}/{name}", markup=False, highlight=False, soft_wrap=True)
