"""Commands that list what there is: `genscale samplers`, `verifiers` and `models`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from genscale.cli import options
from genscale.cli.request_options import print_json
from genscale.plugins.catalog import plugin_records
from genscale.runs.model_catalog import model_records

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Explain this one, with all its options.")]


@options.takes()
def samplers(name: Name = None, **given: Any) -> int:
    """List the samplers by what they need, or explain one."""
    return _list_plugins("sampler", name, given["as_json"])


@options.takes()
def verifiers(name: Name = None, **given: Any) -> int:
    """List the verifiers, or explain one."""
    return _list_plugins("verifier", name, given["as_json"])


@options.takes()
def models(**given: Any) -> int:
    """List the bundled toy models."""
    from genscale.cli import catalog

    records = model_records()
    if given["as_json"]:
        print_json(records)
    else:
        catalog.print_models(records, Console())
    return 0


def _list_plugins(kind: str, name: str | None, as_json: bool) -> int:
    from genscale.cli import catalog

    records = plugin_records(kind, name)
    if as_json:
        print_json(records if name is None else records[0])
    elif name is not None:
        catalog.print_details(records[0], Console())
    elif kind == "sampler":
        catalog.print_samplers(records, Console())
    else:
        catalog.print_verifiers(records, Console())
    return 0
