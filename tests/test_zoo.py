"""The zoo is fit to test on: each family runs, repeats itself, and hears its noise and prompts."""

import pytest
import torch

from tests.zoo import ZOO, with_scheduler

FURTHER = [(name, scheduler) for name, entry in ZOO.items() for scheduler in entry.schedulers]


@pytest.fixture(scope="module", params=ZOO)
def family(request):
    entry = ZOO[request.param]
    return entry, entry.build()


def generate(pipe, arguments, seed=0):
    return call(pipe, arguments, torch.Generator().manual_seed(seed))


def call(pipe, arguments, generator):
    output = pipe(**arguments, generator=generator, output_type="pt")
    return output.frames if "frames" in output else output.images


def swapped(arguments):
    """The arguments for two prompts with the prompts, and nothing else, changing places."""
    if "image_embeds" in arguments:
        return arguments | {"image_embeds": arguments["image_embeds"].flip(0)}
    return arguments | {"prompt": arguments["prompt"][::-1]}


def distance(a, b):
    return (a - b).abs().max()


@pytest.mark.parametrize("n", [1, 2])
def test_runs_and_repeats_itself(family, n):
    entry, pipe = family
    first = generate(pipe, entry.arguments(n))
    assert first.shape[0] == n
    assert first.ndim == (5 if entry.video else 4)
    assert first.isfinite().all()
    assert torch.equal(first, generate(pipe, entry.arguments(n)))


def test_every_build_has_the_same_weights(family):
    entry, pipe = family
    again = entry.build()
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            assert part is not getattr(again, name)
            weights, twin = part.state_dict(), getattr(again, name).state_dict()
            assert all(torch.equal(weights[key], twin[key]) for key in weights)


def test_noise_is_heard(family):
    entry, pipe = family
    assert distance(*(generate(pipe, entry.arguments(1), seed) for seed in (0, 1))) > 0.1


def test_prompts_are_heard(family):
    entry, pipe = family
    same_noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert distance(*call(pipe, entry.arguments(2), same_noise)) > 0.01
    ways = entry.arguments(2), swapped(entry.arguments(2))
    assert distance(*(generate(pipe, way) for way in ways)) > 0.01


@pytest.mark.parametrize(("name", "scheduler"), FURTHER)
def test_further_schedulers_run(name, scheduler):
    entry = ZOO[name]
    pipe = with_scheduler(entry.build(), scheduler)
    assert type(pipe.scheduler).__name__ == scheduler
    assert generate(pipe, entry.arguments(1)).isfinite().all()
