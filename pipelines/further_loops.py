"""Pipelines that loop over their timesteps again behind the loop that a search owns.

A first loop may prepare what a second one reads, such as attention maps. A search leaves the first loop when it has the
clean latents, so the second would run for nothing, without what the first leaves behind. The code of `__call__` tells
where that may be: it steps a scheduler in more than one loop. Then one decode before the search, of the initial
latents, shows whether a denoiser is called once more.
"""

from __future__ import annotations

import dis
import functools
import inspect
from types import CodeType
from typing import Any

from genscale.errors import NoLoop
from genscale.pipelines.decode import Decoder
from genscale.pipelines.pipeline_call import PipelineCall


def check_further_loops(call: PipelineCall, decoder: Decoder) -> None:
    """NoLoop, before anything is spent or written: the pipeline loops again after its loop."""
    if not steps_in_several_loops(type(call.pipe)):
        return
    call.ledger.decodes += 1
    try:
        decoder.media(call.latents, tuple(range(call.rows)))
    except NoLoop:
        raise
    except Exception:  # of another reason: it comes again where it matters
        return


def steps_in_several_loops(cls: type[Any]) -> bool:
    """Whether the code of a class's `__call__` names `.step` in more than one `for` loop."""
    code = getattr(inspect.unwrap(cls.__call__), "__code__", None)
    return code is not None and _steps_in_several_loops(code)


@functools.cache
def _steps_in_several_loops(code: CodeType) -> bool:
    found = list(dis.get_instructions(code))
    loops = [(i.offset, i.argval) for i in found if i.opname == "FOR_ITER"]
    steps = [i.offset for i in found if i.opname in ("LOAD_ATTR", "LOAD_METHOD") and i.argval == "step"]
    around = [[(end - begin, begin) for begin, end in loops if begin < step < end] for step in steps]
    return len({min(outside) for outside in around if outside}) > 1
