"""All that decides what a call of a scaled pipeline finds, so that `out=` resumes the same call and no other.

The arguments of the pipeline's call, the state of its generator, its scheduler and models, the sampler, verifiers, mix
and the models of the mix. What each counts by is in `genscale.storage.identity`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from genscale.engine.ensembles import RANK, VOTE, WEIGHTED
from genscale.engine.verifier_roles import Roles, WeightedVerifier
from genscale.errors import UsageError
from genscale.pipelines.bound_call import PER_PROMPT
from genscale.pipelines.call_signature import COUNTS, defaults_of
from genscale.pipelines.loading import EMBEDDED, folder_of
from genscale.pipelines.modular_inputs import all_blocks, blocks_of
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.search_settings import SearchSettings
from genscale.plugins import registry
from genscale.storage.identity import DIGEST, NoIdentity, identity, is_installed

# The heading has these (prompts, the shape of the latents), or they change only the form of the results.
_ELSEWHERE = ("prompt", "generator", "width", "height", "output_type", "return_dict", *COUNTS)
UNKNOWN = DIGEST + "unknown"


def archive_heading(call: PipelineCall, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
    """What makes two runs the same, so that one can resume from the other's archive.

    complete: refuse what cannot be identified, by UsageError. False says that it is unknown; no call resumes that.
    """
    return {
        "prompts": call.texts,
        "seeds": call.seeds,
        "pipeline": type(call.pipe).__name__,
        "model": model_name(call.pipe),
        "steps": len(call.probe.evaluations),
        "latent": list(call.latents.shape[1:]),
        **heading_of_search(settings),
        "identity": Parts(complete).of(call, settings),
    }


def heading_of_search(settings: SearchSettings) -> dict[str, Any]:
    """The part of a heading that sampler, verifiers and limits decide."""
    verifiers = {
        role: [[member.name, member.weight] for member in getattr(settings.roles, role).members]
        for role in ("search", "select", "held_out", "guard")
        if role != "guard" or settings.roles.guard.members
    }
    return {
        "sampler": type(settings.sampler).__name__,
        "options": registry.described(settings.sampler),
        "verifiers": verifiers,
        "ensemble": settings.roles.judge.ensemble,
        **_of_selection(settings.roles),
        "draft": None,  # of a search with drafts: how they are made
        "limits": {
            "budget": str(settings.budget),
            "stop": None if settings.stop is None else str(settings.stop),
            "batch_size": settings.batch_size,
            **({"pool": True} if settings.pool else {}),
        },
    }


def _of_selection(roles: Roles) -> dict[str, Any]:
    """What ranks beside names and weights, where there is any."""
    judge, selection = roles.judge, roles.selection
    noise = selection.abstain is not None and selection.abstain.in_noise
    scaled = judge.ensemble not in (WEIGHTED, RANK, VOTE) or noise or any(c.relative for c in judge.columns)
    return {
        **({"columns": [asdict(c) for c in judge.columns]} if scaled else {}),
        **({"by_category": judge.by_category} if judge.by_category else {}),
        **({"require": [str(r) for r in selection.requires]} if selection.requires else {}),
        **({} if selection.abstain is None else {"abstain": str(selection.abstain)}),
    }


def changed_by_the_run(heading: Mapping[str, Any], settings: SearchSettings) -> dict[str, str]:
    """Of the identity in a heading, what is another one after the run: a verifier may count its calls."""
    now = Parts(complete=False)
    now.add_search(settings)
    return now.unlike(heading)


def model_name(pipe: Any) -> str:
    """Where a pipeline was loaded from: the name of a bundled toy model, a path or a Hugging Face id; "" if unknown."""
    own = getattr(pipe, "_pretrained_model_name_or_path", None)  # of a modular pipeline
    source = str(getattr(pipe.config, "_name_or_path", None) or own or "")
    bundled = next((name for name in EMBEDDED if source and Path(source) == folder_of(name)), None)
    return bundled or (os.path.abspath(source) if source and Path(source).exists() else source)


class Parts:
    """Collects {what: identity}."""

    def __init__(self, complete: bool) -> None:
        self.complete = complete
        self.found: dict[str, str] = {}

    def add(self, what: str, value: Any) -> None:
        try:
            self.found[what] = identity(value)
        except NoIdentity as error:
            if self.complete:
                raise UsageError(
                    f"out= cannot tell whether the {what} will be the same in a later call ({error}): give it an "
                    "attribute `identity`, a text that changes whenever it does, or leave out= away."
                ) from None
            self.found[what] = UNKNOWN

    def unlike(self, heading: Mapping[str, Any]) -> dict[str, str]:
        """Those that are others than in a heading."""
        return {name: value for name, value in self.found.items() if value != heading["identity"][name]}

    def of(self, call: PipelineCall, settings: SearchSettings) -> dict[str, str]:
        given = call.arguments.given | call.arguments.of_images  # all that was given for each image
        self.add_arguments(defaults_of(call.pipe), given)
        self.found["state of the generator"] = call.arguments.generator_identity
        self.add_pipeline(call.pipe)
        for name, model in settings.models.items():
            modules = _modules(model)
            self.add(f"model '{name}' of the mix", modules if modules else model)
        if settings.mix is not None:
            self.add("mix", settings.mix)
        self.add_search(settings)
        return self.found

    def add_search(self, settings: SearchSettings) -> None:
        if (
            registry.registered_name("sampler", type(settings.sampler)) is None
        ):  # the heading has the options of the others
            self.add("sampler", settings.sampler)
        for role in ("search", "select", "held_out", "guard"):
            for member in getattr(settings.roles, role).members:
                self.add(f"verifier '{member.name}'", _by_options(member))

    def add_arguments(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Those of a call that are not at their default. defaults: of what is called."""
        for name, value in given.items():
            default = defaults.get(name)
            if name in _ELSEWHERE or value is default:
                continue
            if name.rstrip("_234") in PER_PROMPT and isinstance(value, list) and value:
                value = value[0] if all(text == value[0] for text in value) else value
            before = len(self.found)
            self.add(f"argument {name}", value)
            if len(self.found) > before and self.found[f"argument {name}"] == _identity_or_none(default):
                del self.found[f"argument {name}"]  # as if it had not been given

    def add_pipeline(self, pipe: Any) -> None:
        """Its code, configuration, scheduler and the weights of its models."""
        components: Mapping[str, Any] = pipe.components
        if not is_installed(type(pipe).__module__):
            self.add("code of the pipeline", type(pipe))
        if blocks_of(pipe) is not None:
            self.add("blocks of the pipeline", [_code(type(block)) for block in all_blocks(blocks_of(pipe))])
        config = {k: v for k, v in dict(pipe.config).items() if k[:1] != "_" and k not in components}
        self.add("configuration of the pipeline", config)
        scheduler = getattr(pipe, "scheduler", None)
        self.add("scheduler", type(scheduler))
        for name, value in dict(getattr(scheduler, "config", {})).items():
            if not name.startswith("_"):
                self.add(f"setting {name} of the scheduler", value)
        for name, part in components.items():
            if name == "scheduler" or part is None:
                continue
            if isinstance(part, nn.Module):
                self.add(f"weights of the {name}", part)
            elif hasattr(part, "get_vocab"):
                self.add(name, [type(part), part.get_vocab(), part.model_max_length])
            else:
                self.add(name, [type(part), _plain(getattr(part, "config", None))])


def _by_options(member: WeightedVerifier) -> Any:
    """A registered verifier as its name and options: what else it holds it has loaded or counted."""
    plain = getattr(member.verifier, "identity", member.verifier)  # of one that is named on the command line
    if isinstance(getattr(plain, "identity", None), str):  # it says itself what makes it the same
        return plain
    name = member.name.partition("(")[0]
    if name not in registry.found("verifier") or registry.load("verifier", name) is not type(plain):
        name = registry.registered_name("verifier", type(plain)) or ""
    if not name:
        return member.verifier
    return [name, {option: getattr(plain, option) for option in registry.options(type(plain))}]


def _plain(config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k[:1] != "_"} if isinstance(config, Mapping) else {}


def _code(cls: type) -> Any:
    """A class of an installed package by its name, any other one by its code."""
    return f"{cls.__module__}.{cls.__qualname__}" if is_installed(cls.__module__) else cls


def _modules(model: Any) -> dict[str, nn.Module]:
    """The models of a pipeline; empty of anything else."""
    components = getattr(model, "components", None)
    parts = components.items() if isinstance(components, Mapping) else ()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


def _identity_or_none(value: Any) -> str | None:
    try:
        return identity(value)
    except NoIdentity:
        return None
