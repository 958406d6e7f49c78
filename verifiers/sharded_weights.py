"""Checkpoints of transformers that none of its classes reads: their folder, and all tensors of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.safe_json import read_json
from genscale.verifiers.checkpoints import is_path, read_tensors

FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read


def checkpoint_folder(checkpoint: str, kind: str) -> Path:
    """The folder of a checkpoint: a local one, or that of a Hugging Face id, from the cache before the network.

    kind: what it should hold, in an error. UsageError: there is none.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    if is_path(checkpoint):
        raise UsageError(f"there is no folder '{checkpoint}': give one with {kind}, or a Hugging Face id.")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"]
    reason = ""
    for local in (True, False):
        try:
            return Path(snapshot_download(checkpoint, allow_patterns=wanted, local_files_only=local))
        except Exception as error:
            reason = type(error).__name__
    raise UsageError(f"'{checkpoint}' cannot be fetched ({reason}): give a folder with {kind}.")


def all_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's weights, on the CPU, from one file or from shards with their index; no code is run.

    UsageError: there are none, or the index names a file elsewhere.
    """
    for file in FILES:
        if (folder / file).is_file():
            return read_tensors(folder / file)
        if (index := folder / f"{file}.index.json").is_file():
            state: dict[str, Tensor] = {}
            for shard in _shards(index):
                state |= read_tensors(folder / shard)
            return state
    raise UsageError(f"folder '{folder}' has no {' or '.join(FILES)}: give one with weights.")


def _shards(index: Path) -> list[str]:
    content: Any = read_json(index, f"the index of weights '{index}'")
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise UsageError(f"'{index}' does not list files of its own folder: fetch the checkpoint again.")
    return names


def fill(module: nn.Module, state: dict[str, Tensor], what: str, advice: str) -> None:
    """Replace the parameters of a module by the tensors of their names, without a copy.

    UsageError: one is missing, belongs to something else, or has another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict(keep_vars=True).items()}
    missing = [name for name in wanted if name not in state]
    others = [name for name in state if name not in wanted or tuple(state[name].shape) != wanted[name]]
    if missing or others:
        raise UsageError(
            f"these weights are not {what}: {len(missing)} are missing ({', '.join(missing[:2])}), {len(others)} "
            f"belong to something else ({', '.join(others[:2])}): {advice}."
        )
    module.load_state_dict(state, assign=True)
