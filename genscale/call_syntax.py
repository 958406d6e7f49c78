"""`NAME(OPTION=VALUE, VALUE, ...)`, as samplers, verifiers, guidance rules and kernels are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """A name with its arguments. text: what is between the brackets, None without brackets.

    arguments: (option, value) in order; the option of a value by place is "".
    """

    name: str
    text: str | None
    arguments: tuple[tuple[str, str], ...]

    @property
    def by_place(self) -> list[str]:
        return [value for option, value in self.arguments if not option]

    @property
    def by_name(self) -> dict[str, str]:
        return {option: value for option, value in self.arguments if option}

    def settings(self) -> list[str]:
        """["option=value", ...]; a value may hold commas: what has no option belongs to the value before it."""
        found: list[str] = []
        for option, value in self.arguments:
            if option or not found:
                found.append(f"{option}={value}" if option else value)
            else:
                found[-1] += f",{value}"
        return found


def parse_call(text: str) -> Call | None:
    """None where it cannot be read."""
    match = re.fullmatch(r"\s*([^\s()]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        return None
    arguments = [_argument(part) for part in outside_brackets(match[2] or "") if part.strip()]
    return Call(match[1], match[2], tuple(arguments))


def _argument(part: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*([A-Za-z_][\w-]*)\s*=(.*)", part, re.DOTALL)
    return ("", part.strip()) if match is None else (match[1], match[2].strip())


def outside_brackets(text: str, separator: str = ",") -> Iterator[str]:
    """What a letter separates outside of brackets."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == separator and depth <= 0:
            yield part
            part = ""
        else:
            part += letter
    yield part
