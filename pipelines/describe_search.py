"""What a search in Python was asked for, as the request of a command line that would do the same.

Not everything can be said there: a model that was put together in Python, a function as a verifier, prompt embeddings.
What is known is described, and what is missing is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import torch

from genscale.algorithms.arm_texts import text_of
from genscale.algorithms.arms import Arms
from genscale.engine.budget import Budget
from genscale.engine.holding import DEVICE
from genscale.engine.selection import Selection
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.bound_call import CALLBACKS, Arguments
from genscale.pipelines.call_identity import model_name
from genscale.pipelines.call_signature import COUNTS, defaults_of, signature_of
from genscale.pipelines.draft import Draft
from genscale.pipelines.loading import EMBEDDED, folder_of, makes_large_items, makes_videos
from genscale.pipelines.output_kinds import makes_audio
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.search_settings import SearchSettings
from genscale.plugins import registry
from genscale.results.run_description import RunDescription

# Arguments of the call that are fields of a request under another name.
_FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "num_frames": "frames",
    "width": "width",
    "height": "height",
}
_IGNORED = ("prompt", "generator", "output_type", "return_dict", *COUNTS)
_SPELT_OUT = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "num_frames", "max_sequence_length")
"""Arguments whose pipeline's defaults are written down, since bundled toy models have others on the command line."""


class Description:
    """Collects the fields of a request, and what it cannot hold."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.missing_call: list[str] = []
        self.missing_search: list[str] = []

    # ---------------------------------------------------------------- the model and its call

    def add_model(self, pipe: Any) -> None:
        source = model_name(pipe)
        folder = folder_of(source) if source in EMBEDDED else Path(source)
        self.fields["model"] = source or type(pipe).__name__
        if not source or not (
            folder.exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", source)
        ):  # a Hugging Face id
            self.missing_call.append(f"the model, a {type(pipe).__name__} that was built in Python")
        if _adapters(pipe):
            self.missing_search.append("the LoRA weights of its model")
        if source and folder.is_dir() and _scheduler_replaced(pipe, folder):
            self.missing_search.append("its scheduler, which is not the model's own")
        dtype = getattr(pipe, "dtype", None)
        if isinstance(dtype, torch.dtype):
            self.fields["dtype"] = str(dtype).removeprefix("torch.")
        if makes_videos(pipe):
            self.fields["clips"] = True
        if makes_audio(pipe):
            self.fields["sound"] = True

    def add_call(self, pipe: Any, call: Arguments) -> None:
        parameters, defaults = signature_of(pipe).names, defaults_of(pipe)
        given = {n: defaults[n] for n in _SPELT_OUT if n in defaults} | call.given
        names = dict(_FIELDS)
        if "guidance_scale" not in parameters and "true_cfg_scale" in parameters:
            names["true_cfg_scale"] = names.pop("guidance_scale")
        more: dict[str, Any] = {}
        for name, value in given.items():
            if name in _IGNORED or value is None:
                continue
            if name in CALLBACKS:
                self.missing_call.append(f"the function given as {name}")
            elif name == "latents":
                self.missing_search.append("the initial latents of its call")
            elif not is_plain(value):
                self.missing_call.append(f"the argument {name} of its call")
            elif name in names:
                self.fields[names[name]] = value
            elif name == "negative_prompt" and len({value} if isinstance(value, str) else set(value)) == 1:
                self.fields["negative"] = value if isinstance(value, str) else value[0]
            elif name in _SPELT_OUT or value != defaults.get(name, MISSING):
                more[name] = value
        if more:
            self.fields["pipeline_args"] = more
        toy = EMBEDDED.get(self.fields["model"])
        if toy is not None:  # as a request is completed; the pipeline's own defaults are the same
            self.fields = {"width": toy.size, "height": toy.size, **self.fields}
        if call.results > 1:
            self.fields["images"] = call.results

    def add_seed(self, seed: int, known: bool) -> None:
        self.fields["seed"] = seed
        if not known:
            self.missing_search.append("a new torch.Generator on the CPU as generator= of its call")

    # ---------------------------------------------------------------- the search

    def add_search(self, scaled: SearchSettings) -> None:
        """All that `scale` was given beside the pipeline."""
        self.add_sampler(scaled.sampler)
        for role, members in (("verifiers", "search"), ("select", "select"), ("held_out", "held_out")):
            self.add_verifiers(role, getattr(scaled.roles, members))
        self.fields["ensemble"] = scaled.roles.judge.ensemble
        if scaled.roles.search.by_category:
            self.fields["category_weights"] = scaled.roles.search.by_category
        self.add_selection(scaled.roles.selection)
        self.add_limits(scaled.budget, scaled.stop)
        if scaled.pool:
            self.fields["pool"] = True
        if scaled.draft is not None:
            self.add_draft(scaled.draft)
        self.add_mix(scaled.mix_given, scaled.models)
        self.fields["batch_size"] = scaled.batch_size
        if scaled.decode_batch is not None:
            self.fields["decode_batch"] = scaled.decode_batch
        if scaled.hold != DEVICE:
            self.fields["hold"] = scaled.hold
        if scaled.pad_batches != AS_THEY_ARE:
            self.fields["pad_batches"] = scaled.pad_batches

    def add_sampler(self, sampler: Any) -> None:
        if isinstance(sampler, Arms):
            self._add_arms(sampler)
            return
        name = registry.registered_name("sampler", type(sampler))
        self.fields["sampler"] = name or type(sampler).__name__
        if name is None:
            self.missing_search.append(f"the sampler {type(sampler).__name__}, which is not registered")
        changed = changed_options(sampler)
        self.fields["sampler_fields"] = {n: registry.plain(v) for n, v in changed.items() if is_plain(v)}
        odd = [n for n, v in changed.items() if not is_plain(v)]
        if odd:
            self.missing_search.append(f"the option {odd[0]} of its sampler, which is an object")

    def _add_arms(self, sampler: Arms) -> None:
        """As the command line has it: best_of_n with --arm and --allocate."""
        own = {"candidates": sampler.candidates, "wave": None if sampler.wave == 1 else sampler.wave}
        self.fields |= {
            "sampler": "best_of_n",
            "sampler_fields": {k: v for k, v in own.items() if v is not None},
        }
        texts = [text_of(arm) for arm in sampler.arms]
        self.fields |= {"arm": [text for text in texts if text is not None], "allocate": sampler.allocate}
        if None in texts:
            self.missing_search.append(f"arm {texts.index(None)}, which changes more than a text can say")
        if sampler.aim != "best":
            self.missing_search.append(f"the aim '{sampler.aim}' of its arms")

    def add_selection(self, selection: Selection) -> None:
        if selection.requires:
            self.fields["require"] = [str(r) for r in selection.requires]
        if selection.abstain is not None:
            self.fields["abstain"] = str(selection.abstain)

    def add_verifiers(self, role: str, members: VerifierSet) -> None:
        self.fields[role] = [self._spec(member) for member in members.members]
        if role == "held_out" and not members.members:
            self.fields[role] = ["none"]
        if role == "verifiers" and not members.members:
            self.missing_search.append("a verifier: it had none")

    def _spec(self, member: WeightedVerifier) -> str:
        name, changed = (
            registry.registered_name("verifier", type(member.verifier)),
            changed_options(member.verifier),
        )
        simple = all(
            isinstance(v, str | int | float) and not re.search(r"[(),]", str(v)) for v in changed.values()
        )
        spec = member.name
        if name is not None and simple:
            spec = name + (f"({','.join(f'{k}={v}' for k, v in changed.items())})" if changed else "")
        else:
            self.missing_search.append(f"the verifier '{member.name}', which is an object of Python")
        return spec if member.weight == 1 else f"{spec}:{member.weight!r}"

    def add_limits(self, budget: Budget, stop: Stop | None) -> None:
        if str(budget) != "none":
            self.fields["budget"] = str(budget)
        if stop is None:
            return
        try:
            known = Stop.parse(str(stop)) == stop
        except UsageError:
            known = False
        if known:
            self.fields["stop"] = str(stop)
        else:
            self.missing_search.append("its stop rule, which is an object of Python")

    def add_draft(self, draft: Draft) -> None:
        if draft.text is None:
            self.missing_search.append("its draft, which holds an object of Python")
        else:
            self.fields["draft"] = draft.text

    def add_mix(self, given: Mapping[str, Any], models: Mapping[str, Any]) -> None:
        for name, value in given.items():
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
                self.missing_search.append(f"{name}=, which is an object of Python")
            else:
                self.fields[name] = value if name == "guide" else list(texts)
        if models:
            self.missing_search.append("the models= of its mix")


def describe_search(scaled: SearchSettings, call: PipelineCall, heading: Mapping[str, Any]) -> RunDescription:
    """One call of a scaled pipeline."""
    found, pipe = Description(), scaled.pipe
    found.fields |= {"prompts": list(call.texts), "from_python": True}
    found.add_model(pipe)
    found.add_call(pipe, call.arguments)
    found.add_seed(call.seeds[0], call.arguments.generator_is_new)
    found.add_search(scaled)
    return RunDescription(
        request=json.loads(json.dumps(registry.plain(found.fields))),
        sampler={"name": found.fields["sampler"], **registry.described(scaled.sampler)},
        scheduler=type(pipe.scheduler).__name__,
        large_items=makes_large_items(pipe),
        heading=heading,
        missing_call=tuple(found.missing_call),
        missing_search=tuple(found.missing_search),
    )


def changed_options(plugin: Any) -> dict[str, Any]:
    """The options of a sampler or verifier that are not at their default."""
    changed = {}
    for name, option in registry.options(type(plugin)).items():
        default = option.default if option.default_factory is MISSING else option.default_factory()
        value = getattr(plugin, name)
        if value is not default and not (is_plain(value) and value == default):
            changed[name] = value
    return changed


def is_plain(value: Any) -> bool:
    """Whether JSON holds a value."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, str | bool | int | float)


def _adapters(pipe: Any) -> bool:
    listed = getattr(pipe, "get_list_adapters", None)
    try:
        return bool(listed and listed())
    except Exception:  # pipelines that take LoRAs, but have no adapters of peft
        return False


def _scheduler_replaced(pipe: Any, folder: Path) -> bool:
    """Whether the scheduler differs from the one in the model's folder."""
    try:
        stored = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    config = dict(pipe.scheduler.config)
    if stored.get("_class_name") != type(pipe.scheduler).__name__:
        return True
    return any(
        name in config and json.loads(json.dumps(config[name], default=str)) != value
        for name, value in stored.items()
        if not name.startswith("_")
    )
