"""How scores are written on the page."""

from __future__ import annotations


def number(value: float) -> str:
    """With enough decimals to tell scores apart, and as many for all scores of one size."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    size = abs(value)
    return f"{value:.4f}" if 1e-3 <= size < 10 else f"{value:.2f}" if 10 <= size < 1e4 else f"{value:.3g}"


def short(value: float) -> float:
    """The same as a number, which a table can sort."""
    return float(number(value))


def gain(value: float) -> str:
    return "±0" if value == 0 else f"{value:+.3g}"
