"""`genscale tree`: draws every prompt's candidates, into the folder of the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from genscale.commands import tree_picture
from genscale.report.model_names import short_model_name
from genscale.runs import lineage, read_request
from genscale.runs.run_folder import RunFolder


def draw_trees(folder: Path, most: int | None = None) -> list[str]:
    """The names of the files: tree.png, or 000-tree.png and so on where there are several prompts, at most `most`."""
    folder = folder.expanduser()
    found, asked = lineage.families(folder), read_request.load_folder(folder)
    model = short_model_name(asked.model)
    names = []
    for family in found[:most]:
        name = "tree.png" if len(asked.prompts) == 1 else f"{family.index:03d}-tree.png"
        RunFolder(folder).write(name, partial(tree_picture.draw, family, f"{model} · {asked.sampler}"))
        names.append(name)
    return names
