"""Commands that list what is there: `genscale samplers`, `verifiers` and `models`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.request_options import print_json
from genscale.plugins.catalog import plugin_records
from genscale.runs.model_catalog import model_records


def samplers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: options.Json = False
) -> int:
    """List the samplers, or explain one."""
    return _list_plugins("sampler", name, as_json)


def verifiers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: options.Json = False
) -> int:
    """List the verifiers, or explain one."""
    return _list_plugins("verifier", name, as_json)


def models(as_json: options.Json = False) -> int:
    """List the bundled toy models."""
    from genscale.cli import catalog

    records = model_records()
    if as_json:
        print_json(records)
    else:
        catalog.show_models(records, Console())
    return 0


def _list_plugins(kind: str, name: str | None, as_json: bool) -> int:
    from genscale.cli import catalog

    records = plugin_records(kind, name)
    if as_json:
        print_json(records if name is None else records[0])
    elif name is None:
        catalog.show_plugins(kind, records, Console())
    else:
        catalog.show_details(records[0], Console())
    return 0
