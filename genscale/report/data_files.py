"""Files of what is neither image, video nor sound: arrays (npz), texts (txt) and surfaces of triangles (glb)."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from genscale.errors import UsageError
from genscale.media_items import TEXT, Map, Mesh, Vector

METADATA = "genscale"  # the name of the metadata in an npz file, and in the extras of a glb file
ENDINGS = (".npz", ".txt", ".glb")
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_FLOAT, _INDEX = 5126, 5125  # component types of glTF
_VERTICES, _FACES = 34962, 34963  # targets of its buffer views

Data = Map | Vector | Mesh | str


def ending_of(item: Data) -> str:
    """The format in which an item is kept without loss."""
    return "txt" if isinstance(item, str) else "glb" if isinstance(item, Mesh) else "npz"


def write_data(path: Path, item: Data, comment: str | None) -> None:
    """comment: text stored in the file; a text file has no place for one."""
    if isinstance(item, str):
        path.write_bytes(_bytes(item))
    elif isinstance(item, Mesh):
        path.write_bytes(glb(item, comment))
    else:
        arrays: dict[str, Any] = {item.kind: item.values}
        if comment is not None:
            arrays[METADATA] = np.array(comment)
        with path.open("wb") as file:
            np.savez(file, **arrays)


def comment_of(path: Path) -> str | None:
    """The comment in such a file; None where it has none. OSError where it cannot be read."""
    if path.suffix.lower() == ".txt":
        return None
    try:
        if path.suffix.lower() == ".glb":
            found = _header(path.read_bytes()).get("asset", {}).get("extras", {}).get(METADATA)
        else:
            with np.load(path, allow_pickle=False) as arrays:
                found = str(arrays[METADATA]) if METADATA in arrays else None
    except OSError:
        raise
    except Exception:  # damaged files make readers raise exceptions of any kind
        raise OSError(None, "it is damaged") from None
    return found if isinstance(found, str) else None


def read_values(path: Path) -> np.ndarray | None:
    """The numbers in an npz file, or the bytes of a text; None of other files. UsageError where it cannot be read."""
    ending = path.suffix.lower()
    try:
        if ending == ".txt":
            return np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if ending == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return next(np.array(arrays[name]) for name in arrays if name != METADATA)
    except Exception as error:  # damaged files make readers raise exceptions of any kind
        raise UsageError(f"'{path}' cannot be read: {type(error).__name__}.") from None
    return None


def values_of(item: Data) -> np.ndarray:
    """All numbers of an item, as `read_values` gives them."""
    if isinstance(item, str):
        return np.frombuffer(_bytes(item), dtype=np.uint8)
    if isinstance(item, Mesh):
        return np.concatenate([item.vertices.ravel(), item.faces.ravel().astype(np.float32)])
    return item.values


def _bytes(text: str) -> bytes:
    """UTF-8, also of halves of characters, which token models may give; line ends stay as they are."""
    return text.encode("utf-8", "surrogatepass")


def fingerprint(item: Data) -> dict[str, Any]:
    """The kind and size of an item, and a hash of all its numbers."""
    values = np.ascontiguousarray(values_of(item))
    kind = TEXT if isinstance(item, str) else "mesh" if isinstance(item, Mesh) else item.kind
    return {"kind": kind, "shape": list(values.shape), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}


# ---------------------------------------------------------------- glTF


def glb(mesh: Mesh, comment: str | None = None) -> bytes:
    """A mesh as a binary glTF 2.0 file; an empty scene where it has no faces."""
    extras = {} if comment is None else {"extras": {METADATA: comment}}
    scene: dict[str, Any] = {"asset": {"version": "2.0", "generator": "genscale", **extras}, "scene": 0}
    if not len(mesh.vertices) or not mesh.faces.size:
        return _packed(scene | {"scenes": [{}]}, b"")
    arrays = {"POSITION": mesh.vertices.astype("<f4")}
    if mesh.colours is not None:
        arrays["COLOR_0"] = mesh.colours.astype("<f4")
    parts = [*(a.tobytes() for a in arrays.values()), mesh.faces.astype("<u4").tobytes()]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    targets = [_VERTICES] * len(arrays) + [_FACES]
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": _FLOAT, "count": len(a), "type": "VEC3"}
        for i, a in enumerate(arrays.values())
    ]
    accessors[0] |= {"min": mesh.vertices.min(0).tolist(), "max": mesh.vertices.max(0).tolist()}
    accessors.append(
        {"bufferView": len(arrays), "componentType": _INDEX, "count": mesh.faces.size, "type": "SCALAR"}
    )
    triangles = {"attributes": {name: i for i, name in enumerate(arrays)}, "indices": len(arrays)}
    scene |= {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [triangles]}],
        "buffers": [{"byteLength": starts[-1]}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(part), "target": target}
            for start, part, target in zip(starts, parts, targets, strict=False)
        ],
        "accessors": accessors,
    }
    return _packed(scene, b"".join(parts))


def _packed(scene: dict[str, Any], data: bytes) -> bytes:
    """The header, the JSON, and the binary chunk where there is data; each filled up to four bytes."""
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text
    if data:
        chunks += struct.pack("<II", len(data), _BINARY) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _header(data: bytes) -> dict[str, Any]:
    magic, _, _, size, kind = struct.unpack("<4sIIII", data[:20])
    if magic != b"glTF" or kind != _JSON:
        raise OSError(None, "it is not a glb file")
    found: dict[str, Any] = json.loads(data[20 : 20 + size])
    return found
