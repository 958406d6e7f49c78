"""What is made smaller in the code of the docs before a test runs it, and what is left out of it, line by line."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.doc_stand_ins import SOUND, VIDEO


def affordable(nfe: int) -> int:
    """Of what lies above 100 an eighth is left, so that unequal budgets stay unequal."""
    return min(nfe, 100 + max(0, nfe - 100) // 8)


# In Python, and in every word of a command: (pattern, what becomes of it). A run of 28 steps says nothing more about
# a command than one of 8.
CUTS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"(\d+)nfe", lambda m: f"{affordable(int(m[1]))}nfe"),
    (r"(nfe=)(\d+)", lambda m: f"{m[1]}{affordable(int(m[2]))}"),
    (r"(candidates=|particles=)(\d+)", lambda m: f"{m[1]}{min(4, int(m[2]))}"),
    (
        r"(\bsteps=)(\d+)",
        lambda m: f"{m[1]}{min(2, int(m[2]))}",
    ),  # of a draft: fewer than the 4 that are added below
    (r"(num_inference_steps(?:=|\": ))(\d+)", lambda m: f"{m[1]}{min(8, int(m[2]))}"),
    (r"(audio_(?:length|end)_in_s=)([\d.]+)", lambda m: f"{m[1]}{min(0.064, float(m[2]))}"),
    (r"(\.to\(\s*)\"cuda\"", lambda m: f'{m[1]}"cpu"'),
)
# Options of commands whose number is cut to at most this.
AT_MOST = {
    "--steps": 8,
    "--candidates": 4,
    "--rounds": 2,
    "--particles": 4,
    "--frames": 5,
    "--seconds": 0.064,
    "--samples": 1,
}
# Options that are given another value: tests have no accelerator and listen to nobody but this machine.
INSTEAD = {"--device": {"cuda": "cpu"}, "--host": {"0.0.0.0": "127.0.0.1"}}
# Said where the command does not: for the 20 steps of bundled toy models and the 16 candidates of most; no browser.
ADDED = {
    "generate": ("--steps", "4"),
    "video": ("--steps", "4"),
    "audio": ("--steps", "4"),
    "compare": ("--steps", "4", "--budget", "64nfe"),
    "bench": ("--steps", "2", "--samples", "1"),
    "calibrate-steps": ("--steps", "4", "--candidates", "4"),
    "calibrate-verifier": ("--steps", "4", "--candidates", "4"),
    "demo": ("--port", "0", "--no-open"),
}


def cut(text: str) -> str:
    """Python, or a word of a command, with its budget cut down."""
    for pattern, smaller in CUTS:
        text = re.sub(pattern, smaller, text)
    return text


def cut_command(words: list[str]) -> list[str]:
    """The words after `genscale`, with their budget cut down and without what needs an accelerator."""
    from genscale.pipelines.placement import OFFLOADS

    words, kept = [cut(word) for word in words], []
    while words:
        word = words.pop(0)
        if word == "--offload":  # refused where there is no accelerator; that it is one of these is checked
            assert words.pop(0) in OFFLOADS
            continue
        if word in AT_MOST and words and words[0].isdigit():
            words[0] = str(min(AT_MOST[word], int(words[0])))
        if word in INSTEAD and words:
            words[0] = INSTEAD[word].get(words[0], words[0])
        kept.append(word)
    return kept if "--help" in kept else _completed(kept)


def _completed(words: list[str]) -> list[str]:
    command = words[0] if words else ""
    if command == "audio":
        words = [SOUND if word == "owner/name" else word for word in words]
    if command == "video" or words[:2] == ["bench", "vbench"]:
        words = [VIDEO if word == "owner/name" else word for word in words]
    own = "--model" in words and ":" in words[words.index("--model") + 1]  # a function takes no steps
    if "--from" in words or own:  # it is to be done as it was
        return words
    added = list(ADDED.get(command, ()))
    if VIDEO in words:
        added += ["--frames", "5"]  # the motion modules of the stand-in know 8
    while added:
        option = added.pop(0)
        value = [added.pop(0)] if added and not added[0].startswith("--") else []
        said = option in words or (option == "--budget" and "--budgets" in words)
        if option == "--port" or not said:  # of a port the last one counts
            words = [*words, option, *value]
    return words
