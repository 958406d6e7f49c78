"""Tensors of an archive as files that are checked when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from genscale.errors import UsageError
from genscale.storage.durable_files import save_bytes, stored


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file; the digest of its content. OSError: it cannot be written.

    The file is on the disk then; its name is after `sync_folder`.
    """
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    save_bytes(path, data, sync_name=False)
    return _digest(data)


def load_tensors(path: Path, digest: str | None, names: Collection[str] = ()) -> dict[str, Tensor]:
    """What `save_tensors` wrote, on the CPU. names: tensors that must be among them.

    digest: what it returned; None where that is not known. UsageError: the file holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = stored(path)
        if digest is None or _digest(data) == digest:
            found = dict(load(data))
            if set(names) <= set(found):
                return found
        why = "it was damaged, or belongs to another candidate"
    except SafetensorError:
        why = "it was damaged"
    except OSError as error:
        why = str(error.strerror or error)
    raise UsageError(
        f"the latents in '{path}' cannot be read ({why}): restore the file, or delete it and they are computed again "
        "when the run goes on."
    )


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
