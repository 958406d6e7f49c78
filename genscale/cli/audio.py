"""The command `genscale audio`: searches over sounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from genscale.cli import options
from genscale.cli.execute import plan_request, run_request
from genscale.cli.generate import SEARCH, WRITE
from genscale.cli.request_options import request_of
from genscale.errors import UsageError

AUDIO = """
Examples:

  genscale audio "a dog barks in the rain" --model cvssp/audioldm2 --seconds 5

  genscale audio "a slow piano" --model owner/name --verifier clap --verifier silence:0.2 --candidates 8 --out runs/piano

  genscale audio --prompts prompts.txt --model owner/name --verifier "clap(checkpoint=laion/larger_clap_music)" --formats wav,flac

For each prompt it writes best.wav and best.png (its waveform and spectrogram), the same of the base sound, and
contact.png, all of them below each other. `clap` scores how well a sound fits its prompt; `silence` and `clipping`
guard against empty and distorted sounds.
"""  # noqa: E501

VERIFIER, HELD_OUT = ("clap",), ("silence", "clipping")
"""What steers, and what shows whether sounds are empty or distorted, where the user names none."""


@options.takes(*SEARCH, *WRITE, words=True)
def audio(ctx: typer.Context, **given: Any) -> int:
    """Search for the best sounds of a prompt, and write them beside the base sound."""
    request = with_audio_defaults(request_of(ctx, {"sound": True}), given)
    if given["dry_run"]:
        return plan_request(request, given["as_json"])
    return run_request(request, given["out"], given["as_json"])


def with_audio_defaults(request: Any, given: dict[str, Any]) -> Any:
    """Held-out guards where the user names none. UsageError: no model of sounds is named."""
    from genscale.pipelines.loading import EMBEDDED

    if request.model in EMBEDDED:
        raise UsageError("no model of sounds comes with genscale: name one, such as --model cvssp/audioldm2.")
    more: dict[str, Any] = {"sound": True, "verifiers": request.verifiers or VERIFIER}
    if not request.held_out and not given["held_out"]:
        steering = {*more["verifiers"], *request.select}
        more["held_out"] = tuple(name for name in HELD_OUT if not any(name in spec for spec in steering))
    return replace(request, **more)
