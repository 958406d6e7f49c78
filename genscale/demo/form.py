"""The form that a client sends, and the check of every field of it: all of them come from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.plugins import options as sampler_options
from genscale.plugins import registry
from genscale.runs.complete_request import NONE, completed
from genscale.runs.prepared_run import PreparedRun
from genscale.runs.prompt_files import text_lines
from genscale.runs.request import Request
from genscale.toy import moving_shapes, shapes


@dataclass(frozen=True)
class Limits:
    """The most that a search may ask for.

    nfe: of a search, all its prompts together. letters: of a prompt. verifiers: of a search, and as many that are held
    out. entries: of a list given as a sampler's option, and of its options.
    waiting: waiting searches of all clients.
    """

    nfe: int = 4000
    prompts: int = 4
    letters: int = 400
    verifiers: int = 8
    steps: int = 100
    entries: int = 64
    waiting: int = 16


@dataclass(frozen=True)
class Offer:
    """The choices. models: by the name shown, a request with the model and how to load it."""

    models: Mapping[str, Request]
    samplers: tuple[str, ...]
    verifiers: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class DemoForm:
    """The fields as a client sent them. prompt: one a line. options: NAME=VALUE, one a line or separated by ;."""

    prompt: str
    model: str
    sampler: str = "best_of_n"
    options: str = ""
    verifiers: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    nfe: Any = 640
    steps: Any = None
    guidance: Any = None
    seed: Any = None

    def request(self, offer: Offer) -> Request:
        """The completed request. UsageError: a field is wrong or beyond the limits."""
        limits = offer.limits
        prompts = self._prompts(limits)
        model = _one_of("model", self.model, offer.models)
        nfe = _whole("budget", self.nfe, 1, limits.nfe)
        if nfe is None:
            raise UsageError("there is no budget: give the NFE that each prompt may spend.")
        if nfe * len(prompts) > limits.nfe:
            raise UsageError(
                f"{len(prompts)} prompts of {nfe} NFE are {nfe * len(prompts)}, and this demo allows {limits.nfe} "
                f"a search: give at most {limits.nfe // len(prompts)} a prompt."
            )
        if not self.verifiers:
            raise UsageError("there is no verifier: choose at least one to score the images.")
        verifiers = _chosen("verifier", self.verifiers, offer.verifiers, limits.verifiers)
        held_out = _chosen("held-out verifier", self.held_out, offer.verifiers, limits.verifiers)
        request = replace(
            offer.models[model],
            prompts=prompts,
            sampler=_one_of("sampler", self.sampler, offer.samplers),
            sampler_fields=sampler_options.pairs(_settings(self.options, limits.entries)),
            verifiers=verifiers,
            held_out=held_out or NONE,
            budget=f"{nfe}nfe",
            steps=_whole("steps", self.steps, 1, limits.steps),
            guidance=_number("guidance", self.guidance, 0, 50),
            seed=_whole("seed", self.seed, 0, 2**53 - 1),
        )
        request = completed(request)
        _check_options(request, limits)
        _check_captions(request)
        PreparedRun.of(request)
        return request

    def _prompts(self, limits: Limits) -> tuple[str, ...]:
        if not isinstance(self.prompt, str):
            raise UsageError("the prompt is not a text.")
        prompts = tuple(" ".join(line.split()) for line in text_lines(self.prompt) if line.strip())
        if not prompts:
            raise UsageError("there is no prompt: say what the image should show.")
        if len(prompts) > limits.prompts:
            raise UsageError(
                f"{len(prompts)} lines are {len(prompts)} prompts: give at most {limits.prompts}."
            )
        longest = max(map(len, prompts))
        if longest > limits.letters:
            raise UsageError(f"a prompt of {longest} letters is too long: use at most {limits.letters}.")
        if len(set(prompts)) < len(prompts):
            raise UsageError("a prompt is given twice: say each once.")
        return prompts


def _chosen(kind: str, names: Any, known: Any, most: int) -> tuple[str, ...]:
    """The names of a list of choices; each once, and no more than `most`."""
    names = tuple(names) if isinstance(names, list | tuple) else (names,)
    if len(names) > most:
        raise UsageError(f"{len(names)} {kind}s are too many: choose at most {most}.")
    found = tuple(_one_of("verifier", name, known) for name in names)
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"{kind} '{name}' is chosen twice: choose each once.")
    return found


def _settings(text: Any, most: int) -> list[str]:
    lines = [line for line in text_lines(str(text or "").replace(";", "\n")) if line.strip()]
    if len(lines) > most:
        raise UsageError(f"{len(lines)} lines of options are too many: give at most {most}.")
    for line in lines:
        if "=" not in line:
            raise UsageError(f"option '{line.strip()[:80]}' cannot be read: write NAME=VALUE, one a line.")
    return [line.strip() for line in lines]


def _check_options(request: Request, limits: Limits) -> None:
    """Options may not ask for more work or memory than the largest budget, whatever the sampler does with them."""
    cls = registry.load("sampler", request.sampler)
    known, counts = registry.options(cls), 1
    for name, value in request.sampler_fields.items():
        if name in known and known[name].metadata.get("python_only"):
            raise UsageError(f"option '{name}' of sampler '{request.sampler}' can only be set in Python.")
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if len(values) > limits.entries or len(str(value)) > 20 * limits.entries:
            raise UsageError(
                f"option '{name}' has {len(values)} entries: this demo allows at most {limits.entries}."
            )
        counts *= max([1, *(abs(v) for v in values if isinstance(v, int))])
        if counts > limits.nfe:
            raise UsageError(
                f"option '{name}' asks for too many: whole numbers may multiply to {limits.nfe} in this demo."
            )


def _check_captions(request: Request) -> None:
    """The exact verifiers of the toy worlds read only captions of their world: refuse others before the search."""
    for name, parse in (("shapes", shapes.parse), ("moving_shapes", moving_shapes.parse)):
        if name not in (*request.verifiers, *request.held_out):
            continue
        for prompt in request.prompts:
            try:
                parse(prompt)
            except ValueError as error:
                raise UsageError(
                    f"verifier '{name}' cannot judge this: {str(error).rstrip('.')}: write such a caption, or leave "
                    f"'{name}' out."
                ) from None


def _one_of(kind: str, name: Any, known: Any) -> str:
    if isinstance(name, str) and name in known:
        return name
    said = str(name)[:80]
    hint = did_you_mean(said, known)
    raise UsageError(f"{kind} '{said}' is not offered here{hint}: choose one of {', '.join(known)}.")


def _number(name: str, value: Any, low: float, high: float) -> float | None:
    """The number in a field, which may be text; None where the field is empty."""
    said = str(value)[:40]
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            raise UsageError(f"{name} '{said}' is not a number.") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{name} '{said}' is not a number.")
    if not low <= value <= high:
        raise UsageError(f"{name} {value:g} is out of range: give {low:g} to {high:g}.")
    return float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int | None:
    found = _number(name, value, low, high)
    if found is not None and found != int(found):
        raise UsageError(f"{name} {value:g} is not a whole number.")
    return None if found is None else int(found)
