"""The notebooks as pages, with their outputs.

They are stored without outputs, so each is executed when the site is built, offline, in a kernel of its own. What came
out is cached in out/notebooks/, keyed by the notebook and the package's sources: a build after tests/test_notebooks.py
executes nothing. With GENSCALE_NOTEBOOKS=source the pages are made without outputs, and nothing is executed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
CACHE = ROOT / "out" / "notebooks"
SOURCES = ("genscale", "samplers", "verifiers", "pipelines")


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add a page for each notebook, the images that it shows, and the notebook itself."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        page, images = markdown(with_outputs(path), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def pages_of_notebooks() -> list[str]:
    return [f"notebooks/{path.stem}.md" for path in sorted(FOLDER.glob("*.ipynb"))]


# ---------------------------------------------------------------- execution


def with_outputs(path: Path) -> Any:
    """The notebook as it is after a run: from the cache, or executed now. PluginError where a cell fails."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    if os.environ.get("GENSCALE_NOTEBOOKS") == "source":
        return notebook
    kept = cached(path)
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        try:
            executed(notebook, Path(folder))
        except Exception as error:
            raise PluginError(f"notebooks/{path.name}: {type(error).__name__}: {error}") from error
    store(path, notebook)
    return notebook


def executed(notebook: Any, folder: Path) -> Any:
    """The notebook with its outputs; an error in a cell is one here. Offline, on one thread, in an empty folder."""
    import nbclient
    from jupyter_client.manager import AsyncKernelManager

    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # This Python, whatever kernels are registered on the machine; over a local socket, not over TCP.
    manager = AsyncKernelManager(
        transport="ipc", connection_file=str(folder / "kernel.json"), ip=str(folder / "k")
    )
    manager.kernel_spec.argv[0] = sys.executable
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=900, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return notebook


def store(path: Path, notebook: Any) -> None:
    """Keep an executed notebook for later builds, and drop its older versions."""
    import nbformat

    kept = cached(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for older in kept.parent.glob(f"{path.stem}-*.ipynb"):
        older.unlink(missing_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    nbformat.write(notebook, part)
    part.replace(kept)


def cached(path: Path) -> Path:
    """Where the outputs of this notebook, run by these sources, are kept."""
    digest = hashlib.sha256(path.read_bytes())
    for folder in SOURCES:
        for source in sorted((ROOT / folder).rglob("*.py")):
            digest.update(source.relative_to(ROOT).as_posix().encode() + b"\0" + source.read_bytes())
    return CACHE / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"


# ---------------------------------------------------------------- Markdown


def markdown(notebook: Any, stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page, and the images on it by file name."""
    parts, images = list[str](), dict[str, bytes]()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(_linked(cell.source))
        elif cell.cell_type == "code":
            parts.append(_fenced("python", cell.source))
            for output in cell.outputs:
                parts += _shown(output, f"{stem}/{number}-{len(images)}.png", images)
    head, _, rest = "\n\n".join(parts).partition("\n")
    note = f"*[This page is a notebook]({stem}.ipynb). It runs offline, on a CPU, on the bundled toy models.*"
    return f"{head}\n\n{note}\n{rest}\n", images


def _shown(output: Any, image: str, images: dict[str, bytes]) -> Iterator[str]:
    data = output.get("data", {})
    if output.output_type == "stream":
        if output.name == "stdout":
            yield _fenced("{.text .output}", output.text)
    elif "image/png" in data:
        images[image] = base64.b64decode(data["image/png"])
        yield f"![what the cell above shows]({image}){{ .output }}"
    elif "text/html" in data:
        yield f'<div class="output">\n{data["text/html"]}\n</div>'
    elif "text/plain" in data:
        yield _fenced("{.text .output}", data["text/plain"])


def _fenced(language: str, code: str) -> str:
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", code)), 3)
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"


def _linked(text: str) -> str:
    """Names of other notebooks become links to their pages."""
    stems = {path.stem for path in FOLDER.glob("*.ipynb")}
    return re.sub(r"(?<!\[)`(\d\d_\w+)`", lambda m: f"[{m[0]}]({m[1]}.md)" if m[1] in stems else m[0], text)
