"""The pipeline that a request names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from genscale.errors import UsageError
from genscale.runs.named_code import imported, names_code
from genscale.runs.option_metadata import options_of
from genscale.runs.request import Request

# Fields of the request that say how its model is loaded, under the names that `load_pipeline` has for them.
LOADING = (
    *("dtype", "device", "offload", "attention", "compile", "lora", "variant", "revision"),
    *("trust_remote_code", "device_map", "vae_tiling", "vae_slicing"),
)


def load_model(request: Request, images: Collection[str] = ()) -> Any:
    """Load it. images: names of the input images that its call is given.

    UsageError: it makes no videos, or no audio, as asked.
    """
    from genscale.pipelines.loading import load_pipeline, makes_videos

    if names_code(request.model):
        return _generator(request)
    import diffusers
    import transformers

    from genscale.pipelines.output_kinds import makes_audio

    for library in (diffusers, transformers):  # hides the bars of loading weights; those of downloads stay
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    given = {name: getattr(request, name) for name in LOADING}
    pipe = load_pipeline(request.model, **given, images=[name for name in images if name != "control_image"])
    if request.clips and not makes_videos(pipe):
        made = "audio: use `genscale audio`" if makes_audio(pipe) else "images: use `genscale generate`"
        raise UsageError(
            f"model '{request.model}' is a {type(pipe).__name__}, which makes {made}, or "
            "name a text-to-video model."
        )
    if request.sound and not makes_audio(pipe):
        raise UsageError(
            f"model '{request.model}' is a {type(pipe).__name__}, which makes no audio: use `genscale generate`, or "
            "name a text-to-audio model."
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _generator(request: Request) -> Any:
    """A function of a module, as it is. UsageError: an option says how a pipeline is loaded."""
    known, plain = options_of(Request), Request()
    for name in LOADING:
        if getattr(request, name) != getattr(plain, name):
            raise UsageError(
                f"{known[name].flag} says how a pipeline is loaded, and '{request.model}' is code of a module: leave "
                "it out."
            )
    return imported(request.model, "model", "(prompt, generator or seed) -> image")
