"""A worker that doubles numbers, and fails as it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class ToyWorker:
    def __init__(self, i: int, log: str) -> None:
        self.i, self.log = i, Path(log)

    def open(self, opening: Any) -> Callable[[Iterator[Any], Callable[[Any], None]], None]:
        if opening == "fail":
            raise ValueError("this search cannot be opened")

        def serve(tasks: Iterator[Any], answer: Callable[[Any], None]) -> None:
            for task in tasks:
                what, x = task
                with self.log.open("a") as log:
                    log.write(f"{what} {x}\n")
                begun = self.log.read_text().split("\n").count(f"{what} {x}")
                if what == "die" or (what == "die once" and begun == 1):
                    os._exit(9)
                if what == "hang once" and begun == 1:
                    time.sleep(600)
                if what == "raise":
                    raise ZeroDivisionError(f"of {x}")
                if what == "slowly":
                    time.sleep(0.05)
                answer((self.i, opening, 2 * x))

        return serve
