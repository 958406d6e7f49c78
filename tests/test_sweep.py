"""Every pipeline class of diffusers that can be built here: what a search does with it."""

from __future__ import annotations

from functools import cache

import pytest

from tests.derived import RECIPES, derived, pipeline_classes
from tests.derived_skipped import SKIPPED
from tests.quick import quick
from tests.sweep_expected import FAULTS, REFUSED
from tests.sweep_run import Found, sweep
from tests.zoo import ZOO

NAMES = sorted(RECIPES)
SEARCHED = [name for name in NAMES if name not in REFUSED | FAULTS]
QUICK_ONES = (
    "Allegro", "CogView4", "FluxInpaint", "KandinskyCombined", "Latte", "RePaint", "StableDiffusionControlNetImg2Img",
    "StableDiffusionXLControlNetUnion", "ZImageImg2Img",
)  # fmt: skip
QUICK = [f"{name}Pipeline" for name in QUICK_ONES]


@cache
def outcome(name: str) -> Found:
    return sweep(derived()[name])


@pytest.mark.parametrize("name", quick(SEARCHED, QUICK))
def test_one_candidate_is_the_pipeline_bit_for_bit(name: str) -> None:
    found = outcome(name)
    assert (found.alone, found.refused, found.one) == ("", "", "")


@pytest.mark.parametrize("name", quick(SEARCHED, QUICK))
def test_batches_of_four_and_of_one_find_the_same(name: str) -> None:
    found = outcome(name)
    assert (found.alone, found.refused, found.three) == ("", "", "")


@pytest.mark.parametrize("name", quick(sorted(REFUSED), sorted(REFUSED)[::10]))
def test_what_is_refused_is_refused_by_one_sentence(name: str) -> None:
    found = outcome(name)
    assert found.alone == ""
    assert REFUSED[name] in found.refused
    assert found.refused.endswith(".")
    assert "\n" not in found.refused


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_known_faults_are_still_there(name: str) -> None:
    """Whoever mends one takes it out of the table."""
    found = outcome(name)
    assert found.alone == ""
    assert not found.searched, f"{name} is searched: take it out of FAULTS"


def test_most_pipelines_that_can_be_searched_are() -> None:
    """Measured by the other tests: what is in no table is searched. Refusals count as well, but not as searched."""
    assert len(SEARCHED) >= 0.99 * len([name for name in NAMES if name not in REFUSED])
    assert len(SEARCHED) >= 0.97 * len(NAMES)


@pytest.mark.slow
def test_no_pipeline_class_is_forgotten() -> None:
    own = {type(entry.build()).__name__ for entry in ZOO.values()}
    assert set(pipeline_classes()) == own | set(RECIPES) | set(SKIPPED)
    assert not set(RECIPES) & set(SKIPPED)
    assert set(REFUSED) | set(FAULTS) <= set(RECIPES)
    assert not set(REFUSED) & set(FAULTS)
