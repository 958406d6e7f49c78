"""`genscale.remote_images` against a stub service: slow, failing and rate-limited answers end right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genscale
from genscale.errors import AllCandidatesFailed, UsageError
from genscale.pipelines import http_calls
from genscale.pipelines.http_calls import Patience, RemoteError
from tests.generators import brightness, seeded
from tests.image_service import serving


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, which take no time."""
    found: list[float] = []
    tried = http_calls._tried
    monkeypatch.setattr(
        http_calls, "_tried", lambda request, patience, sleep: tried(request, patience, found.append)
    )
    return found


def search(service: Any, candidates: int = 8, seed: int = 100, **options: Any) -> Any:
    scaling = {k: options.pop(k) for k in ("out", "batch_size") if k in options}
    make = genscale.remote_images(service.url, model="stub", **options)
    return genscale.scale(make, candidates=candidates, verifier=brightness, **scaling).search("a", seed=seed)


def totals(found: Any) -> list[float]:
    return [e.total for e in found.searches[0].finals]


def local(candidates: int = 8) -> list[float]:
    return totals(genscale.scale(seeded, candidates=candidates, verifier=brightness).search("a", seed=100))


def test_a_search_on_a_service_is_that_of_the_function_behind_it() -> None:
    with serving(pause=0.02) as service:
        found = search(service, at_once=3, size="8x8")
    assert totals(found) == local()
    assert 1 < service.most <= 3
    assert {"model": "stub", "size": "8x8", "prompt": "a", "n": 1, "seed": 100} in service.bodies
    with serving(lambda seed, before: "url") as service:
        assert totals(search(service)) == local()


@pytest.mark.parametrize("trouble", ["status 429 2", "status 503", "status 500", "close", "cut", "slow 1.5"])
def test_a_service_in_trouble_is_asked_again(trouble: str, waits: list[float]) -> None:
    with serving(lambda seed, before: trouble if before < 2 and seed % 2 else None) as service:
        found = search(service, timeout=0.5 if "slow" in trouble else 20.0)
    assert totals(found) == local()
    assert not found.dropped()
    assert max(service.asked.values()) == 3
    again = sum(n - 1 for n in service.asked.values())
    assert len(waits) == again > 0
    if trouble == "status 429 2":
        assert waits == [2.0] * again


def test_waits_double_and_end(waits: list[float]) -> None:
    with (
        serving(lambda seed, before: "status 502") as service,
        pytest.raises(AllCandidatesFailed, match="502"),
    ):
        search(service, candidates=1, retries=4)
    assert service.asked[100] == 5
    assert all(2**i <= wait <= 1.5 * 2**i for i, wait in enumerate(waits))
    assert Patience(most=5.0).wait(4, None) <= 7.5  # type: ignore[operator]
    assert Patience().wait(5, None) is None
    assert Patience(most=60).wait(0, 61.0) is None


def test_a_retry_after_that_is_a_date() -> None:
    from email.utils import formatdate
    from time import time

    assert http_calls._retry_after(formatdate(time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert http_calls._retry_after(formatdate(time() - 30, usegmt=True)) == 0
    assert http_calls._retry_after("soon") is None


def test_candidates_of_which_all_attempts_fail_are_dropped(waits: list[float]) -> None:
    with serving(lambda seed, before: "status 429 1" if seed % 3 == 0 else None) as service:
        found = search(service, candidates=12, retries=2)
    lost = found.dropped()
    assert 0 < len(lost) < 12
    assert all(f.where == "call" and "429" in f.what for f in lost)
    assert len(totals(found)) + len(lost) == 12
    assert set(totals(found)) < set(local(12))
    assert all(n == 3 for seed, n in service.asked.items() if seed % 3 == 0)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("status 401", "refused the request with status 401: the stub says no"),
        ("status 400", "status 400"),
        ("redirect", "status 302"),
        ("garbage", "answered no JSON"),
        ("other", "did not answer with one image"),
        ("broken", "is no image"),
    ],
)
def test_what_would_fail_again_comes_through_at_once(trouble: str, why: str, waits: list[float]) -> None:
    with serving(lambda seed, before: trouble) as service, pytest.raises(RemoteError, match=why) as caught:
        search(service, at_once=1)
    assert "\n" not in str(caught.value)
    assert sum(service.asked.values()) == 1
    assert waits == []


def test_a_service_that_is_not_there_drops_the_candidate(waits: list[float]) -> None:
    with serving() as service:
        pass
    with pytest.raises(AllCandidatesFailed, match=r"cannot be reached.*see that what is called"):
        search(service, candidates=1, retries=1)
    assert len(waits) == 1


def test_the_key_is_sent_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret-0123")
    with serving() as service:
        found = search(service, key_from="STUB_KEY", out=tmp_path / "run", cache=tmp_path / "cache")
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer secret-0123"}
    found.save(tmp_path / "run")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"secret-0123" not in path.read_bytes(), path
    assert "secret" not in repr(found) + repr(genscale.remote_images(service.url, key_from="STUB_KEY"))
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(UsageError, match="STUB_KEY is not set"):
        genscale.remote_images(service.url, key_from="STUB_KEY")


def test_answers_are_kept_by_content(tmp_path: Path) -> None:
    with serving() as service:
        first = search(service, cache=tmp_path)
        asked = sum(service.asked.values())
        assert totals(search(service, cache=tmp_path)) == totals(first)
        assert sum(service.asked.values()) == asked == 8
        search(service, cache=tmp_path, quality="high")
        assert sum(service.asked.values()) == 16
        damaged = next(iter(tmp_path.iterdir()))
        damaged.write_bytes(b"no image")
        search(service, cache=tmp_path)
        search(service, cache=tmp_path, quality="high")
        assert sum(service.asked.values()) == 17


def test_a_service_without_seeds(tmp_path: Path) -> None:
    with serving() as service:
        found = search(service, seed_field=None, cache=tmp_path)
    assert all("seed" not in body for body in service.bodies)
    assert len(totals(found)) == 8
    assert len(list(tmp_path.iterdir())) == 8


def test_a_run_on_a_service_is_resumed(tmp_path: Path) -> None:
    with serving() as service:
        whole = search(service, out=tmp_path / "run")
        again = search(service, out=tmp_path / "run", at_once=2, retries=1)
    assert sum(service.asked.values()) == 8
    assert totals(again) == totals(whole)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"url": "localhost:8000"}, "begins with http"),
        ({"at_once": 0}, "at_once=0"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
    ],
)
def test_arguments_out_of_range_are_refused(given: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        genscale.remote_images(**({"url": "http://localhost:1/v1"} | given))


def test_the_stub_gives_what_the_function_gives() -> None:
    with serving() as service:
        image = genscale.remote_images(service.url)("a", seed=3)
    assert np.array_equal(np.asarray(image), np.asarray(seeded("a", 3)))
    assert os.environ.get("STUB_KEY") is None
