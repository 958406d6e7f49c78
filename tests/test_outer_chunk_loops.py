"""Pipelines that loop over chunks themselves, as functions that continue a video; image-to-video pipelines, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from tests.zoo import ZOO

SMALL: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12,
    "text_dim": 16, "freq_dim": 16, "ffn_dim": 16,
}  # fmt: skip
CALL = {"num_inference_steps": 2, "height": 16, "width": 16, "max_sequence_length": 8, "output_type": "pil"}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def bright(media: Any, prompts: Sequence[str]) -> Tensor:
    return media.pixels.mean((1, 2, 3, 4))


def built(kind: str, scheduler: Any, transformer: Any) -> Any:
    wan = ZOO["wan"].build()
    parts = {"tokenizer": wan.tokenizer, "text_encoder": wan.text_encoder, "vae": wan.vae}
    pipe = getattr(diffusers, kind)(**parts, scheduler=scheduler, transformer=transformer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def helios() -> Any:
    torch.manual_seed(0)
    net = diffusers.HeliosTransformer3DModel(**SMALL, rope_dim=(4, 4, 4))
    pipe = built("HeliosPipeline", diffusers.HeliosScheduler(stages=1), net)

    def extend(prompt: str, frames: Any, generator: torch.Generator) -> Any:
        before = {} if frames is None else {"video": frames}
        call = {**CALL, "num_frames": 9, "num_latent_frames_per_chunk": 3}
        return pipe(prompt, generator=generator, **before, **call).frames[0]

    return extend


def skyreels() -> Any:
    torch.manual_seed(0)
    net = diffusers.SkyReelsV2Transformer3DModel(**SMALL)
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    kinds = ("SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2DiffusionForcingVideoToVideoPipeline")
    first, further = (built(kind, scheduler, net) for kind in kinds)
    call = {**CALL, "base_num_frames": 9, "num_frames": 9}

    def extend(prompt: str, frames: Any, generator: torch.Generator) -> Any:
        if frames is None:
            return first(prompt, generator=generator, **call).frames[0]
        whole = further(frames, prompt, overlap_history=5, generator=generator, **call).frames[0]
        return whole[len(frames) :]  # it gives back what it was given, too

    return extend


@pytest.mark.slow
@pytest.mark.parametrize("loop", [helios, skyreels])
def test_an_outer_loop_is_a_function_that_continues(loop: Any) -> None:
    extend = loop()
    plain = generator()
    chain: list[Any] = []
    for _ in range(2):
        chain += extend("a", list(chain) or None, plain)
    one = genscale.tree_of_frames(extend, branches=1, chunks=2)("a", generator=generator())
    assert len(one.frames[0]) == 18
    assert np.array_equal(np.stack(one.frames[0]), np.stack(chain))
    found = genscale.tree_of_frames(extend, bright, branches=(2, 2), survivors=(2, 1))(
        "a", generator=generator()
    )
    ends = {node.path: node.value for node in found.search.depth(1)}
    assert len(set(ends.values())) == 4
    assert found.search.best.path == max(ends, key=lambda path: ends[path])
    assert ends[0, 0] == pytest.approx(np.mean(np.stack(one.frames[0])) / 255, abs=1e-4)


@pytest.mark.slow
def test_an_image_to_video_pipeline_after_a_text_to_video_one() -> None:
    first, further = (ZOO[name].build() for name in ("wan", "wan_i2v"))
    plain, chunks = generator(), []
    call = {**CALL, "num_frames": 5}
    chunks.append(first("a", generator=plain, **call).frames[0])
    chunks.append(further(chunks[0][-1], "b", generator=plain, **call).frames[0])
    made = genscale.tree_of_frames(further, branches=1, chunks=2, first=first)
    found = made(["a", "b"], generator=generator(), **call)
    assert np.array_equal(np.stack(found.frames[0]), np.stack(chunks[0] + chunks[1][1:]))
    tree = genscale.tree_of_frames(further, bright, branches=2, survivors=1, chunks=2, first=first)
    assert tree(["a", "b"], generator=generator(), **call).search.nfe == 2 * found.search.nfe
