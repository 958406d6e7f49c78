"""One branch of classifier-free guidance alone, on real pipelines that evaluate both in one call or in two."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.pipelines import branches
from genscale.protocol.answers import Prediction
from genscale.protocol.queries import Denoise, Query, Score, Solve
from genscale.samplers.best_of_n import draw
from tests.test_passthrough import equal
from tests.zoo import ZOO

# Pipelines that do more than u + w (c - u): they restore a norm or a standard deviation.
RESTORED = {"hunyuan_dit", "lumina2", "qwen_image"}
NONE = {"pag", "lcm", "flux", "flux_kontext", "flux_fill", "flux2", "hunyuan_video"}  # no branches, or three
ONE_OF_EACH = ("stable_diffusion", "sd_inpaint4", "flux_true_cfg", "hidream", "z_image", "wan", "animatediff")


@dataclass(frozen=True)
class Look:
    """Asks for both branches and what the pipeline makes of them, for three latents at a step."""

    step: int = 1
    seen: dict[str, Any] = field(default_factory=dict)
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def search(self, process: Any, key: Any) -> Generator[Query, Any, None]:
        particles = yield Solve(process.start([draw(key, i) for i in range(3)]), self.step)
        for branch in (None, "cond", "uncond"):
            self.seen[str(branch)] = yield Denoise(particles, branch)
        self.seen["nfe"] = process.nfe(self.step, self.step + 1), process.branch_nfe(self.step)
        yield Score((yield Solve(particles)))

    def cost(self, process: Any) -> int | None:
        return None


def look(name: str, prompts: int = 2, **more: Any) -> tuple[dict[str, Any], Any]:
    entry, sampler = ZOO[name], Look()
    output = genscale.scale(entry.build(), sampler, equal)(
        **(entry.arguments(prompts) | more), generator=torch.Generator().manual_seed(0)
    )
    return sampler.seen, output.search


@pytest.mark.parametrize("name", [n for n in ZOO if n not in NONE | RESTORED])
def test_the_pipeline_combines_just_these_two(name: str) -> None:
    seen, search = look(name)
    whole, cond, uncond = (seen[k].eps.double() for k in ("None", "cond", "uncond"))
    gap = cond - uncond
    scale = float(((whole - uncond) * gap).sum() / (gap**2).sum())
    assert scale > 1.5  # with the two the other way round it is 1 - w
    assert float(gap.abs().max()) > 1e-3
    torch.testing.assert_close(whole, uncond + scale * gap, rtol=0, atol=2e-5 * float(whole.abs().max()))
    assert seen["nfe"] == (2, 1)
    assert search.ledger.evaluations == sum(s.spent for s in search.searches)


@pytest.mark.parametrize("name", sorted(RESTORED))
def test_where_the_pipeline_puts_a_norm_back(name: str) -> None:
    """Not linear any more, but the combination still lies on the side of the conditional branch."""
    seen, _ = look(name)
    whole, cond, uncond = (seen[k].eps.double() for k in ("None", "cond", "uncond"))
    assert float(((whole - uncond) * (cond - uncond)).sum() / ((cond - uncond) ** 2).sum()) > 1.5


@pytest.mark.parametrize("name", sorted(NONE))
def test_where_there_are_no_two_branches(name: str) -> None:
    with pytest.raises(UsageError, match="no two branches of classifier-free guidance"):
        look(name)


def test_the_conditional_branch_is_the_pipeline_without_guidance() -> None:
    seen, _ = look("stable_diffusion", guidance_scale=3.0)

    @dataclass(frozen=True)
    class Same(Look):
        def search(self, process: Any, key: Any) -> Generator[Query, Any, None]:
            clean, eps = seen["cond"].x0, seen["cond"].eps
            level = process.schedule.level(self.step)
            x = process.start([draw(key, i) for i in range(3)])
            there = yield Solve(x, self.step)
            at = there.__class__(level.alpha * clean + level.sigma * eps, self.step, there.candidates)
            self.seen["alone"] = yield Denoise(at)
            yield Score((yield Solve(there)))

    entry, sampler = ZOO["stable_diffusion"], Same()
    genscale.scale(entry.build(), sampler, equal)(
        **(entry.arguments(2) | {"guidance_scale": 1.0}), generator=torch.Generator().manual_seed(0)
    )
    alone: Prediction = sampler.seen["alone"]
    torch.testing.assert_close(alone.eps, seen["cond"].eps, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_other_way_round_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: with the branches taken for each other, the fit gives 1 - w."""
    right = branches.identify_branches
    monkeypatch.setattr(
        "genscale.pipelines.pipeline_call.identify_branches",
        lambda *a: branches.Branches((b := right(*a)).together, 1 - b.cond),
    )
    seen, _ = look(name)
    whole, cond, uncond = (seen[k].eps.double() for k in ("None", "cond", "uncond"))
    gap = cond - uncond
    assert float(((whole - uncond) * gap).sum() / (gap**2).sum()) < 0
