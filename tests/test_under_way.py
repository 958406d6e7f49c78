"""Candidates shown before they are scored: what the pictures are, that results do not change, and what they cost."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

import genscale
from genscale.demo.live_view import CandidateRow, UnderWay, Watch
from genscale.engine import estimates
from genscale.engine.archive import Entry
from genscale.engine.estimates import Estimates, shown_calls
from genscale.engine.events import Estimated, Scored
from genscale.errors import UsageError
from genscale.media import Media
from genscale.numerics.affine_map import AffineMap
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.coarse_decoder import CoarseDecoder, at_resolution
from genscale.pipelines.decode import Decoder
from genscale.pipelines.draft import Draft
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.preview_pictures import FITTED, PreviewPictures
from genscale.protocol.particles import Candidate
from genscale.runs.live_preview import Preview
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder
from tests.quick import quick
from tests.zoo import ZOO
from tests.zoo_audio import AUDIO


def brightness(media: Any, prompts: Any) -> Tensor:
    return media.pixels.flatten(1).mean(1)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two showings."""
    monkeypatch.setattr(estimates, "EVERY", 0)
    monkeypatch.setattr(estimates, "IDLE", 0)


def searched(
    name: str, sampler: str = "best_of_n", steps: int = 3, **more: Any
) -> tuple[Any, list[Estimated], Any]:
    """(the result, what was shown, pixels of all that finished and kept latents)."""
    entry, events = ZOO[name], list[Any]()
    given = {"candidates": 3, "batch_size": 3, "keep": 40, "on_event": events.append, **more}
    call = entry.arguments(1) | {"output_type": "np", "generator": torch.Generator().manual_seed(3)}
    call["num_inference_steps"] = steps
    result = genscale.scale(entry.build(), sampler, brightness, **given).search(**call)
    pixels = result.media(result.ranking()).data
    return result, [e for e in events if isinstance(e, Estimated)], pixels


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("rank", [4, 2])
def test_the_map_is_numpys_least_squares(rank: int) -> None:
    generator = torch.Generator().manual_seed(1)
    two = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((50, rank), (rank, 4)))
    x, y = next(two) @ next(two), torch.randn(50, 3, generator=generator)
    found = AffineMap.fitted(x, y)
    ones = np.concatenate([x.numpy(), np.ones((50, 1))], axis=1)
    wanted = np.linalg.lstsq(ones, y.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(torch.cat([found.weights, found.bias[None]]).numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(found(x.T[None])[0].T.numpy(), ones @ wanted, atol=1e-5)


def test_a_penalty_is_that_of_ridge_regression() -> None:
    """By the normal equations of centred data, for several targets and fewer points than channels."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 9), (6, 2)))
    found = AffineMap.fitted(x + 5, y, penalty=0.3)
    a, b = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    wanted = np.linalg.solve(a.T @ a + 0.3 * 6 * a.var(0).mean() * np.eye(9), a.T @ b)
    np.testing.assert_allclose(found.weights.numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(found((x + 5).T[None])[0].mean(1).numpy(), y.mean(0).numpy(), atol=1e-5)


class LinearDecoder(nn.Module):
    """Each place of the latents becomes a square of one colour, an affine function of its channels; in time as a causal
    decoder, the first frame one frame and the others two. bent: it is not affine."""

    def __init__(self, channels: int, bent: bool = False) -> None:
        super().__init__()
        self.bent = bent
        self.weights = torch.randn(channels, 3, generator=torch.Generator().manual_seed(channels)) / 8

    def encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, z: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
        made = (z.movedim(1, -1) @ self.weights.to(z)).movedim(-1, 1) + 0.1
        made = made**3 if self.bent else made
        if z.ndim == 4:
            made = interpolate(made, scale_factor=8)
        else:
            twice = interpolate(made[:, :, 1:], scale_factor=(2, 8, 8))
            made = torch.cat([interpolate(made[:, :, :1], scale_factor=(1, 8, 8)), twice], dim=2)
        return SimpleNamespace(sample=made) if return_dict else (made,)


@pytest.mark.parametrize("shape", [(2, 6, 8, 12), (2, 6, 3, 8, 4), (2, 6, 128, 2)])
@pytest.mark.parametrize("bent", [False, True])
def test_of_a_linear_decoder_it_is_exact(shape: tuple[int, ...], bent: bool) -> None:
    model = LinearDecoder(6, bent)
    coarse, generator = CoarseDecoder([model]), torch.Generator().manual_seed(2)
    with coarse.learning():
        model.decode(torch.randn(shape, generator=generator), return_dict=False)
    assert not coarse.full
    z = torch.randn(shape, generator=generator)
    wanted = model.decode(z).sample
    with coarse.standing_in():
        (found,) = model.decode(z, return_dict=False)
    assert "decode" not in vars(model)
    assert max(found.shape[-2:]) >= 64
    within = found.shape[-1] // z.shape[-1]
    assert torch.allclose(found, at_resolution(wanted, z, within), atol=1e-5) is not bent


@pytest.mark.parametrize("name", quick(["stable_diffusion", "flux", "wan", "hunyuan_video"], ["flux"]))
def test_pictures_of_packed_latents_and_videos_are_those_of_the_pipeline(name: str) -> None:
    """With a linear decoder, fitted on other latents than those that are shown."""
    pipe = ZOO[name].build()
    linear = LinearDecoder(pipe.vae.config.get("latent_channels") or pipe.vae.config.z_dim)
    pipe.vae.__dict__["decode"] = linear.decode
    call = PipelineCall(pipe, Arguments(pipe, (), ZOO[name].arguments(1)))
    decoder = Decoder(call)
    pictures = PreviewPictures(call, decoder.media, None, call.ledger)
    generator = torch.Generator().manual_seed(4)
    first, shown = (torch.randn(3, *call.latents.shape[1:], generator=generator) for _ in range(2))
    pictures.decode(first, (0, 0, 0))
    assert call.ledger.decodes == 0
    found, whole = pictures.picture(shown, (0, 0, 0)), decoder.media(shown, (0, 0, 0))
    assert found is not None
    assert found.kind == whole.kind
    pixels, like = ((m.tensor if m.tensor.ndim == 4 else m.tensor.movedim(2, 1)) for m in (whole, found))
    assert torch.allclose(like, at_resolution(pixels, like), atol=1e-4)
    assert pipe.vae.__dict__["decode"] == linear.decode


# ---------------------------------------------------------------- results and costs


FAMILIES = ["stable_diffusion", "flux", "wan", "sd_inpaint", "sd_inpaint4", "kandinsky", "ltx"]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", quick(FAMILIES, ["flux", "sd_inpaint"]))
def test_results_are_the_same_bit_for_bit_and_cost_a_few_decodings(name: str) -> None:
    (without, none, pixels), (result, shown, again) = searched(name), searched(name, preview=True)
    assert not none
    assert torch.equal(pixels, again)
    assert [e.scores for e in result.ranking()] == [e.scores for e in without.ranking()]
    assert result.ledger.evaluations == without.ledger.evaluations
    assert 0 < result.ledger.decodes - without.ledger.decodes <= FITTED
    assert {c.id for e in shown for c in e.candidates} == {0, 1, 2}
    assert {done for e in shown for done in e.done} <= {1, 2, 3}
    assert all(len(e.media) == len(e.candidates) == len(e.prompts) and e.steps == 3 for e in shown)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("sampler", quick(["smc", "zero_order", "ab_mcts", "gradient_guidance"], ["smc"]))
def test_every_kind_of_sampler_stays_as_it_is(sampler: str) -> None:
    given: dict[str, Any] = {"candidates": 4, "budget": "60nfe", "steps": 6}
    (without, _, pixels), (result, _, again) = (
        searched("stable_diffusion", sampler, **given, preview=preview) for preview in (False, True)
    )
    assert torch.equal(pixels, again)
    assert result.ledger.nfe == without.ledger.nfe


@pytest.mark.usefixtures("always")
def test_nothing_is_shown_once_there_are_pictures() -> None:
    events: list[Any] = []
    searched("flux", wave=1, batch_size=1, on_event=events.append, preview=True)
    scored = next(i for i, e in enumerate(events) if isinstance(e, Scored))
    assert [isinstance(e, Estimated) for e in events[:scored]].count(True) == 3
    assert not any(isinstance(e, Estimated) for e in events[scored:])


def test_a_pipeline_of_sounds_shows_nothing() -> None:
    entry, events = AUDIO["stable_audio"], list[Any]()
    made = genscale.scale(
        entry.build(), "best_of_n", "silence", candidates=2, on_event=events.append, preview=True
    )
    result = made.search(**entry.arguments(1), generator=torch.Generator().manual_seed(3))
    assert result.ledger.decodes == 2
    assert not any(isinstance(e, Estimated) for e in events)


def test_which_calls_are_shown_and_how_often() -> None:
    assert [sorted(shown_calls(n)) for n in (1, 2, 4, 8, 28)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [1, 3, 5],
        [6, 13, 20],
    ]
    now, told = [0.0], list[Any]()

    def picture(latents: Tensor, prompts: tuple[int, ...]) -> Media:
        now[0] += 0.5  # it takes half a second
        return Media(torch.zeros(len(latents), 3, 8, 8))

    shown = Estimates(picture, told.append, lambda: now[0])
    process = SimpleNamespace(
        steps=4, view=_view(), predict=lambda particles, output, x: SimpleNamespace(x0=output)
    )
    search: Any = SimpleNamespace(process=process, index=0)

    def call(step: int, rows: int = 2) -> int:
        class Rows(tuple):  # type: ignore[type-arg]
            inner, candidates = 0, tuple(Candidate(i, "prior") for i in range(rows))

        particles: Any = Rows()
        particles.step = step
        some = SimpleNamespace(candidates=particles.candidates[: estimates.MOST])
        Rows.__getitem__ = lambda self, at: some  # type: ignore[method-assign,assignment,misc,return-value]
        before = len(told)
        shown.note(search, particles, torch.zeros(rows, 4), torch.zeros(rows, 4))
        shown.show()
        return len(told) - before

    assert call(3) == 0  # no such call is shown
    assert call(0) == 1
    now[0] += 4.9  # a showing took .5 s
    assert call(1) == 0
    now[0] += 0.2
    assert call(1, rows=40) == 1
    assert len(told[-1].candidates) == estimates.MOST
    assert (told[-1].done, told[-1].steps) == ((2,) * estimates.MOST, 4)
    now[0] += 9
    shown.event(Scored(Entry(0, Candidate(0, "own"), 4, True, {}, 1.0), None, Media(torch.zeros(1, 3, 8, 8))))
    assert call(2) == 0


def _view() -> Any:
    from genscale.diffusion.prediction import View

    return View.__new__(View)


# ---------------------------------------------------------------- a small decoder


def tiny(channels: int, blocks: int = 3) -> Any:
    """It makes 2 ** (blocks - 1) pixels a side of each place of the latents; those of the zoo make 2."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = {f"{part}_block_out_channels": (8,) * blocks for part in ("encoder", "decoder")}
    counts = {f"num_{part}_blocks": (1,) * blocks for part in ("encoder", "decoder")}
    return AutoencoderTiny(latent_channels=channels, **widths, **counts)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("name", "blocks"), [("stable_diffusion", 3), ("sd_inpaint", 2)])
def test_a_small_decoder_takes_the_place_of_the_map(name: str, blocks: int) -> None:
    """Also of what encodes input images, whose codes of the pipeline's own autoencoder must not be mixed up."""
    without, _, pixels = searched(name)
    result, shown, again = searched(name, preview=tiny(4, blocks))
    assert torch.equal(pixels, again)
    assert result.ledger.decodes - without.ledger.decodes == sum(len(e.media) for e in shown) > 0
    assert {tuple(e.media.tensor.shape[2:]) for e in shown} == {(2 ** (blocks + 2),) * 2}


@pytest.mark.usefixtures("always")
def test_a_small_decoder_that_does_not_fit_is_told_of_once() -> None:
    with pytest.warns(UserWarning, match="no previews are shown: their decoder fails") as told:
        _, shown, _ = searched("stable_diffusion", preview=tiny(5))
    assert not shown
    assert len(told) == 1


@pytest.mark.usefixtures("always")
def test_drafts_are_shown_by_their_decoder_and_candidates_in_full_are_not(monkeypatch: Any) -> None:
    small = tiny(4)
    used, init = list[Any](), PreviewPictures.__init__

    def noted(self: Any, call: Any, decode: Any, small: Any, ledger: Any) -> None:
        used.append(small)
        init(self, call, decode, small, ledger)

    monkeypatch.setattr(PreviewPictures, "__init__", noted)
    _, shown, _ = searched("stable_diffusion", preview=True, draft=Draft(decoder=small, keep=1))
    assert used == [small]
    assert shown


def test_what_is_no_preview_is_refused() -> None:
    with pytest.raises(UsageError, match="preview='yes' must be True, False, or a small autoencoder"):
        searched("stable_diffusion", preview="yes")


# ---------------------------------------------------------------- the file and the page


def told(done: int = 2, prompts: tuple[int, ...] = (0, 0, 1), colour: float = 0.2) -> Estimated:
    media = Media(torch.full((len(prompts), 3, 4, 4), colour))
    candidates = tuple(Candidate(i, "prior") for i in range(len(prompts)))
    return Estimated(media, prompts, candidates, (done,) * len(prompts), 8)


def first_score() -> Scored:
    entry = Entry(0, Candidate(0, "own"), 8, True, {}, 1.0)
    return Scored(entry, entry, Media(torch.full((1, 3, 8, 8), 0.6)))


def test_the_file_is_a_sheet_until_there_is_a_best(tmp_path: Path) -> None:
    named: list[Path] = []
    preview = Preview(RunFolder(tmp_path), clock=lambda: 9.0, prompts=("a", "b"), shown=named.append)
    preview(told())
    file = tmp_path / "preview.png"
    assert named == [file]
    with Image.open(file) as image:
        colours = [c for _, c in image.convert("RGB").getcolors(1 << 16) or []]
        assert image.width > 3 * 200 / 2
        assert (51, 51, 51) in colours
    preview(first_score())
    with Image.open(file) as image:
        assert image.size == (8, 8)
    preview(told(4))  # of another prompt, say: the best stays
    assert named == [file]
    preview.close()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_it_is_written_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: Any) -> None:
    preview = Preview(RunFolder(tmp_path), prompts=("a", "b"))
    preview(told())
    before = (tmp_path / "preview.png").read_bytes()

    def killed(image: Any, path: Any, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        preview(told(4))
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]
    assert (tmp_path / "preview.png").read_bytes() == before


def test_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    preview = Preview(RunFolder(tmp_path / "gone"))
    preview(told())
    preview(told(4))
    preview.close()


def test_the_command_names_the_file_and_leaves_none(genscale: Any, tmp_path: Path) -> None:
    words = ("generate", "a red star", "--candidates", 2, "--steps", 2, "--seed", 5)
    code, _, err = genscale(*words, "--preview", "--out", tmp_path / "with")
    assert code == 0
    assert f"candidates under way: {tmp_path / 'with' / 'preview.png'}" in err
    assert not (tmp_path / "with" / "preview.png").exists()
    code, _, err = genscale(*words, "--out", tmp_path / "without")
    assert "under way" not in err
    assert len({(tmp_path / name / "best.png").read_bytes()[-200:] for name in ("with", "without")}) == 1


def test_the_line_on_a_terminal_says_where() -> None:
    display = Display(quiet=True)
    display.previewed(Path("runs/a/preview.png"))
    assert display.preview_text() == "; under way: runs/a/preview.png"
    display(first_score())
    assert display.preview_text() == ""


def test_the_page_shows_candidates_under_way_until_there_are_scores() -> None:
    watch = Watch(2, estimates=True)
    assert watch.shows_estimates
    assert not Watch(2).shows_estimates
    watch(told(2))
    watch(told(4, prompts=(0,)))
    rows = watch.shown(0).tiles
    assert [(r.id, r.done, r.steps) for r in rows if isinstance(r, UnderWay)] == [(0, 4, 8), (1, 2, 8)]
    assert all(max(Image.open(_file(watch.images[r.image])).size) == 64 for r in rows)
    watch(first_score())
    assert all(isinstance(row, CandidateRow) for row in watch.shown(0).tiles)
    assert [row.id for row in watch.shown(1).tiles] == [2]
    watch.stop()
    assert watch.shown(1).tiles == ()


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_a_warning_of_numbers_that_are_not_finite_does_not_reach_the_user() -> None:
    """A candidate that fails shows something, and the others are shown."""
    pipe = ZOO["stable_diffusion"].build()
    call = PipelineCall(pipe, Arguments(pipe, (), ZOO["stable_diffusion"].arguments(1)))
    pictures = PreviewPictures(call, Decoder(call).media, None, call.ledger)
    latents = torch.randn(3, *call.latents.shape[1:])
    latents[1, 0, 0, 0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        media = pictures.picture(latents, (0, 0, 0))
        assert media is not None
        assert len(list(media)) == 3
