"""The drop-in for diffusers: `scale(pipe)` puts a search into a pipeline's own denoising loop.

A call of a scaled pipeline passes through five files; read them in this order:

1. `pipelines/scale.py`: `scale` turns its arguments into a `Scaled` pipeline. Calling that binds the arguments of the
   pipeline call and probes the pipeline, and hands a `PipelineCall` on.
2. `pipelines/search_call.py`: `run_search` opens a `Search` (a sampler on one prompt) for each row of the call and an
   archive, makes an `Engine` of them, and at the end `finish_best` lets the pipeline decode the best latents.
3. `pipelines/serve.py`: `serve` calls the pipeline once more, with its scheduler replaced by a proxy. A
   `ServingDriver` feeds latents to the pipeline's loop and takes its model outputs: the loop is now a service that
   evaluates any `Batch`.
4. `pipelines/batch_exchange.py`: `BatchExchange` hands each `Batch` from the engine to the driver, and each `Output`
   from the driver to the engine.
5. `genscale/engine/engine.py`: `Engine` answers the queries of all samplers within the budget: it joins them to
   batches, steps the latents with each output, and has candidates decoded and scored.

Under these lie, for the call of a pipeline:

- `search_settings.py`, `settings_checks.py`: what `scale` was given, checked and completed.
- `bound_call.py`, `call_signature.py`: the arguments of a pipeline call, and the same call with other rows; what a
  wrapper's call takes.
- `call_limits.py`: ranges of the arguments that decide how much is allocated and computed.
- `image_inputs.py`: generators and latents that a call gives for each image of a prompt.
- `prompt_texts.py`: the texts that verifiers get, `texts=` beside embeddings of prompts.
- `pipeline_call.py`: what one call is like: its rows, noise, noise levels and NFE.
- `probe.py`, `probe_attempts.py`: find that out by walking through the loop without evaluating the denoiser.
- `intercepted_call.py`: runs the pipeline's `__call__` under a `LoopDriver`, the base of all drivers.
- `pipeline_lock.py`, `lent_pipeline.py`: one search at a time on a pipeline and its models; others may use it while
  a verifier is called.
- `own_thread.py`: what an intercepted call changes on the pipeline, other threads do not see.
- `scaled_attributes.py`: a scaled pipeline has the attributes and methods of its pipeline, and can be copied.
- `scheduler_proxy.py`, `timesteps.py`, `step_numbering.py`: the scheduler, the timesteps and the `enumerate` that the
  loop sees in such a call.
- `watched_models.py`: routes calls of the pipeline's models through the driver; placeholder outputs.
- `noise_interception.py`, `pipeline_noise.py`, `initial_latents.py`: the pipeline's random draws, and how its initial
  latents are made of them.
- `probed_call.py`, `loop_study.py`, `followed_loop.py`, `followed_call.py`: loops that edit their latents or draw
  noise, followed for each candidate as the pipeline alone runs them.
- `loop_noise.py`: random draws inside the loop. `further_loops.py`: pipelines with a loop behind the first.
- `latent_layout.py`, `row_gather.py`: rows of the latents, and conditioning gathered to the latents of a batch.
- `serving_driver.py`, `batch_parts.py`: the `ServingDriver`, and the parts of a batch that it evaluates one after the
  other, such as groups of exactly the call's own rows.
- `batch_padding.py`: numbers of latents in a call, for graphs of one shape.
- `model_caches.py`, `cache_rows.py`, `cache_work.py`: what caches of diffusers hold for each row, and how much work
  they spared.
- `row_lists.py`, `row_evidence.py`: which lists have one entry a row; whether an exception comes from a batch's rows.
- `row_mixing.py`: models that let the rows of a batch depend on each other, and guidance copies in another order.
- `step_study.py`, `mixed_steps.py`: whether rows of different steps may share a batch, and what each of them gets.
- `failures.py`: what may be concluded from an exception.
- `known_loop.py`, `probe_memory.py`: what a probe found is kept for the next call of the same scaled pipeline.
- `argument_values.py`: values that pipelines and models are given and give: tensors, copies, equality.
- `encoder_cache.py`, `device_cache.py`: prompts are encoded, and the device is looked up, once a search.
- `user_callbacks.py`: the user's `callback_on_step_end` and `callback` during a search.
- `call_identity.py`: all that decides what a call finds, so that `out=` resumes the same call and no other.
- `describe_search.py`: the search as a request in plain data, for `SearchResult.save`.
- `decode.py`, `latent_decoder.py`, `output_media.py`: latents to images, videos or sounds by the pipeline's own
  code; its output as media.
- `preview_pictures.py`, `coarse_decoder.py`: pictures of candidates under way, by the cheapest decoder that there is.
- `output_kinds.py`, `kind_checks.py`: which kind of media a pipeline makes; verifiers of other kinds are refused.

For the steps:

- `scheduler_levels.py`: noise levels and prediction type of every diffusers scheduler.
- `solver.py`, `step_signature.py`: the pipeline's scheduler as a function of explicit state, and the names of its
  `step`'s parameters.
- `remasking_scheduler.py`: a scheduler of aMUSEd that masks committed tokens again.
- `scheduler_state.py`: what a step leaves on a scheduler, as data, and shown to the loop.
- `scheduler_walk.py`: steps the scheduler through a run while the probe walks, to find its noise, or why it is refused.

For modular pipelines, which are made of blocks:

- `modular_inputs.py`: the inputs that blocks declare, `state=` and `output=`. `modular_outputs.py`: what comes back.
- `modular_blocks.py`: copies of the blocks and guiders for an intercepted call; a block that calls step callbacks.
- `modular_presets.py`: presets of blocks with components. `search_block.py`: a search as a block of another pipeline.

For guidance, mixes and gradients:

- `branches.py`, `one_branch.py`: which rows of a model call are conditional; one branch of guidance alone.
- `mixture_sources.py`, `model_variants.py`: the rows and models that a mix needs.
- `guiders.py`: the guidance rules of `diffusers.guiders` as a mix.
- `differentiable_models.py`: frozen weights and checkpointed calls, while gradients are taken.

Candidates that are made with a cheaper call while searching:

- `draft.py`: `Draft`, what the cheaper call is. `drafted_search.py`: the search over drafts, and the best in full.

Searches whose work is done by worker processes (`genscale.workers`):

- `spread_host.py`: executors, what cannot be spread, and the driver's side. `worker.py`: the worker's side.

For what is called as a whole (functions, services, pipelines without a loop of their own), and for arms:

- `black_box.py`: `ScaledGenerator`, what `scale` makes of it. `black_box_call.py`: what its search runs on, with the
  engine and archive of a pipeline. `black_box_process.py`: its process of one step, and which samplers are refused.
- `generator_signature.py`, `generator_call.py`: what it takes, and its call for each prompt.
- `candidate_randomness.py`: the generator or seed of each candidate, from its key.
- `generated_media.py`: what it returned, as pixels. `remote_failures.py`: which exceptions drop a candidate.
- `arms.py`: what an arm changes in a call. `function_arm.py`, `pipeline_arm.py`: how candidates of an arm are made.
- `black_box_identity.py`: what such a search was asked for.
- `remote_images.py`, `http_calls.py`: an image service as a function. `token_texts.py`: a token model as one.
- `equal_candidates.py`: warns of a text model that draws nothing. `block_ensemble.py`: HEX, texts of several block
  lengths that vote. `adaptive_blocks.py`: AdaBlock, blocks that end at delimiters.

Without a search:

- `first_frame.py`: a text-to-video pipeline that continues a given picture.
- `loading.py`, `checkpoints.py`, `placement.py`: `load_pipeline`: pipelines by name, their weights, device and dtype.
"""

if __name__ == "pipelines":
    raise ImportError("import genscale.pipelines, not pipelines: the folder is a part of genscale")
