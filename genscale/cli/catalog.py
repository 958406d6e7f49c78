"""What is there: samplers, verifiers and models, as records for --json and as tables for people."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genscale.plugins import registry as plugins
from genscale.plugins import options as sampler_options
from genscale.plugins.docstrings import explained
from genscale.errors import Refusal


def plugin_records(kind: str, name: str | None = None) -> list[dict[str, Any]]:
    """Every sampler or verifier (or the one named); one that cannot be loaded says why."""
    names = list(plugins.found(kind)) if name is None else [name]
    return [_record(kind, n, strict=name is not None) for n in names]


def _record(kind: str, name: str, strict: bool) -> dict[str, Any]:
    try:
        cls = plugins.load(kind, name)
        hints = sampler_options.field_types(cls)
    except Refusal as error:
        if strict:
            raise
        return {"name": name, "about": str(error), "options": {}}
    text = inspect.getdoc(cls) or ""
    record: dict[str, Any] = {
        "name": name,
        "about": text.split("\n")[0],
        "options": {
            n: {
                "default": _default(f),
                "type": sampler_options.describe(hints[n]),
                "about": explained(cls, n),
            }
            for n, f in plugins.options(cls).items()
            if not f.metadata.get("python_only")
        },
    }
    if kind == "sampler":
        record["cost"] = _cost(text)
        record["paper"] = _paper(text + "\n" + (inspect.getdoc(inspect.getmodule(cls)) or ""))
        record["needs"] = sorted(getattr(cls, "needs", ()))
    return record


def model_records() -> list[dict[str, Any]]:
    from genscale.pipelines.loading import EMBEDDED, folder_of

    return [
        {
            "name": name,
            "about": m.about,
            "size": f"{m.size}x{m.size}",
            "steps": m.steps,
            "guidance": m.guidance,
            "verifier": m.verifier,
            "report": m.report,
            "installed": (folder_of(name) / "model_index.json").is_file(),
        }
        for name, m in EMBEDDED.items()
    ]


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return "required"
    return plugins.plain(value)


def _cost(doc: str) -> str:
    match = re.search(r"Cost[^:\n]*: (.+?)(?=(?<!\.)[;.]\s|\.?\n\n|\Z)", doc, re.DOTALL)
    return "" if match is None else " ".join(match[1].split()).rstrip(".")


def _paper(doc: str) -> str:
    """Where it is published: an arXiv number, or else the first "Name et al. year" that is cited."""
    if match := re.search(r"arXiv[:\s]+(\d{4}\.\d{4,5})", doc):
        return f"arXiv {match[1]}"
    match = re.search(r"[A-Z][\w-]+(?:, [A-Z][\w-]+)*(?: et al\.| & [A-Z][\w-]+)? (?:19|20)\d\d\b", doc)
    return "" if match is None else match[0]


# --------------------------------------------------------------------------------------------- for people


def show_plugins(kind: str, records: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 3, 1, 0))
    for title in (kind, "", "options"):
        table.add_column(title, overflow="fold")
    for record in records:
        about = Text(record["about"])
        for extra in (record.get("cost") and f"cost: {record['cost']}", record.get("paper")):
            if extra:
                about.append(f"\n{extra}", style="dim")
        options = "\n".join(f"{n}={o['default']}" for n, o in record["options"].items())
        table.add_row(Text(record["name"], style="bold"), about, Text(options))
    console.print(table)


def show_details(record: dict[str, Any], console: Console) -> None:
    """One plug-in with every option explained."""
    console.print(Text(record["name"], style="bold"), Text(record["about"]))
    for extra in (record.get("cost") and f"cost in NFE: {record['cost']}", record.get("paper")):
        if extra:
            console.print(Text(extra, style="dim"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for name, option in record["options"].items():
        flag = "--" + name.replace("_", "-")
        table.add_row(
            Text(flag, style="bold"), Text(f"{option['type']}, {option['default']}"), Text(option["about"])
        )
    if record["options"]:
        console.print()
        console.print(table)


def show_models(records: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for title in ("model", "", "size", "steps", "guidance", "verifier", "report"):
        table.add_column(title, no_wrap=bool(title))
    for r in records:
        about = r["about"] if r["installed"] else f"{r['about']}, not installed"
        row = (r["name"], about, r["size"], r["steps"], r["guidance"], r["verifier"], r["report"])
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
    console.print(
        Text("\nAny diffusers folder, .safetensors or .ckpt file, or hub id (owner/name) works too.", "dim")
    )
