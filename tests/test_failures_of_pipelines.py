"""Pipelines whose models give numbers that are not finite for some candidates: the search goes on with the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale import AllCandidatesFailed, Dropped, UsageError
from tests.quick import quick
from tests.zoo import ZOO

PIPELINES = ("stable_diffusion", "sdxl", "sd3", "flux", "wan", "pixart_sigma")


def light(media: Any, prompts: Any) -> Tensor:
    return media.pixels.flatten(1).double().mean(1)


def arguments(name: str, prompts: int = 1, **more: Any) -> dict[str, Any]:
    generator = [torch.Generator().manual_seed(3 + i) for i in range(prompts)]
    return (
        ZOO[name].arguments(prompts)
        | {"output_type": "np", "generator": generator if prompts > 1 else generator[0]}
        | more
    )


@contextmanager
def broken(pipe: Any, place: str, latents: Tensor, bad: float = math.nan) -> Iterator[None]:
    """The decoder, or the denoiser's last block, gives `bad` for the rows that it is given these latents for."""
    module = pipe.vae if place == "decoder" else getattr(pipe, "transformer", None) or pipe.unet

    def decode(
        z: Tensor, *args: Any, plain: Any = module.decode if place == "decoder" else None, **kwargs: Any
    ) -> Any:
        found = plain(z, *args, **kwargs)
        sample = found[0]
        hit = torch.tensor([abs(float(row.float().mean()) - float(latents)) < 1e-4 for row in z])
        spoilt = torch.where(hit.view(-1, *[1] * (sample.ndim - 1)), bad, sample)
        return (spoilt,) if isinstance(found, tuple) else type(found)(sample=spoilt)

    module.decode = decode
    try:
        yield
    finally:
        del module.decode


def means(pipe: Any, call: dict[str, Any], n: int) -> list[float]:
    """The mean of what the decoder is given for each of n candidates."""
    seen: list[float] = []
    plain = pipe.vae.decode

    def decode(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.extend(float(row.float().mean()) for row in z)
        return plain(z, *args, **kwargs)

    pipe.vae.decode = decode
    genscale.scale(pipe, candidates=n, verifier=light, batch_size=4).search(**call)
    del pipe.vae.decode
    return seen[:n]


@pytest.mark.parametrize("name", quick([n for n in PIPELINES if n in ZOO], ["stable_diffusion", "wan"]))
@pytest.mark.parametrize("chosen", [0, 2, 3])
def test_a_decoder_that_gives_nan_for_one_candidate(name: str, chosen: int, tmp_path: Path) -> None:
    pipe, told = ZOO[name].build(), list[Dropped]()
    call = arguments(name)
    whole = genscale.scale(pipe, candidates=4, verifier=light, keep=4).search(**call)
    means_of = means(pipe, arguments(name), 4)
    listen = lambda e: told.append(e) if isinstance(e, Dropped) else None  # noqa: E731
    with broken(pipe, "decoder", torch.tensor(means_of[chosen])):
        made = genscale.scale(pipe, candidates=4, verifier=light, out=tmp_path, on_event=listen)(
            **arguments(name)
        )
    best = next(e for e in whole.ranking() if e.candidate.id != chosen)
    assert made.search.ranking()[0].candidate == best.candidate
    assert made.search.ranking()[0].total == pytest.approx(best.total, abs=1e-5)
    assert [(e.failure.candidate.id, e.failure.where) for e in told] == [(chosen, "decoder")]
    assert [f.candidate.id for f in made.search.dropped()] == [chosen]
    assert (made.search.base() is None) == (chosen == 0)
    again = genscale.scale(pipe, candidates=4, verifier=light, out=tmp_path)(**arguments(name))
    assert again.search.ranking()[0].candidate == best.candidate
    assert [f.candidate.id for f in again.search.dropped()] == [chosen]
    assert again.search.ledger.decodes == 1  # of the picture that is returned


@pytest.mark.parametrize("name", quick([n for n in PIPELINES if n in ZOO], ["flux"]))
def test_a_denoiser_that_gives_nan_for_some_rows(name: str) -> None:
    pipe = ZOO[name].build()
    model = getattr(pipe, "transformer", None) or pipe.unet

    def spoil(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        sample, given = output[0], kwargs.get("hidden_states", args[0] if args else None)
        given = kwargs.get("sample") if given is None else given
        hit = (given.float().flatten(1).mean(1) * 1e4).remainder(1) < 0.1
        spoilt = torch.where(hit.view(-1, *[1] * (sample.ndim - 1)), math.nan, sample)
        return (spoilt, *output[1:]) if isinstance(output, tuple) else type(output)(sample=spoilt)

    handle = model.register_forward_hook(spoil, with_kwargs=True)
    try:
        result = genscale.scale(pipe, candidates=16, verifier=light).search(**arguments(name))
    finally:
        handle.remove()
    lost = result.dropped()
    assert lost
    assert {f.where for f in lost} == {"denoiser"}
    assert all(f.what.startswith("NaN at step ") for f in lost)
    assert len(lost) + len(result.searches[0].finals) == 16
    assert result.ranking()[0].x.isfinite().all()


def test_if_all_candidates_of_one_prompt_fail_the_others_are_in_the_error() -> None:
    pipe, call = ZOO["stable_diffusion"].build(), arguments("stable_diffusion", 2)
    first = call["prompt"][0]

    def judge(media: Any, prompts: Any) -> Tensor:
        return torch.where(torch.tensor([p == first for p in prompts]), math.nan, light(media, prompts))

    with pytest.raises(
        AllCandidatesFailed, match=f"all 3 candidates of '{first}' failed: the verifier judge"
    ) as caught:
        genscale.scale(pipe, candidates=3, verifier=judge)(**call)
    result = caught.value.result
    assert result.ranking(0) == []
    assert len(result.ranking(1)) == 3
    assert len(result.media(result.ranking(1)[:1])) == 1
    assert isinstance(caught.value, UsageError)
    with pytest.raises(AllCandidatesFailed) as alone:
        genscale.scale(pipe, candidates=3, verifier=lambda m, p: [math.inf] * len(p))(
            **arguments("stable_diffusion")
        )
    assert alone.value.result is None


def test_pixels_that_are_nan_are_not_taken_for_another_kind_of_pixels() -> None:
    """A pipeline whose tensors are outside [0, 1] is asked for arrays instead; one NaN says nothing about that."""
    pipe, asked = ZOO["stable_diffusion"].build(), []
    plain = pipe.image_processor.postprocess

    def postprocess(image: Tensor, output_type: str = "pil", **more: Any) -> Any:
        asked.append(output_type)
        return plain(image, output_type=output_type, **more)

    pipe.image_processor.postprocess = postprocess
    with broken(pipe, "decoder", torch.tensor(means(pipe, arguments("stable_diffusion"), 3)[1])):
        asked.clear()
        result = genscale.scale(pipe, candidates=3, verifier=light, decode_batch=1).search(
            **arguments("stable_diffusion")
        )
    assert [f.candidate.id for f in result.dropped()] == [1]
    assert set(asked) == {"pt"}


def test_latents_of_the_user_that_are_nan_fail_and_the_others_go_on() -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(1) | {"latents": torch.full((1, 4, 8, 8), float("nan"))}
    search = genscale.scale(pipe, verifier="compressibility", candidates=3)(
        **call, generator=torch.Generator().manual_seed(3)
    ).search
    assert [failure.candidate.id for failure in search.dropped()] == [0]
    assert sorted(entry.candidate.id for entry in search.ranking()) == [1, 2]
