"""genscale with the oldest diffusers that it supports: pyproject.toml's lower bound, as pip installs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Of the time of diffusers 0.35: later ones dropped what it imports. Torch and all else are those of the tests.
BESIDE = ("transformers==4.55.4", "tokenizers==0.21.4", "huggingface_hub==0.34.4", "peft==0.17.1")
MISSING = 5  # families of the zoo that are younger
UNREACHABLE = (
    "No matching distribution",
    "Could not find a version",
    "Connection",
    "Temporary failure",
    "Network",
)


def oldest() -> str:
    """The lower bound of diffusers in pyproject.toml, as a version of three numbers."""
    found = re.search(r'"diffusers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    return ".".join([*found[1].split("."), "0", "0"][:3])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests/oldest_run.py finds, with a folder of the older packages before the installed ones."""
    folder = tmp_path_factory.mktemp("oldest")
    options = ("--no-deps", "--no-input", "--disable-pip-version-check", "--target", str(folder))
    words = [sys.executable, "-m", "pip", "install", "-q", *options, f"diffusers=={oldest()}", *BESIDE]
    made = subprocess.run(words, capture_output=True, text=True, timeout=400)
    if made.returncode and any(word in made.stderr for word in UNREACHABLE):
        pytest.skip(f"diffusers {oldest()} cannot be installed here: no package registry can be reached.")
    assert made.returncode == 0, made.stderr
    path = os.pathsep.join([str(folder), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.oldest_run"],
        capture_output=True, text=True, timeout=500, cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_lower_bound_is_what_runs(found: Any) -> None:
    assert found["diffusers"] == oldest()
    assert found["transformers"].startswith("4.")


@pytest.mark.slow
def test_one_candidate_batches_and_resume(found: Any) -> None:
    """Of the bundled models and of every family of the zoo that this diffusers has."""
    from genscale.pipelines.loading import EMBEDDED
    from tests.zoo import ZOO

    assert {name: fault for name, fault in found["found"].items() if fault} == {}
    assert set(EMBEDDED) <= set(found["found"]) <= set(EMBEDDED) | set(ZOO)
    assert len(found["found"]) >= len(EMBEDDED) + len(ZOO) - MISSING
