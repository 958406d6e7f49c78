"""The code of README and docs: fenced blocks, the commands in them, and commands and flags in running text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """Code between fences. title: the file that it is shown as, `title="boxes.json"` behind the language."""

    language: str
    code: str
    line: int
    title: str = ""


def pages() -> list[Path]:
    """README and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(markdown: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(markdown):
        title = re.search(r'title="([^"]+)"', match["rest"])
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        line = markdown.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], code, line, title[1] if title else ""))
    return found


def commands(code: str) -> list[list[str]]:
    """The words of every command in a block: `\\` goes on, `&&` and line ends part, `#` begins a comment."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            found.append(words[:at])
            words = words[at + 1 :]
        found.append(words)
    return [words for words in found if words]


def spans(markdown: str) -> list[str]:
    """Inline code, each on one line."""
    text = _FENCE.sub("", markdown)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
