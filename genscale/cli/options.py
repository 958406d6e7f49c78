"""Options of the commands for typer: those of a request, from its fields' metadata, and those of commands alone."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from genscale.errors import UsageError
from genscale.plugins.automatic import AUTO
from genscale.runs import request
from genscale.runs.option_metadata import COUNT, IMAGE, MODEL, PANELS, RUN, SEARCH, Option, options_of
from genscale.runs.trusted_code import FLAG

# ---------------------------------------------------------------- names for the shell


def complete_sampler(incomplete: str) -> list[str]:
    """Names of samplers that begin with what was typed."""
    return _beginning((AUTO, *_names("sampler")), incomplete)


def complete_verifier(incomplete: str) -> list[str]:
    return _beginning(_names("verifier"), incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Bundled toy models that begin with what was typed; Hugging Face ids and folders are for the user to type."""
    from genscale.pipelines.loading import EMBEDDED

    return _beginning(EMBEDDED, incomplete)


_COMPLETIONS = {"sampler": complete_sampler, "verifier": complete_verifier, "model": complete_model}


def _names(kind: str) -> Iterable[str]:
    from genscale.plugins import registry

    try:
        return registry.found(kind)
    except UsageError:  # completion offers nothing, and prints no error
        return ()


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


# ---------------------------------------------------------------- options of commands alone

_EXTRA = {
    "prompts": Option(
        ("--prompts",), "A file of prompts: text (one per line), jsonl, json, csv or tsv.", IMAGE, "FILE",
        completes="file",
    ),
    "search_size": Option(
        ("--candidates", "--n"),
        "How many images the search tries for each prompt. Works with every sampler: each sets its own size by it, as "
        "`genscale samplers NAME` tells.",
        SEARCH, "N",
    ),
    "set_": Option(
        ("--set",), "An option of the sampler, as --NAME VALUE. Repeatable.", SEARCH, "NAME=VALUE", kind=list
    ),
    "calibration": Option(
        ("--calibration",), "Score previews only from the step on that this file of `genscale calibrate-steps` "
        "recommends.", SEARCH, "FILE", completes="file",
    ),
    "sampler_specs": Option(
        ("--sampler",), "NAME or 'NAME(OPTION=VALUE, ...)'. Give it several times to compare samplers.", SEARCH,
        "NAME", completes="sampler", kind=list,
    ),
    "verifier_sets": Option(
        ("--verifiers",), "Verifiers that steer one entry, joined by +. Give it several times to compare them.",
        SEARCH, "NAMES", completes="verifier", kind=list,
    ),
    "budgets": Option(
        ("--budgets",), "Budget of one entry, such as 320nfe or 16images. Give it several times to compare budgets.",
        SEARCH, "LIMITS", kind=list,
    ),
    "token": Option(
        ("--token",), "Hugging Face token (HF_TOKEN); it is never written to a file.", MODEL, "TEXT"
    ),
    "from_": Option(
        ("--from",), "Repeat the run that made this image or video; other options override it.", RUN, "FILE",
        completes="file",
    ),
    "out": Option(
        ("--out", "--output", "-o"), "Folder to write to (runs/DATE). The folder of the same run is resumed.", RUN,
        "DIR", completes="file",
    ),
    "samples": Option(
        ("--samples",), "Images or videos of each prompt, each by a search of its own (what the benchmark asks for).",
        RUN, "N", kind=int, check=COUNT,
    ),
    "shard": Option(
        ("--shard",), "Only every N-th prompt from the K-th on, for one of N machines; they may share --out.", RUN,
        "K/N",
    ),
    "group": Option(
        ("--group",), "Prompts that are searched together (32); changes no result.", RUN, "N", kind=int, check=COUNT,
    ),
    "dry_run": Option(("--dry-run",), "Print plan and cost; generate nothing.", RUN, kind=bool),
}  # fmt: skip

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to generate. Several prompts are searched together.",
        metavar="PROMPT...",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RUN)]
Trust = Annotated[
    bool,
    typer.Option(
        FLAG,
        help="Run Python code that DIR asks for: its model's own, and verifiers of modules.",
        rich_help_panel=RUN,
    ),
]


# ---------------------------------------------------------------- groups of options


def of_request(
    *names: str, panels: Collection[str] = PANELS, without: Collection[str] = ()
) -> dict[str, Option]:
    """Options of a request's fields: those named, or all under these headings but those left out."""
    known = options_of(request.Request)
    if names:
        return {name: known[name] for name in names}
    return {name: how for name, how in known.items() if how.panel in panels and name not in without}


def extra(*names: str) -> dict[str, Option]:
    """Options of commands alone, by name."""
    return {name: _EXTRA[name] for name in names}


Command = TypeVar("Command", bound=Callable[..., int])


def takes(*groups: dict[str, Option], words: bool = False) -> Callable[[Command], Command]:
    """Give a command `(..., **given)` these options and --json: typer reads them off its signature.

    The command's own parameters come first. words: it takes prompts as arguments. The help lists options under their
    headings, in the order of the groups.
    """
    options = {name: how for group in groups for name, how in group.items()}
    ordered = sorted(options.items(), key=lambda item: PANELS.index(item[1].panel))
    given = {"words": Words} if words else {}
    given |= {name: _annotation(how) for name, how in ordered}
    kinds = inspect.Parameter

    def give(command: Command) -> Command:
        hints = typing.get_type_hints(command, include_extras=True)
        first = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
            if p.kind is not kinds.VAR_KEYWORD
        ]
        more = [kinds(name, kinds.KEYWORD_ONLY, annotation=a, default=None) for name, a in given.items()]
        json = kinds("as_json", kinds.KEYWORD_ONLY, annotation=Json, default=False)
        command.__signature__ = inspect.Signature([*first, *more, json])  # type: ignore[attr-defined]
        return command

    return give


def _annotation(how: Option) -> Any:
    """A parameter of typer: None where the option is not given."""
    kind: Any = list[str] if how.kind is list else Path if how.completes == "file" else how.kind
    made = typer.Option(
        *how.flags,
        help=how.text,
        rich_help_panel=how.panel,
        metavar=how.metavar,
        show_default=False,
        autocompletion=_COMPLETIONS.get(how.completes or ""),
    )
    return Annotated[kind | None, made]
