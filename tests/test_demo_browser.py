"""The demo in a real browser: the gallery fills, Stop keeps the best, files come down, nothing leaves this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import chromium
from tests.chromium import PHONE

pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'genscale[demo]'")
# Where one search follows another at once, the server may close the stream that the page listens to.
pytestmark = pytest.mark.flaky(reruns=3)
LONG = 20_000  # NFE of a search that is not waited for
SCORES = "#table [role=gridcell][data-col='2']"
OVER = "#status .gs-good, #status .gs-bad"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def address(out: Path) -> Iterator[str]:
    """A demo in a process of its own, as a user starts it."""
    code = "import sys, torch; torch.set_num_threads(1); from genscale.cli.app import main; sys.exit(main())"
    words = ["demo", "--no-open", "--json", "--port", "0", "--max-nfe", str(LONG), "--out", str(out)]
    ran = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    assert ran.stdout is not None
    found = json.loads(ran.stdout.readline())
    assert found["address"].startswith("http://127.0.0.1:")
    yield found["address"]
    ran.send_signal(signal.SIGINT)
    assert ran.wait(60) in (0, 130)


class Tab:
    """A page of the demo, and what it asked for, got wrong and complained of."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address, self.asked, self.wrong = address, list[str](), list[str]()
        self.context = chromium.context(browser, **context)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "response", lambda r: self.wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#plan strong")

    def fill(self, prompt: str | None = None, options: str | None = None, nfe: int | None = None) -> None:
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        if options is not None:
            if not self.page.is_visible("#options textarea"):
                self.page.click("text=Options of the sampler")
            self.page.fill("#options textarea", options)
        if nfe is not None:
            self.page.fill("#budget input[type=number]", str(nfe))
            self.page.keyboard.press("Tab")

    def choose(self, name: str, value: str) -> None:
        self.page.click(f"#{name} input")
        self.page.fill(f"#{name} input", value)
        self.page.keyboard.press("Enter")

    def search(self) -> None:
        self.page.click("#search")

    def until_over(self) -> str:
        self.page.wait_for_selector(OVER)
        return str(self.page.inner_text("#status"))

    def scores(self) -> list[float]:
        return [float(text) for text in self.page.locator(SCORES).all_inner_texts()]

    def download(self, label: str, name: str, folder: Path) -> Path:
        with self.page.expect_download() as coming:
            self.page.click(f"#downloads button:has-text('{label}')")
        assert coming.value.suggested_filename == name
        coming.value.save_as(folder / name)
        return folder / name

    def broken_pictures(self) -> list[str]:
        self.page.wait_for_function("[...document.images].every(i => i.complete)")
        return list(self.page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"))

    def close(self) -> None:
        self.context.close()
        assert [url for url in self.asked if not url.startswith((self.address, "data:", "blob:"))] == []
        assert self.wrong == []


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    made = Tab(browser, address)
    yield made
    made.close()


@pytest.mark.slow
def test_the_gallery_fills_and_stop_keeps_the_best(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    assert "1280 NFE: 40 NFE a candidate of 20 steps, 32 finished" in page.inner_text("#plan")
    tab.fill(options="wave=1", nfe=LONG)
    tab.search()
    counts = [0]
    for _ in range(3):
        more = f"document.querySelectorAll('#gallery .thumbnail-lg').length > {counts[-1]}"
        page.wait_for_function(more)
        counts.append(page.locator("#gallery .thumbnail-lg").count())
        assert page.is_enabled("#stop")
        assert not page.is_enabled("#search")
    assert counts == sorted(set(counts))
    assert "Searching" in page.inner_text("#status")
    page.wait_for_selector("#curve img")
    page.click("#stop")
    assert "this is the best after" in tab.until_over()
    page.wait_for_selector("#downloads button")
    record = json.loads(tab.download("Record", "run.json", tmp_path).read_text())
    assert record["stopped"] == "interrupted"
    assert counts[-1] <= record["prompts"][0]["finished"] < LONG // 40
    scores = tab.scores()
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == round(record["best"]["total"], 4)
    assert tab.broken_pictures() == []
    assert page.is_enabled("#search")


@pytest.mark.slow
def test_candidates_under_way_come_first(tab: Tab) -> None:
    tab.fill(nfe=640)
    tab.search()
    tab.page.wait_for_function("document.querySelector('#gallery').innerText.includes('5/20')")
    assert "Nothing is scored yet" in tab.page.inner_text("#count")
    assert tab.page.locator("#gallery .thumbnail-lg").count() == 16
    assert "Done" in tab.until_over()
    assert "/20" not in tab.page.inner_text("#gallery")
    assert tab.page.locator("#gallery .thumbnail-lg").count() == 16
    assert tab.broken_pictures() == []


@pytest.mark.slow
def test_a_finished_search(tab: Tab, tmp_path: Path) -> None:
    tab.page.click("text=Steps, guidance, seed")
    tab.page.fill("#steps textarea", "10")
    tab.fill(prompt="a red star left of a blue ring\na green square", nfe=160)
    tab.page.wait_for_function("document.querySelector('#plan').innerText.includes('of 10 steps')")
    tab.search()
    assert "Done" in tab.until_over()
    tab.page.wait_for_selector("#lineage img")
    assert tab.broken_pictures() == []
    assert tab.page.locator("#pair figure").count() == 2
    assert "held out" in tab.page.inner_text("#pair")
    first = tab.scores()
    tab.page.click("#shown label:nth-of-type(2)")
    tab.page.wait_for_function(f'Number(document.querySelector("{SCORES}").innerText) != {first[0]}')
    with Image.open(tab.download("Best image", "001-best.png", tmp_path)) as picture:
        assert json.loads(picture.text["genscale"])["prompt"] == "a green square"  # type: ignore[attr-defined]
    with zipfile.ZipFile(tab.download("All files", "run.zip", tmp_path)) as packed:
        record = json.loads(packed.read("run.json"))
        assert "archive.jsonl" in packed.namelist()
    assert tab.scores()[0] == round(record["prompts"][1]["best"]["total"], 4)
    assert record["seed"] > 0  # none was given, so it was drawn
    assert (record["request"]["steps"], record["request"]["guidance"]) == (10, 3.0)
    assert f"--seed {record['seed']}" in tab.page.input_value("#same textarea")


@pytest.mark.slow
def test_a_click_enlarges_and_the_table_sorts(tab: Tab) -> None:
    page = tab.page
    tab.fill(nfe=320)
    tab.search()
    assert "Done" in tab.until_over()
    page.wait_for_function("document.querySelectorAll('#gallery .thumbnail-lg').length == 8")
    third = str(page.locator("#gallery .thumbnail-lg img").nth(2).get_attribute("src"))
    page.locator("#gallery .thumbnail-lg").nth(2).click()
    page.wait_for_selector(f"#gallery .preview img[src='{third.replace('.tile', '.full')}']")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"#gallery .thumbnail-lg img[src='{third}']")
    assert page.locator("#gallery .preview").count() == 0
    best_first = tab.scores()
    page.hover("#table [data-testid=header-2]")
    page.click("#table [data-testid=header-2] .cell-menu-button")
    page.click("text=Sort ascending")
    page.wait_for_function(f'Number(document.querySelector("{SCORES}").innerText) == {best_first[-1]}')
    assert tab.scores() == best_first[::-1]
    page.locator("button[role=tab]", has_text="Slider").last.click()
    page.wait_for_function("document.querySelectorAll('#slider img').length == 2")
    assert tab.broken_pictures() == []


@pytest.mark.slow
def test_labels_are_given_shown_and_downloaded(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    tab.fill(nfe=320)
    tab.search()
    assert "Done" in tab.until_over()
    assert page.locator("#right").is_disabled()
    for place, button, sign in ((0, "right", "✓"), (2, "wrong", "✗")):
        page.locator("#gallery .thumbnail-lg").nth(place).click()
        page.wait_for_selector(f"#{button}:not([disabled])")
        page.click(f"#{button}")
        page.wait_for_function(f"document.querySelector('#gallery').innerText.includes('{sign}')")
        page.click("#gallery button[aria-label='Close']")
        page.wait_for_selector(f"#{button}[disabled]")
    with page.expect_download() as waiting:
        page.click("#downloads >> text=Labels")
    waiting.value.save_as(tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "prompt,candidate,label"
    assert sorted(line[-1] for line in lines[1:]) == ["0", "1"]
    assert tab.broken_pictures() == []


@pytest.mark.slow
def test_a_clip_plays(tab: Tab) -> None:
    tab.choose("model", "shapes-video")
    tab.page.wait_for_function(
        "document.querySelector('#prompt textarea').value == 'a red circle moving left'"
    )
    tab.page.wait_for_function("document.querySelector('#plan').innerText.includes('of 12 steps')")
    tab.fill(nfe=240)
    tab.search()
    assert "Done" in tab.until_over()
    tab.page.locator("#pair video").first.scroll_into_view_if_needed()  # what is out of sight does not play
    playing = (
        "[...document.querySelectorAll('video')].filter(v => v.videoWidth && v.currentTime > 0).length == 2"
    )
    tab.page.wait_for_function(playing)
    assert tab.page.locator("#gallery .thumbnail-lg").count() == 10
    assert "genscale video" in tab.page.input_value("#same textarea")


@pytest.mark.slow
def test_bad_input_is_one_sentence_on_the_page(tab: Tab) -> None:
    tab.fill(prompt=" ")
    tab.search()
    assert "there is no prompt: say what the image should show." in tab.until_over()
    tab.fill(prompt="a red star", options="candidate=4")
    tab.search()
    tab.page.wait_for_function(
        "document.querySelector('#status').innerText.includes(\"did you mean 'candidates'\")"
    )
    tab.fill(options="", nfe=2)
    tab.search()
    tab.page.wait_for_function("document.querySelector('#status').innerText.includes('2nfe is too small')")
    tab.fill(nfe=40)
    tab.search()
    tab.page.wait_for_selector("#status .gs-good")


@pytest.mark.slow
def test_two_pages_wait_for_each_other_and_share_nothing(tab: Tab, browser: Any, address: str) -> None:
    other = Tab(browser, address)
    tab.fill(options="wave=1", nfe=LONG)
    tab.search()
    tab.page.wait_for_selector("#gallery .thumbnail-lg")
    other.fill(nfe=80)
    other.search()
    other.page.wait_for_selector("text=1 search is before yours")
    assert other.page.locator("#gallery .thumbnail-lg").count() == 0
    tab.page.click("#stop")
    assert "Stopped" in tab.until_over()
    assert "Done" in other.until_over()
    other.page.wait_for_selector("#downloads button")
    tokens = [{url.split("/")[4] for url in one.asked if "/search/" in url} for one in (tab, other)]
    assert [len(found) for found in tokens] == [1, 1]
    assert tokens[0] != tokens[1]
    other.close()


@pytest.mark.slow
def test_a_page_that_is_closed_ends_its_search(tab: Tab, browser: Any, address: str, out: Path) -> None:
    other = Tab(browser, address)
    other.fill(prompt="two black stars", options="wave=1", nfe=LONG)
    other.search()
    other.page.wait_for_selector("#gallery .thumbnail-lg")
    other.close()
    tab.fill(nfe=40)
    tab.search()
    assert "Done" in tab.until_over()
    records = [json.loads(path.read_text()) for path in out.glob("*/*/run.json")]
    assert [r["stopped"] for r in records if r["prompts"][0]["prompt"] == "two black stars"] == [
        "interrupted"
    ]


@pytest.mark.slow
def test_it_fits_a_phone(browser: Any, address: str) -> None:
    tab = Tab(browser, address, viewport=PHONE, color_scheme="dark")
    tab.fill(nfe=160)
    tab.search()
    tab.until_over()
    tab.page.wait_for_selector("#lineage img")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert tab.broken_pictures() == []
    tab.close()
