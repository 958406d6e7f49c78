"""How commands show their options in the help, and how a mistake on the command line is explained."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from genscale.errors import UsageError, did_you_mean
from genscale.plugins.limits import is_text
from genscale.plugins.limits import shown as shortened


class Command(TyperCommand):
    """A command whose help shows each option under its main name, with its aliases after the text."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = copy.copy(self)
        shown.params = [_under_main_name(parameter) for parameter in self.params]
        TyperCommand.format_help(shown, ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run it, once every file and folder that it was given has a name that the file system can hold."""
        for value in ctx.params.values():
            for path in value if isinstance(value, list | tuple) else (value,):
                if isinstance(path, Path):
                    _refuse_name(path)
        return TyperCommand.invoke(self, ctx)


def _refuse_name(path: Path) -> None:
    if not is_text(str(path)):
        raise UsageError(f"{shortened(str(path))} is no text, and cannot be printed or written: rename it.")
    try:
        os.lstat(path.expanduser())
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # the command says it better
        return
    except OSError as error:
        raise UsageError(f"{shortened(str(path))} cannot be the name of a file: {error.strerror}.") from None
    except (ValueError, RuntimeError):
        raise UsageError(f"{shortened(str(path))} cannot be the name of a file.") from None


def _under_main_name(parameter: Any) -> Any:
    long = [flag for flag in parameter.opts if flag.startswith("--")]
    aliases = [flag for flag in long[1:] if flag != "--help"]
    if not aliases:
        return parameter
    shown = copy.copy(parameter)
    shown.opts = [flag for flag in parameter.opts if flag not in aliases]
    shown.help = f"{parameter.help} Also: {', '.join(aliases)}."
    return shown


def explained(error: Any) -> str:
    """The parser's error as one sentence that says what to do."""
    option = getattr(error, "option_name", None)
    if hasattr(error, "possibilities") and option is not None:
        context = error.ctx
        known = [] if context is None else _flags(context.command.params)
        name = "genscale" if context is None else context.command_path
        return (
            f"option '{option}' is unknown{did_you_mean(option, known)}: `{name} --help` lists the options."
        )
    message: str = error.format_message()
    if option is not None and "requires an argument" in message:
        return f"option '{option}' needs a value."
    return message


def _flags(parameters: Iterable[Any]) -> list[str]:
    return [flag for p in parameters for flag in (*p.opts, *p.secondary_opts) if flag.startswith("--")]
