"""The instruction that HPSv3 was trained with: its authors' words, read from their package or from a file."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from genscale.errors import UsageError
from genscale.safe_json import read_text

MARK, PLACE = "<|Reward|>", "{text_prompt}"
PARTS = ("INSTRUCTION", "prompt_with_special_token")  # of the authors' module, whose sum is the instruction
_ADVICE = (
    "install the authors' package for it (pip install --no-deps hpsv3), or give instruction=FILE, a text with "
    f"{PLACE} and {MARK}, or their data_collator_qwen.py"
)


def instruction(file: str | None) -> str:
    """The text with PLACE where the prompt goes and MARK where the score is read.

    file: a text, or the authors' module, of which only two texts are read: no code of it is run. None: that module in
    the installed package hpsv3, which is not imported. UsageError: there is none.
    """
    path = _installed() if file is None else Path(file).expanduser()
    if path is None:
        raise UsageError(
            f"hps3 needs the instruction that it was trained with, which is not here: {_ADVICE}."
        )
    what = f"the instruction of hps3 '{path}'"
    text = read_text(path, what)
    if path.suffix == ".py":
        text = _of_module(text)
    if text.count(PLACE) != 1 or text.count(MARK) != 1:
        raise UsageError(f"{what} does not hold {PLACE} and {MARK} once each: {_ADVICE}.")
    return text


def _installed() -> Path | None:
    try:
        found = find_spec("hpsv3")
    except (ImportError, ValueError):
        return None
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "dataset" / "data_collator_qwen.py"
        if path.is_file():
            return path
    return None


def _of_module(source: str) -> str:
    """The sum of the texts that a module assigns to PARTS; "" where it does not."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    texts = {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name) and isinstance(statement.value.value, str)
    }
    return "".join(texts[part] for part in PARTS) if set(PARTS) <= set(texts) else ""
