"""Folders of genscale, their floors and who imports whom, read off the source.

`python tests/import_floors.py` prints every folder by floor, with its imports and what breaks the rules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the bottom up: a module may import its own folder and folders of lower floors.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("call_syntax", "errors", "key", "media_items", "quiet_libraries"),
    ("media", "safe_json"),
    ("numerics", "diffusion", "plugins", "storage"),
    ("protocol", "report"),
    ("algorithms", "engine", "workers"),
    ("results", "samplers"),
    ("pipelines", "toy"),
    ("chunks", "runs", "verifiers"),
    ("bench", "commands"),
    ("demo",),
    ("cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS, start=1) for name in names}
TOP_LEVEL = ("samplers", "verifiers", "pipelines")  # folders of the package at the top of the repository


@dataclass(frozen=True)
class Import:
    """One import statement. late: inside a function. typing: for type checkers only."""

    module: str
    line: int
    late: bool
    typing: bool


def sources() -> list[Path]:
    """Every module of the package."""
    inside = (p for p in (ROOT / "genscale").rglob("*.py") if p.relative_to(ROOT).parts[1] not in TOP_LEVEL)
    return sorted([*inside, *(p for folder in TOP_LEVEL for p in (ROOT / folder).glob("*.py"))])


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "genscale" else ("genscale", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str) -> str:
    """The folder of a module of genscale, or the module itself where it lies at the top; "" for genscale."""
    return module.split(".")[1] if "." in module else ""


def imports(source: str) -> list[Import]:
    """Every import of a module, names of `from genscale.x import y` as genscale.x.y."""
    return list(_imports(ast.parse(source), late=False, typing=False))


def _imports(tree: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(a.name, node.lineno, late, typing) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (Import(f"{node.module}.{a.name}", node.lineno, late, typing) for a in node.names)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            yield from _imports(node, late or inside, typing or checking)


def folder_arrows() -> dict[str, set[str]]:
    """folder: the other folders that its modules import, at any time."""
    arrows: dict[str, set[str]] = {name: set() for name in FLOOR}
    for path in sources():
        here = folder_of(module_name(path))
        if not here:
            continue  # the public face may name everything
        for found in imports(path.read_text()):
            there = folder_of(found.module)
            if found.module.startswith("genscale.") and there in FLOOR and there != here:
                arrows[here].add(there)
    return arrows


def module_arrows() -> dict[str, set[str]]:
    """module: the modules of genscale that it imports, inside functions and for type checkers, too."""
    names = {module_name(p) for p in sources()}
    arrows: dict[str, set[str]] = {}
    for path in sources():
        here = module_name(path)
        found = (i.module for i in imports(path.read_text()))
        arrows[here] = {m for name in found if (m := _module(name, names)) and m != here}
    return arrows


def _module(name: str, known: set[str]) -> str:
    """The module that an imported name is, or lies in; "" for other packages and for genscale itself."""
    while "." in name and name not in known:
        name = name.rpartition(".")[0]
    return name if "." in name and name in known else ""


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph: for each arrow back to a node under way, the nodes from there on."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> None:
        if node in way:
            found.append([*way[way.index(node) :], node])
        elif node not in done:
            for following in sorted(arrows.get(node, ())):
                walk(following, [*way, node])
            done.add(node)

    for node in sorted(arrows):
        walk(node, [])
    return found


def main() -> None:
    arrows = folder_arrows()
    for number in range(len(FLOORS), 0, -1):
        for name in FLOORS[number - 1]:
            print(
                f"{number:>2}  {name:16} -> {', '.join(sorted(arrows[name], key=lambda n: (-FLOOR[n], n)))}"
            )
    up = [f"{a} -> {b}" for a, there in arrows.items() for b in sorted(there) if FLOOR[b] >= FLOOR[a]]
    print("upward or level:", ", ".join(up) or "none")
    print("circles of folders:", circles(arrows) or "none")
    print("circles of modules:", circles(module_arrows()) or "none")


if __name__ == "__main__":
    main()
