"""genscale: spend more compute at inference to get better samples from pretrained diffusion and flow models.

    import genscale
    better = genscale.scale(pipe, sampler="best_of_n", candidates=16, verifier="clip")
    image = better("a red star left of a blue ring").images[0]

Importing this is light: diffusers and transformers are imported when a pipeline is scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genscale.engine.budget import Budget
    from genscale.errors import BudgetExhausted, UsageError, VerifierError
    from genscale.key import Key
    from genscale.media import Media
    from genscale.pipelines.loading import load_pipeline
    from genscale.pipelines.scale import Scaled, scale
    from genscale.protocol.answers import Prediction, Scores
    from genscale.protocol.interfaces import Process, Sampler, Verifier
    from genscale.protocol.particles import Candidate, Particles
    from genscale.protocol.queries import Denoise, Score, Solve
    from genscale.results.compare import compare as compare
    from genscale.runs.load_result import load_result

__version__ = "0.1.0"

_HOMES = {
    "engine.budget": ("Budget",),
    "errors": ("BudgetExhausted", "UsageError", "VerifierError"),
    "key": ("Key",),
    "media": ("Media",),
    "protocol.particles": ("Candidate", "Particles"),
    "pipelines.loading": ("load_pipeline",),
    "pipelines.scale": ("Scaled", "scale"),
    "protocol.interfaces": (
        "Denoise",
        "Prediction",
        "Process",
        "Sampler",
        "Score",
        "Scores",
        "Solve",
        "Verifier",
    ),
    "results.compare": ("compare",),
    "runs.load_result": ("load_result",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `genscale --help` need not wait for torch."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"genscale.{module}"), name)
    raise AttributeError(f"module 'genscale' has no attribute '{name}'")


__all__ = [
    "Budget",
    "BudgetExhausted",
    "Candidate",
    "Denoise",
    "Key",
    "Media",
    "Particles",
    "Prediction",
    "Process",
    "Sampler",
    "Scaled",
    "Score",
    "Scores",
    "Solve",
    "UsageError",
    "Verifier",
    "VerifierError",
    "load_pipeline",
    "load_result",
    "scale",
]
