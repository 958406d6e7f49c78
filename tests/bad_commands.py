"""A table of command lines that cannot be carried out, made from the types and ranges of all options.

`python -m tests.bad_commands` prints how many there are, by kind.
"""

from __future__ import annotations

import random
import shlex
import types
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genscale.plugins import options, registry
from genscale.runs.option_metadata import Option, options_of
from genscale.runs.request import Request

Case = tuple[str, list[str]]
"""(kind, command line). `{dir}` is a folder with the files of `write_files`, `{long}` a name of 300 letters."""

STAR = "a red star"
NO_TEXT = "\udce4"  # a byte of an argument that is no UTF-8, as Python has it
DIGITS = "9" * 5_000
BAD: dict[Any, list[str]] = {
    int: ["-1", "nan", "inf", "1.5", "x", "", "1000000000", DIGITS, "-1e400", "0x10", "1,2", "[1]"],
    float: ["nan", "x", "", "1e300", "-1e300", "1,2", "[1]", "1e", "--", "None?"],
    bool: ["maybe", "2", "", "nan", "-1"],
    str: ["nonsense", "???", "1e9", NO_TEXT],
}
"""Values that no option of a sampler of that type takes."""

FREE_TEXT = (
    "checkpoint",
    "model",
    "pretrained",
    "processor",
    "tokenizer",
    "clip",
    "clip_pretrained",
    "head",
    "question",
    "answer",
    "refusal",
    "boxes",
    "verifier",
)
REQUEST_TEXTS = {
    "--dtype": ["int8", "float31", "Tensor", "nn"],
    "--device": ["meta", "tpu9", "cuda:99", "cpu:x", "gpu please", ":"],
    "--device-map": ["nonsense", "meta", "cuda:99"],
    "--offload": ["nonsense", "models"],
    "--attention": ["nonsense", "???"],
    "--ensemble": ["mean", "", "weighted,rank"],
    "--require": ["", "shapes", "shapes<", "shapes<nan", "shapes=1", "<1", "nope<1", "shapes<1e", "a<1,,b<1"],
    "--abstain": ["", "x", "nan", "inf", "-1", "2 sds", "2sd", "1e999"],
    "--category-weights": [
        "",
        "x",
        "[]",
        "3",
        '{"counting": 1}',
        '{"nope": {}}',
        '{"counting": {"shapes_clip": 1}}',
    ],
    "--formats": ["avi", "mp4,,gif", "", "mp4;gif"],
    "--budget": [
        "",
        "5",
        "nfe",
        "0nfe",
        "-1nfe",
        "nannfe",
        "nans",
        "infs",
        "1e999s",
        "1e-400s",
        "1nfe,2nfe",
        "target=",
        "target=nan",
        "target=inf",
        "1.5images",
        "5 apples",
        f"{DIGITS}nfe",
        "1nfe",
        "٣nfe",
        "0calls",
    ],
    "--stop": [
        "",
        "patience",
        "patience:0",
        "patience:-1",
        "patience:x",
        "gain:nan",
        "gain:-1",
        "gain:0",
        "gain:inf",
        "adaptive:nan",
        "adaptive:",
        "adaptive:1:p=5",
        "never:1",
        f"patience:{DIGITS}",
        "gain:1e999",
    ],
    "--mix": [
        "",
        "base",
        "base:nan",
        "base:inf",
        "base:x",
        ":1",
        "prompt=a:x",
        "prompt=a dog",
        "adapter::1",
        "nope:1e999",
    ],
    "--guide": [
        "",
        "nope",
        "cfg(",
        "cfg(nan)",
        "cfg(inf)",
        "cfg(1,2,3,4,5)",
        "cfg(1,0.9,0.1)",
        "apg(nope=1)",
        "cfg(x)",
        "cfg(scale=7,schedule=nope)",
        "cfg++(nan)",
        "3",
        f"cfg({DIGITS})",
    ],
    "--size": [
        "0",
        "x",
        "64x",
        "x64",
        "-64",
        "64x64x64",
        "1e3",
        "100000x100000",
        "16384x16384",
        f"{DIGITS}",
        "６４",
        "64.5",
        "16385",
    ],
    "--model": [
        "",
        "no/such/folder",
        "./nope",
        "{dir}/p.txt",
        "{dir}",
        "{long}",
        "a b c",
        NO_TEXT,
        "{dir}/nope.safetensors",
        "{dir}/bad.safetensors",
        "{dir}/bad.ckpt",
    ],
    "--lora": ["", "{dir}/nope.safetensors", "{dir}/bad.safetensors", "{dir}/bad.safetensors:nan", "{dir}"],
    "--verifier": [
        "",
        ":",
        "a:b",
        "clip(",
        "clip)",
        "clip:nan",
        "clip:inf",
        "clip:1:2",
        "(x)",
        "clipp",
        "os:path",
        "os:getcwd.x",
        "no.module:judge",
        "clip:1e999",
        "compressibility(quality)",
        "compressibility(=1)",
        "compressibility(quality=1,quality=2)x",
        "frames(verifier=nope)",
        "shapes(graded=maybe)",
        "frames(verifier=clip(x))",
        "boxes(boxes=x)",
        NO_TEXT,
        "compressibility:--1",
    ],
    "--pipeline-args": [
        "",
        "x",
        "1",
        "[1]",
        "null",
        "{",
        '{"a": 1}',
        '{"prompt": "x"}',
        '{"generator": 1}',
        "[" * 9_000,
        '{"latents": [1]}',
        '{"return_dict": false}',
        '{"output_type": "np"}',
        '{"callback": null}',
        '{"callback_on_step_end": 3}',
        '{"num_inference_steps": 3}',
        '{"guidance_scale": NaN}',
        '{"guidance_scale": 1e999}',
        '{"width": 64}',
        f'{{"eta": {DIGITS}}}',
        '{"height": "x"}',
        '{"sigmas": "x"}',
        '{"sigmas": {}}',
        '{"max_sequence_length": -1}',
        '{"max_sequence_length": "x"}',
        '{"num_images_per_prompt": 0}',
        '{"image": "x.png"}',
        '{"": 1}',
        '{"a\\ud800": 1}',
        '{"negative_prompt": "x", "negative_prompt_2": 5}',
        '{"timesteps": [1]}',
    ],
}
REQUEST_NUMBERS = {
    "--steps": ["0", "-1", "10001", "1000000000", "1e9", "nan", "x", "", DIGITS],
    "--guidance": ["nan", "inf", "-inf", "1e300", "-1e300", "x", "", "10001"],
    "--seed": ["-1", str(2**64), DIGITS, "nan", "1.5", "x", ""],
    "--width": ["0", "-64", "16385", "1000000000", "x", "1.5"],
    "--height": ["0", "-64", "16385", "1000000000", "x", ""],
    "--frames": ["0", "-1", "1000000000", "10001", "x", "nan"],
    "--fps": ["0", "-1", "nan", "inf", "1e-320", "241", "x", ""],
    "--per-frame": ["0", "-1", "1000000000", "x"],
    "--images": ["0", "-1", "1000000000", "x", "1.5"],
    "--batch-size": ["0", "-1", "1000000000", "x", "nan"],
    "--decode-batch": ["0", "-1", "1000000000", "x", "1e9"],
    "--candidates": ["0", "-1", "1000000000", "x", "1.5", "", "nan", DIGITS],
}
FILES: dict[str, bytes] = {
    "empty.txt": b"",
    "comments.txt": b"# nothing\n\n",
    "nul.txt": b"a\0b\n",
    "latin.txt": b"caf\xe9\n",
    "bad.csv": b"name\nx\n",
    "long.csv": b'prompt\n"' + b"x" * 140_000 + b'"\n',
    "nul.csv": b"prompt\na\0b\n",
    "list.csv": b"prompt\n",
    "bad.json": b"{",
    "deep.json": b"[" * 100_000,
    "digits.json": DIGITS.encode(),
    "nan.json": b"NaN",
    "number.json": b"[1]",
    "null.json": b"null",
    "object.json": b"{}",
    "lone.json": b'["\\ud800"]',
    "deep.jsonl": b"[" * 100_000,
    "digits.jsonl": DIGITS.encode(),
    "bad.jsonl": b'{"prompt": 3}\n',
    "half.jsonl": b'{"prompt": "a"}\n{"prom',
    "empty.jsonl": b"",
    "wide.tsv": b"a\tb\n1\t2\n",
    "deep.boxes": b'{"a red star": ' + b"[" * 100_000,
    "text.boxes": b'[{"text": "", "box": [0, 0, 1, 1]}]',
    "nan.boxes": b'[{"text": "a", "box": [NaN, 0, 1, 1]}]',
    "far.boxes": b'[{"text": "a", "box": [0, 0, 9, 9]}]',
    "few.boxes": b'[{"text": "a", "box": [0, 0]}]',
    "none.boxes": b'[{"text": "a"}]',
    "mask.boxes": b'[{"text": "a", "mask": "p.txt"}]',
    "key.boxes": b'{"99999": []}',
    "digit.boxes": b'{"' + DIGITS.encode() + b'": []}',
    "twice.boxes": b'{"0": [], "0": []}',
    "digits.boxes": b'[{"text": "a", "box": [0, 0, 1, ' + DIGITS.encode() + b"]}]",
    "word.boxes": b'[{"text": 3, "box": [0, 0, 1, 1]}]',
    "maskless.boxes": b'[{"text": "a", "mask": "a\\u0000b"}]',
    "string.boxes": b'"x"',
    "deep.cal": b"[" * 100_000,
    "levels.cal": b'{"levels": 3, "threshold": 1, "window": []}',
    "digits.cal": DIGITS.encode(),
    "list.cal": b"[]",
    "empty.cal": b'{"levels": [], "threshold": "x", "window": []}',
    "step.cal": b'{"levels": [[1]], "threshold": 0.5, "window": []}',
    "inf.cal": b'{"levels": [], "threshold": 1e999, "window": []}',
    "bad.safetensors": b"\x08\0\0\0\0\0\0\0{}______",
    "bad.ckpt": b"PK\x03\x04not a zip",
    "p.txt": b"a red star\n",
}
"""Damaged files by name; p.txt is sound."""


def write_files(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).write_bytes(data)


LINES = """
nonsense
plan ''
plan "  "
plan STAR --nope
plan STAR --nope 1
plan STAR --candidates
plan STAR --sampler nope
plan STAR --sampler ''
plan STAR --sampler smc --sampler {long}
plan STAR --set x
plan STAR --set =1
plan STAR --size 64 --width 32
plan "a cat"
plan "a cat" --verifier shapes
plan "a cat" --held-out shapes
plan "a cat" --select shapes
plan STAR "a cat" --verifier shapes
plan "a cat" --verifier "frames(verifier=shapes)"
plan STAR --verifier shapes --verifier shapes
plan STAR --verifier pickscore
plan STAR --held-out image_reward
plan STAR --select hps
plan STAR --verifier "frames(verifier=pickscore)"
plan STAR --verifier aesthetic
plan STAR --verifier vqa_score
plan STAR --verifier "clip(model={dir})"
plan STAR --verifier "shapes_clip(device=meta)"
plan STAR --verifier "shapes_clip(device=tpu)"
plan STAR --verifier "shapes_clip(device=cuda:77)"
plan STAR --verifier moving_shapes
plan STAR --ensemble rank --verifier shapes:-1
plan STAR --ensemble minimum --verifier shapes:0.5 --verifier shapes_clip
plan STAR --ensemble product --verifier shapes_clip
plan STAR --ensemble pareto --verifier shapes:0
plan STAR --ensemble category --category-weights '{"nope": {"shapes_clip": 1}}'
plan STAR --ensemble category --category-weights '{"counting": {"clip": 1}}'
plan STAR --verifier medoid --stop patience:3
plan STAR --verifier medoid --require "medoid>0"
plan STAR --held-out medoid
plan STAR --sampler das --verifier medoid
plan STAR --mask-image {dir}/p.txt
plan STAR --sampler beam --set width=2 --set survivors=3
plan STAR --sampler cem_lowfreq --set level=99
plan STAR --sampler reno --set momentum=2
plan STAR --sampler smc --candidates 4 --set particles=4
plan STAR --size 8192x8192
plan STAR --control-image {dir}/p.txt
video "a red circle moving left" --frames 10000 --size 4096x4096
video "a red circle moving left" --frames 1000000000
video STAR --model shapes-flow
video "a cat"
video "a red circle moving left" --fps nan
compare STAR
compare STAR --sampler smc
compare STAR --sampler smc --sampler smc
compare STAR --sampler smc --sampler nope
compare STAR --sampler smc --sampler "smc(particles=nan)"
compare STAR --sampler smc --sampler "smc(particles=0)"
compare STAR --sampler "smc(" --sampler smc
compare STAR --verifiers shapes --verifiers shapes_clip --held-out none
compare STAR --verifiers shapes --verifiers shapes_clip --report none
compare STAR --verifiers shapes --verifiers shapes_clip --held-out shapes
compare STAR --verifiers compressibility --verifiers "compressibility(quality=5)" --held-out compressibility
compare "a cat" --verifiers compressibility --verifiers shapes --held-out shapes_clip
compare STAR --budgets 160nfe
compare STAR --budgets 160nfe --budgets 60s
compare STAR --budgets 160nfe --budgets nannfe
compare STAR --sampler smc --budgets 1nfe --budgets 2nfe
compare STAR --sampler smc --sampler best_of_n --budgets 9nfe --budgets 99nfe
calibrate-steps STAR --threshold nan
calibrate-steps STAR --threshold inf
calibrate-steps STAR --threshold 5
calibrate-steps STAR --candidates 0
calibrate-steps STAR --candidates 1000000000
calibrate-steps STAR --candidates 1
calibrate-steps "a cat" --verifier shapes
calibrate-steps STAR --steps 1000000000
calibrate-steps STAR --candidates x
calibrate-verifier STAR --judge shapes
calibrate-verifier STAR "a blue ring" "a red ring" "a blue star" --judge shapes --right-at nan
calibrate-verifier STAR "a blue ring" "a red ring" "a blue star" --judge nope
calibrate-verifier STAR "a blue ring" "a red ring" "a blue star" --judge shapes --candidates x
calibrate-verifier STAR "a blue ring" "a red ring" "a blue star" --judge shapes --previews 2
train-preview {dir} --verifier shapes_clip
train-preview {long} --verifier shapes_clip
train-preview {dir} --verifier nope
train-preview {dir} --verifier shapes_clip --tune x
calibrate-verifier --runs {dir} --judge shapes
calibrate-verifier --runs {long} --judge shapes
score {dir}/p.txt
score {dir}/p.txt --prompt STAR
score {dir} --prompt STAR
score {long}
score {dir}/nope.png --prompt STAR
score {dir}/good.png
score {dir}/good.png --prompt "a cat" --verifier shapes
score {dir}/good.png --prompt STAR --verifier nope
score {dir}/good.png --prompt STAR --verifier pickscore
score {dir}/good.png --prompt STAR --verifier "frames(verifier=nope)"
score {dir}/good.png --prompt STAR --verifier temporal_consistency
score {dir}/good.png --prompt STAR --verifier moving_shapes
score {dir}/good.png --prompt STAR --verifier "compressibility(quality=nan)"
rescore {dir}
rescore {dir} --verifier nope
replay {dir}/good.png
replay {dir}/good.png --device meta
samplers nope
verifiers nope
models nope
samplers ''
demo --port 99999
demo --port x
demo --max-nfe 0
demo --size 0x0
demo --frames 1000000000
demo --out {long} --size 1
generate STAR --hold disk
generate STAR --pad-batches 8
generate STAR --draft steps
generate STAR --draft steps=2,keep=0
generate STAR --draft steps=2,keep=9 --candidates 4
generate STAR --draft steps=99,keep=2 --steps 8
generate STAR --draft steps=7 --sampler smc --steps 8
calibrate-steps STAR --draft stepz=1
calibrate-steps STAR --draft steps=1 --alpha 1
generate STAR --out {long}
generate STAR --out {dir}/p.txt
generate STAR --out {dir}/p.txt/x
generate STAR --from {dir}/good.png
"""
"""Command lines as a shell reads them; STAR is a caption of the world of shapes."""


def of_requests() -> Iterator[Case]:
    """Every option of a request, with values outside its range or of another type."""
    known = {flag for how in options_of(Request).values() for flag in how.flags}
    for table in (REQUEST_TEXTS, REQUEST_NUMBERS):
        for flag, values in table.items():
            assert flag in known or flag == "--candidates", flag
            for value in values:
                yield f"request {flag}", ["plan", STAR, flag, value]
    for how in options_of(Request).values():
        yield "without a value", _without_value(how)


def _without_value(how: Option) -> list[str]:
    return ["plan", STAR, how.flag if how.kind is not bool else f"{how.flag}=maybe"]


def of_files() -> Iterator[Case]:
    """Damaged and missing files for every option that takes one."""
    missing = ["{dir}/nope", "{dir}", "{long}", ""]
    kinds = {".boxes": "--boxes", ".cal": "--calibration", ".safetensors": "", ".ckpt": ""}
    for name in FILES:
        flag = kinds.get(Path(name).suffix, "--prompts")
        if flag and name != "p.txt":
            words = ["plan", *([] if flag == "--prompts" else [STAR]), flag, f"{{dir}}/{name}"]
            yield f"file {flag}", words
    for flag in (
        "--prompts",
        "--boxes",
        "--calibration",
        "--image",
        "--mask-image",
        "--control-image",
        "--from",
    ):
        for name in (
            *missing,
            *(["{dir}/p.txt", "{dir}/empty.txt"] if flag in ("--image", "--from") else []),
        ):
            yield f"file {flag}", ["plan", STAR, flag, name]


def of_plugins(kind: str) -> Iterator[Case]:
    """Every option of every sampler or verifier, with values of another type or far outside of any range."""
    for name in registry.found(kind):
        cls = registry.load(kind, name)
        if not cls.__module__.startswith("genscale."):
            continue
        for option, hint in options.field_types(cls).items():
            for value in _bad_values(option, hint):
                if (
                    value == registry.options(cls)[option].default
                    if option in registry.options(cls)
                    else False
                ):
                    continue
                yield f"{kind} option", _plugin_line(kind, name, option, value)
        yield f"{kind} option", _plugin_line(kind, name, "no_such_option", "1")


def _plugin_line(kind: str, name: str, option: str, value: str) -> list[str]:
    if kind == "verifier":
        return ["plan", STAR, "--verifier", f"{name}({option}={value})"]
    return ["plan", STAR, "--sampler", name, "--set", f"{option}={value}"]


def _bad_values(option: str, hint: Any) -> list[str]:
    """Values that none of the types of an annotation takes."""
    if option in FREE_TEXT or option == "proposal":
        return []
    inner = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = [h for h in inner if h is not type(None)]
    kinds = {h if h in BAD else float for h in plain if h in BAD or typing.get_origin(h) is tuple}
    if str in kinds:  # a text may be a number for the other type: only what is neither
        return ["nonsense", "???", "nan", ""] if type(None) not in inner else ["nonsense", "???", "nan"]
    lists = any(typing.get_origin(h) is tuple for h in plain)
    allowed = {"1,2", "[1]", ""} if lists else set()
    if not kinds:
        return []
    return [v for v in BAD[next(iter(kinds)) if len(kinds) == 1 else float] if v not in allowed]


def of_words() -> Iterator[Case]:
    """Commands, prompts and combinations."""
    for line in LINES.strip().splitlines():
        yield "words", [STAR if word == "STAR" else word for word in shlex.split(line)]
    for command in ("show", "resume", "tree", "replay", "rescore"):
        for place in ("{dir}", "{dir}/p.txt", "{dir}/nope", "{long}", "", NO_TEXT):
            yield "words", [command, place, *(("--verifier", "shapes") if command == "rescore" else ())]
    yield "words", ["plan", NO_TEXT]
    yield "words", ["generate", STAR, "--out", 200 * NO_TEXT]


def table(seed: int = 0, most: int = 600) -> list[Case]:
    """All lines about requests, files and words, and a sample of those about the options of samplers and verifiers."""
    fixed = [*of_requests(), *of_files(), *of_words(), *of_plugins("verifier")]
    options_of_samplers = list(of_plugins("sampler"))
    return fixed + random.Random(seed).sample(options_of_samplers, min(most, len(options_of_samplers)))


if __name__ == "__main__":
    cases = table()
    print(
        len(cases),
        dict(Counter(kind.partition(" ")[0] for kind, _ in cases)),
        len(list(of_plugins("sampler"))),
    )
