"""Whether two Python values are the same by content, also in another process: values, functions, objects, models.

The same content gives the same text on every machine. What counts:

- plain values, arrays, tensors and images: all their values, with type and shape; generators of random numbers: state
- functions: their compiled code (of one version of Python), defaults, closures and the globals that they use
- modules of torch: every weight and setting (module_identity.py)
- classes, and functions, of installed packages: their name; those of the user: the code of all their methods
- other objects: their class, and what pickle would store of them (nothing is pickled)

An object may have an attribute `identity` that counts in its place: a text, or another object.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

DIGEST = "digest "
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, torch.dtype, torch.device)
_SHOWN = 60  # longer texts are told apart by their digest


class NoIdentity(ValueError):
    """Nothing says whether two of these are the same; the message says what and why."""


def identity(value: Any) -> str:
    """A plain value as Python writes it; of everything else a digest, as DIGEST and hexadecimal digits. NoIdentity."""
    if isinstance(value, _PLAIN) and len(repr(value)) <= _SHOWN:
        return repr(value)
    if isinstance(value, type) and is_installed(value.__module__):
        return _name(value)
    return DIGEST + _Walk().digest(value)


def is_installed(module: str | None) -> bool:
    """Whether a module is of Python or of an installed package: its version stands for its code."""
    if module is None or module == "builtins" or module.partition(".")[0] == "genscale":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # built in, unless it was typed into an interpreter or notebook
        return module in sys.builtin_module_names
    if any(Path(file).is_relative_to(folder) for folder in _installed_folders()):
        return True
    top = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None) or file
    folder = Path(top).parent.parent if Path(top).name == "__init__.py" else Path(top).parent
    return _has_installed(folder)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    return tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@functools.cache
def _has_installed(folder: Path) -> bool:
    """Whether packages were installed into a folder: that of another environment on the path, or `pip --target`."""
    return any(folder.glob("*.dist-info"))


class _Walk:
    """Digests a value and all that it refers to; each object once, and a cycle by how far back it leads."""

    def __init__(self) -> None:
        self._hashes: list[Any] = []  # of the objects that are being digested, outermost first
        self._under_way: dict[int, int] = {}  # id -> place among them
        # id -> digest; with the object, so that its id stays its own.
        self._done: dict[int, tuple[str, Any]] = {}

    def digest(self, value: Any) -> str:
        place = self._under_way.get(id(value))
        if place is not None:
            return f"cycle {len(self._hashes) - place}"
        if id(value) not in self._done:
            self._under_way[id(value)] = len(self._hashes)
            self._hashes.append(hashlib.sha256())
            try:
                self._add_object(value)
            except RecursionError:
                raise NoIdentity("it refers to too many objects") from None
            finally:
                del self._under_way[id(value)]
                found = self._hashes.pop()
            self._done[id(value)] = (found.hexdigest()[:32], value)
        return self._done[id(value)][0]

    def _feed(self, *parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            self._hashes[-1].update(len(data).to_bytes(8, "big") + data)

    def _add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._feed(type(value).__name__, repr(value))
        else:
            self._feed(self.digest(value))

    def _add_object(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._feed(type(value).__name__, repr(value))
        elif isinstance(value, type):
            self._add_class(value)
        elif _stands_for(value) is not None:
            self._feed("stands for")
            self._add(_stands_for(value))
        elif isinstance(value, types.FunctionType | types.MethodType | types.CodeType | functools.partial):
            self._add_function(value)
        elif isinstance(value, types.ModuleType):
            self._feed("module", value.__name__)
        elif isinstance(value, nn.Module):
            self._add_module(value)
        elif not self._add_data(value) and not self._add_collection(value):
            self._add_any(value)

    # ---------------------------------------------------------------- data

    def _add_data(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            self._feed("array", value.dtype, value.shape, np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Image.Image):
            self._feed("image", value.mode, value.size, value.tobytes(), value.getpalette() or "")
        elif isinstance(value, re.Pattern):
            self._feed("pattern", type(value.pattern).__name__, value.pattern, value.flags)
        elif isinstance(value, torch.Generator):
            self._feed("generator", value.device.type, bytes(value.get_state().numpy()))
        else:
            return False
        return True

    def _add_tensor(self, value: Tensor) -> None:
        if value.device.type == "meta":
            raise NoIdentity("a tensor on the meta device has no values")
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        self._feed("tensor", value.dtype, tuple(value.shape))
        self._feed(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")

    def _add_collection(self, value: Any) -> bool:
        if isinstance(value, list | tuple):
            self._feed("list" if isinstance(value, list) else "tuple", len(value))
            for item in value:
                self._add(item)
        elif isinstance(value, Mapping):
            self._feed("mapping", len(value))
            for name, _, item in sorted(
                (identity(key), n, item) for n, (key, item) in enumerate(value.items())
            ):
                self._feed(name)
                self._add(item)
        elif isinstance(value, set | frozenset):
            self._feed("set", *sorted(map(identity, value)))
        elif isinstance(value, Enum):
            self._feed("enum", _name(type(value)), value.name)
        elif isinstance(value, PurePath):
            self._feed("path", str(value))
        else:
            return False
        return True

    def _add_module(self, value: nn.Module) -> None:
        from genscale.storage.module_identity import described_module

        self._add(type(value))
        self._add(described_module(value))

    # ---------------------------------------------------------------- code

    def _add_function(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self._feed("partial")
            self._add([value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self._feed("method")
            self._add([value.__func__, value.__self__])
        elif isinstance(value, types.CodeType):
            self._feed("code", value.co_argcount, value.co_kwonlyargcount, value.co_flags, value.co_code)
            self._add([value.co_names, value.co_varnames, value.co_freevars, value.co_consts])
        elif is_installed(value.__module__):
            self._feed("function", _name(value))
        else:
            self._feed("function")
            self._add([value.__code__, value.__defaults__, value.__kwdefaults__, vars(value)])
            self._add([_content(cell) for cell in value.__closure__ or ()])
            for name in _global_names(value.__code__):
                if name in value.__globals__:
                    self._feed("global", name)
                    self._add(value.__globals__[name])

    def _add_class(self, value: type) -> None:
        self._feed("class", _name(value))
        if is_installed(value.__module__):
            return
        for base in value.__bases__:
            self._add(base)
        for name, part in sorted(vars(value).items()):
            code = getattr(part, "__func__", part)  # of a static or class method
            if isinstance(part, property | functools.cached_property):
                self._feed("property", name)
                self._add(
                    [part.func] if isinstance(part, functools.cached_property) else [part.fget, part.fset]
                )
            elif isinstance(code, types.FunctionType):
                self._feed("method", name)
                if code.__code__.co_filename != "<string>":  # dataclasses write such methods
                    self._add(code)
            elif not name.startswith("__") and _is_plain(part):
                self._feed("attribute", name)
                self._add(part)

    # ---------------------------------------------------------------- everything else

    def _add_any(self, value: Any) -> None:
        if isinstance(
            value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType
        ):
            self._feed("builtin", _name(value))
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                self._add(owner)
        elif dataclasses.is_dataclass(value) and is_installed(type(value).__module__):
            # Its fields: what else it holds was loaded or computed from them.
            self._feed("dataclass", _name(type(value)))
            for field in dataclasses.fields(value):
                self._feed(field.name)
                self._add(getattr(value, field.name))
        else:
            self._add_pickled(value)

    def _add_pickled(self, value: Any) -> None:
        """By the parts of which pickle would make it."""
        try:
            parts = value.__reduce_ex__(4)
        except Exception:
            raise NoIdentity(f"it uses a {type(value).__name__}, which has no content to compare") from None
        if isinstance(parts, str):  # a global of its module
            self._feed("global", type(value).__module__, parts)
            return
        self._feed("object")
        self._add(type(value))
        self._add([part if n < 3 else list(part) for n, part in enumerate(parts) if part is not None][:5])


def _stands_for(value: Any) -> Any:
    """What an object says that it is to be identified by."""
    if isinstance(value, Tensor | np.ndarray | types.ModuleType):
        return None
    try:
        found = getattr(value, "identity", None)
    except Exception:
        return None
    return None if isinstance(found, types.MethodType | types.BuiltinFunctionType) else found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return isinstance(value, _PLAIN)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return ...


def _global_names(code: types.CodeType) -> list[str]:
    """Names that code may look up as globals, also in the functions inside of it."""
    names = {name for name in code.co_names if not hasattr(builtins, name)}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= set(_global_names(const))
    return sorted(names)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"
