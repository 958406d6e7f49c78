"""The template of a plug-in package: really installed, found by the command line, run, renamed as its README says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "examples" / "genscale-plugin"
PROMPT = "a red star left of a blue ring"


def install(source: Path, target: Path) -> None:
    """As pip does it, into a folder of its own: the environment of the tests stays as it is."""
    copy = target.with_name(f"{target.name}-source")  # setuptools builds in the source folder
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--no-input", "--disable-pip-version-check")
    words = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(target), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / "site"
    install(TEMPLATE, target)
    return target


def python(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def command(site: Path, *words: str, cwd: Path) -> str:
    """What `genscale WORDS` prints where the package is installed."""
    code = "import sys; from genscale.cli.app import main; sys.exit(main())"
    done = python(site, "-c", code, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_lists_them(installed: Path, tmp_path: Path) -> None:
    sampler = json.loads(command(installed, "samplers", "antithetic", "--json", cwd=tmp_path))
    assert sampler["options"]["candidates"]["type"] == "a whole number or none"
    assert sampler["options"]["pairs"]["about"].lower().startswith("pairs that are drawn at a time")
    assert sampler["cost"].startswith("N f")
    assert sampler["paper"] == "arXiv 2506.06185"
    demon = json.loads(command(installed, "samplers", "demon", "--json", cwd=tmp_path))
    assert demon["options"]["noises"]["default"] == 8
    assert demon["paper"] == "arXiv 2410.05760"
    verifier = json.loads(command(installed, "verifiers", "colour_share", "--json", cwd=tmp_path))
    assert verifier["options"]["colour"]["default"] == "red"
    assert verifier["options"]["width"]["about"].lower().startswith("how far a shade may be from it")


@pytest.mark.slow
def test_a_search_with_both(installed: Path, tmp_path: Path) -> None:
    words = [
        "generate",
        PROMPT,
        "--sampler",
        "antithetic",
        "--pairs",
        "2",
        "--budget",
        "48nfe",
        "--steps",
        "4",
    ]
    verifier = ["--verifier", "colour_share(colour=blue)", "--held-out", "shapes"]
    told = command(installed, *words, *verifier, "--seed", "3", "--out", "run", "--json", cwd=tmp_path)
    record = json.loads(told)
    assert record["sampler"] == {"name": "antithetic", "candidates": None, "pairs": 2}
    assert record["ledger"]["evaluations"] == 48  # 6 candidates of 4 steps, guided
    assert record["prompts"][0]["finished"] == 6
    best, base = record["best"], record["base"]
    assert best["total"] == best["search"]["colour_share(colour=blue)"] >= base["total"]
    assert set(best["held_out"]) == {"shapes"}
    assert (tmp_path / "run" / "best.png").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "archive.jsonl").read_text().splitlines()]
    pairs = {x["candidate"]: x["parent"] for x in lines if x["kind"] == "score"}
    assert pairs == {0: None, 1: 0, 2: None, 3: 2, 4: None, 5: 4}


@pytest.mark.slow
def test_a_published_method_in_one_short_file(installed: Path, tmp_path: Path) -> None:
    """Written by the documentation alone: it imports from `genscale` and nothing below, and runs everywhere."""
    source = (TEMPLATE / "src" / "genscale_plugin" / "demon.py").read_text()
    assert len(source.splitlines()) < 90
    assert "genscale." not in "".join(re.findall(r"^(?:from|import) .*$", source, re.MULTILINE))
    for file in (TEMPLATE / "src" / "genscale_plugin").glob("*.py"):
        assert not re.search(r"^(from|import) genscale\.|def (draw|branch)\b", file.read_text(), re.MULTILINE)
    words = ["generate", PROMPT, "--sampler", "demon", "--noises", "4", "--steps", "4", "--budget", "100nfe"]
    told = command(installed, *words, "--verifier", "shapes_clip", "--out", "run", "--json", cwd=tmp_path)
    record = json.loads(told)
    assert record["sampler"] == {"name": "demon", "noises": 4, "temperature": 1.0, "kernel": "ddim(1)"}
    # candidate 0 and the chain, 8 each; 4 tries for steps 1 and 2, 8 each; 68 are left for 8 plain candidates
    assert record["ledger"]["evaluations"] == 96
    assert record["prompts"][0]["finished"] == 10
    assert record["best"]["total"] >= record["base"]["total"]


@pytest.mark.slow
def test_the_same_from_python(installed: Path, tmp_path: Path) -> None:
    script = f"""
import genscale, torch
pipe = genscale.load_pipeline("shapes-diffusion")
better = genscale.scale(pipe, "demon", "shapes_clip", candidates=4, held_out="shapes")
call = {{"num_inference_steps": 4, "guidance_scale": 3.0}}
planned = better.plan({PROMPT!r}, **call)
search = better({PROMPT!r}, generator=torch.Generator().manual_seed(0), **call).search
assert planned.nfe == search.ledger.nfe == 40, (planned, search.ledger)  # K tries from the first step on
assert search.best.total >= search.base().total
alone = genscale.scale(pipe, candidates=1)({PROMPT!r}, generator=torch.Generator().manual_seed(0), **call).search
assert torch.equal(search.base().x, alone.best.x)
assert "2410.05760" in genscale.citation("demon")
"""
    done = python(installed, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(TEMPLATE / "tests", tmp_path / "tests")
    done = python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_is_not_in_the_environment_of_the_tests() -> None:
    done = subprocess.run([sys.executable, "-c", "import genscale_plugin"], capture_output=True, check=False)
    assert done.returncode == 1


def renaming() -> str:
    """The command of the README that makes it another package."""
    readme = (TEMPLATE / "README.md").read_text()
    [line] = [
        line.strip() for line in readme.splitlines() if line.strip().startswith("mv src/genscale_plugin")
    ]
    return line


@pytest.mark.slow
def test_copied_and_renamed_as_its_readme_says(tmp_path: Path) -> None:
    mine = shutil.copytree(
        TEMPLATE, tmp_path / "better-noise", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    subprocess.run(["bash", "-c", renaming()], cwd=mine, check=True)
    left = [p for p in mine.rglob("*") if p.is_file() and "genscale_plugin" in p.read_text()]
    assert left == []
    install(mine, tmp_path / "site")
    entry_points = next((tmp_path / "site").glob("better_noise-*.dist-info/entry_points.txt")).read_text()
    assert "antithetic = better_noise.antithetic:Antithetic" in entry_points
    done = python(tmp_path / "site", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=mine)
    assert done.returncode == 0, done.stdout
