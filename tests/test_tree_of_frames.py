"""Trees of chunks: exact on chains of Gaussian chunks; votes, limits and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

import genscale
from genscale.chunks import callable_chunks
from genscale.chunks.shape import TreeShape
from tests.chains import NEW, A, every_chain, extend, frames_of, generator, last_value, value_of

FULL = {"branches": (3, 2, 3), "survivors": (3, 6, 1)}


def tree(**settings: Any) -> genscale.TreeOfFrames:
    return genscale.tree_of_frames(extend, **{"verifier": last_value, **FULL, **settings})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---------------------------------------------------------------- which video is found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_width_is_enumeration(seed: int) -> None:
    chains = every_chain(FULL["branches"], seed)
    found = tree()("x", generator=generator(seed)).search
    leaves = {node.path: [part.scores["last_value"] for part in node.line] for node in found.depth(2)}
    assert leaves.keys() == chains.keys()
    for path, values in chains.items():
        assert leaves[path] == pytest.approx(values, abs=1e-5)
    assert found.best.path == max(chains, key=lambda path: mean(chains[path]))


def test_a_narrow_tree_misses_the_best() -> None:
    """So that the test above could fail."""
    missed = 0
    for seed in range(12, 24):
        chains = every_chain(FULL["branches"], seed)
        found = tree(survivors=1)("x", generator=generator(seed)).search
        missed += found.best.path != max(chains, key=lambda path: mean(chains[path]))
    assert 0 < missed < 12


def test_linear_search_is_the_best_whole_video() -> None:
    chains = every_chain((5, 1, 1), 3)
    found = tree(branches=(5, 1, 1), survivors=(5, 5, 1))("x", generator=generator(3)).search
    assert found.best.path == max(chains, key=lambda path: mean(chains[path]))
    assert len(found.nodes) == 15


def test_all_survivors_of_the_end_come_back_best_first() -> None:
    out = tree(survivors=(3, 6, 4))("x", generator=generator(2))
    chains = every_chain(FULL["branches"], 2)
    best = sorted(chains, key=lambda path: -mean(chains[path]))[:4]
    assert [leaf.path for leaf in out.search.leaves] == best
    assert out.frames.shape == (4, 3, 3, 2, 2)
    assert value_of(out.frames).tolist() == pytest.approx([chains[path][-1] for path in best], abs=1e-4)


@pytest.mark.parametrize("given", ["tensor", "array", "images"])
def test_one_branch_is_the_plain_chain(given: str) -> None:
    """Bit for bit, with what is given back joined in the form that the function returns."""
    convert = {
        "tensor": lambda x: x,
        "array": lambda x: x.permute(0, 2, 3, 1).numpy(),
        "images": lambda x: [Image.fromarray((f.permute(1, 2, 0).numpy() * 255).astype("uint8")) for f in x],
    }[given]
    seen: list[Any] = []

    def chunk(prompt: str, frames: Any, generator: torch.Generator) -> Any:
        seen.append((prompt, None if frames is None else len(frames)))
        return convert(torch.rand(2, 3, 4, 4, generator=generator))

    plain = generator()
    chain = [chunk("", None, plain) for _ in range(3)]
    seen.clear()
    mine = generator()
    out = genscale.tree_of_frames(chunk, branches=1, chunks=3, overlap=1)(["a", "b", "c"], generator=mine)
    assert seen == [("a", None), ("b", 2), ("c", 3)]
    wanted = np.concatenate([np.asarray(np.stack(part))[min(i, 1) :] for i, part in enumerate(chain)])
    assert np.array_equal(np.stack(out.frames[0]), wanted)
    assert type(out.frames[0]) is type(chain[0])
    assert torch.equal(mine.get_state(), plain.get_state())


# ---------------------------------------------------------------- keys


def correlation(seeds: int = 120) -> float:
    """Of the noise of candidates 1 at two depths, over seeds."""
    pairs = []
    for seed in range(seeds):
        found = tree(branches=(2, 2), survivors=(2, 1))("x", generator=generator(seed)).search
        values = {node.path: node.scores["last_value"] for node in found.nodes}
        pairs.append((values[1,], (values[1, 1] - A * values[1,]) / NEW))
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def test_chunks_have_noise_of_their_own() -> None:
    assert abs(correlation()) < 4 / math.sqrt(120)


def test_keys_without_the_path_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: siblings keyed by their number alone."""
    right = callable_chunks.seed_of
    monkeypatch.setattr(callable_chunks, "seed_of", lambda root, path: right(root, path[-1:]))
    assert abs(correlation()) > 4 / math.sqrt(120)


def greedy_mean(verifier: Any, seeds: int = 120) -> tuple[float, float]:
    """Mean and standard error of the last chunk of a greedy tree of 4 branches."""
    greedy = tree(verifier=verifier, branches=4, survivors=1, chunks=3)
    last = [float(value_of(greedy("x", generator=generator(s)).search.videos[0])) for s in range(seeds)]
    return float(np.mean(last)), float(np.std(last) / math.sqrt(seeds))


def test_a_greedy_tree_gains_what_order_statistics_say() -> None:
    largest = 1.02938  # expected maximum of 4 standard normals
    expected = largest * (A * A + A * NEW + NEW)
    found, error = greedy_mean(last_value)
    assert abs(found - expected) < 4 * error


def test_a_tree_that_does_not_choose_would_be_seen() -> None:
    """The twin: scores that say nothing."""
    found, error = greedy_mean(lambda media, prompts: torch.zeros(len(media)))
    assert abs(found - 1.02938 * (A * A + A * NEW + NEW)) > 4 * error


# ---------------------------------------------------------------- ranks, stages


def tables(seed: int) -> tuple[Any, Any, Any]:
    """Two verifiers of unlike scales that disagree, and the scores that they gave."""
    rng, given = np.random.default_rng(seed), []

    def fine(media: Any, prompts: Sequence[str]) -> Tensor:
        given.append([float(rng.normal())])
        return torch.tensor(given[-1])

    def coarse(media: Any, prompts: Sequence[str]) -> Tensor:
        given[-1].append(float(1000 * rng.normal()))
        return torch.tensor(given[-1][1:])

    return fine, coarse, given


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_fused_over_all_candidates_of_a_depth(seed: int) -> None:
    """The least weighted sum of ranks, 1 the best, among the children of all states together."""
    fine, coarse, given = tables(seed)
    found = tree(verifier={"end": [(fine, 2.0), coarse]}, branches=(3, 4), survivors=(3, 12))(
        "x", generator=generator()
    )
    scores = np.array(given)
    ranks = (2 * rankdata(-scores[:, 0]) + rankdata(-scores[:, 1])) / 3
    ends = [node for node in found.search.nodes if node.depth == 1]
    assert [node.value for node in ends] == pytest.approx(-ranks)
    assert list(found.search.best.path) == list(ends[int(np.argmin(ranks))].path)


def test_fusion_by_sums_or_among_siblings_would_be_seen() -> None:
    """The twins differ from ranks over the depth on some of these tables."""
    sums = siblings = 0
    for seed in range(20):
        scores = np.array([*np.random.default_rng(seed).normal(size=(12, 2)) * [1, 1000]])
        best = np.argmin(rankdata(-scores[:, 0]) + rankdata(-scores[:, 1]))
        sums += best != np.argmax(scores.sum(1))
        among = [rankdata(-column) for part in np.split(scores, 3) for column in part.T]
        siblings += best != np.argmin(
            np.concatenate([a + b for a, b in zip(among[::2], among[1::2], strict=True)])
        )
    assert sums > 0
    assert siblings > 0


class Watching:
    """A verifier that notes what it sees."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, []

    def __call__(self, media: Any, prompts: Sequence[str]) -> Tensor:
        self.seen.append((media.pixels.shape[1], *prompts))
        return value_of(media.pixels)


def test_stages_and_views() -> None:
    early, middle, end, whole, judge = map(Watching, ("early", "middle", "end", "whole", "judge"))
    made = tree(
        verifier={"early": early, "middle": middle, "end": end}, whole={"middle": whole, "end": whole},
        held_out=judge, branches=(2, 1, 1, 2), survivors=1,
    )  # fmt: skip
    found = made(["a", "b", "b", "c"], generator=generator()).search
    assert early.seen == [(1, "a")] * 2
    assert middle.seen == [(1, "b")] * 2
    assert end.seen == [(1, "c")] * 2
    assert whole.seen == [(2, "a, then b"), (3, "a, then b"), *[(4, "a, then b, then c")] * 2]
    assert judge.seen == [(1, "a")] * 2 + [(1, "b")] * 2 + [(1, "c")] * 2
    assert set(found.best.scores) == {"end", "whole of the video"}
    assert set(found.best.held_out) == {"judge"}
    assert found.ledger.verifier_calls == {
        "early": 2,
        "middle": 2,
        "end": 2,
        "whole of the video": 4,
        "judge": 6,
    }


def test_what_is_held_out_changes_nothing() -> None:
    plain, measured = (
        tree(held_out=judge, survivors=2)("x", generator=generator()) for judge in (None, Watching("j"))
    )
    assert plain.search.best.path == measured.search.best.path


# ---------------------------------------------------------------- cost


def counted(budget: str | None, **shape: Any) -> tuple[Any, int]:
    calls = 0

    def chunk(prompt: str, frames: Any, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        return extend(prompt, frames, generator)

    made = genscale.tree_of_frames(chunk, last_value, nfe=7, budget=budget, **shape)
    plan = made.plan("x")
    assert calls == 0
    found = made("x", generator=generator()).search
    assert (found.nfe, found.plain_nfe, len(found.nodes)) == (plan.nfe, plan.plain_nfe, plan.candidates)
    return found, 7 * calls


@pytest.mark.parametrize(
    "shape",
    [{"branches": (4, 3, 2), "survivors": (2, 2, 1)}, {"branches": (5, 1, 1), "survivors": (5, 5, 1)}],
)
def test_a_budget_is_never_exceeded_and_always_ends_in_a_video(shape: dict[str, Any]) -> None:
    whole, spent = counted(None, **shape)
    assert whole.nfe == spent == whole.ledger.evaluations == 7 * (14 if shape["branches"][0] == 4 else 15)
    before = 0
    for limit in range(21, spent + 8):
        found, cost = counted(f"{limit}nfe", **shape)
        assert found.nfe == cost <= limit
        assert len(found.best.path) == 3
        assert cost >= before  # more is not spent on less
        before = cost
    assert before == spent
    assert counted("4videos", **shape)[1] <= 4 * 21


def test_a_tight_budget_keeps_candidates_at_every_depth() -> None:
    """Not all for the first chunks: each depth gets its part."""
    found, _ = counted("56nfe", branches=(4, 4, 4), survivors=1)
    assert [len(found.depth(d)) for d in range(3)] == [2, 3, 3]


# ---------------------------------------------------------------- what is refused


def nothing(prompt: str, frames: Any, generator: torch.Generator) -> Tensor:
    raise AssertionError("it was called")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"branches": 3, "survivors": 2}, "chunks=3"),
        ({"branches": (3, 0)}, "at least 1"),
        ({"branches": (3, 2), "chunks": 3}, "2 numbers for 3 chunks"),
        ({"branches": (2, 1), "survivors": (3, 1)}, "only 2"),
        ({"branches": (2, 1.5)}, "whole number"),
        ({"branches": (2, 1), "verifier": None}, "no verifier"),
        ({"branches": (2, 2), "verifier": {"early": last_value}}, "end"),
        ({"branches": (2, 1), "verifier": {"last": last_value}}, "'last'"),
        ({"branches": (2, 1), "ensemble": "best"}, "ensemble"),
        ({"branches": (2, 1), "overlap": -1}, "overlap"),
        ({"branches": (2, 1), "nfe": 0}, "nfe"),
        ({"branches": (2, 1), "out": "folder"}, "pipelines"),
        ({"branches": (2, 1), "sampler": "smc"}, "smc"),
        ({"branches": (2, 1), "candidates": 4}, "candidates"),
        ({"branches": (2, 1), "first": nothing}, "first"),
        ({"branches": (2, 1), "continuation": nothing}, "continuation"),
        ({"branches": (2, 1), "budget": "1nfe"}, "too small"),
        ({"branches": (2, 1), "budget": "20s"}, "seconds"),
        ({"branches": (2, 1), "prompt": ["a"]}, "1 prompts"),
        ({"branches": (2, 1), "prompt": 3}, "text"),
        ({"branches": (2, 1), "call": {"num_frames": 5}}, "num_frames"),
        ({"branches": (2, 1), "call": {"generator": 3}}, "generator"),
        ({"branches": (2, 1), "pipe": "wan"}, "makes no chunks"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_is_made(settings: dict[str, Any], words: str) -> None:
    settings = {"verifier": last_value, "prompt": "x", "call": {}, "pipe": nothing, **settings}
    pipe, prompt, call = (settings.pop(name) for name in ("pipe", "prompt", "call"))
    with pytest.raises(genscale.UsageError, match=words) as found:
        genscale.tree_of_frames(pipe, **settings)(prompt, **call)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("made", ["frames", [1, 2], torch.full((1, 3, 2, 2), 7.0), torch.zeros(3, 2, 2), []])
def test_a_function_that_returns_no_frames_is_told_so(made: Any) -> None:
    with pytest.raises(genscale.UsageError, match="no frames"):
        genscale.tree_of_frames(lambda *_: made, branches=1, chunks=2)("x")


def test_survivors_as_one_number() -> None:
    assert TreeShape.of(None, (4, 3, 2), 2) == TreeShape((4, 3, 2), (2, 2, 1))
    assert TreeShape.of(3, 1, 5) == TreeShape((1, 1, 1), (1, 1, 1))


# ---------------------------------------------------------------- files


def test_save(tmp_path: Path) -> None:
    def chunk(prompt: str, frames: Any, generator: torch.Generator) -> Tensor:
        return torch.rand(2, 3, 16, 16, generator=generator)

    def bright(media: Any, prompts: Sequence[str]) -> Tensor:
        return media.pixels.mean((1, 2, 3, 4))

    made = genscale.tree_of_frames(chunk, bright, branches=(2, 2), survivors=(1, 2))
    found = made("x", generator=generator()).search
    folder = found.save(tmp_path / "tree")
    assert sorted(p.name for p in folder.iterdir()) == [
        "2.mp4",
        "best.gif",
        "best.mp4",
        "best.png",
        "tree.json",
    ]
    found.save(folder)  # the same again
    with pytest.raises(genscale.UsageError, match="another tree"):
        made("x", generator=generator(8)).search.save(folder)
    assert repr(found) == "ChunkTree(2 chunks, 4 candidates, 2 videos, 4 NFE)"


def test_frames_of_values() -> None:
    assert float(value_of(frames_of(1.25))) == pytest.approx(1.25, abs=1e-5)
