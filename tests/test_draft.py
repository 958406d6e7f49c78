"""Draft and commit: which drafts are made in full, that these are the pipeline's own, and what both cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale.engine.events import Denoised, Scored
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.conformal import conformal_quantile
from genscale.pipelines.draft import Draft
from tests.zoo import ZOO

ZOO_ENTRY = ZOO["stable_diffusion"]
PIPE = ZOO_ENTRY.build()
CALL: dict[str, Any] = ZOO_ENTRY.arguments(1) | {"output_type": "np"}
STEPS: int = CALL["num_inference_steps"]
EACH = 2 * STEPS  # NFE of a candidate, with guidance


def brightness(media: Any, prompts: Any) -> torch.Tensor:
    return media.pixels.flatten(1).mean(1)


brightness.identity = "brightness"  # type: ignore[attr-defined]


def search(sampler: str = "best_of_n", pipe: Any = PIPE, call: Any = CALL, **more: Any) -> Any:
    given = {"verifier": brightness, "batch_size": 1, **more}
    if "budget" not in given and sampler == "best_of_n":
        given.setdefault("candidates", 6)
    return genscale.scale(pipe, sampler, **given).search(**call, generator=torch.Generator().manual_seed(3))


def ids(result: Any, prompt: int = 0) -> list[int]:
    return [e.candidate.id for e in result.ranking(prompt)]


def no_model(*_: Any, **__: Any) -> Any:
    raise AssertionError("the model was called")


# ------------------------------------------------------------------------------ which win, and what they are


@pytest.mark.parametrize("keep", [1, 3])
def test_a_lossless_draft_gives_the_pick_of_the_search_alone(keep: int) -> None:
    alone, drafted = search(keep=6), search(draft=Draft(steps=STEPS, keep=keep))
    assert ids(drafted) == ids(alone)[:keep]
    ours, theirs = drafted.ranking()[0], alone.ranking()[0]
    assert torch.equal(ours.x, theirs.x)
    assert ours.scores == theirs.scores


def test_a_lossless_draft_of_searched_noise_gives_its_pick_too() -> None:
    """Neighbours start from noise that no key draws: it is kept with the draft."""
    options: dict[str, Any] = {"rounds": 3, "neighbours": 3, "cosine": 0.5}
    alone, drafted = (
        search("zero_order", **options, **more) for more in ({}, {"draft": Draft(STEPS, keep=2)})
    )
    assert ids(drafted) == ids(alone)[:2]
    assert "neighbour" in {e.candidate.origin for e in drafted.ranking()}
    assert torch.equal(drafted.ranking()[0].x, alone.ranking()[0].x)


def test_what_wins_is_what_the_pipeline_alone_makes_of_the_same_noise() -> None:
    result = search(draft="steps=1,keep=3", keep=3)
    process = result.searches[0].process
    assert ids(result) != ids(result.drafts)[:3] or len(ids(result)) == 3
    for entry in result.ranking():
        latents = process.start([entry.candidate]).x
        plain = PIPE(
            **CALL | {"latents": latents / PIPE.scheduler.init_noise_sigma, "output_type": "latent"}
        ).images
        assert torch.equal(entry.x, plain[0])


def test_the_best_drafts_are_made_and_the_best_of_these_wins() -> None:
    full = {e.candidate.id: e.scores["brightness"] for e in search().entries}
    result = search(draft="steps=1,keep=3")
    drafts = {e.candidate.id: e.scores["brightness"] for e in result.drafts.entries}
    assert drafts != pytest.approx(full)
    chosen = sorted(drafts, key=lambda i: -drafts[i])[:3]
    assert ids(result) == sorted(chosen, key=lambda i: -full[i])
    assert {e.candidate.id: e.scores["brightness"] for e in result.entries} == {i: full[i] for i in chosen}


def test_results_do_not_depend_on_the_batch_size_or_the_other_prompts() -> None:
    call = CALL | {"prompt": ["a dog", "a red ring"]}
    one, many = (search(call=call, draft="steps=2,keep=2", batch_size=n) for n in (1, 5))
    assert [ids(one, i) for i in (0, 1)] == [ids(many, i) for i in (0, 1)]
    alone = search(call=call | {"prompt": ["a red ring"]}, draft="steps=2,keep=2")
    others = [i for i in ids(one, 1) if i != 0]  # candidate 0 is the second row of a joint draw
    assert set(others) <= set(ids(alone.drafts))
    totals = {e.candidate.id: e.total for e in alone.drafts.entries}
    assert all(
        e.total == pytest.approx(totals[e.candidate.id], abs=1e-5)
        for e in one.drafts.entries
        if e.prompt == 1 and e.candidate.id != 0
    )


def test_another_model_can_draft_and_its_evaluations_count_what_is_said() -> None:
    small = ZOO_ENTRY.build()
    result = search(draft=Draft(model=small, keep=2, cost=0.5), budget=f"{4 * EACH}nfe")
    assert result.searches[0].spent == 4 * EACH  # 4 drafts of half the cost, and 2 candidates
    assert len(result.drafts.entries) == 4
    assert len(result.entries) == 2


def test_a_decoder_and_a_scheduler_are_the_drafts_alone() -> None:
    vae, scheduler = PIPE.vae, PIPE.scheduler
    other = ZOO_ENTRY.build().vae
    with torch.no_grad():
        other.decoder.conv_out.bias += 3
    draft = Draft(decoder=other, scheduler="EulerDiscreteScheduler", keep=6)
    result = search(draft=draft)
    assert (PIPE.vae, PIPE.scheduler) == (vae, scheduler)
    alone = {e.candidate.id: e.scores for e in search().entries}
    assert {e.candidate.id: e.scores for e in result.entries} == alone
    assert min(e.total for e in result.drafts.entries) > max(e.total for e in result.entries)


# ------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("budget", ["8images", "40nfe", "9calls", None])
def test_the_budget_pays_for_both_as_planned(budget: str | None) -> None:
    more: dict[str, Any] = {"budget": budget} if budget else {"candidates": 5}
    scaled = genscale.scale(PIPE, "best_of_n", brightness, draft="steps=1,keep=2", **more)
    plan, result = scaled.plan(**CALL), scaled.search(**CALL, generator=torch.Generator().manual_seed(3))
    spent = result.searches[0]
    assert (spent.spent, spent.calls) == (plan.nfe, plan.verifier_calls)
    assert spent.spent == 2 * len(result.drafts.entries) + EACH * len(result.entries)
    assert result.ledger.evaluations - result.ledger.probes == spent.spent
    assert (plan.drafts, plan.nfe_per_draft, plan.candidates) == (len(result.drafts.entries), 2, 2)
    limit = plan.budget
    assert limit.nfe is None or spent.spent <= limit.nfe
    assert limit.verifier_calls is None or spent.calls <= limit.verifier_calls


def test_a_margin_drops_drafts_far_below_the_best() -> None:
    totals = [e.total for e in search(draft="steps=1,keep=6").drafts.ranking()]
    margin = (totals[0] - totals[2] + totals[0] - totals[3]) / 2
    result = search(draft=Draft(steps=1, keep=6, margin=margin))
    assert sorted(ids(result)) == sorted(ids(result.drafts)[:3])
    assert len(ids(search(draft=Draft(steps=1, keep=6, margin=0)))) == 1


def test_a_plan_holds_the_latents_of_the_drafts_too() -> None:
    few, many = (
        genscale.scale(PIPE, "best_of_n", brightness, draft="steps=1,keep=2", candidates=n).plan(**CALL)
        for n in (3, 40)
    )
    alone = genscale.scale(PIPE, "best_of_n", brightness, candidates=40).plan(**CALL)
    assert few.held.bytes < many.held.bytes
    assert many.held.population == alone.held.population
    endless = genscale.scale(PIPE, "best_of_n", brightness, draft="steps=1,keep=2", budget="9s").plan(**CALL)
    assert endless.held is None


def test_events_tell_drafts_from_candidates_and_count_both() -> None:
    events: list[Any] = []
    result = search(draft=Draft(steps=1, keep=2, cost=0.5), on_event=events.append)
    scored = [e for e in events if isinstance(e, Scored)]
    assert [e.draft for e in scored] == [True] * 6 + [False] * 2
    spent = [e.evaluations for e in events if isinstance(e, Denoised)]
    assert spent == sorted(spent)
    assert spent[-1] == result.searches[0].spent == 6 + 2 * EACH


# ------------------------------------------------------------------------------ resuming and recording


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    def settings(name: str) -> dict[str, Any]:
        return {"draft": "steps=1,keep=3", "out": tmp_path / name}

    whole = search(**settings("whole"))
    for limit in (3, 8):  # among the drafts, among the candidates
        seen: list[int] = []

        def stop(media: Any, prompts: Any, limit: int = limit, seen: list[int] = seen) -> Any:
            seen.append(len(prompts))
            if sum(seen) > limit:
                raise OSError("cut off")
            return brightness(media, prompts)

        stop.identity = "brightness"  # type: ignore[attr-defined]
        stop.__name__ = "brightness"
        with pytest.raises(genscale.VerifierError):
            search(verifier=stop, **settings(f"cut {limit}"))
        again = search(**settings(f"cut {limit}"))
        assert ids(again) == ids(whole)
        assert [(e.candidate, e.scores, e.nfe) for e in again.entries] == [
            (e.candidate, e.scores, e.nfe) for e in whole.entries
        ]
    assert search(**settings("whole")).ledger.evaluations == whole.ledger.probes  # nothing is made again


@pytest.mark.slow
def test_another_draft_does_not_go_on_in_the_folder(tmp_path: Path) -> None:
    search(draft="steps=1,keep=2", out=tmp_path / "run")
    more = search(draft="steps=1,keep=3", out=tmp_path / "run")
    assert len(ids(more)) == 3
    for other in ("steps=2,keep=2", None):
        with pytest.raises(UsageError, match="another"):
            search(draft=other, out=tmp_path / "run")


# ------------------------------------------------------------------------------ conformal


def refused(values: list[float], alpha: float, quantile: Any) -> float:
    """The share of the values that exceed the quantile of the others: the exact probability under exchangeability."""
    others = [(v, values[:i] + values[i + 1 :]) for i, v in enumerate(values)]
    return sum(v > quantile(rest, alpha) for v, rest in others) / len(values)


def without_correction(values: list[float], alpha: float) -> float:
    """The broken twin: the empirical quantile, as if the new value were one of the old ones."""
    return sorted(values)[max(0, int(len(values) * (1 - alpha)) - 1)]


@pytest.mark.parametrize("n", [1, 2, 7, 19, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.9])
def test_a_new_value_exceeds_the_quantile_with_probability_at_most_alpha(n: int, alpha: float) -> None:
    values = Key((n,)).normal((n + 1,)).tolist()
    share = refused(values, alpha, conformal_quantile)
    assert share <= alpha + 1e-12
    assert share > alpha - 1 / (n + 1) - 1e-12  # and not smaller than it must be
    assert (
        refused([round(v) for v in values], alpha, conformal_quantile) <= alpha + 1e-12
    )  # with equal values


def test_the_plain_quantile_would_exceed_it() -> None:
    values = Key((1,)).normal((20,)).tolist()
    assert refused(values, 0.1, without_correction) > 0.1


# ------------------------------------------------------------------------------ text, and what is refused


@pytest.mark.parametrize(
    "text", ["steps=4,keep=4", "guidance=1,keep=2,margin=0.01", "model=a/b,keep=1,cost=0.2"]
)
def test_a_draft_is_text_and_back(text: str) -> None:
    made = Draft.parse(text)
    assert Draft.parse(str(made)).text == made.text
    assert set(str(made).split(",")) == set(text.split(","))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("keep=2", "changes nothing"),
        ("steps=0", "steps=0"),
        ("steps=1,keep=0", "keep=0"),
        ("steps=1.5", "no whole number"),
        ("steps", "cannot be read"),
        ("steps=1,steps=2", "each NAME=VALUE once"),
        ("steps=1,cost=-1", "cost=-1"),
        ("steps=1,margin=-1", "margin=-1"),
        ("stepz=1", "did you mean 'steps'.*give an argument"),
        ("prompt=a dog", "cannot change prompt"),
        ("decoder=tiny", "object of Python"),
    ],
)
def test_bad_drafts_are_refused_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        search(draft=text)


@pytest.mark.parametrize("name", ["model", "scheduler", "decoder", "changes"])
def test_parts_of_another_type_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=3 of a draft is not"):
        Draft(**{name: 3})  # type: ignore[arg-type]


def test_what_is_no_cache_is_refused_in_a_sentence() -> None:
    flux = ZOO["flux"]
    with pytest.raises(UsageError, match="cache=3 of a draft is refused"):
        search(pipe=flux.build(), call=flux.arguments(1), draft=Draft(cache=3))


def test_a_saved_search_names_where_latents_wait_and_how_batches_are_filled_up() -> None:
    def request(**more: Any) -> Any:
        return search(candidates=1, draft=None, **more).describe().request

    assert not {"hold", "pad_batches"} & set(request())
    given = {"hold": "host", "pad_batches": "full"}
    assert given.items() <= request(**given).items()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"budget": "2images"}, "too small"),
        ({"budget": "2calls"}, "too small"),
        ({"budget": "9images", "pool": True}, "pool"),
        ({"verifier": None}, "no verifier"),
        ({"sampler": "evolution"}, "starting noise"),
        ({"sampler": "smc", "draft": Draft(6), "call": CALL | {"num_inference_steps": 8}}, "starting noise"),
        ({"call": CALL | {"num_images_per_prompt": 3}}, "keep as many"),
        ({"candidates": 1}, "keep fewer"),
        ({"draft": "steps=1,keep=7"}, "would draft of a prompt, 6"),
        ({"draft": f"steps={STEPS + 1},keep=2"}, "cheaper draft"),
        ({"draft": Draft(steps=1, cost=2 * STEPS)}, "cheaper draft"),
        ({"draft": "steps=1,scheduler=EulerDiscretScheduler"}, "of a draft is unknown"),
        ({"draft": Draft(model=ZOO["flux"].build())}, "same noise"),
    ],
)
def test_what_cannot_be_drafted_is_refused_before_anything_is_spent(
    more: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(PIPE.unet), "forward", no_model)
    with pytest.raises(UsageError, match=why):
        search(**{"draft": "steps=1,keep=2", **more})
