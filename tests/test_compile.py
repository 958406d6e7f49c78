"""Compiled denoisers in a search: how many graphs there are, and batches that are filled up to a few sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import genscale
from genscale import UsageError
from genscale.pipelines.batch_padding import padded_size
from genscale.pipelines.mixed_steps import RowSteps, StepsStayApart
from genscale.pipelines.serving_driver import ServingDriver
from genscale.pipelines.step_study import Steps
from tests.quick import quick
from tests.zoo import ZOO

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.own_process]
BLOCKS = {"flux": 2, "stable_diffusion": 1, "wan": 1}  # classes of repeated blocks


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m).mean()) for m in media]


def call_of(family: str, **more: Any) -> dict[str, Any]:
    given = ZOO[family].arguments(3)
    given["prompt"] = given["prompt"][2]
    return given | {"output_type": "np", "generator": torch.Generator().manual_seed(2)} | more


def pixels(pipe: Any, family: str, **options: Any) -> np.ndarray:
    scaled = genscale.scale(pipe, "best_of_n", brightness, **options)
    return np.asarray(scaled(**call_of(family))[0])


def denoiser(pipe: Any) -> tuple[str, nn.Module]:
    name = "transformer" if hasattr(pipe, "transformer") else "unet"
    return name, getattr(pipe, name)


def compile_as(way: str, pipe: Any, **options: Any) -> None:
    name, module = denoiser(pipe)
    if way == "module.compile":
        module.compile(**options)
    elif way == "torch.compile":
        pipe.register_modules(**{name: torch.compile(module, **options)})
    else:
        module.compile_repeated_blocks(**options)


@pytest.fixture
def graphs() -> Iterator[list[Any]]:
    """A list to which `counting` adds every graph."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def counting(made: list[Any]) -> Callable[..., Any]:
    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    return backend


WAYS = ("module.compile", "torch.compile", "compile_repeated_blocks")
CASES = [(family, way) for family in BLOCKS for way in WAYS]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "way"), CASES)
def test_a_search_needs_a_few_graphs_whatever_its_batches(family: str, way: str, graphs: list[Any]) -> None:
    """One of the first size, one of any size, and torch's own for a call of one row; nothing breaks a graph."""
    pipe = ZOO[family].build()
    plain = pixels(pipe, family, candidates=3)
    compile_as(way, pipe, backend=counting(graphs), fullgraph=True)
    for candidates, batch_size in ((3, 4), (5, 3), (7, 1), (8, 8), (6, 5)):
        pixels(pipe, family, candidates=candidates, batch_size=batch_size)
    genscale.scale(pipe, "smc", brightness, particles=6, batch_size=4)(**call_of(family))
    classes = BLOCKS[family] if way == "compile_repeated_blocks" else 1
    assert 2 * classes <= len(graphs) <= 3 * classes
    assert np.array_equal(pixels(pipe, family, candidates=3), plain)


@pytest.mark.slow
def test_inductor_compiles_a_denoiser(graphs: list[Any]) -> None:
    """Its arithmetic differs in the last digits from PyTorch's own, and not between searches."""
    pipe = ZOO["flux"].build()
    plain = pixels(pipe, "flux", candidates=3)
    pipe.transformer.compile(fullgraph=True)
    found = pixels(pipe, "flux", candidates=3)
    assert np.allclose(found, plain, atol=1e-3)
    assert np.array_equal(pixels(pipe, "flux", candidates=3), found)


# ---------------------------------------------------------------- batches of a few sizes


@contextmanager
def sizes_of(pipe: Any) -> Iterator[set[int]]:
    """The numbers of rows that the denoiser is given."""
    seen: set[int] = set()
    module = denoiser(pipe)[1]
    plain = module.forward

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.add(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))
        return plain(*args, **kwargs)

    module.forward = forward
    try:
        yield seen
    finally:
        del module.forward


SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("best_of_n", {"candidates": 7}), ("smc", {"particles": 6}), ("beam", {"budget": "6images"}),
]  # fmt: skip
PADDED = [(family, i) for family in ("flux", "stable_diffusion") for i in range(len(SEARCHES))]


@pytest.mark.parametrize(("family", "search"), quick(PADDED, [("flux", 1)], sets=True))
def test_filled_up_batches_change_nothing(family: str, search: int) -> None:
    pipe, (sampler, options) = ZOO[family].build(), SEARCHES[search]
    found = {}
    for how in ("no", "full", "buckets"):
        scaled = genscale.scale(pipe, sampler, brightness, batch_size=4, keep=64, pad_batches=how, **options)
        with sizes_of(pipe) as seen:
            result = scaled.search(**call_of(family))
        found[how] = result, seen
    plain, many = found["no"]
    assert len(many) > 1
    copies = plain.searches[0].process.evaluations[0]  # rows of a latent: guidance
    assert found["full"][1] == {4 * copies}
    assert found["buckets"][1] <= {n * copies for n in (1, 2, 4)}
    for how in ("full", "buckets"):
        result = found[how][0]
        assert result.ledger.evaluations == plain.ledger.evaluations
        assert result.searches[0].spent == plain.searches[0].spent
        for a, b in zip(result.searches[0].finals, plain.searches[0].finals, strict=True):
            assert a.candidate == b.candidate
            assert torch.allclose(a.x, b.x, atol=1e-4)


@pytest.mark.slow
def test_a_static_graph_is_compiled_once(graphs: list[Any]) -> None:
    """Without filling up it is compiled for every size: the check would notice."""
    pipe = ZOO["flux"].build()
    compile_as("module.compile", pipe, backend=counting(graphs), dynamic=False)
    for candidates in (4, 7, 6):
        pixels(pipe, "flux", candidates=candidates, batch_size=4, pad_batches="full")
    assert len(graphs) == 1
    pixels(pipe, "flux", candidates=7, batch_size=4)
    assert len(graphs) > 1


@pytest.mark.parametrize("candidates", [1, 5])
def test_memory_that_a_filled_up_batch_lacks_is_had_by_filling_up_less(candidates: int) -> None:
    """Though the batch itself may hold one latent only."""
    pipe, sizes = ZOO["flux"].build(), list[int]()
    plain = pipe.transformer.forward

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["hidden_states"]))
        if sizes[-1] > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(*args, **kwargs)

    pipe.transformer.forward = forward
    pixels(pipe, "flux", candidates=candidates, batch_size=16, pad_batches="full")
    assert sizes[:3] == [16, 8, 4]
    assert set(sizes[2:]) == {4}


class Shifted(nn.Module):
    """x t, by the timestep of each row or of the first."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.sizes = first, list[int]()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return x * (t[:1] if self.first else t).reshape(-1, 1)


@pytest.mark.parametrize("first", [False, True])
def test_a_model_is_measured_for_mixed_steps_by_calls_of_the_batchs_size(first: bool) -> None:
    place, model = ("denoiser", 0), Shifted(first)
    steps = Steps({place: {"1": (torch.tensor([900.0, 500.0, 100.0]), 2)}}, [{}, {}, {}], one_size=True)
    rows, x = (
        RowSteps(steps, (2, 0, 1, 2)),
        torch.arange(1.0, 9.0).reshape(8, 1),
    )  # [2 guidance copies x 4, 1]
    given = (x, torch.full((8,), 500.0))
    if first:
        with pytest.raises(StepsStayApart):
            rows.check(place, model, model, given, {})
    else:
        assert rows.check(place, model, model, given, {}) == 24
    assert model.sizes == [8, 8, 8]


@pytest.mark.slow
def test_a_static_graph_is_compiled_once_for_mixed_steps(graphs: list[Any]) -> None:
    pipe, count, opened = ZOO["flux"].build(), 0, ServingDriver._open
    compile_as("module.compile", pipe, backend=counting(graphs), dynamic=False)

    def noting(driver: Any, batch: Any) -> Any:
        nonlocal count
        count += batch.steps is not None
        return opened(driver, batch)

    given = ZOO["flux"].arguments(4) | {"num_inference_steps": 5, "output_type": "np"}
    scaled = genscale.scale(pipe, "dfs", brightness, paths=6, quantile=0.7, batch_size=8, pad_batches="full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServingDriver, "_open", noting)
        scaled(**given, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    assert count > 0
    assert len(graphs) == 1


def test_sizes() -> None:
    def never_five(n: int) -> bool:
        return n != 5

    assert [padded_size(n, 6, "buckets", never_five) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert {padded_size(n, 6, "full", never_five) for n in range(1, 7)} == {6}
    assert padded_size(3, 5, "full", never_five) == 6
    assert padded_size(5, 5, "no", never_five) == 5


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="pad_batches='all' is unknown: give 'no', 'full', 'buckets'"):
        genscale.scale(ZOO["flux"].build(), pad_batches="all", candidates=1)
