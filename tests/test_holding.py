"""hold="host": the same results, and a population of any size in the accelerator's memory of one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import genscale
from benchmarks.two_places import HOST, MODEL, TwoPlaces
from genscale.diffusion.prediction import View
from genscale.engine.holding import PLACES, Holding
from genscale.engine.model_batches import ModelBatches
from genscale.errors import UsageError
from genscale.pipelines.cache_rows import CacheRows
from genscale.runs import option_metadata
from genscale.samplers.beam import Beam
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dts_star import DtsStar
from genscale.samplers.evolution import Evolution
from genscale.samplers.smc import Smc
from genscale.samplers.svdd import Svdd
from genscale.toy import analytic
from tests.analytic import SAMPLERS, run
from tests.cached_models import cached
from tests.zoo import ZOO

DIM = 128
SIZES = {
    "smc": Smc,
    "best_of_n": BestOfN,
    "svdd": lambda n: Svdd(children=n),
    "beam": Beam,
    "dts_star": DtsStar,
    "evolution": lambda n: Evolution(start=n),
}


def peak(sampler: Any, hold: str = "host") -> float:
    """The most latents on the accelerator, in float32."""
    with TwoPlaces() as memory:
        analytic.search(
            sampler, analytic.gaussian(DIM), analytic.coordinate(0), batch_size=8, hold=hold, steps=6
        )
        assert (memory.peak[HOST] > 0) == (hold == "host")
    return memory.peak[MODEL] / 4 / DIM


@pytest.mark.parametrize(
    "name", ["smc", *(pytest.param(n, marks=pytest.mark.slow) for n in SIZES if n != "smc")]
)
def test_a_population_of_any_size_in_the_memory_of_one_batch(name: str) -> None:
    few, many = (peak(SIZES[name](n)) for n in (8, 32))
    assert few > 8
    assert many <= 1.05 * few


def test_a_search_that_leaves_predictions_beside_the_model_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aside = Holding.aside
    monkeypatch.setattr(
        Holding, "aside", lambda self, rows: rows if hasattr(rows, "eps") else aside(self, rows)
    )
    assert peak(Smc(32)) > 1.5 * peak(Smc(8))


@pytest.mark.parametrize(("name", "fits"), [("evolution", None), ("smc", 3)], ids=["mixed", "halved"])
def test_rows_that_an_open_batch_left_wait_on_the_host(
    name: str, fits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose run goes on after others' (mixed steps), and those that did not fit into memory."""
    waited, next_batch = list[str](), ModelBatches.next_batch

    def noting(batches: ModelBatches, left: float) -> Any:
        made = next_batch(batches, left)
        waited.extend(memory.place(part.particles.x) for part in batches.waiting if part.begun)
        return made

    monkeypatch.setattr(ModelBatches, "next_batch", noting)
    with TwoPlaces() as memory:
        run(
            SAMPLERS[name], prompts=4, more={"hold": "host"}, budget=genscale.Budget(nfe=48), batch_size=5,
            mix_steps=True, fits=fits,
        )  # fmt: skip
    assert waited
    assert set(waited) == {HOST}


def found(sampler: Any, hold: str = "device", **options: Any) -> Any:
    """What a search enters, and where the batches of the model lay."""
    places = set()
    with TwoPlaces() as memory:
        made = run(
            sampler, prompts=2, more={"hold": hold}, budget=genscale.Budget(nfe=100),
            on_batch=lambda batch, rows: places.add(memory.place(batch.x)), **options,
        )  # fmt: skip
    return [(e.prompt, e.candidate, e.step, e.scores, e.nfe) for e in made.archive.entries], places


SOME = ("smc",)


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(n, marks=pytest.mark.slow) for n in SAMPLERS if n not in SOME)]
)
def test_every_sampler_finds_the_same_with_its_latents_on_the_host(name: str) -> None:
    held, places = found(SAMPLERS[name], "host")
    assert places <= {MODEL}
    assert held == found(SAMPLERS[name])[0]


def test_a_resumed_run_takes_estimates_from_stored_outputs_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they were taken before: another device rounds differently."""
    places, clean_and_noise = list[str](), View.clean_and_noise

    def noting(view: View, step: int, output: torch.Tensor, x: torch.Tensor) -> Any:
        places.append(memory.place(x))
        return clean_and_noise(view, step, output, x)

    monkeypatch.setattr(View, "clean_and_noise", noting)
    for evaluated in (True, False):
        with TwoPlaces() as memory:
            made = run(
                Smc(4), more={"hold": "host"}, budget=genscale.Budget(nfe=24), folder=tmp_path / "run"
            )  # fmt: skip
        assert bool(made.batches) == evaluated
        assert {places.pop() for _ in tuple(places)} == {MODEL}


@pytest.mark.slow
def test_a_resumed_run_on_the_host_is_the_same(tmp_path: Path) -> None:
    first, again = (found(Smc(6), "host", folder=tmp_path)[0] for _ in range(2))
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["best_of_n", "smc"])
def test_a_pipeline_gives_the_same_images(sampler: str) -> None:
    call = ZOO["flux"].arguments(1) | {"output_type": "pt", "num_inference_steps": 4}
    images = []
    for hold in ("device", "host"):
        scaled = genscale.scale(
            ZOO["flux"].build(), sampler, lambda media, prompts: media.pixels.double().flatten(1).mean(1),
            candidates=6, batch_size=4, hold=hold,
        )  # fmt: skip
        with TwoPlaces():
            images.append(scaled(**call, generator=torch.Generator().manual_seed(0)).images)
    assert torch.equal(*images)


def test_the_command_line_knows_the_same_places() -> None:
    assert option_metadata.PLACES == PLACES


def test_what_caches_hold_waits_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is beside the model when the model is called: an operation on tensors of both places is an error."""
    read, places = CacheRows.of, {}
    call = ZOO["flux"].arguments(1) | {"num_inference_steps": 4}

    def noting(*args: Any) -> CacheRows:
        made = read(*args)
        tensors = [v for v in tree_leaves(list(made.slots.values())) if hasattr(v, "by_row")]
        places[hold] = places.get(hold, set()) | {memory.place(v.tensor) for v in tensors}
        return made

    monkeypatch.setattr(CacheRows, "of", staticmethod(noting))
    found = []
    for hold in ("device", "host"):
        scaled = genscale.scale(
            cached("flux", "taylor_seer"), "smc", lambda media, prompts: media.pixels.double().flatten(1).mean(1),
            particles=4, batch_size=3, hold=hold,
        )  # fmt: skip
        with TwoPlaces() as memory:
            found.append(scaled(**call, generator=torch.Generator().manual_seed(0), output_type="pt").images)
    assert torch.equal(*found)
    assert places["host"] == {HOST}
    assert HOST not in places["device"]


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="hold='disk' is unknown: give 'device' or 'host'"):
        genscale.scale(object(), "smc", lambda media, prompts: 0.0, hold="disk")
