"""`genscale.scale` of a function that is called as a whole: candidates from keys, archive, resume, replay, refusals."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.engine.archive import read_archive
from genscale.errors import AllCandidatesFailed, NoLoop, UsageError
from genscale.key import Key
from genscale.pipelines.generated_media import pixels_of
from genscale.protocol.particles import draw
from tests.generators import brightness, darkness, fresh, noise, seeded


def same(a: Image.Image, b: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


# ------------------------------------------------------------------------------ candidates


@pytest.mark.parametrize(("setting", "value"), [("hold", "host"), ("pad_batches", "full")])
def test_settings_of_batches_are_refused(setting: str, value: str) -> None:
    scaled = genscale.scale(noise, candidates=2, verifier=brightness, **{setting: value})
    with pytest.raises(UsageError, match=f"{setting}='{value}' is about latents .* leave {setting} out"):
        scaled("a", generator=fresh())
    with pytest.raises(UsageError, match="is called as a whole"):
        scaled.plan("a", generator=fresh())


def test_one_candidate_is_the_plain_call() -> None:
    assert same(genscale.scale(noise, candidates=1)("a", generator=fresh()).images[0], noise("a", fresh()))
    assert same(genscale.scale(seeded, candidates=1)("a", seed=9).images[0], seeded("a", 9))
    assert same(genscale.scale(seeded, candidates=1)("a").images[0], seeded("a"))  # the default seed
    torch.manual_seed(4)
    plain = noise("a")
    torch.manual_seed(4)
    assert same(genscale.scale(noise, candidates=1)("a").images[0], plain)


def test_the_users_generator_is_left_as_it_is() -> None:
    generator = fresh()
    generator.manual_seed(7)
    torch.rand(3, generator=generator)  # not at its beginning
    before = generator.get_state()
    plain = torch.Generator()
    plain.set_state(before)
    found = genscale.scale(noise, candidates=3, verifier=brightness).search("a", generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert same(found.media([found.base()])[0], noise("a", plain))  # type: ignore[list-item]


def test_a_candidate_is_a_function_of_its_key() -> None:
    found = genscale.scale(noise, candidates=5, verifier=brightness, keep=5).search("a", generator=fresh(11))
    key = Key.from_seed(11).fold("prompt", "a", 0)
    for entry in found.searches[0].finals[1:]:
        made = Key(draw(key, entry.candidate.id).key).fold("generator").uniform(1)[0]
        again = noise("a", torch.Generator().manual_seed(int(float(made) * 2**53)))
        assert same(found.media([entry])[0], again)
    assert len({e.total for e in found.searches[0].finals}) == 5


def test_more_candidates_and_other_prompts_change_no_candidate() -> None:
    few = genscale.scale(noise, candidates=3, verifier=brightness).search("a", generator=fresh())
    many = genscale.scale(noise, candidates=6, verifier=brightness).search(["b", "a"], generator=fresh())
    assert [e.total for e in few.searches[0].finals] == [e.total for e in many.searches[1].finals[:3]]


def test_the_best_come_back_with_all_that_was_found() -> None:
    better = genscale.scale(noise, candidates=6, verifier=brightness, held_out=darkness, keep=6)
    out = better("a", generator=fresh(), num_images_per_prompt=2)
    ranking = out.search.ranking()
    assert len(out.images) == 2
    assert all(same(image, out.search.media([e])[0]) for image, e in zip(out.images, ranking, strict=False))
    assert ranking[0].total == max(e.total for e in ranking)
    assert ranking[0].held_out["darkness"] == pytest.approx(-ranking[0].total)
    assert out.search.ledger.nfe == 6
    assert not hasattr(out, "frames")


@pytest.mark.parametrize(("budget", "calls"), [("7images", 7), ("5nfe", 5), ("4calls", 4)])
def test_a_budget_is_counted_in_calls(budget: str, calls: int) -> None:
    made: list[str] = []

    def counted(prompt: str, generator: Any) -> Any:
        made.append(prompt)
        return noise(prompt, generator)

    better = genscale.scale(counted, budget=budget, verifier=brightness)
    assert better.plan(["a", "b"]).nfe == calls
    assert made == []
    better(["a", "b"], generator=fresh())
    assert len(made) == 2 * calls


def test_seconds_stop_rules_and_a_shared_budget() -> None:
    def slow(prompt: str, generator: Any) -> Any:
        time.sleep(0.02)
        return noise(prompt, generator)

    found = genscale.scale(slow, budget="0.2s", verifier=brightness).search("a", generator=fresh())
    assert 2 <= len(found.searches[0].finals) <= 10
    found = genscale.scale(noise, stop="patience:3", verifier=brightness).search("a", generator=fresh())
    assert found.stopped_by() is not None
    pooled = genscale.scale(noise, budget="6images", verifier=brightness, pool=True)
    found = pooled.search(["a", "b", "c"], generator=fresh())
    assert sum(s.spent for s in found.searches) == 18


def test_events_tell_of_every_candidate() -> None:
    seen: list[Any] = []
    genscale.scale(noise, candidates=4, verifier=brightness, on_event=seen.append)("a", generator=fresh())
    assert [type(e).__name__ for e in seen].count("Scored") == 4


def test_a_scaled_function_is_scaled_again_copied_and_shown() -> None:
    better = genscale.scale(noise, candidates=3, verifier=brightness)
    again = genscale.scale(better, candidates=2, verifier=brightness)
    assert again.pipe is noise
    assert len(copy.copy(again).search("a", generator=fresh()).ranking()) == 2
    assert "BestOfN" in repr(better)
    assert len(pickle.loads(pickle.dumps(better)).search("a", generator=fresh()).ranking()) == 3
    found = again.search("a", generator=fresh())
    copied = copy.deepcopy(found)
    assert torch.equal(copied.media([copied.base()]).pixels, found.media([found.base()]).pixels)
    assert [e.total for e in pickle.loads(pickle.dumps(found)).ranking()] == [
        e.total for e in found.ranking()
    ]
    assert list(inspect.signature(better).parameters) == ["prompt", "generator", "size", "gain"]


# ------------------------------------------------------------------------------ what is returned


class Holder:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


PICTURE = noise("a", fresh())
PIXELS = torch.from_numpy(np.array(PICTURE)).movedim(-1, 0)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (PICTURE, (3, 8, 8)),
        ([PICTURE], (3, 8, 8)),
        ([PICTURE, PICTURE], (2, 3, 8, 8)),
        ([[PICTURE, PICTURE]], (2, 3, 8, 8)),
        (Holder(images=[PICTURE]), (3, 8, 8)),
        (Holder(frames=[[PICTURE, PICTURE]]), (2, 3, 8, 8)),
        (Holder(frames=[PICTURE]), (1, 3, 8, 8)),
        ({"images": [PICTURE]}, (3, 8, 8)),
        (([PICTURE], None), (3, 8, 8)),
        (np.zeros((8, 8, 3), np.uint8), (3, 8, 8)),
        (np.zeros((1, 8, 8, 3)), (3, 8, 8)),
        (np.zeros((8, 8)), (3, 8, 8)),
        (np.zeros((2, 8, 8, 3)), (2, 3, 8, 8)),
        (torch.zeros(1, 3, 8, 8), (3, 8, 8)),
        (torch.zeros(3, 8, 8), (3, 8, 8)),
        (torch.zeros(4, 8, 8), (3, 8, 8)),
        (torch.zeros(1, 5, 3, 8, 8), (5, 3, 8, 8)),
    ],
)
def test_outputs_of_many_kinds(output: Any, shape: tuple[int, ...]) -> None:
    assert tuple(pixels_of(output, "f").shape) == shape


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (None, "no image or video"),
        ("a text", "no image or video"),
        (Holder(images=[PICTURE, PICTURE]), "2 images for one call"),
        (np.zeros((8, 8, 7)), "no image or video"),
        (np.full((8, 8, 3), 3.0), "pixels from 3 to 3"),
        (np.zeros((8, 8, 3), np.int32), "pixels of torch.int32"),
        ([], "no image or video"),
    ],
)
def test_outputs_that_are_none_are_refused(output: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        pixels_of(output, "f")


def test_pixels_come_back_as_they_were() -> None:
    floats = torch.rand(3, 8, 8)
    found = genscale.scale(lambda prompt, seed: floats, candidates=1).search("a", seed=1)
    assert torch.equal(found.media(found.ranking()).pixels[0], floats)
    assert torch.equal(pixels_of(PICTURE, "f"), PIXELS)


def test_videos_are_scored_and_returned_as_videos() -> None:
    def clip(prompt: str, generator: Any) -> Any:
        return Holder(frames=[[noise(prompt, generator) for _ in range(3)]])

    def first_frame(media: Any, prompts: Any) -> Any:
        assert media.is_video
        return media.pixels[:, 0].flatten(1).mean(1)

    first_frame.judges_videos = True  # type: ignore[attr-defined]
    out = genscale.scale(clip, candidates=3, verifier=first_frame)("a", generator=fresh())
    assert len(out.frames[0]) == 3
    assert same(genscale.scale(clip, candidates=1)("a", generator=fresh()).frames[0][0], noise("a", fresh()))


def test_a_candidate_with_numbers_that_are_not_finite_is_dropped() -> None:
    def sometimes(prompt: str, seed: int) -> Any:
        return torch.full((3, 4, 4), float("nan") if seed % 2 else 0.5)

    found = genscale.scale(sometimes, candidates=12, verifier=brightness).search("a", seed=2)
    assert 0 < len(found.dropped()) < 12
    assert found.dropped()[0].where == "decoder"


def test_images_of_several_sizes_are_scored_one_by_one() -> None:
    def varied(prompt: str, seed: int) -> Any:
        return torch.full((3, 4 + seed % 3, 4), 0.5)

    varied.calls_at_once = 6  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"several sizes .* decode_batch=1"):
        genscale.scale(varied, candidates=6, verifier=brightness)("a", seed=0)
    out = genscale.scale(varied, candidates=6, verifier=brightness, decode_batch=1)("a", seed=0)
    assert len(out.search.ranking()) == 6


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("sampler", [n for n in genscale.list_samplers() if n != "best_of_n"])
def test_samplers_that_need_the_loop_are_refused_before_a_call(sampler: str) -> None:
    def never(prompt: str, generator: Any) -> Any:
        raise AssertionError("called")

    with pytest.raises(
        UsageError, match=r"(needs a denoising loop, and never is called as a whole|probability)"
    ):
        genscale.scale(never, sampler, verifier=brightness, budget="8images")("a", generator=fresh())


@pytest.mark.parametrize("options", [{"prune": (0.5,)}, {"previews": (0.5,)}])
def test_previews_are_refused(options: Any) -> None:
    with pytest.raises(UsageError, match="best_of_n needs a denoising loop"):
        genscale.scale(noise, verifier=brightness, candidates=4, **options)("a", generator=fresh())


def test_a_mix_is_refused() -> None:
    with pytest.raises(UsageError, match="in a denoising loop"):
        genscale.scale(noise, candidates=1, guide="cfg(3)")("a", generator=fresh())


def test_a_function_without_randomness_is_refused() -> None:
    with pytest.raises(UsageError, match="takes neither a generator nor a seed"):
        genscale.scale(lambda prompt: PICTURE, candidates=1)("a")


def test_one_that_takes_any_argument_gets_a_generator() -> None:
    seen: list[Any] = []

    def anything(prompt: str, **kwargs: Any) -> Any:
        seen.append(kwargs["generator"])
        return noise(prompt, **kwargs)

    genscale.scale(anything, candidates=2, verifier=brightness)("a", generator=fresh(), size=4)
    assert [type(g) for g in seen] == [torch.Generator] * 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"sied": 3}, "takes no argument 'sied'.*did you mean"),
        ({"seed": [1, 2]}, "2 of seed= were given for 1 prompts"),
        ({"seed": 1.5}, "must be a whole number"),
        ({"prompt": "b"}, "given twice"),
    ],
)
def test_wrong_arguments_are_refused(given: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        genscale.scale(seeded, candidates=1)("a", **given)


def test_a_pipeline_that_cannot_be_owned_is_called_as_a_whole_with_a_warning() -> None:
    class Around:
        """Looks like a pipeline, and has no loop over its scheduler."""

        scheduler = object()

        def __call__(self, prompt: str, generator: Any = None) -> Any:
            return Holder(images=[noise(prompt, generator)])

    with pytest.warns(UserWarning, match="is not a DiffusionPipeline.* called as a whole"):
        out = genscale.scale(Around(), candidates=3, verifier=brightness)("a", generator=fresh())
    assert len(out.search.ranking()) == 3

    class Fixed(Around):
        def __call__(self, prompt: str) -> Any:  # type: ignore[override]
            return PICTURE

    with pytest.raises(NoLoop, match="is not a DiffusionPipeline"):
        genscale.scale(Fixed(), candidates=1)("a")


def token_pipeline() -> Any:
    """aMUSEd, whose loop steps tokens: its scheduler draws them from the generator of the call."""
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel

    from tests.zoo_parts import clip, clip_tokenizer

    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=8, use_bias=False, hidden_dropout=0.0, cond_embed_dim=8, micro_cond_encode_dim=2,
        micro_cond_embed_dim=10, encoder_hidden_size=8, vocab_size=32, codebook_size=8, in_channels=8,
        block_out_channels=8, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=1,
        num_hidden_layers=1, num_attention_heads=1, attention_dropout=0.0, intermediate_size=8,
        layer_norm_eps=1e-6, ln_elementwise_affine=True, sample_size=8,
    )  # fmt: skip
    vae = VQModel(
        block_out_channels=[8], latent_channels=8, norm_num_groups=8, num_vq_embeddings=8, sample_size=8,
        mid_block_add_attention=False, lookup_from_codebook=True,
    )  # fmt: skip
    pipe = AmusedPipeline(
        vqvae=vae, tokenizer=clip_tokenizer(), text_encoder=clip(projection=True), transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=31),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_pipeline_of_tokens_is_called_as_a_whole() -> None:
    pipe, given = token_pipeline(), {"num_inference_steps": 2, "height": 4, "width": 4}
    plain = pipe("a cat", generator=fresh(), **given).images[0]
    with pytest.warns(UserWarning, match="AmusedScheduler draws noise.* called as a whole"):
        out = genscale.scale(pipe, "best_of_n", brightness, candidates=3)("a cat", generator=fresh(), **given)
    assert same(out.search.media([out.search.base()])[0], plain)
    assert out.search.ledger.nfe == 3
    with pytest.raises(NoLoop, match="AmusedScheduler draws noise"):
        genscale.scale(pipe, "zero_order", brightness)("a cat", generator=fresh(), **given)
    arms = genscale.scale(pipe, "arms", brightness, arms=[{}, {"steps": 1}], candidates=4)
    with pytest.warns(UserWarning, match="called as a whole"):
        assert len(arms.search("a cat", generator=fresh(), **given).ranking()) == 4


# ------------------------------------------------------------------------------ calls that fail


class Busy(Exception):
    status_code = 429


def failing(error: Exception) -> Any:
    def call(prompt: str, seed: int) -> Any:
        if seed % 3 == 1:
            raise error
        return noise(prompt, torch.Generator().manual_seed(seed))

    return call


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionResetError(), Busy("rate limit")])
def test_a_call_that_a_service_failed_drops_its_candidate(error: Exception) -> None:
    found = genscale.scale(failing(error), candidates=12, verifier=brightness).search("a", seed=0)
    lost = found.dropped()
    assert 0 < len(lost) < 12
    assert len(found.searches[0].finals) + len(lost) == 12
    assert all(f.where == "call" and type(error).__name__ in f.what for f in lost)
    assert found.searches[0].spent == 12


def test_other_exceptions_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        genscale.scale(failing(ZeroDivisionError()), candidates=12, verifier=brightness)("a", seed=0)

    def mistaken(prompt: str, seed: int) -> Any:
        try:
            raise TimeoutError
        except TimeoutError:
            return prompt.no_such_method()  # type: ignore[attr-defined]

    with pytest.raises(AttributeError):
        genscale.scale(mistaken, candidates=1)("a", seed=0)


def test_if_every_call_fails_a_sentence_says_so() -> None:
    with pytest.raises(AllCandidatesFailed, match=r"the call gave TimeoutError .*can be reached"):
        genscale.scale(failing(TimeoutError("slow")), candidates=1)("a", seed=1)


def test_an_interrupt_returns_the_best_so_far() -> None:
    def impatient(after: int) -> Any:
        made: list[int] = []

        def call(prompt: str, seed: int) -> Any:
            made.append(seed)
            if len(made) > after:
                raise KeyboardInterrupt
            return seeded(prompt, seed)

        return genscale.scale(call, candidates=8, verifier=brightness)

    found = impatient(4).search("a", seed=1)
    assert found.stopped == "interrupted"
    assert len(found.ranking()) <= 4
    with pytest.raises(KeyboardInterrupt):
        impatient(0).search("a", seed=1)


# ------------------------------------------------------------------------------ threads


def test_calls_run_at_once_only_where_the_function_bears_it() -> None:
    lock, state = threading.Lock(), {"now": 0, "most": 0}

    def slow(prompt: str, seed: int) -> Any:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.005 * (seed % 3))
        with lock:
            state["now"] -= 1
        return seeded(prompt, seed)

    alone = genscale.scale(slow, candidates=9, verifier=brightness).search("a", seed=1)
    assert state["most"] == 1
    slow.calls_at_once = 3  # type: ignore[attr-defined]
    together = genscale.scale(slow, candidates=9, verifier=brightness).search("a", seed=1)
    assert 1 < state["most"] <= 3
    assert [(e.candidate, e.total) for e in together.entries] == [
        (e.candidate, e.total) for e in alone.entries
    ]


# ------------------------------------------------------------------------------ archive


def search(folder: Path, log: Path, pause: float = 0.0, **settings: Any) -> Any:
    """A search with an archive; each call is logged before it is made. Some calls fail."""
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    class Logged:
        identity = "logged"

        def __call__(self, prompt: str, seed: int) -> Any:
            os.write(out, f"{prompt}:{seed}\n".encode())
            time.sleep(pause)
            if seed % 5 == 1:
                raise TimeoutError("slow")
            return seeded(prompt, seed)

    try:
        better = genscale.scale(Logged(), verifier=brightness, out=folder, **({"candidates": 12} | settings))
        return better.search(["a", "b"], seed=[1000, 2000])
    finally:
        os.close(out)


def content(folder: Path) -> list[str]:
    return sorted(str({**r, "seconds": None}) for r in read_archive(folder))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("settings", [{}, {"candidates": None, "stop": "patience:5"}], ids=["n", "stop"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_and_resume(tmp_path: Path, settings: Any) -> None:
    torch.set_num_threads(1)
    whole = search(tmp_path / "whole", tmp_path / "log", **settings)
    total = (tmp_path / "log").read_text().splitlines()
    assert whole.dropped(0) or whole.dropped(1)
    killed = 0
    for after in (1, 4, 9, len(total) - 2):
        folder, log = tmp_path / f"killed {after}", tmp_path / f"log {after}"
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            try:
                search(folder, log, 0.01, **settings)
            finally:
                os._exit(0)
        while not log.exists() or len(log.read_text().splitlines()) < after:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        resumed = search(folder, log, **settings)
        assert [(e.candidate, e.total) for e in resumed.ranking(0)] == [
            (e.candidate, e.total) for e in whole.ranking(0)
        ]
        assert torch.equal(
            resumed.media([resumed.ranking(1)[0]]).pixels, whole.media([whole.ranking(1)[0]]).pixels
        )
        assert [s.spent for s in resumed.searches] == [s.spent for s in whole.searches]
        assert content(folder) == content(tmp_path / "whole")
        lines = log.read_text().splitlines()
        assert set(lines) == set(total)
        assert len(lines) <= len(total) + 1, "only the call in flight is made again"
    assert killed == 4


def test_another_function_does_not_resume(tmp_path: Path) -> None:
    genscale.scale(noise, candidates=2, verifier=brightness, out=tmp_path / "run")("a", generator=fresh())
    for other, given in ((seeded, {"seed": 3}), (noise, {"generator": fresh(4)}), (noise, {"size": 4})):
        with pytest.raises(UsageError, match="holds another run"):
            genscale.scale(other, candidates=2, verifier=brightness, out=tmp_path / "run")(
                "a", **({"generator": fresh()} | given if other is noise else given)
            )


def test_a_saved_run_is_read_back_without_the_function(tmp_path: Path) -> None:
    found = genscale.scale(noise, candidates=5, verifier=brightness, keep=3).search("a", generator=fresh())
    found.save(tmp_path / "run")
    loaded = genscale.load_result(tmp_path / "run")
    best = loaded.ranking()[0]
    assert best.candidate == found.ranking()[0].candidate
    assert same(loaded.media([best])[0], found.media([found.ranking()[0]])[0])
    with Image.open(tmp_path / "run" / "best.png") as image:
        assert same(image, found.media([found.ranking()[0]])[0])
    [*files] = (tmp_path / "run" / "media").iterdir()
    assert len(files) == 4  # the best three, and the plain call
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match="was damaged"):
        genscale.load_result(tmp_path / "run").media([best])


def test_memory_holds_the_best_alone() -> None:
    from genscale.pipelines import black_box_call

    held: list[int] = []
    put = black_box_call.MediaStore.put

    def watched(store: Any, pixels: Any) -> Any:
        found = put(store, pixels)
        held.append(len(store._held))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(black_box_call.MediaStore, "put", watched)
        genscale.scale(noise, stop="patience:20", verifier=brightness)("a", generator=fresh())
    assert len(held) > 20
    assert max(held) <= 4
