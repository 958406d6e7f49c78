"""Evaluates an engine's batches inside a pipeline's own loop.

`serve` calls the pipeline again and again until the engine has no batch left; most searches need one call. In each
call a ServingDriver stands behind the pipeline's loop:

1. Warm-up pass: the first iteration runs with placeholder outputs, so that the loop is set up without any evaluation.
   Its `step` returns the latents of the engine's first batch.
2. The loop body now prepares and evaluates these latents as if they were its own. Conditioning has one row a prompt;
   before it reaches the denoiser it is gathered to one row a latent (row_gather.py), so a batch may hold any number
   of latents of any prompts.
3. `scheduler.step` receives the model output. The driver sends it to the engine through the BatchExchange and returns
   the latents of the next batch, at whatever step of the grid that is. The engine steps the latents itself, with
   copies of the pipeline's scheduler (solver.py) or with a kernel of its own.

Where the gathering cannot work, `NeedsRowPerLatent` ends the call, and the pipeline is called with the prompts of the
batch's latents instead of its own (`row_per_latent`). Where that cannot work either, because an input image or a side
network's output belongs to just the call's own rows, every batch is evaluated in parts that have these rows
(`own_rows`): whatever else the loop does, it then sees what it sees in the pipeline alone. So it is where a model lets
the rows of a batch depend on each other (row_mixing.py).

A batch holds rows of one step. Rows of other steps fill it up where the loop and its models allow that
(mixed_steps.py).
"""

from __future__ import annotations

import torch

from genscale.errors import UsageError
from genscale.pipelines.batch_exchange import BatchExchange, BatchSource
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.batch_parts import OneAtATime
from genscale.pipelines.followed_call import FollowedCall, lines_of
from genscale.pipelines.intercepted_call import (
    PipelineInterrupted,
    intercept,
)
from genscale.pipelines.mixed_steps import StepsStayApart
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.row_evidence import comes_from_rows, not_in_batches
from genscale.pipelines.row_gather import NeedsRowPerLatent
from genscale.pipelines.row_lists import UnclearRows
from genscale.pipelines.row_mixing import RowsMix
from genscale.pipelines.serving_driver import ServingDriver
from genscale.pipelines.step_study import refusal, study_steps
from genscale.pipelines.user_callbacks import search_callbacks
from genscale.protocol.batches import Decode


def serve(
    call: PipelineCall,
    engine: BatchSource,
    decode_unfinished: Decode,
    with_rates: bool = False,
    pad: str = AS_THEY_ARE,
) -> str | None:
    """Run the engine to its end inside the pipeline's loop; why it stopped early, if it did.

    decode_unfinished: of latents that were under way when the user's callback interrupted the pipeline. with_rates:
    predictions of a mix carry the rate of the Feynman-Kac corrector. pad: how batches are filled up.
    """
    try:
        mixer = None
        if call.mixing is not None:
            mixer = call.mixing.mixer(call.view(), len(call.probe.evaluations), with_rates)
        exchange = BatchExchange(engine, call.models.prepare, mixer, pad)
        while not exchange.closed and exchange.error is None:
            if call.loop is not None and not call.loop.fits_one_call(lines_of(call.loop, engine)):
                exchange.one_by_one()
            if call.caches and call.row_per_latent and engine.batch_size > 1:
                exchange.one_by_one()  # rows that differ in what caches hold could not be told apart
            if engine.could_mix and not exchange.studied:
                exchange.mix_steps(study_steps(call))
            if exchange.steps is not None and refusal(call) is not None:
                exchange.mix_steps(None)
            _serve_once(call, exchange)
        if exchange.error is not None:
            raise exchange.error
    except PipelineInterrupted:
        engine.finish_unfinished(decode_unfinished, exchange.left)
        return "interrupted"
    except KeyboardInterrupt:
        return engine.interrupted()
    finally:
        call.models.restore()
    return None


def _serve_once(call: PipelineCall, exchange: BatchExchange) -> None:
    """One call of the pipeline: serves batches until there are none, or until another kind of call is needed."""
    composition = exchange.batch.prompts if call.row_per_latent and exchange.batch else None
    try:
        given, sources = call.given_for(composition)
    except UnclearRows:
        call.use_own_rows()
        return
    followed = None
    if call.loop is not None and composition is not None:
        followed = FollowedCall(call.loop, lines_of(call.loop, exchange.engine), sources, composition)
        given = call.loop.arguments(given, followed.lines)
    driver, answered = ServingDriver(call, exchange, sources, composition, followed), exchange.answered
    given |= search_callbacks(call.arguments, driver)
    try:
        with call.cache_work.watching(call.caches):
            intercept(call.pipe, given, driver)
        if not exchange.closed and exchange.error is None and exchange.answered == answered:
            raise call.unsupported("its loop ends before a batch was evaluated")
    except torch.cuda.OutOfMemoryError as error:
        exchange.halve(error, 0 if call.own_rows else len(driver.prompts))
    except NeedsRowPerLatent:
        if call.own_rows or (composition is not None and exchange.answered == answered):
            if call.own_rows or call.loop is not None:
                raise not_in_batches(call, len(composition or sources)) from None
            call.use_own_rows()
        else:
            call.row_per_latent = True
    except StepsStayApart:
        exchange.mix_steps(None)
    except OneAtATime:
        exchange.one_by_one()
    except RowsMix as mixed:
        _one_row_at_a_time(call, mixed)
    except (KeyboardInterrupt, PipelineInterrupted):
        raise
    except Exception as error:
        if exchange.error is not None or not comes_from_rows(call, driver, error):
            raise
        if composition is None:
            call.row_per_latent = True
        else:
            call.use_own_rows()


def _one_row_at_a_time(call: PipelineCall, mixed: RowsMix) -> None:
    """UsageError: the call has several rows, which depend on each other in the pipeline itself."""
    if call.rows > 1:
        raise UsageError(
            f"{type(call.pipe).__name__} was called with {call.rows} prompts, and its {mixed} lets what it makes for "
            "one depend on the others: call it with one prompt at a time."
        )
    if call.loop is None:
        call.use_own_rows()
    else:
        call.loop.together = False
