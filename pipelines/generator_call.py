"""The arguments of one call of a generator that is called as a whole, and of its call for each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.bound_call import PER_PROMPT
from genscale.pipelines.call_limits import check_call
from genscale.pipelines.call_signature import COUNTS
from genscale.pipelines.candidate_randomness import Randomness
from genscale.pipelines.generator_signature import Signature


class GeneratorCall:
    """given: the arguments by name, as they were given. texts: the prompts. results: candidates that a prompt returns.

    UsageError: an argument is unknown or out of range, or the generator takes neither a generator nor a seed.
    """

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.function, self.signature = function, Signature.of(function)
        self.given = self.signature.bound(args, kwargs, COUNTS)
        check_call({k: v for k, v in self.given.items() if k != "generator"})
        self.results = next((int(self.given[n] or 1) for n in COUNTS if n in self.given), 1)
        prompt = self.given.get("prompt")
        self.many = isinstance(prompt, list | tuple)
        self.texts = [str(text or "") for text in (prompt if isinstance(prompt, list | tuple) else [prompt])]
        self.randomness = Randomness.of(self.signature, self.given, len(self.texts))

    @property
    def device(self) -> torch.device:
        """Where verifiers may run: that of the generator, if it says one."""
        try:
            return torch.device(getattr(self.function, "device", "cpu"))
        except (TypeError, RuntimeError):
            return torch.device("cpu")

    def key(self, row: int) -> Key:
        """As of a pipeline: of the prompt's text and seed, not of the other prompts."""
        earlier = self.texts[:row].count(self.texts[row])
        return Key.from_seed(self.randomness.seeds[row]).fold("prompt", self.texts[row], earlier)

    def of_each_prompt(self) -> tuple[dict[str, Any], ...]:
        """The arguments of each prompt's own call, without its generator or seed."""
        n = len(self.texts)
        left_out = ("generator", "seed", *COUNTS)
        shared = {k: v for k, v in self.given.items() if k not in left_out}
        shared |= {count: 1 for count in COUNTS if count in self.given and self.signature.takes(count)}
        made = []
        for row in range(n):
            call = dict(shared)
            for name, value in shared.items():
                if name.rstrip("_234") in PER_PROMPT and isinstance(value, list | tuple) and self.many:
                    if len(value) != n:
                        raise UsageError(f"{len(value)} of {name}= were given for {n} prompts: give as many.")
                    call[name] = value[row]
            made.append(call)
        return tuple(made)
