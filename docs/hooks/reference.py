"""Pages that are made from the program itself: commands, samplers, verifiers and models.

A page says `<!-- made: NAME -->` where a list belongs. What is listed is what is registered, none of it by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

PROMPT = "genscale"


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page with its lists."""
    methods = Path(config["docs_dir"]) / "methods"

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in MADE:
            raise PluginError(f"{page.file.src_uri}: there is no list '{name}', but {', '.join(MADE)}")
        return "\n".join(MADE[name](methods))

    return re.sub(r"<!-- made: ([\w-]+) -->", made, markdown)


# ---------------------------------------------------------------- plug-ins


def plugin_table(kind: str, methods: Path) -> Iterator[str]:
    """One line a plug-in: name, what it is, and of samplers what it costs and where it is from."""
    from genscale.plugins.catalog import plugin_records

    sampler = kind == "sampler"
    yield "| | what it is | " + ("cost in NFE | needs | paper |" if sampler else "options |")
    yield "|---|---|" + ("---|---|---|" if sampler else "---|")
    for record in plugin_records(kind):
        name = f"[`{record['name']}`](#{record['name']})"
        more = (record["cost"], ", ".join(record["needs"]), _paper(record["paper"])) if sampler else ()
        more = more or (", ".join(f"`{option}`" for option in record["options"]),)
        yield "| " + " | ".join((name, *map(cell, (record["about"], *more)))) + " |"


def plugin_details(kind: str, methods: Path) -> Iterator[str]:
    """A section for each plug-in, with all its options."""
    from genscale.plugins.catalog import plugin_records

    for record in plugin_records(kind):
        yield f"\n## `{record['name']}` {{#{record['name']}}}\n\n{record['about']}\n"
        if (methods / f"{record['name']}.md").is_file():
            yield f"[The method: idea, formula, and what was measured](../methods/{record['name']}.md)\n"
        if record.get("candidates"):
            yield f"`candidates` {record['candidates']}.\n"
        yield from _options(record["options"])


def _options(options: dict[str, Any]) -> Iterator[str]:
    if not options:
        yield "No options."
        return
    yield "| option | type | default | |\n|---|---|---|---|"
    for name, option in options.items():
        default = "" if option["default"] is None else f"`{option['default']}`"
        about = option["about"][:1].upper() + option["about"][1:]
        yield f"| `{name}` | {cell(option['type'])} | {cell(default)} | {cell(about)} |"


def model_table(methods: Path) -> Iterator[str]:
    from genscale.runs.model_catalog import model_records

    yield "| | what it is | size | steps | guidance | verifier | held out |\n|---|---|---|---|---|---|---|"
    for r in model_records():
        numbers = f"{r['size']} | {r['steps']} | {r['guidance']:g}"
        yield f"| `{r['name']}` | {r['about']} | {numbers} | `{r['verifier']}` | `{r['held_out']}` |"


def _paper(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[\1](https://arxiv.org/abs/\1)", text)


def cell(text: str) -> str:
    """Text as a cell of a table holds it: bars and marks of Markdown mean themselves."""
    parts = re.split(r"(`[^`]*`|\[[^\]]*\]\([^)]*\))", " ".join(str(text).split()))
    plain = [part if i % 2 else re.sub(r"([*_<|$\[])", r"\\\1", part) for i, part in enumerate(parts)]
    return "".join(plain).replace("|", "\\|").replace("\\\\|", "\\|")


# ---------------------------------------------------------------- commands


def commands() -> dict[str, Any]:
    """The commands of the program by name, as typer made them."""
    import typer.main

    from genscale.cli.app import app

    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]


def command_table(methods: Path) -> Iterator[str]:
    yield "| command | what it does |\n|---|---|"
    for name, command in commands().items():
        yield f"| [`{PROMPT} {name}`](#{name}) | {cell((command.help or '').splitlines()[0])} |"


def command_details(methods: Path) -> Iterator[str]:
    for name, command in commands().items():
        yield f"\n## `{PROMPT} {name}` {{#{name}}}\n\n{command.help}\n"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([PROMPT, name, "[OPTIONS]", *(p.metavar or p.name.upper() for p in arguments)])
        yield f"```text\n{usage}\n```\n"
        yield from _examples(command.epilog or "")
        context = command.context_class(command)
        panels: dict[str, list[Any]] = {}
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(
                    parameter
                )
        for panel, options in panels.items():
            yield f"\n**{panel}**\n\n| option | |\n|---|---|"
            for option in options:
                yield f"| {flags(option, context)} | {cell(option.help or '')} |"


def flags(option: Any, context: Any) -> str:
    """`--name VALUE`, and how it is switched off."""
    words = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return words
    kind = option.metavar or option.get_help_record(context)[0].split()[-1].strip("<>").upper()
    return f"{words} {kind}"


def _examples(epilog: str) -> Iterator[str]:
    """The examples as a block of commands, and what is said beside them."""
    lines = [line.strip() for line in epilog.splitlines() if line.strip() and line.strip() != "Examples:"]
    examples = [line for line in lines if line.startswith(PROMPT + " ")]
    if examples:
        yield "```sh\n" + "\n".join(examples) + "\n```\n"
    yield from (line + "\n" for line in lines if line not in examples)


MADE: dict[str, Callable[[Path], Iterator[str]]] = {
    "sampler-table": lambda methods: plugin_table("sampler", methods),
    "sampler-details": lambda methods: plugin_details("sampler", methods),
    "verifier-table": lambda methods: plugin_table("verifier", methods),
    "verifier-details": lambda methods: plugin_details("verifier", methods),
    "model-table": model_table,
    "command-table": command_table,
    "command-details": command_details,
}
