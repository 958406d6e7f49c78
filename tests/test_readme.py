"""What the README says is so: its commands, its tables."""

from __future__ import annotations

import re
from pathlib import Path

from genscale.plugins import found, load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_second_command() -> None:
    commands = [b.strip() for b in re.findall(r"```sh\n(.*?)```", README, re.S)]
    assert commands[1].startswith("python3 -m venv .venv && ")
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_sampler_is_in_the_table_and_the_reverse() -> None:
    table = README.split("## Samplers")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(found("sampler"))


def test_every_sampler_and_verifier_says_what_it_is() -> None:
    for kind in ("sampler", "verifier"):
        for name in found(kind):
            assert (load(kind, name).__doc__ or "").strip()


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README
