"""Loading what comes along says nothing, and leaves the libraries as loud as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genscale.quiet_libraries import quietly


def test_all_is_as_it_was_afterwards() -> None:
    from diffusers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with quietly("diffusers", "transformers"):
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()


@pytest.mark.slow
def test_an_embedded_model_and_its_clip_load_without_a_word() -> None:
    code = (
        "import genscale\n"
        "from genscale.verifiers.clip import ShapesClip\n"
        "genscale.load_pipeline('shapes-flow')\n"
        "ShapesClip().load()"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
