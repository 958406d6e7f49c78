"""Formulas as MathML, which browsers draw by themselves: no script, nothing fetched. Intervals that are not broken.

pymdownx.arithmatex finds `$...$` and `$$...$$`; what it marks is converted here. In `0.950 ± 0.039` no line ends.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_INTERVAL = re.compile(r"(?<=\d) ± (?=[\d.])")
# Functions get the thin space that LaTeX sets about them; none before a bracket.
_FUNCTION = re.compile(
    r"<mi>(exp|log|ln|min|max|sin|cos|tan|arg|sup|inf|det)</mi>(?P<bracket>(?=<mo[^>]*>&#x00028;))?"
)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """The page's HTML with formulas converted. PluginError where one cannot be."""

    def mathml(match: re.Match[str]) -> str:
        latex = html.unescape(match["latex"]).strip()
        display = "block" if match["open"] == "[" else "inline"
        try:
            made = convert(latex, display=display)
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: formula '{latex}': {type(error).__name__}") from error
        if "\\" in made:  # it hands unknown commands through as they are
            raise PluginError(f"{page.file.src_uri}: formula '{latex}' has a command that is not known")
        made = _FUNCTION.sub(_spaced, made)
        return f'<{match["tag"]} class="formula">{made}</{match["tag"]}>'

    return _INTERVAL.sub("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", _MARKED.sub(mathml, content))


def _spaced(match: re.Match[str]) -> str:
    behind = "0" if match["bracket"] is not None else ".17em"
    return f'<mo form="prefix" lspace=".17em" rspace="{behind}">{match[1]}</mo>'
