"""A shared budget on pipelines and on the command line: what is spent, recorded, resumed, shown and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import genscale
from genscale.runs.read_request import load_folder, load_request
from tests.test_cli import NFE, generate, tiny  # noqa: F401 - fixtures
from tests.zoo import ZOO

PIPE = ZOO["stable_diffusion"].build()
TEXTS = ["a dog", "a red star", "a ring"]


def uneven(media: Any, prompts: Any) -> torch.Tensor:
    """Brightness, on another scale for each prompt."""
    scale = torch.tensor([float(len(prompt)) ** 2 for prompt in prompts])
    return media.pixels.flatten(1).mean(1) * scale


def search(**more: Any) -> Any:
    own = ZOO["stable_diffusion"].arguments(1) | {"prompt": TEXTS, "output_type": "np"}
    settings = {"verifier": uneven, "budget": "4images", "pool": True, **more}
    return genscale.scale(PIPE, "best_of_n", **settings).search(
        **own, generator=torch.Generator().manual_seed(3)
    )


def shares(result: Any) -> list[int]:
    return [s.finished for s in result.searches]


def test_the_total_is_spent_and_recorded(tmp_path: Path) -> None:
    result = search()
    each = result.searches[0].process.nfe()
    assert sum(shares(result)) == 12
    assert min(shares(result)) >= 1
    assert max(shares(result)) > 4
    assert result.ledger.evaluations - result.ledger.probes == 12 * each
    assert result.pooled
    assert result.limit == f"{4 * each}nfe,4images (pool)"
    assert result.kl() is not None
    assert result.kl()["bound"] is False
    result.save(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["pool"] is True
    assert [p["nfe"] for p in record["prompts"]] == [each * n for n in shares(result)]
    assert load_folder(tmp_path).pool
    assert "(pool)" in genscale.load_result(tmp_path).limit
    even = search(pool=False)
    assert (shares(even), even.pooled) == ([4, 4, 4], False)
    assert "pool" not in even.describe().request


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_changes_no_share(batch_size: int) -> None:
    assert shares(search(batch_size=batch_size)) == shares(search())


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    seen = []

    def cut(event: Any) -> None:
        seen.append(event)
        if len(seen) == 14:
            raise Stop

    with pytest.raises(Stop):
        search(out=tmp_path, on_event=cut)
    resumed, whole = search(out=tmp_path), search()
    assert shares(resumed) == shares(whole)
    assert [s.spent for s in resumed.searches] == [s.spent for s in whole.searches]
    assert 0 < resumed.ledger.evaluations < whole.ledger.evaluations
    assert [s.best().candidate for s in resumed.searches] == [s.best().candidate for s in whole.searches]
    again = search(out=tmp_path)
    assert again.ledger.evaluations == again.ledger.probes


def test_asked_to_end_it_gives_the_best_so_far() -> None:
    for halted_at in (0, 30):
        asked = []
        result = search(halt=lambda asked=asked, at=halted_at: len(asked) > at or asked.append(1))
        assert result.stopped == ("interrupted" if halted_at == 0 else result.stopped)
        assert min(shares(result)) >= 1
        assert sum(shares(result)) <= 12
    assert shares(search(halt=lambda: True)) == [1, 1, 1]


def test_a_plan_says_that_the_budget_is_shared() -> None:
    scaled = genscale.scale(PIPE, "best_of_n", uneven, budget="4images", pool=True)
    plan = scaled.plan(**ZOO["stable_diffusion"].arguments(1) | {"prompt": TEXTS})
    assert plan.pool
    assert (plan.prompts, plan.candidates) == (3, 4)


def test_what_is_refused() -> None:
    for more, sentence in (
        ({"budget": None}, "budget 'none' has nothing to share"),
        ({"budget": "20s"}, "budget '20s' has nothing to share"),
        ({"ensemble": "rank"}, "no ranks"),
        ({"verifier": None}, "needs a verifier"),
        ({"pool": 1}, "pool=1 must be True or False"),
        ({"prune": (0.5,)}, "cannot share a budget .* with best_of_n as it is set here"),
    ):
        with pytest.raises(genscale.UsageError, match=sentence):
            search(**more)


# ---------------------------------------------------------------- the command line


def test_a_run_of_the_command_line(generate: Any, genscale: Any, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    words = (*TEXTS, "--budget", "3images", "--pool", "--seed", 7)
    plan = json.loads(generate(*words, "--dry-run", "--json")[1])
    assert (plan["pool"], plan["nfe_per_prompt"], plan["nfe"]) == (True, 3 * NFE, 9 * NFE)
    assert "(pool)" in (text := generate(*words, "--dry-run")[1])
    assert "NFE a prompt, mean" in text
    code, said, err = generate(*words, "--out", out)
    assert code == 0, err
    record = json.loads((out / "run.json").read_text())
    assert record["pool"] is True
    assert sum(p["nfe"] for p in record["prompts"]) == record["ledger"]["evaluations"] == 9 * NFE
    assert "shared by the prompts: " in said
    assert load_folder(out).pool
    assert load_request(out / "000-best.png").pool
    with Image.open(out / "000-best.png") as image:
        assert "(pool)" in image.text["parameters"]
    again = json.loads(genscale("resume", out, "--json")[1])
    assert again["ledger"]["evaluations"] == 0
    assert [p["nfe"] for p in again["prompts"]] == [p["nfe"] for p in record["prompts"]]
    assert json.loads(genscale("show", out, "--json")[1])["pool"] is True
    code, said, err = genscale("replay", out / "001-best.png")
    assert code == 0, err
    assert "the same pixels" in said


def test_the_base_of_a_search_that_gave_it_up_is_paid_from_the_total(generate: Any, tmp_path: Path) -> None:  # noqa: F811
    words = (
        "--sampler",
        "dfs",
        "--threshold",
        1e9,
        "--budget",
        "6images",
        "--pool",
        "--out",
        tmp_path / "run",
    )
    code, _, err = generate(*TEXTS, *words)
    assert code == 0, err
    record = json.loads((tmp_path / "run/run.json").read_text())
    base = record.get("ledger_of_base", {"evaluations": 0})["evaluations"]
    assert record["ledger"]["evaluations"] + base <= 3 * 6 * NFE
    assert all(p["base"] for p in record["prompts"])


def test_a_sampler_that_plans_ahead_is_refused_in_a_sentence(generate: Any, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = generate(
        *TEXTS, "--sampler", "smc", "--budget", "3images", "--pool", "--out", tmp_path / "run"
    )
    assert code == 2
    assert "prompts cannot share a budget (pool) with smc" in err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
