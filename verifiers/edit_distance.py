"""Edit distances: of two texts, and of a text to the nearest part of another."""

from __future__ import annotations


def levenshtein(one: str, other: str) -> int:
    """Characters to insert, delete or replace in one text to get the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, seen in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != seen)))
    return row[-1]


def nearest_part(wanted: str, text: str) -> tuple[int, int, int]:
    """(distance, start, stop) of the part text[start:stop] whose edit distance to `wanted` is least.

    Sellers 1980, "The theory and computation of evolutionary distances: pattern recognition" (J. Algorithms 1): the
    table of Levenshtein, where the part may begin and end anywhere. Of parts that are equally near the longest is
    taken, and of those the first. len(wanted) x len(text) steps.
    """
    row = [
        (0, j) for j in range(len(text) + 1)
    ]  # (distance, start) of the best part that ends before character j
    for i, letter in enumerate(wanted, 1):
        above, row = row, [(i, 0)]
        for j, seen in enumerate(text, 1):
            cost, start = above[j - 1]
            row.append(
                min(
                    (above[j][0] + 1, above[j][1]),
                    (row[-1][0] + 1, row[-1][1]),
                    (cost + (letter != seen), start),
                )
            )
    distance, shortness, start = min((cost, start - stop, start) for stop, (cost, start) in enumerate(row))
    return distance, start, start - shortness
