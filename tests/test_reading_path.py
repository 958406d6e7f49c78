"""`genscale.scale(pipe)` can be read through five short files, and the folder's docstring says which."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import genscale.pipelines

ROOT = Path(__file__).parent.parent
PATH = (
    "pipelines/scale.py",
    "pipelines/search_call.py",
    "pipelines/serve.py",
    "pipelines/batch_exchange.py",
    "genscale/engine/engine.py",
)
MOST = 1500  # lines in all


def test_five_files_of_at_most_1500_lines() -> None:
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in PATH}
    assert sum(lines.values()) <= MOST, lines


def test_the_map_names_them_in_order() -> None:
    numbered = re.findall(r"^\d\. `([\w/.]+)`", genscale.pipelines.__doc__ or "", re.MULTILINE)
    assert tuple(numbered) == PATH


def test_each_of_the_five_leads_to_the_next() -> None:
    """By an import; only the exchange imports the engine besides the search that makes it."""
    for name, following in pairwise(PATH):
        module = Path(following).with_suffix("").as_posix().replace("/", ".")
        module = module if module.startswith("genscale") else f"genscale.{module}"
        assert f"from {module} import" in (ROOT / name).read_text(encoding="utf-8"), (name, following)


def test_the_map_tells_of_every_file_of_the_folder() -> None:
    told = set(re.findall(r"(\w+\.py)`", genscale.pipelines.__doc__ or ""))
    files = {file.name for file in (ROOT / "pipelines").glob("*.py")} - {"__init__.py"}
    assert files == told - {"engine.py"}
