"""What a search on a generator that is called as a whole was asked for: for its archive, and for files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from genscale.key import Key
from genscale.pipelines.call_identity import Parts, heading_of_search
from genscale.pipelines.call_signature import COUNTS
from genscale.pipelines.describe_search import Description, is_plain
from genscale.pipelines.generator_call import GeneratorCall
from genscale.pipelines.generator_signature import place_of
from genscale.pipelines.search_settings import SearchSettings
from genscale.plugins import registry
from genscale.results.run_description import RunDescription
from genscale.storage.identity import identity

_FIELDS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "width": "width", "height": "height"}
_ELSEWHERE = ("prompt", "generator", "seed")


class FunctionSource:
    """A call of a function, as a search's host describes it (implements `black_box_call.Source`)."""

    def __init__(self, call: GeneratorCall) -> None:
        self.call, self.name, self.texts = call, call.signature.name, call.texts
        self.seeds, self.results = call.randomness.seeds, call.results

    def key(self, row: int) -> Key:
        return self.call.key(row)

    def heading(self, settings: SearchSettings, complete: bool = True) -> dict[str, Any]:
        return black_box_heading(self.call, settings, complete)

    def changed(self, heading: dict[str, Any], settings: SearchSettings) -> dict[str, str]:
        return changed_by_the_calls(self.call, heading, settings)

    def describe(self, settings: SearchSettings, heading: dict[str, Any]) -> RunDescription:
        return describe_black_box(self.call, settings, heading)


def black_box_heading(call: GeneratorCall, settings: SearchSettings, complete: bool) -> dict[str, Any]:
    """As of `call_identity.archive_heading`."""
    parts = Parts(complete)
    plain = {k: v for k, v in call.given.items() if k not in _ELSEWHERE}
    parts.add_arguments(
        {k: p.default for k, p in call.signature.parameters.items() if p.default is not p.empty}, plain
    )
    parts.found["state of the generator"] = identity([call.randomness.name, *map(_own, call.randomness.own)])
    _add_generator(parts, call)
    parts.add_search(settings)
    return {
        "prompts": call.texts,
        "seeds": call.randomness.seeds,
        "generator": place_of(call.function) or call.signature.name,
        **heading_of_search(settings),
        "identity": parts.found,
    }


def changed_by_the_calls(
    call: GeneratorCall, heading: Mapping[str, Any], settings: SearchSettings
) -> dict[str, str]:
    """As of `call_identity.changed_by_the_run`: a function may count its calls, too."""
    now = Parts(complete=False)
    _add_generator(now, call)
    now.add_search(settings)
    return now.unlike(heading)


def _add_generator(parts: Parts, call: GeneratorCall) -> None:
    if hasattr(call.function, "components"):
        parts.add_pipeline(call.function)
    else:
        parts.add("generator", call.function)


def _own(value: Any) -> Any:
    return value[1] if isinstance(value, tuple) else value


def describe_black_box(
    call: GeneratorCall, settings: SearchSettings, heading: Mapping[str, Any]
) -> RunDescription:
    """The request of a command line that would do the same, and what it cannot hold."""
    found, place = Description(), place_of(call.function)
    found.fields |= {"prompts": call.texts, "from_python": True, "model": place or call.signature.name}
    if place is None:
        found.missing_search.append(
            f"the generator {call.signature.name}, which no module has under its name"
        )
    more = {}
    for name, value in call.given.items():
        if name in _ELSEWHERE or value is None or name in COUNTS:
            continue
        if not is_plain(value):
            found.missing_search.append(f"the argument {name} of its call")
        elif name in _FIELDS:
            found.fields[_FIELDS[name]] = value
        else:
            more[name] = value
    if more:
        found.fields["pipeline_args"] = more
    if call.results > 1:
        found.fields["images"] = call.results
    new = call.randomness.name == "seed" or call.randomness.is_new
    found.add_seed(call.randomness.seeds[0], new and len(set(call.randomness.seeds)) == 1)
    found.add_search(settings)
    return RunDescription(
        request=json.loads(json.dumps(registry.plain(found.fields))),
        sampler={"name": found.fields["sampler"], **registry.described(settings.sampler)},
        scheduler="",
        heading=heading,
        missing_search=tuple(found.missing_search),
    )
