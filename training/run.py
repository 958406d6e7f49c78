"""A training run that ends at a wall-clock time, saves as it goes, resumes, and keeps a log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Run:
    """The clock, the checkpoint and the log of one training run in the folder `out`.

    `modules` are saved every `every` seconds to `out/checkpoint.pt`, atomically, and loaded from
    there where it exists. Progress counts time, not steps: a run that resumes has what was left of
    its minutes.
    """

    def __init__(
        self, out: Path, minutes: float, modules: Mapping[str, nn.Module], seed: int = 0, every: float = 120
    ) -> None:
        self.out, self.seconds, self.modules, self.every = out, 60 * minutes, modules, every
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.spent, self.step = 0.0, 0
        self.extra: dict[str, Any] = {}
        out.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=False)
            self.spent, self.step, self.extra = state["spent"], state["step"], state["extra"]
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
        self.rng = np.random.default_rng((seed, self.step))
        torch.manual_seed(seed + self.step)
        self._averages: dict[str, float] = {}
        self.on_save: Callable[[], dict[str, Any]] = dict  # what else a checkpoint keeps, in `extra`

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def progress(self) -> float:
        """The part of the run's time that is spent, in [0, 1]."""
        return min(self.spent / self.seconds, 1.0)

    def rate(self, top: float, warmup: int = 200, decay: float = 0.7) -> float:
        """The rate now: linear warm-up over `warmup` steps, linear to zero over the last `decay`."""
        return top * min(1.0, (self.step + 1) / warmup) * min(1.0, (1 - self.progress) / decay)

    def steps(self) -> Iterator[int]:
        """Step numbers until the time is up."""
        last = saved = time.monotonic()
        while True:
            now = time.monotonic()
            self.spent, last = self.spent + now - last, now
            if self.spent >= self.seconds:
                return
            if now - saved > self.every:
                self.save()
                saved = now
            yield self.step
            self.step += 1

    def log(self, step: int, every: int = 50, **values: float) -> None:
        """Keep running means of `values`; print and store them every so many steps."""
        for name, value in values.items():
            self._averages[name] = (
                value if name not in self._averages else 0.97 * self._averages[name] + 0.03 * value
            )
        if step % every == 0:
            line = {
                "step": step,
                "seconds": round(self.spent),
                **{k: round(v, 5) for k, v in self._averages.items()},
            }
            print(json.dumps(line), flush=True)
            with (self.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "spent": self.spent,
            "step": self.step,
            "extra": self.on_save(),
        }
        temporary = self.checkpoint.with_suffix(".new")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)
