"""Options of the command line: one field of the request each, its aliases, and what is said of a word that is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import typer

from genscale.cli import app, generate, options
from genscale.cli.commands import Command
from genscale.cli.request_options import request_of
from genscale.demo.equivalent_command import command
from genscale.errors import UsageError, did_you_mean
from genscale.plugins import registry
from genscale.runs import request as requests
from genscale.runs.option_metadata import IMAGE, SEARCH, option, options_of
from genscale.runs.request import Request


@pytest.fixture
def asked(genscale: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """The request that the words of `genscale generate` make."""

    def run(*words: Any) -> Request:
        made: list[Request] = []
        monkeypatch.setattr(generate, "run_request", lambda request, *_: made.append(request) or 0)
        code, _, err = genscale("generate", "a red star", *words)
        assert code == 0, err
        return made[0]

    return run


# ---------------------------------------------------------------- one field each


@dataclass(frozen=True)
class Longer(Request):
    """A request with two options more."""

    sharpness: float | None = option(
        "--sharpness --crisp", "How sharp.", IMAGE, check=(lambda v: v > 0, "must be above 0")
    )
    tags: tuple[str, ...] = option("--tag", "A tag. Repeatable.", SEARCH, "NAME", default=())


def test_a_new_field_is_an_option_and_arrives(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Nothing but the field says that there is such an option."""
    monkeypatch.setattr(requests, "Request", Longer)
    made: list[Any] = []

    @options.takes(
        options.extra("prompts", "search_size", "set_", "calibration", "from_"),
        options.of_request(),
        words=True,
    )
    def search(ctx: typer.Context, **given: Any) -> int:
        made.append(request_of(ctx))
        return 0

    program = typer.Typer()
    program.command(cls=Command)(search)
    program(["a dog", "--crisp", "0.5", "--tag", "a", "--tag", "b"], standalone_mode=False)
    assert (made[0].prompts, made[0].sharpness, made[0].tags) == (("a dog",), 0.5, ("a", "b"))
    assert command(made[0]).endswith("--sharpness 0.5 --tag a --tag b")
    assert made[0].as_dict()["sharpness"] == 0.5
    with pytest.raises(UsageError, match=r"--sharpness -1\.0 must be above 0"):
        program(["a dog", "--sharpness", "-1"], standalone_mode=False)
    capsys.readouterr()
    program(["--help"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "How sharp. Also: --crisp." in shown
    assert (
        shown.index("The image")
        < shown.index("--sharpness")
        < shown.index("The search")
        < shown.index("--tag")
    )


def test_every_field_is_an_option_or_set_by_one() -> None:
    known = options_of(Request)
    set_by = {field for name, how in known.items() for field in how.sets or (name,)}
    assert {f.name for f in fields(Request)} - set_by == {
        "prompts",
        "sampler_fields",
        "clips",
        "sound",
        "from_python",
    }
    flags = [flag for how in known.values() for flag in how.flags]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("name", options_of(Request))
def test_every_option_arrives_and_is_written_back(name: str, asked: Callable[..., Request]) -> None:
    """What the demo shows as the command makes the request that it came from."""
    how = options_of(Request)[name]
    values: dict[Any, list[Any]] = {
        bool: [[]],
        int: [[3]],
        float: [[2.5]],
        list: [["a"], ["a", "b"]],
        str: [["a"]],
    }
    special = {
        "sampler": ["smc"], "size": ["32x16"], "formats": ["gif,mp4"], "pipeline_args": ['{"a": 1}'],
        "category_weights": ['{"text": {"a": 1}}'],
        "verifiers": ["clip:2"], "pad_batches": ["full"], "hold": ["host"],
        "name": ["{prompt}-{seed}"],
    }  # fmt: skip
    for some in [special[name]] if name in special else values[how.kind]:
        flag = how.flags[0].rpartition("/")[2]
        words = [word for value in some for word in (flag, value)] or [flag]
        request = asked(*words)
        assert request != Request(prompts=("a red star",))
        if name in ("image_width", "image_height"):
            continue  # half of a size
        again = command(request).replace("genscale generate 'a red star'", "").strip()
        assert asked(*_split(again)) == request


def _split(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


def test_the_help_comes_without_heavy_imports_and_with_its_panels() -> None:
    code = (
        "import sys\n"
        "from genscale.cli.app import main\n"
        "main(['generate', '--help'])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    places = [
        done.stdout.index(f"─ {panel} ─") for panel in ("The image", "The search", "The model", "The run")
    ]
    assert places == sorted(places)
    told = " ".join(done.stdout.replace("│", " ").split())
    assert "--candidates N How many images the search tries for each prompt. Works with every sampler" in told
    assert "Also: --guidance-scale, --cfg, --cfg-scale." in told


# ---------------------------------------------------------------- words of diffusers and AUTOMATIC1111


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--negative-prompt", "blur"), "negative", "blur"),
        (("--cfg", 7), "guidance", 7.0),
        (("--cfg-scale", 7), "guidance", 7.0),
        (("--guidance-scale", 7), "guidance", 7.0),
        (("--num-inference-steps", 20), "steps", 20),
        (("--num-images-per-prompt", 2), "images", 2),
        (("--num-frames", 16), "frames", 16),
        (("--report", "clip"), "held_out", ("clip",)),
        (("--held-out", "clip"), "held_out", ("clip",)),
        (("--width", 512), "width", 512),
        (("--height=256",), "height", 256),
        (("--size", 64), "width", 64),
        (("--n", 4), "sampler_fields", {"candidates": 4}),
        (("--candidates", 4), "sampler_fields", {"candidates": 4}),
    ],
)
def test_words_of_other_tools_are_understood(
    words: tuple[Any, ...], field: str, value: Any, asked: Callable[..., Request]
) -> None:
    assert getattr(asked(*words), field) == value


def test_width_alone_is_the_samplers_own_where_it_has_one(asked: Callable[..., Request]) -> None:
    assert "width" in registry.options(registry.load("sampler", "beam"))
    alone = asked("--sampler", "beam", "--width", 8)
    assert (alone.width, alone.sampler_fields) == (None, {"width": 8})
    both = asked("--sampler", "beam", "--width", 512, "--height", 256)
    assert (both.width, both.height, both.sampler_fields) == (512, 256, {})
    sized = asked("--sampler", "beam", "--size", "512x256", "--set", "width=8")
    assert (sized.width, sized.height, sized.sampler_fields) == (512, 256, {"width": 8})


def test_a_size_is_said_once(genscale: Any) -> None:
    code, _, err = genscale("generate", "a red star", "--size", "64x64", "--width", 32, "--height", 32)
    assert (code, err) == (2, "genscale: --size and --width are both given: give one of the two.\n")


@pytest.mark.parametrize(
    ("command", "word", "told"),
    [
        ("generate", "--gidance", "(did you mean '--guidance'?)"),
        ("generate", "--cand", "(did you mean '--candidates'?)"),
        ("generate", "--negativ-prompt", "(did you mean '--negative-prompt'?)"),
        ("generate", "--num_inference_step", "(did you mean '--num-inference-steps'?)"),
        ("generate", "--x", "option '--x' is unknown; "),
        ("compare", "--num_framse", "(did you mean '--num-frames'?)"),
        ("compare", "--buget", "(did you mean '--budget'?): `genscale compare --help` lists the options."),
        ("show", "--jsn", "(did you mean '--json'?): `genscale show --help` lists the options."),
        ("show", "--zzz", "option '--zzz' is unknown: `genscale show --help` lists the options."),
    ],
)
def test_unknown_options_are_told_the_nearest_known_one(
    command: str, word: str, told: str, genscale: Any
) -> None:
    code, out, err = genscale(command, "a red star", word, "3")
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_an_option_without_its_value_is_told_alike_everywhere(genscale: Any) -> None:
    for words in (("generate", "x", "--steps"), ("generate", "x", "--wave"), ("compare", "x", "--seed")):
        assert genscale(*words)[2] == f"genscale: option '{words[-1]}' needs a value.\n"


@pytest.mark.parametrize(
    ("word", "known", "told"),
    [
        ("--n", ["--json", "--seed"], ""),
        ("--cfg", ["--fps", "--guide"], ""),
        ("CLIP", ["clip", "hps"], " (did you mean 'clip'?)"),
        ("zero-order", ["zero_order"], " (did you mean 'zero_order'?)"),
        ("trust", ["smc", "trust_region"], " (did you mean 'trust_region'?)"),
        ("tr", ["smc", "trust_region"], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], told: str) -> None:
    assert did_you_mean(word, known) == told


# ---------------------------------------------------------------- lists


def test_a_sampler_is_a_line_under_what_it_needs(genscale: Any) -> None:
    lines = genscale("samplers")[1].splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(names) == sorted(registry.found("sampler"))
    heads = [line.split(":")[0] for line in lines if line and not line.startswith(("  ", "`"))]
    assert heads == ["verifier only", "previews", "gradients", "no verifier"]
    place = {name: next(i for i, line in enumerate(lines) if line.split()[:1] == [name]) for name in names}
    head = {name: next(i for i, line in enumerate(lines) if line.startswith(name)) for name in heads}
    assert place["best_of_n"] < head["previews"] < place["smc"] < head["gradients"] < place["reno"]
    assert head["no verifier"] < place["zigzag"]


def test_the_listing_is_short_and_details_are_long(genscale: Any) -> None:
    out = genscale("samplers")[1]
    assert "--survivors" not in out
    assert "arXiv" not in out
    details = genscale("samplers", "beam")[1]
    assert "--survivors" in details
    assert "needs: previews" in details
    lines = genscale("verifiers")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(registry.found("verifier"))


def test_the_commands_are_all_there() -> None:
    names = {command.name or command.callback.__name__ for command in app.app.registered_commands}  # type: ignore[union-attr]
    assert {
        "generate",
        "video",
        "plan",
        "compare",
        "samplers",
        "calibrate-steps",
        "calibrate-verifier",
        "train-preview",
    } <= names
