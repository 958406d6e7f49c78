"""Workers: what is sent to them arrives, their answers are asked for in any order, and their deaths lose nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genscale.errors import UsageError
from genscale.workers import wire
from genscale.workers.crew import Crew, Inbox
from genscale.workers.processes import Processes, ProcessLink, ProcessStart

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

Start = Callable[..., Crew]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a crew of workers that log what they begin with in `log`."""
    started = []

    def crew(count: int, method: str = "fork", **options: Any) -> Crew:
        recipe = wire.dumps((str(tmp_path / "log"),))
        how = ProcessStart("tests.toy_worker:ToyWorker", recipe, 1, method)

        def link(i: int, life: int, inbox: Inbox) -> ProcessLink:
            return ProcessLink(how, i, life, inbox)

        started.append(Crew(link, count, **options))
        return started[-1]

    yield crew
    for one in started:
        one.close()


def begun(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)),
        torch.arange(12).view(3, 4).T,
        torch.randn(6).to(torch.bfloat16)[::2],
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]),
        torch.zeros(2, 3).expand(4, 2, 3),
        torch.ones(2, requires_grad=True),
    ],
)
def test_tensors_arrive_as_they_were(x: torch.Tensor) -> None:
    found = wire.loads(wire.dumps({"x": [x]}))["x"][0]
    assert (found.dtype, found.shape) == (x.dtype, x.shape)
    assert torch.equal(found, x.detach())
    found[...] = 0  # it can be written to, and is nobody else's


def test_modules_and_functions_defined_in_others_arrive() -> None:
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)
    bound = 3
    found, function = wire.loads(wire.dumps((layer, lambda x: bound * x)))
    x = torch.randn(4, 3)
    assert torch.equal(found(x), layer(x))
    assert not any(p.requires_grad for p in found.parameters())
    assert function(2) == 6


def test_a_model_of_transformers_that_was_called_arrives_whole() -> None:
    """At the first call transformers puts hooks on the layers that cannot be pickled, and that it needs."""
    from transformers import CLIPTextConfig, CLIPTextModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = CLIPTextModel(
        CLIPTextConfig(vocab_size=20, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, **size)
    ).eval()
    ids = torch.arange(5)[None]
    before = model(ids, output_hidden_states=True)
    data = wire.dumps(model)
    child = os.fork()
    if child == 0:  # where no such model was ever constructed, as in a new process
        import sys

        noted = getattr(sys.modules.get(wire.CAPTURES), "_CAN_RECORD_REGISTRY", {})
        noted.clear()
        after = wire.loads(data)(ids, output_hidden_states=True)
        same = [torch.equal(a, b) for a, b in zip(before.hidden_states, after.hidden_states, strict=True)]
        os._exit(0 if len(same) == 3 and all(same) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(model(ids, output_hidden_states=True).hidden_states) == 3  # the sent one keeps its hooks


# ---------------------------------------------------------------- a crew


def test_answers_come_by_number_in_any_order(start: Start) -> None:
    crew = start(3)
    crew.begin("first")
    numbers = [crew.submit(("double", x)) for x in range(20)]
    random.Random(0).shuffle(numbers)
    found = {number: crew.result(number) for number in numbers}
    assert [found[i][1:] for i in range(20)] == [("first", 2 * i) for i in range(20)]
    assert {found[i][0] for i in range(20)} == {0, 1, 2}


def test_what_is_left_of_one_search_does_not_reach_the_next(start: Start) -> None:
    crew = start(2)
    crew.begin("first")
    for x in range(9):
        crew.submit(("slowly", x))
    crew.end()
    crew.begin("second")
    numbers = [crew.submit(("double", 100 + x)) for x in range(5)]
    assert [crew.result(n)[1:] for n in numbers] == [("second", 2 * (100 + x)) for x in range(5)]


def test_what_is_forgotten_is_not_begun_with(start: Start, tmp_path: Path) -> None:
    crew = start(1)
    crew.begin("first")
    numbers = [crew.submit(("slowly", x)) for x in range(6)]
    crew.forget(numbers[4])
    assert crew.result(numbers[5])[2] == 10
    assert "slowly 4" not in begun(tmp_path)


@pytest.mark.parametrize("what", ["die once", "hang once"])
def test_the_work_of_one_that_dies_or_hangs_is_done_by_another(
    start: Start, tmp_path: Path, what: str
) -> None:
    crew = start(2, timeout=1.0)
    crew.begin("first")
    numbers = [crew.submit((what if x % 5 == 2 else "double", x)) for x in range(12)]
    assert [crew.result(n)[2] for n in numbers] == [2 * x for x in range(12)]
    failing = [x for x in range(12) if x % 5 == 2]
    assert [begun(tmp_path).count(f"{what} {x}") for x in failing] == [2] * len(failing)


def test_work_that_kills_every_worker_is_given_up_in_a_sentence(start: Start) -> None:
    crew = start(2)
    crew.begin("first")
    number = crew.submit(("die", 1))
    with pytest.raises(UsageError, match="3 worker processes died over the same piece of work"):
        crew.result(number)


def test_what_work_raises_is_raised_here_and_the_next_search_is_served(start: Start) -> None:
    crew = start(2)
    crew.begin("first")
    with pytest.raises(ZeroDivisionError, match="of 7") as caught:
        crew.result(crew.submit(("raise", 7)))
    assert any("toy_worker.py" in note for note in getattr(caught.value, "__notes__", ["toy_worker.py"]))
    crew.end()
    crew.begin("fail")
    with pytest.raises(ValueError, match="cannot be opened"):
        crew.result(crew.submit(("double", 1)))
    crew.end()
    crew.begin("third")
    assert crew.result(crew.submit(("double", 4)))[1:] == ("third", 8)


@pytest.mark.slow
def test_new_processes_do_the_same_as_forks(start: Start) -> None:
    crew = start(2, "spawn")
    crew.begin("first")
    numbers = [crew.submit(("double", x)) for x in range(6)]
    assert [crew.result(n)[2] for n in numbers] == [2 * x for x in range(6)]


def test_workers_end_when_their_driver_is_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        how = ProcessStart("tests.toy_worker:ToyWorker", wire.dumps((str(tmp_path / "log"),)), 1, "fork")
        crew = Crew(lambda i, life, inbox: ProcessLink(how, i, life, inbox), 3)
        crew.begin("first")
        crew.result(crew.submit(("double", 1)))
        os.kill(os.getpid(), 9)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b""  # the end: no worker holds the other end of the pipe any more
    os.close(read)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(Processes, 0), "0 worker processes do no work"),
        (partial(Processes, 2, devices=[]), "list of devices is empty"),
        (partial(Processes, 2, method="thread"), "cannot be started by 'thread'"),
    ],
)
def test_workers_that_cannot_be_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()
