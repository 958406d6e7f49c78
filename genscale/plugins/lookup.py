"""Samplers and verifiers by name, for users: bundled ones and those of installed plug-ins."""

from __future__ import annotations

from typing import Any

from genscale.plugins import registry


def list_samplers() -> list[str]:
    """Names of all samplers, sorted; `genscale samplers NAME` describes one."""
    return list(registry.found("sampler"))


def list_verifiers() -> list[str]:
    """Names of all verifiers, sorted; `genscale verifiers NAME` describes one."""
    return list(registry.found("verifier"))


def make_sampler(name: str, **options: Any) -> Any:
    """A sampler by its name, as in `make_sampler("best_of_n", candidates=16)`. UsageError: unknown name or option."""
    return registry.make("sampler", name, options)


def make_verifier(name: str, **options: Any) -> Any:
    """A verifier by its name, as in `make_verifier("compressibility")`. UsageError as for `make_sampler`."""
    return registry.make("verifier", name, options)
