"""`out=` resumes the same call and no other: whatever decides the result is compared with what the folder holds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image

import genscale
from genscale.engine.headings import first_difference
from genscale.errors import UsageError
from genscale.pipelines.call_identity import archive_heading
from genscale.storage.identity import NoIdentity, identity, is_installed
from tests import zoo
from tests.quick import quick, third

CALL: dict[str, Any] = {"prompt": "a red star", "num_inference_steps": 2, "output_type": "pt"}


def dark(media: Any, prompts: Any) -> Any:
    return -media.pixels.flatten(1).mean(1)


def light(media: Any, prompts: Any) -> Any:
    return media.pixels.flatten(1).mean(1)


light_again, dark_again = light, dark
light_again.__name__ = dark_again.__name__ = "judge"  # two functions of one name


@pytest.fixture
def pipe() -> Any:
    return zoo.ZOO["stable_diffusion"].build()


def heading(
    pipe: Any, verifier: Any = light, models: Any = None, seed: int = 3, **call: Any
) -> dict[str, Any]:
    """That of the archive of a call. Every pipe has its own settings; the call draws from a new generator."""
    scaled = genscale.scale(pipe, "best_of_n", verifier, candidates=2, models=models)
    generator = call.pop("generator", None) or torch.Generator().manual_seed(seed)
    bound, _ = scaled._probed((), CALL | {"generator": generator} | call)
    return archive_heading(bound, scaled)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def drawn(seed: int) -> torch.Generator:
    """A generator of that seed that has been used."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(1, generator=generator)
    return generator


def of(**call: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda pipe: heading(pipe, **call)


def after(change: Callable[[Any], None], **call: Any) -> Callable[[Any], dict[str, Any]]:
    """The heading after something was changed at the pipeline, and was not given to the call."""

    def made(pipe: Any) -> dict[str, Any]:
        change(pipe)
        return heading(pipe, **call)

    return made


def one_weight(part: str) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        weight = next(iter(getattr(pipe, part).parameters()))
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3

    return change


def exchanged_weights(pipe: Any) -> None:
    """The same numbers elsewhere."""
    weight = next(p for p in pipe.unet.parameters() if p.ndim > 1)
    weight.data = weight.data.flip(0).contiguous()


def with_adapter(pipe: Any) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q"])
    pipe.unet.add_adapter(config, "first")


def with_scaled_adapter(pipe: Any) -> None:
    pipe.unet.set_adapters(["first"], [0.5])


def with_disabled_adapter(pipe: Any) -> None:
    pipe.unet.disable_adapters()


def scheduler(cls: Any, **changes: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **changes)

    return change


def threshold(limit: float) -> Any:
    return lambda media, prompts: (media.pixels.flatten(1).mean(1) > limit).float()


class Judge:
    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, media: Any, prompts: Any) -> Any:
        return media.pixels.flatten(1).mean(1) * self.limit


OTHER: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "a number": (of(guidance_scale=3.0), of(guidance_scale=9.0), "argument guidance_scale is 3.0, not 9.0"),
    "a default": (of(), of(guidance_scale=9.0), "argument guidance_scale is not given, not 9.0"),
    "a text": (of(negative_prompt="blur"), of(negative_prompt="noise"), "argument negative_prompt"),
    "numbers": (of(guidance_rescale=0.1), of(guidance_rescale=0.2), "argument guidance_rescale is 0.1, not 0.2"),
    "a tensor": (
        of(latents=torch.zeros(1, 4, 8, 8), guidance_scale=2.0), of(latents=torch.ones(1, 4, 8, 8), guidance_scale=2.0),
        "not the same argument latents",
    ),
    "a used generator": (of(), of(generator=drawn(3)), "not the same state of the generator"),
    "a callback": (
        of(callback_on_step_end=lambda pipe, i, t, kw: kw),
        of(callback_on_step_end=lambda pipe, i, t, kw: {"latents": kw["latents"] * 2}),
        "not the same argument callback_on_step_end",
    ),
    "the class of the scheduler": (
        after(scheduler(EulerDiscreteScheduler)), after(scheduler(DPMSolverMultistepScheduler)), "scheduler",
    ),
    "a setting of the scheduler": (
        after(scheduler(EulerDiscreteScheduler)), after(scheduler(EulerDiscreteScheduler, use_karras_sigmas=True)),
        "setting use_karras_sigmas of the scheduler is False, not True",
    ),
    "one weight of the denoiser": (of(), after(one_weight("unet")), "weights of the unet"),
    "one weight of the decoder": (of(), after(one_weight("vae")), "weights of the vae"),
    "one weight of the text encoder": (of(), after(one_weight("text_encoder")), "weights of the text_encoder"),
    "the order of weights": (of(), after(exchanged_weights), "weights of the unet"),
    "the type of weights": (of(), after(lambda pipe: pipe.vae.to(torch.float64)), "weights of the vae"),
    "an adapter": (of(), after(with_adapter), "weights of the unet"),
    "the scale of an adapter": (after(with_adapter), after(with_scaled_adapter), "weights of the unet"),
    "a disabled adapter": (after(with_adapter), after(with_disabled_adapter), "weights of the unet"),
    "a setting of a model": (of(), after(lambda p: p.enable_freeu(0.9, 0.2, 1.2, 1.4)), "weights of the unet"),
    "a function of the same name": (of(verifier=light_again), of(verifier=dark_again), "verifier 'judge'"),
    "lambdas": (
        of(verifier=lambda media, prompts: [1.0] * len(prompts)),
        of(verifier=lambda media, prompts: [2.0] * len(prompts)), "not the same verifier '<lambda>'",
    ),
    "a closure": (of(verifier=threshold(0.2)), of(verifier=threshold(0.3)), "not the same verifier '<lambda>'"),
    "an object": (of(verifier=Judge(1.0)), of(verifier=Judge(2.0)), "not the same verifier 'Judge'"),
}  # fmt: skip


@pytest.mark.parametrize("case", third(OTHER))
def test_what_differs_is_named(pipe: Any, case: str) -> None:
    first, second, words = OTHER[case]
    told = first_difference(first(pipe), second(pipe))
    assert told is not None
    assert words in told


SAME: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "nothing": (of(), of()),
    "a default that is spelt out": (of(), of(guidance_scale=7.5)),
    "one text for all": (of(negative_prompt="blur"), of(prompt=["a red star"], negative_prompt=["blur"])),
    "another list of the same": (of(verifier=threshold(0.2)), of(verifier=threshold(0.2))),
    "a copy of the weights": (of(), after(lambda pipe: setattr(pipe, "unet", pipe.unet.to("cpu").eval()))),
    "a progress bar": (of(), after(lambda pipe: pipe.set_progress_bar_config(disable=True))),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_the_same_call_is_the_same(pipe: Any, case: str) -> None:
    first, second = SAME[case]
    assert first_difference(first(pipe), second(pipe)) is None


@pytest.mark.parametrize("name", quick(zoo.ZOO, ["stable_diffusion", "flux", "wan"]))
def test_a_call_leaves_every_pipeline_the_same(name: str) -> None:
    """Models keep counters and caches; none of them may count as another model."""
    pipe, found = zoo.ZOO[name].build(), []
    for _ in range(2):
        scaled = genscale.scale(pipe, "best_of_n", light, candidates=1)
        call = zoo.ZOO[name].arguments(1)
        found.append(archive_heading(scaled._probed((), call | {"generator": seeded()})[0], scaled))
        scaled(**call, generator=seeded())
    assert first_difference(*found) is None


def test_another_call_is_refused_and_the_same_resumes(pipe: Any, tmp_path: Path) -> None:
    def call(**changes: Any) -> Any:
        scaled = genscale.scale(pipe, "best_of_n", light, candidates=2, out=tmp_path)
        return scaled(**CALL | changes, generator=seeded()).search

    first = call()
    with pytest.raises(UsageError, match="its argument guidance_scale is not given, not 2"):
        call(guidance_scale=2.0)
    again = call()
    assert again.ledger.evaluations == 0
    assert again.best.total == first.best.total


def test_what_cannot_be_compared_is_refused_before_anything_is_spent(pipe: Any, tmp_path: Path) -> None:
    import threading

    lock = threading.Lock()

    def careful(media: Any, prompts: Any) -> Any:
        with lock:
            return light(media, prompts)

    def call() -> Any:
        return genscale.scale(pipe, "best_of_n", careful, candidates=2, out=tmp_path / "run")(
            **CALL, generator=seeded()
        )

    with pytest.raises(UsageError, match=r"verifier 'careful' .* an attribute `identity`"):
        call()
    assert not (tmp_path / "run").exists()
    careful.identity = "brightness, 1"  # type: ignore[attr-defined]
    call()
    careful.identity = "brightness, 2"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="not the same verifier 'careful'"):
        call()


def test_a_verifier_may_count_its_calls(pipe: Any, tmp_path: Path) -> None:
    """What the run itself changes is another state of the same verifier; what the user changes is another verifier."""
    seen: list[int] = []

    def counting(media: Any, prompts: Any) -> Any:
        seen.append(len(prompts))
        return light(media, prompts)

    def call() -> Any:
        scaled = genscale.scale(pipe, "best_of_n", counting, candidates=2, out=tmp_path)
        return scaled(**CALL, generator=seeded()).search

    call()
    assert call().ledger.evaluations == 0
    seen.clear()  # as in a new process
    assert call().ledger.evaluations == 0
    seen.append(-1)
    with pytest.raises(UsageError, match="not the same verifier 'counting'"):
        call()


VALUES: dict[str, Callable[[], Any]] = {
    "array": lambda: np.arange(4.0),
    "tensor": lambda: torch.arange(4.0).bfloat16(),
    "image": lambda: Image.new("RGB", (4, 4), "red"),
    "mapping": lambda: {"b": [1, 2], "a": torch.ones(2)},
    "set": lambda: {"x", "y", "z"},
    "generator": lambda: torch.Generator().manual_seed(5),
    "numpy generator": lambda: np.random.default_rng(3),
    "module": lambda: torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.SiLU()).requires_grad_(
        False
    ),
    "function": lambda: light,
    "object": lambda: Judge(0.5),
}


@pytest.mark.slow
def test_equal_content_is_equal_in_another_process() -> None:
    """Hashes of texts, the order of sets and addresses are other ones there."""
    code = (
        "import torch\nfrom tests.test_call_identity import VALUES, identity\ntorch.manual_seed(0)\n"
        "print('\\n'.join(identity(make()) for make in VALUES.values()))"
    )
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split("\n"))) == len(VALUES) + 1


def test_values_of_other_content_differ() -> None:
    found = [
        identity(value)
        for value in (
            torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), np.zeros(4), [0, 0], (0, 0), {0: 0},
            Image.new("RGB", (2, 2)), Image.new("L", (2, 2)), Image.new("RGB", (2, 2), "red"), b"0", "0", 0, 0.0, None,
        )
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_objects_that_refer_to_each_other_come_to_an_end() -> None:
    first: list[Any] = [1]
    first.append(first)
    second: list[Any] = [2]
    second.append(second)
    assert identity(first) != identity(second)
    with pytest.raises(NoIdentity, match="generator"):
        identity(x for x in [1])


def test_compiled_patterns_count_by_what_they_match() -> None:
    assert identity(re.compile("a+")) == identity(re.compile("a+"))
    assert len({identity(re.compile(p, f)) for p in ("a+", "b+", b"a+") for f in (0, re.I)}) == 6


@pytest.mark.parametrize("installed", [True, False])
def test_packages_of_another_folder_are_told_by_what_pip_leaves_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """As with a virtual environment on top of another, or `pip install --target`."""
    name = f"elsewhere_{installed}".lower()
    (tmp_path / name / "inner").mkdir(parents=True)
    for folder in (tmp_path / name, tmp_path / name / "inner"):
        (folder / "__init__.py").write_text("def f():\n    return 1\n")
    if installed:
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(f"{name}.inner")
    assert is_installed(name) == is_installed(f"{name}.inner") == installed
