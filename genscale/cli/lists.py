"""Commands that list what is there: `genscale samplers`, `verifiers` and `models`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from genscale.cli import options as o
from genscale.cli.request_options import print_json


def samplers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: o.Json = False
) -> int:
    """List the samplers, or explain one."""
    return _list_plugins("sampler", name, as_json)


def verifiers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: o.Json = False
) -> int:
    """List the verifiers, or explain one."""
    return _list_plugins("verifier", name, as_json)


def models(as_json: o.Json = False) -> int:
    """List the embedded models."""
    from genscale.cli import catalog as listing

    records = listing.model_records()
    if as_json:
        print_json(records)
    else:
        listing.show_models(records, Console())
    return 0


def _list_plugins(kind: str, name: str | None, as_json: bool) -> int:
    from genscale.cli import catalog as listing

    records = listing.plugin_records(kind, name)
    if as_json:
        print_json(records if name is None else records[0])
    elif name is None:
        listing.show_plugins(kind, records, Console())
    else:
        listing.show_details(records[0], Console())
    return 0
