"""Device, dtype, offloading, attention and compilation of a pipeline."""

from __future__ import annotations

from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.plugins.limits import shown

OFFLOADS = ("model", "sequential", "group")
DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")
_DTYPES = {
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}


def device_of(device: Any) -> Any:
    """A torch.device: the one named, else CUDA, else MPS, else the CPU."""
    import torch

    if device is None:
        mps = getattr(torch.backends, "mps", None)
        device = "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise UsageError(f"device {shown(device)} is unknown: give cpu, cuda, cuda:1 or mps.") from None
    if place.type == "meta":
        raise UsageError("device 'meta' computes nothing: give cpu, cuda, cuda:1 or mps.")
    try:
        torch.empty(0, device=place)
    except Exception:
        raise UsageError(f"device '{device}' is not available: torch finds no such accelerator.") from None
    return place


def dtype_of(dtype: Any, place: Any) -> Any:
    """A torch.dtype: the one named; else float32 on the CPU, bfloat16 where CUDA supports it, else float16."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        if place.type == "cpu":
            return torch.float32
        bf16 = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float16
    found = getattr(torch, _DTYPES.get(str(dtype), str(dtype)), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"dtype '{dtype}' is unknown: give auto, float32, bfloat16 or float16.")
    return found


def check_offload(how: str, place: Any) -> None:
    """UsageError for an offload that is unknown or impossible here, before anything is loaded."""
    if how not in OFFLOADS:
        hint = did_you_mean(how, OFFLOADS)
        raise UsageError(f"offload '{how}' is unknown{hint}: give one of {', '.join(OFFLOADS)}.")
    if place.type == "cpu":
        raise UsageError(
            "offload moves weights between an accelerator and the CPU: there is no accelerator here."
        )


def offload(pipe: Any, how: str, place: Any) -> None:
    """UsageError: the pipeline has no such method, as modular pipelines, which offload by a ComponentsManager."""
    method = "enable_group_offload" if how == "group" else f"enable_{how}_cpu_offload"
    if not hasattr(pipe, method):
        raise UsageError(f"{type(pipe).__name__} has no {method}: leave offload out.")
    if how == "model":
        pipe.enable_model_cpu_offload(device=place)
    elif how == "sequential":
        pipe.enable_sequential_cpu_offload(device=place)
    else:
        pipe.enable_group_offload(
            onload_device=place, offload_type="leaf_level", use_stream=place.type == "cuda"
        )


def decode_in_parts(pipe: Any, tiling: bool, slicing: bool) -> None:
    """Decode in tiles or image by image, to save memory. UsageError where the autoencoder cannot."""
    vae: Any = getattr(pipe, "vae", None)
    for asked, method in ((tiling, "enable_tiling"), (slicing, "enable_slicing")):
        if not asked:
            continue
        if not hasattr(vae, method):
            option = f"vae_{method.removeprefix('enable_')}"
            raise UsageError(f"{type(pipe).__name__} has no autoencoder that can do {option}: leave it out.")
        getattr(vae, method)()
    if tiling and hasattr(vae, "use_framewise_decoding"):  # tiles in time: groups of frames
        vae.use_framewise_decoding = True


def _denoisers(pipe: Any) -> list[Any]:
    found = [getattr(pipe, name, None) for name in DENOISERS]
    return [module for module in found if hasattr(module, "parameters")]


def set_attention(pipe: Any, attention: str) -> None:
    """Set the attention backend of a pipeline's denoisers."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = sorted(backend.value for backend in AttentionBackendName)
    if attention not in known:
        public = ", ".join(name for name in known if not name.startswith("_"))
        hint = did_you_mean(attention, known)
        raise UsageError(f"attention '{attention}' is unknown{hint}: there are {public}.")
    for module in _denoisers(pipe):
        try:
            if "UNet" in type(module).__name__:
                _set_unet_attention(module, attention)
            else:
                module.set_attention_backend(attention)
        except UsageError:
            raise
        except ImportError as error:
            package = "genscale[xformers]" if attention == "xformers" else attention
            raise UsageError(f"attention '{attention}' needs a package: pip install '{package}'.") from error
        except Exception as error:
            raise UsageError(f"attention '{attention}' cannot be used here: {first_line(error)}") from error


def _set_unet_attention(unet: Any, attention: str) -> None:
    """U-Nets support xformers and torch's own attention; other backends are for transformers."""
    if attention == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    elif attention != "native":  # native is their default
        raise UsageError(f"attention '{attention}' is for transformers: a U-Net takes xformers or native.")


def compile_denoisers(pipe: Any) -> None:
    """Compile only the repeated blocks where a model names them: faster to compile, as fast to run."""
    for module in _denoisers(pipe):
        if getattr(module, "_repeated_blocks", None):
            module.compile_repeated_blocks()
        else:
            module.compile()


def first_line(error: Exception) -> str:
    """The first line of an error's message, of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0] if lines else type(error).__name__}"[:300]
