"""What is found out once a search: prompts, gathered conditioning, the device; and the listening that stops for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.pipelines.device_cache import cached_device
from genscale.pipelines.encoder_cache import EncoderCache, PromptCache, Remembered
from genscale.pipelines.noise_interception import Intercept
from genscale.pipelines.row_gather import Gather, GatherCache
from tests.zoo import ZOO


class Pipe:
    """encode_prompt and _execution_device as diffusers' pipelines have them, counted."""

    def __init__(self) -> None:
        self.encoded = 0
        self.looks = 0
        self.scratch = 0

    def encode_prompt(self, prompt: Any, leave: bool = False) -> tuple[Tensor, list[Tensor]]:
        if leave:
            self.scratch += 1
        return torch.full((2, 3), float(len(prompt))), [torch.ones(1)]

    @property
    def _execution_device(self) -> str:
        self.__dict__["looks"] += 1
        return f"device {self.looks}"


def remembered(memo: PromptCache, pipe: Pipe, calls: list[Any], *args: Any, **kwargs: Any) -> Any:
    def encode(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return pipe.encode_prompt(*args, **kwargs)

    return memo(pipe, encode, args, kwargs)


def test_a_prompt_is_encoded_once_by_its_content() -> None:
    memo, pipe, calls = PromptCache(), Pipe(), []
    first = remembered(memo, pipe, calls, ["a", "b"])
    again = remembered(memo, pipe, calls, ["a", "b"])
    assert len(calls) == 1
    assert again[0] is first[0]
    again[1].append(torch.zeros(1))  # some pipelines write into lists that they are given
    assert len(remembered(memo, pipe, calls, ["a", "b"])[1]) == 1
    remembered(memo, pipe, calls, ["a", "c"])
    assert len(calls) == 2


@pytest.mark.parametrize("spoil", ["written", "attribute", "object"])
def test_a_prompt_is_encoded_again_where_the_answer_may_be_another(spoil: str) -> None:
    memo, pipe, calls = PromptCache(), Pipe(), []
    prompt: Any = ["a"] if spoil != "object" else (object(),)  # told by nothing but its address
    leave = {"leave": True} if spoil == "attribute" else {}
    answer = remembered(memo, pipe, calls, prompt, **leave)
    if spoil == "written":
        answer[0].zero_()
    again = remembered(memo, pipe, calls, prompt, **leave)
    assert len(calls) == 2
    assert float(again[0][0, 0]) == 1


def test_conditioning_is_gathered_once_until_something_changes() -> None:
    kept, value, sample = GatherCache(), torch.arange(4.0).reshape(2, 2), torch.zeros(6, 1)
    gather = Gather(2, (0, 1, 1), torch.zeros(3, 1))
    first = kept(gather, "unet", "c", value)
    assert first.tolist() == [[0, 1], [2, 3], [2, 3]]
    assert kept(Gather(2, (0, 1, 1), torch.zeros(3, 1)), "unet", "c", value) is first
    assert kept(gather, "controlnet", "c", value) is not first
    assert kept(Gather(2, (1, 1, 1), torch.zeros(3, 1)), "unet", "c", value).tolist() == [[2, 3]] * 3
    two = torch.cat([value, value + 4])  # the same prompts, with two guidance copies
    assert kept(Gather(2, (1, 1, 1), sample), "unet", "c", two).tolist() == [[2, 3]] * 3 + [[6, 7]] * 3
    value[1] = 9  # the pipeline writes into its conditioning
    again = kept(gather, "unet", "c", value)
    assert again.tolist() == [[0, 1], [9, 9], [9, 9]]
    again.zero_()  # the model writes into what it is given
    assert kept(gather, "unet", "c", value).tolist() == [[0, 1], [9, 9], [9, 9]]


def test_the_device_is_looked_up_once_and_the_class_comes_back() -> None:
    pipe, seen = Pipe(), []
    for _ in range(2):
        with cached_device(pipe, seen):
            assert isinstance(pipe, Pipe)
            assert type(pipe).__name__ == "Pipe"
            with cached_device(pipe, seen):  # a verifier that uses the pipeline itself
                assert pipe._execution_device == "device 1"
            assert type(pipe) is not Pipe
            put_away, pipe.__dict__ = pipe.__dict__, {k: v for k, v in pipe.__dict__.items() if "_" not in k}
            assert pipe._execution_device != "device 1"  # whoever uses it meanwhile sees its device afresh
            pipe.__dict__ = put_away
            with pytest.raises(KeyError), cached_device(pipe, seen):
                raise KeyError
    assert type(pipe) is Pipe
    assert not [name for name in pipe.__dict__ if "genscale" in name]
    assert pipe._execution_device == "device 2"


def test_a_paused_intercept_hears_nothing_and_goes_on() -> None:
    heard: list[Tensor] = []
    intercept = Intercept(lambda j, shape: torch.full(shape, float(j)), heard.append)
    with intercept:
        assert torch.randn(1).item() == 0
        with intercept.paused():
            assert torch.randn(3).tolist() != [1, 1, 1]
        assert torch.randn(1).item() == 1
        with Intercept(lambda j, shape: None), intercept.paused():  # another mode lies on top
            torch.randn(1)
    assert len(heard) == 3


class Distribution:
    """As an autoencoder's encode returns it, in a dictionary that pipelines read by attribute."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def sample(self) -> Tensor:
        return self.mean + torch.randn(self.mean.shape)

    def mode(self) -> Tensor:
        return self.mean


@pytest.mark.parametrize("spoil", ["nothing", "written", "image", "drawn"])
def test_an_image_is_encoded_once_by_its_content(spoil: str) -> None:
    memo, calls, draws = EncoderCache(), [], [0]

    def encode(image: Tensor) -> dict[str, Any]:
        calls.append(image)
        draws[0] += spoil == "drawn"
        return {"latent_dist": Distribution(2 * image)}

    def encoded(image: Tensor) -> Any:
        return memo.encode("vae", encode, (image,), {}, lambda: draws[0])["latent_dist"]

    first = encoded(torch.ones(2, 3))
    if spoil == "written":
        first.mean.zero_()
    image = torch.full((2, 3), 3.0 if spoil == "image" else 1.0)
    again = encoded(image)
    assert torch.equal(again.mode(), 2 * image)
    assert len(calls) == (1 if spoil == "nothing" else 2)
    assert again is not first


def test_few_bytes_of_encoded_images_are_remembered() -> None:
    memo = Remembered(most=100)
    for i in range(5):
        memo.keep(memo.key("vae", (i,), {}), torch.zeros(10))
    kept = [memo.get(memo.key("vae", (i,), {})) is not None for i in range(5)]
    assert kept == [False, False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("name", ["sd_inpaint", "flux_fill", "wan_i2v"])
def test_a_search_encodes_its_images_as_often_as_the_pipeline_alone(
    name: str, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decodes one by one, so six times. Its twin, which remembers nothing, encodes for each of them."""
    entry = ZOO[name]
    pipe, calls = entry.build(), []
    encode = type(pipe.vae).encode

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return encode(*args, **kwargs)

    monkeypatch.setattr(type(pipe.vae), "encode", counted)
    if not remembered:
        monkeypatch.setattr(Remembered, "keep", lambda *args: None)
    arguments = entry.arguments(1) | {"num_inference_steps": 2, "output_type": "pt"}
    pipe(**arguments, generator=torch.Generator().manual_seed(0))
    alone = len(calls)
    scaled = genscale.scale(
        pipe, candidates=5, batch_size=5, decode_batch=1, verifier=lambda media, prompts: [0.0] * len(media)
    )
    scaled(**arguments, generator=torch.Generator().manual_seed(0))
    assert (len(calls) - alone <= alone) == remembered
