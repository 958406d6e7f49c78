"""Every scheduler class of diffusers: a search of one candidate is the pipeline bit for bit, or it is refused."""

from __future__ import annotations

import inspect
import re

import diffusers
import pytest

from benchmarks import scheduler_table
from tests.quick import quick
from tests.scheduler_cells import EQUAL, FAILS, LOOPS, REFUSED, cell, schedulers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# In the default run, with default options: one of each kind of state and noise.
REPRESENTATIVES = (
    "CMStochasticIterativeScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.parametrize("name", quick(schedulers(), REPRESENTATIVES))
def test_no_search_is_silently_another_picture(name: str) -> None:
    cls = schedulers()[name]
    for loop in LOOPS:
        if loop.takes and name not in loop.takes:
            continue
        found = cell(cls, {}, loop)
        assert found in (EQUAL, FAILS) or re.fullmatch(
            REFUSED + rf"{name} .*[^.]: choose another scheduler\.", found
        )


@pytest.mark.slow
def test_the_page_is_what_the_table_would_be() -> None:
    """With all options. To mend: python -m benchmarks.scheduler_table."""
    page = scheduler_table.PAGE.read_text()
    assert page == scheduler_table.filled(page, {name: scheduler_table.row(name) for name in schedulers()})


def test_the_page_has_every_class_and_no_empty_promise() -> None:
    page = scheduler_table.PAGE.read_text()
    if f"diffusers {diffusers.__version__}:" not in page:
        pytest.skip("the table is of another version of diffusers")
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", page, flags=re.M)
    assert [name for name, _ in rows] == list(schedulers())
    assert all(re.search(r"bit for bit|refused|–", cells) for _, cells in rows)


@pytest.mark.parametrize("broken", [False, True])
def test_a_cell_finds_a_silent_difference(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: candidate 0 with noise of its own key, as all others have."""
    from genscale.engine.step_noise import StepNoise

    if broken:
        monkeypatch.setattr(StepNoise, "_own", lambda *_: None)
    cls, loop = schedulers()["EulerAncestralDiscreteScheduler"], LOOPS[0]
    assert "noise" in inspect.getsource(cls.step)
    if broken:
        with pytest.raises(AssertionError, match="silently another picture"):
            cell(cls, {}, loop)
    else:
        assert cell(cls, {}, loop) == EQUAL
