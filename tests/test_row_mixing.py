"""Models whose rows depend on each other, and pipelines that order or join rows in their own way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genscale
from genscale.errors import UsageError
from genscale.pipelines import row_mixing
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import Intercept
from genscale.pipelines.row_mixing import RowsMix, first_alone, interleaved, suspicious
from tests.sweep_run import brightness
from tests.zoo import ZOO


class Attends(nn.Module):
    """Attention over tokens [rows, tokens, 4]; along_rows: the layer takes the rows for the sequence."""

    def __init__(self, along_rows: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.along_rows = nn.MultiheadAttention(4, 1), along_rows

    def forward(self, sample: Tensor) -> Tensor:
        x = sample if self.along_rows else sample.transpose(0, 1)
        out = self.attention(x, x, x)[0]
        return out if self.along_rows else out.transpose(0, 1)


class Plain(nn.Module):
    """Defined in no library that is known, so that it is measured."""

    def forward(self, sample: Tensor) -> Tensor:
        return sample * 2


def rows(n: int, blocks: int = 1) -> Tensor:
    x = torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(1))
    return x.repeat(blocks, 1, 1)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("module", [Attends(along_rows=False), Plain()])
def test_independent_rows_are_measured_once(module: nn.Module, blocks: int) -> None:
    row_mixing._independent.discard(module)
    sample = rows(3, blocks)
    alone = first_alone(module, module, (sample,), {}, 3)
    assert alone is not None
    assert alone.rows == blocks
    alone.compare("unet", module(sample))
    assert first_alone(module, module, (sample,), {}, 3) is None


@pytest.mark.parametrize("blocks", [1, 2])
def test_attention_along_the_rows_is_found(blocks: int) -> None:
    """The broken twin of the model above."""
    module, sample = Attends(along_rows=True), rows(3, blocks)
    alone = first_alone(module, module, (sample,), {}, 3)
    assert alone is not None
    with pytest.raises(RowsMix, match="unet"):
        alone.compare("unet", module(sample))


def test_one_row_needs_no_measurement() -> None:
    module, sample = Attends(along_rows=True), rows(1)
    assert first_alone(module, module, (sample,), {}, 1) is None


def test_batch_statistics_are_a_reason_to_measure_and_stored_ones_are_not() -> None:
    layer = nn.BatchNorm1d(3)
    assert suspicious(layer.train())
    assert not suspicious(nn.BatchNorm1d(3).eval())


def test_models_of_diffusers_are_not_measured() -> None:
    assert not suspicious(ZOO["stable_diffusion"].build().unet)


def test_interleaved_guidance_copies_are_told_from_blocks() -> None:
    x = rows(3)
    assert interleaved(x.repeat_interleave(2, 0), 3)
    assert not interleaved(x.repeat(2, 1, 1), 3)
    assert not interleaved(x, 3)
    assert not interleaved(x[:1].repeat(6, 1, 1), 3)  # equal latents are in either order


class MixingAttention:
    """An attention processor that adds the mean over all rows, on top of another."""

    def __init__(self, inner: Any, share: float) -> None:
        self.inner, self.share = inner, share

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.inner(attn, hidden_states, *args, **kwargs)
        return out + self.share * out.mean(0, keepdim=True)


def totals(batch: int, prompt: Any = "a cat", mixing: float = 1.0) -> list[float]:
    pipe = ZOO["stable_diffusion"].build()
    pipe.unet.set_attn_processor(
        {name: MixingAttention(one, mixing) for name, one in pipe.unet.attn_processors.items()}
    )
    call = ZOO["stable_diffusion"].arguments(1) | {
        "prompt": prompt,
        "generator": torch.Generator().manual_seed(1),
    }
    scaled = genscale.scale(pipe, verifier=brightness, candidates=3, batch_size=batch)
    return [entry.total for entry in scaled(**call).search.entries]


def test_candidates_of_a_mixing_model_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = totals(1)
    assert totals(4) == pytest.approx(alone, abs=0.02)
    monkeypatch.setattr(row_mixing, "suspicious", lambda module: False)  # the broken twin
    assert totals(4) != pytest.approx(alone, abs=0.02)


def test_a_mixing_model_is_refused_for_several_prompts() -> None:
    with pytest.raises(UsageError, match="call it with one prompt at a time"):
        totals(4, ["a cat", "a dog"])


# ---------------------------------------------------------------- rows of one prompt, and draws


def test_rows_of_one_prompt_are_one_candidate() -> None:
    x = torch.randn(2, 5)
    assert Layout.of(x, [x], "a cat") == Layout(inner=2, joint=True)
    assert Layout.of(x, [x], ["a cat", "a dog"]) == Layout()
    assert Layout.of(x, [x], "a cat", one_each=False) == Layout()


def test_what_a_pipeline_writes_into_its_noise_is_not_in_the_record() -> None:
    seen: list[Tensor] = []
    given = torch.ones(2, 3)
    with Intercept(lambda j, shape: given if j else None, seen.append):
        own, replaced = torch.randn(2, 3), torch.randn(2, 3)
        before = own.clone()
        own.fill_(7.0)
        replaced.fill_(7.0)
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[1], torch.ones(2, 3))
    assert torch.equal(given, torch.ones(2, 3))
