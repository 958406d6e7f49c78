"""Trees of chunks on an image-to-video pipeline: the plain chain bit for bit, NFE to the unit, batches, resuming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor

import genscale
from genscale.chunks.nodes import seed_of
from genscale.pipelines.first_frame import FirstFrame, with_first_frame
from genscale.toy.moving_shapes import FRAMES, SIZE
from genscale.verifiers.video_clip import LENGTH
from tests.quick import quick

PROMPTS = ["a red circle moving right", "a red circle moving up", "a red circle moving left"]
STEPS = 2
EACH = 2 * STEPS
CALL = {
    "num_inference_steps": STEPS, "guidance_scale": 2.0, "height": SIZE, "width": SIZE, "num_frames": FRAMES,
    "max_sequence_length": LENGTH + 3,
}  # fmt: skip
SMALL = {"branches": (3, 2), "survivors": (2, 1)}


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = with_first_frame(genscale.load_pipeline("shapes-video"))
    made.set_progress_bar_config(disable=True)
    return made


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bright(media: Any, prompts: Sequence[str]) -> Tensor:
    return media.pixels.mean((1, 2, 3, 4))


@contextmanager
def evaluations(pipe: Any) -> Iterator[list[int]]:
    """Rows through the denoiser's blocks, which only real evaluations reach."""
    rows: list[int] = []
    hook = pipe.transformer.blocks[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


def plain_chain(pipe: Any, prompts: Sequence[str], generator: torch.Generator, **call: Any) -> list[Any]:
    """The chunks as a user makes them: each from the last frame of the one before."""
    image, chunks = call.pop("image", None), []
    for prompt in prompts:
        chunks.append(
            pipe(prompt, image=image, generator=generator, output_type="pil", **CALL, **call).frames[0]
        )
        image = chunks[-1][-1]
    return chunks


class Plain(FirstFrame, WanPipeline):
    pass


class Noisy(Plain):
    """Draws from its generator in the loop, too."""

    def __call__(self, prompt: Any = None, image: Any = None, generator: Any = None, **call: Any) -> Any:
        def add(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            latents = tensors["latents"]
            tensors["latents"] = latents + 0.1 * torch.randn(latents.shape, generator=generator)
            return tensors if then is None else then(pipe, step, timestep, tensors)

        then = call.pop("callback_on_step_end", None)
        return super().__call__(prompt, image, generator=generator, callback_on_step_end=add, **call)


@pytest.mark.parametrize("kind", [Plain, Noisy])
def test_one_branch_is_the_plain_chain_of_calls(pipe: Any, kind: type) -> None:
    """Bit for bit, and the generator is left as it leaves it, also where the loop draws noise."""
    pipe = kind(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    plain, mine = generator(), generator()
    chunks = plain_chain(pipe, PROMPTS, plain)
    out = genscale.tree_of_frames(pipe, branches=1, chunks=3)(
        PROMPTS, generator=mine, output_type="pil", **CALL
    )
    wanted = chunks[0] + chunks[1][1:] + chunks[2][1:]
    assert len(out.frames[0]) == 3 * FRAMES - 2
    assert np.array_equal(np.stack(out.frames[0]), np.stack(wanted))
    assert torch.equal(mine.get_state(), plain.get_state())
    assert out.search.nfe == out.search.plain_nfe == 3 * EACH


@pytest.mark.slow
def test_any_path_can_be_made_again_by_plain_calls(pipe: Any) -> None:
    """Candidate 0 of any state has the generator that its path says."""
    made = genscale.tree_of_frames(
        pipe, lambda media, _: -bright(media, _), branches=(3, 1), survivors=(3, 3)
    )
    found = made(PROMPTS[:2], generator=generator(), **CALL)
    for leaf, video in zip(found.search.leaves, found.search.videos, strict=True):
        first = genscale.media.Media(video[None, :FRAMES])[0]
        own = leaf.path[0] == 0
        mine = generator() if own else generator(seed_of(found.search.seed, leaf.path[:1]))
        if own:
            plain_chain(pipe, PROMPTS[:1], mine)
        [again] = plain_chain(pipe, PROMPTS[1:2], mine, image=first[-1])
        assert np.array_equal(np.stack(again[1:]), np.stack(genscale.media.Media(video[None, FRAMES:])[0]))


def test_a_continued_own_chain_has_other_candidates_than_the_first_chunk(pipe: Any) -> None:
    """With the same prompt and seed: candidate 0 is the pipeline's own, and the others are keyed by the path."""
    scaled = genscale.scale(pipe, "best_of_n", bright, candidates=2)
    lined = genscale.Scaled(replace(scaled.settings, line=("chunk", "0")))
    first, second = (
        {
            e.candidate.id: e.scores["bright"]
            for e in made.search(PROMPTS[0], generator=generator(), **CALL).entries
        }
        for made in (scaled, lined)
    )
    assert first[0] == second[0]
    assert first[1] != second[1]


@pytest.mark.slow
def test_the_form_of_the_frames_is_that_of_the_pipeline(pipe: Any) -> None:
    made = genscale.tree_of_frames(pipe, branches=1, chunks=2)
    forms = {
        form: made(PROMPTS[0], generator=generator(), output_type=form, **CALL).frames
        for form in ("np", "pt")
    }
    assert forms["np"].shape == (1, 2 * FRAMES - 1, SIZE, SIZE, 3)
    assert np.array_equal(forms["np"][0], forms["pt"][0].permute(0, 2, 3, 1).numpy())
    assert made.settings.shape.chunks == 2
    first = pipe(PROMPTS[0], generator=generator(), **CALL).frames
    assert type(first) is type(forms["np"])
    assert np.array_equal(forms["np"][0][:FRAMES], first[0])


def test_nfe_to_the_unit(pipe: Any) -> None:
    made = genscale.tree_of_frames(pipe, bright, branches=(3, 2, 1), survivors=(2, 1, 1))
    with evaluations(pipe) as rows:
        plan = made.plan(PROMPTS, **CALL)
        assert sum(rows) == 0
        found = made(PROMPTS, generator=generator(), **CALL).search
    assert sum(rows) == found.nfe == found.ledger.nfe == (3 + 4 + 1) * EACH == plan.nfe


@pytest.mark.parametrize("limit", quick([3 * EACH, 5 * EACH + 1], [5 * EACH + 1]))
def test_a_budget_is_never_exceeded(pipe: Any, limit: int) -> None:
    made = genscale.tree_of_frames(pipe, bright, branches=3, chunks=3, survivors=2, budget=f"{limit}nfe")
    with evaluations(pipe) as rows:
        found = made(PROMPTS, generator=generator(), **CALL).search
    assert sum(rows) == found.nfe == limit // EACH * EACH
    assert len(found.best.path) == 3


def test_linear_search_needs_scores_at_the_end_alone(pipe: Any) -> None:
    """Also with fewer videos than asked for, because of the budget."""
    made = genscale.tree_of_frames(
        pipe, whole={"end": bright}, branches=(4, 1), survivors=(4, 4), budget=f"{4 * EACH}nfe"
    )
    found = made(PROMPTS[:2], generator=generator(), **CALL).search
    assert [node.path for node in found.nodes] == [(0,), (1,), (0, 0), (1, 0)]
    assert found.nfe == made.plan(PROMPTS[:2], **CALL).nfe == 4 * EACH
    assert found.nodes[0].scores == {}
    assert found.leaves[0].scores["bright of the video"] > found.leaves[1].scores["bright of the video"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch_size(pipe: Any) -> None:
    found = [
        genscale.tree_of_frames(pipe, bright, batch_size=size, **SMALL)(
            PROMPTS[:2], generator=generator(), **CALL
        )
        for size in (1, 2, 16)
    ]
    for other in found[1:]:
        assert other.search.best.path == found[0].search.best.path
        assert [n.path for n in other.search.nodes] == [n.path for n in found[0].search.nodes]
        assert [n.value for n in other.search.nodes] == pytest.approx(
            [n.value for n in found[0].search.nodes], abs=1e-5
        )
        assert np.allclose(other.frames, found[0].frames, atol=1e-4)


@pytest.mark.slow
def test_the_first_chunks_are_those_of_an_ordinary_search(pipe: Any) -> None:
    search = genscale.scale(pipe, "best_of_n", bright, candidates=3).search(
        PROMPTS[0], generator=generator(), **CALL
    )
    nodes = genscale.tree_of_frames(pipe, bright, **SMALL)(
        PROMPTS[:2], generator=generator(), **CALL
    ).search.nodes
    assert {n.path[0]: n.scores["bright"] for n in nodes if n.depth == 0} == {
        e.candidate.id: e.scores["bright"] for e in search.ranking(0)
    }


@pytest.mark.slow
def test_a_search_within_each_chunk(pipe: Any) -> None:
    """The best of what another sampler finished are the branches."""
    made = genscale.tree_of_frames(
        pipe, bright, branches=(2, 1), survivors=1, sampler="successive_halving", candidates=4, rungs=(0.5,)
    )
    with evaluations(pipe) as rows:
        found = made(PROMPTS[:2], generator=generator(), **CALL).search
    assert sum(rows) == found.nfe
    assert [len(found.depth(0)), len(found.depth(1))] == [2, 1]


class Stops:
    """A verifier whose call of this number fails as a kill does."""

    name, identity = "stops", "stops"

    def __init__(self, at: int | None) -> None:
        self.at, self.calls = at, 0

    def __call__(self, media: Any, prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return bright(media, prompts)


@pytest.mark.slow
def test_a_killed_tree_goes_on(pipe: Any, tmp_path: Path) -> None:
    def run(at: int | None, out: Path | None) -> Any:
        made = genscale.tree_of_frames(pipe, Stops(at), out=out, **SMALL)
        return made(PROMPTS[:2], generator=generator(), **CALL)

    whole = run(None, None)
    with pytest.raises(KeyboardInterrupt):
        run(4, tmp_path / "tree")  # the first continued chunk
    with evaluations(pipe) as rows:
        resumed = run(None, tmp_path / "tree")
    assert 0 < sum(rows) <= 4 * EACH < whole.search.nfe == resumed.search.nfe
    assert resumed.search.best.path == whole.search.best.path
    assert np.array_equal(resumed.frames, whole.frames)
    with evaluations(pipe) as rows:
        assert np.array_equal(run(None, tmp_path / "tree").frames, whole.frames)
    assert sum(rows) == 0
    with pytest.raises(genscale.UsageError, match="another run"):
        genscale.tree_of_frames(pipe, bright, out=tmp_path / "tree", **SMALL)(
            PROMPTS[:2], generator=generator(), **CALL
        )


@pytest.mark.slow
def test_the_video_so_far_is_part_of_what_out_knows(pipe: Any, tmp_path: Path) -> None:
    made = genscale.tree_of_frames(pipe, whole=bright, out=tmp_path / "tree", **SMALL)
    first, again = (made(PROMPTS[:2], generator=generator(), **CALL).frames for _ in range(2))
    assert np.array_equal(first, again)


class Broken:
    """NaN for the chunks of one state."""

    name = "broken"

    def __init__(self, prompt: str, calls: Sequence[int]) -> None:
        self.prompt, self.calls, self.count = prompt, calls, 0

    def __call__(self, media: Any, prompts: Sequence[str]) -> Tensor:
        scores = bright(media, prompts)
        if prompts[0] == self.prompt:
            self.count += 1
            scores = scores * float("nan") if self.count in self.calls else scores
        return scores


@pytest.mark.slow
def test_a_state_whose_chunks_all_fail_is_dropped(pipe: Any) -> None:
    made = genscale.tree_of_frames(pipe, Broken(PROMPTS[1], (1,)), branches=(2, 1), survivors=(2, 1))
    found = made(PROMPTS[:2], generator=generator(), **CALL).search
    assert len(found.depth(1)) == 1
    assert found.nfe == 4 * EACH  # what failed has cost, too
    with pytest.raises(genscale.AllCandidatesFailed):
        genscale.tree_of_frames(pipe, Broken(PROMPTS[1], (1, 2)), branches=(2, 1), survivors=(2, 1))(
            PROMPTS[:2], generator=generator(), **CALL
        )


@pytest.mark.slow
def test_another_pipeline_makes_the_first_chunk_and_a_function_says_how_to_continue(pipe: Any) -> None:
    seen = []

    def continuation(frames: list[Any]) -> dict[str, Any]:
        seen.append(len(frames))
        return {"image": frames[-2]}

    text = genscale.load_pipeline("shapes-video")
    text.set_progress_bar_config(disable=True)
    made = genscale.tree_of_frames(
        pipe, branches=1, chunks=2, first=text, continuation=continuation, overlap=0
    )
    out = made(PROMPTS[:2], generator=generator(), output_type="pil", **CALL)
    assert seen[-1] == FRAMES
    assert len(out.frames[0]) == 2 * FRAMES


@pytest.mark.parametrize(
    ("settings", "call", "words"),
    [
        ({}, {"num_frames": 1}, "add nothing"),
        ({}, {"num_videos_per_prompt": 2}, "survivors=2"),
        ({}, {"latents": torch.zeros(1)}, "latents"),
        ({}, {"generator": [1, 2]}, "one generator"),
        ({}, {"output_type": "latent"}, "output_type"),
        ({}, {"budget": 3}, "takes no argument"),
        ({"budget": f"{2 * EACH - 1}nfe"}, {}, "too small"),
        ({"nfe": 3}, {}, "counted"),
        ({"sampler": "smcc"}, {}, "smcc"),
        ({"first": 3}, {}, "first"),
    ],
)  # fmt: skip
def test_bad_input_costs_nothing(
    pipe: Any, settings: dict[str, Any], call: dict[str, Any], words: str
) -> None:
    with evaluations(pipe) as rows, pytest.raises(genscale.UsageError, match=words):
        genscale.tree_of_frames(pipe, bright, **SMALL, **settings)(PROMPTS[:2], **{**CALL, **call})
    assert sum(rows) == 0


def test_a_pipeline_that_cannot_continue_is_refused() -> None:
    with pytest.raises(genscale.UsageError, match="takes no image="):
        genscale.tree_of_frames(genscale.load_pipeline("shapes-video"), bright, **SMALL)
