"""Everything that one run was asked for: enough to repeat it from its folder or from one of its images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

from genscale.plugins import registry
from genscale.runs import verifier_specs
from genscale.runs.option_metadata import (
    COUNT,
    FRAMES,
    GUIDANCE,
    IMAGE,
    MODEL,
    NAME,
    PADDING,
    PLACE,
    RATE,
    RUN,
    SEARCH,
    SECONDS,
    SEED,
    SIDE,
    STEPS,
    Option,
    option,
    options_of,
    read_category_weights,
    read_draft,
    read_names,
    read_object,
    read_size,
    write_size,
)

FILE = "request.json"


@dataclass(frozen=True)
class Request:
    """A run as plain data that JSON can hold. A field that is None or empty: the default of the model or pipeline.

    A field made by `option` is an option of the command line as well; there is no other place to declare one.
    """

    JOINT: ClassVar[dict[str, Option]] = {
        "size": Option(
            ("--size",), "Width and height, such as 1024x768; one number makes a square.", IMAGE, "WxH",
            read=read_size, write=write_size, sets=("width", "height"),
        ),
        "image_width": Option(
            ("--width",),
            "Width in pixels. Without --height it is the sampler's own option, where it has one of that name (beam).",
            IMAGE, kind=int, check=SIDE, sets=("width",),
        ),
        "image_height": Option(("--height",), "Height in pixels.", IMAGE, kind=int, check=SIDE, sets=("height",)),
    }  # fmt: skip
    """Options whose name is not that of one field: what they set is in `sets`."""

    prompts: tuple[str, ...] = ()
    model: str = option(
        "--model -m",
        "Bundled toy model (shapes-flow), Hugging Face id (owner/name), diffusers folder, .safetensors or .ckpt file, "
        "or package.module:function, called as a whole with prompt and generator or seed.",
        MODEL, "NAME", default="shapes-flow", completes="model",
    )  # fmt: skip
    sampler: str = option(
        "--sampler",
        "How to search (auto: accept_reject where the verifier answers a probability, else best_of_n). `genscale "
        "samplers` lists them, `genscale samplers NAME` shows the options of one, which are given as --OPTION VALUE.",
        SEARCH, "NAME", default="auto", completes="sampler",
    )  # fmt: skip
    sampler_fields: Mapping[str, Any] = field(default_factory=dict)
    verifiers: tuple[str, ...] = option(
        "--verifier",
        "What scores the candidates and steers the search: NAME, NAME:WEIGHT, 'NAME(OPTION=VALUE)', calibrated:DIR or "
        "package.module:callable. Repeatable.",
        SEARCH, "NAME", default=(), completes="verifier",
    )  # fmt: skip
    select: tuple[str, ...] = option(
        "--select", "What picks the winner among the finished candidates (the verifiers). Repeatable.",
        SEARCH, "NAME", default=(), completes="verifier",
    )  # fmt: skip
    held_out: tuple[str, ...] = option(
        "--held-out --report",
        "A second score that the search never sees: it only measures. 'none' for no score. Repeatable.",
        SEARCH, "NAME", default=(), completes="verifier",
    )  # fmt: skip
    ensemble: str = option(
        "--ensemble",
        "How scores are joined: weighted (sum), rank, standardised, minimum, product or log_odds (of probabilities), "
        "category (weights by the kind of prompt), pareto, or vote (counts equal answers).",
        SEARCH, "NAME", default="weighted",
    )  # fmt: skip
    category_weights: Mapping[str, Any] = option(
        "--category-weights", 'Weights of --ensemble category, as JSON: {"counting": {"clip": 0.5}}.', SEARCH, "JSON",
        default=dict, read=read_category_weights, write=json.dumps,
    )  # fmt: skip
    require: tuple[str, ...] = option(
        "--require",
        "What the winner must satisfy: a verifier's score and a number, such as 'nsfw<0.1', with <, <=, > or >=. The "
        "verifier may have weight 0. Repeatable.",
        SEARCH, "RULE", default=(),
    )  # fmt: skip
    abstain: str | None = option(
        "--abstain",
        "Keep the model's own candidate unless another is better by more than this: 0.02 in units of the score, or 2sd "
        "in standard deviations of the verifier's noise.",
        SEARCH, "MARGIN",
    )  # fmt: skip
    budget: str | None = option(
        "--budget",
        "The most that each prompt may cost: 16images (as much compute as 16 images of the model alone), 480nfe "
        "(denoiser evaluations), 60s (the whole run), 32calls (verifier scores), target=0.35 (stop at that score), "
        "p=0.9 (stop once a candidate is right with that probability), or several joined by commas.",
        SEARCH, "LIMITS",
    )  # fmt: skip
    pool: bool = option(
        "--pool",
        "The budgets of all prompts are one: after one image each, what is left goes to the prompts that are expected "
        "to gain most.",
        SEARCH, default=False,
    )  # fmt: skip
    stop: str | None = option(
        "--stop",
        "End a prompt's search early, by its scores: patience:8 (no new best in 8 candidates), gain:0.02 (one more "
        "is expected to add less than 0.02; 0.02sd: in standard deviations), adaptive:0.9 (enough candidates to reach "
        "that score with probability 0.95), guard:NAME (that verifier has fallen at 3 new bests in a row), or several "
        "joined by commas. Checked after each wave of the sampler "
        "(--wave 4).",
        SEARCH, "RULES",
    )  # fmt: skip
    draft: str | None = option(
        "--draft",
        "A cheaper way to make candidates while searching, such as 'steps=6,keep=2' or 'model=NAME,keep=4'; the best "
        "`keep` (4) are then made in full from the same noise, and the best of these wins. The budget pays for both. "
        "none: no drafts, such as of --from.",
        SEARCH, "CHANGES", read=read_draft,
    )  # fmt: skip
    boxes: str | None = option(
        "--boxes",
        "What should be where: a JSON file of texts with boxes or masks. The verifiers score these regions as well.",
        SEARCH, "FILE", completes="file",
    )  # fmt: skip
    arm: tuple[str, ...] = option(
        "--arm",
        "A configuration that candidates are made with: what it changes in the call, such as 'guidance=7,steps=8', "
        "'prompt={}, a photograph', lora_scale=0.5, scheduler=NAME or model=NAME; '' is the call as it is. Repeatable.",
        SEARCH, "CHANGES", default=(),
    )  # fmt: skip
    allocate: str | None = option(
        "--allocate", "Which arm gets the next candidates: even (default), in_order, halving or thompson.", SEARCH,
        "RULE",
    )  # fmt: skip
    mix: tuple[str, ...] = option(
        "--mix",
        "A second prediction at every step, with its weight; the model's own weight is what is left to 1. MODEL:WEIGHT "
        "(a toy model, Hugging Face id or folder with the same latent space); base:WEIGHT (the model without its LoRA: "
        "base:-0.6 is reinforcement-learning guidance of scale 1.6); adapter:NAME:WEIGHT; 'prompt=TEXT:WEIGHT'. "
        "Repeatable.",
        SEARCH, "MODEL:WEIGHT", default=(),
    )  # fmt: skip
    guide: str | None = option(
        "--guide",
        "How the branches of classifier-free guidance are combined: 'cfg(7.5, 0.2, 0.8)' (scale 7.5 from 20 % to 80 % "
        "of the steps), 'cfg(scale=7.5, schedule=linear)', 'cfg++(0.6)', or a guider of diffusers: apg, cfg-zero*, "
        "tcfg, fdg, slg, pag, seg, auto, such as 'apg(guidance_scale=7.5)'.",
        SEARCH, "RULE",
    )  # fmt: skip
    negative: str | None = option("--negative --negative-prompt", "Negative prompt.", IMAGE, "TEXT")
    steps: int | None = option("--steps --num-inference-steps", "Denoising steps.", IMAGE, check=STEPS)
    guidance: float | None = option(
        "--guidance --guidance-scale --cfg --cfg-scale", "Scale of classifier-free guidance.", IMAGE, check=GUIDANCE,
    )  # fmt: skip
    seed: int | None = option("--seed", "Seed (a random one, which is recorded).", IMAGE, check=SEED)
    width: int | None = None
    height: int | None = None
    clips: bool = False
    sound: bool = False
    from_python: bool = False  # one generator draws candidate 0 of all prompts, and there is no separate base
    frames: int | None = option("--frames --num-frames", "Frames of a video.", IMAGE, check=FRAMES)
    fps: float | None = option(
        "--fps", "Frames per second of the video's files (the model's own, or 16).", IMAGE, check=RATE, execution=True,
    )  # fmt: skip
    seconds: float | None = option(
        "--seconds --duration", "Length of a sound in seconds (the model's own).", IMAGE, check=SECONDS,
    )  # fmt: skip
    formats: tuple[str, ...] = option(
        "--formats", "Files of a video: mp4, gif, or mp4,gif (default); of audio: wav (default), flac, or wav,flac.",
        IMAGE, "NAMES",
        default=(), read=read_names, write=",".join, execution=True,
    )  # fmt: skip
    per_frame: int = option(
        "--per-frame", "Of a video: how many evenly spaced frames an image verifier scores; their mean counts (8).",
        SEARCH, "FRAMES", default=8, check=FRAMES,
    )  # fmt: skip
    images: int = option(
        "--images --num-images-per-prompt",
        "How many of the best candidates to write for each prompt (1); --candidates is how many are made.",
        IMAGE, default=1, check=COUNT, execution=True,
    )  # fmt: skip
    image: str | None = option("--image", "An image to start from.", IMAGE, "FILE", completes="file")
    mask_image: str | None = option(
        "--mask-image", "Where to paint on --image: the white pixels.", IMAGE, "FILE", completes="file",
    )  # fmt: skip
    control_image: str | None = option(
        "--control-image", "The input image of a ControlNet.", IMAGE, "FILE", completes="file",
    )  # fmt: skip
    pipeline_args: Mapping[str, Any] = option(
        "--pipeline-args --pipeline-kwargs", "Further arguments of the pipeline's call, as JSON.", IMAGE, "JSON",
        default=dict, read=read_object, write=json.dumps,
    )  # fmt: skip
    dtype: str = option("--dtype", "auto, float32, bfloat16 or float16.", MODEL, "NAME", default="auto")
    device: str | None = option(
        "--device", "cpu, cuda, cuda:1 or mps (the fastest there is).", MODEL, "NAME", execution=True,
    )  # fmt: skip
    batch_size: int = option(
        "--batch-size", "Most latents in a model call (16).", RUN, default=16, check=COUNT
    )
    decode_batch: int | None = option(
        "--decode-batch", "Most images decoded and scored at once (as --batch-size; videos: 1).",
        RUN, check=COUNT, execution=True,
    )  # fmt: skip
    hold: str = option(
        "--hold", "Where latents wait between model calls: device (beside the model) or host (the CPU's memory).",
        RUN, "PLACE", default="device", check=PLACE, execution=True,
    )  # fmt: skip
    workers: int = option(
        "--workers", "Processes that share the work, each with a copy of the model and the verifiers (1: this one).",
        RUN, default=1, check=COUNT, execution=True,
    )  # fmt: skip
    device_map: str | None = option(
        "--device-map", "Spread the pipeline over the accelerators: balanced; or a device to load it onto.",
        MODEL, "MAP", execution=True,
    )  # fmt: skip
    attention: str | None = option(
        "--attention --attention-backend", "Attention backend: xformers, native, flash, sage, ...",
        MODEL, "NAME", execution=True,
    )  # fmt: skip
    offload: str | None = option(
        "--offload --cpu-offload", "Keep weights off the GPU until they are needed: model, sequential or group.",
        MODEL, "NAME", execution=True,
    )  # fmt: skip
    compile: bool = option("--compile", "torch.compile the denoiser.", MODEL, default=False, execution=True)
    pad_batches: str = option(
        "--pad-batches", "Fill denoiser calls up, for graphs of one shape: no, full or buckets (powers of two).",
        RUN, "HOW", default="no", check=PADDING, execution=True,
    )  # fmt: skip
    vae_tiling: bool = option(
        "--vae-tiling", "Decode in tiles (videos also in groups of frames), to save memory.", MODEL, default=False,
    )  # fmt: skip
    vae_slicing: bool = option(
        "--vae-slicing", "Decode one image at a time, to save memory.", MODEL, default=False, execution=True,
    )  # fmt: skip
    lora: tuple[str, ...] = option(
        "--lora", "A LoRA file or Hugging Face id, optionally with :SCALE. Repeatable.", MODEL, "NAME", default=(),
    )  # fmt: skip
    variant: str | None = option("--variant", "Variant of the weights, such as fp16.", MODEL, "NAME")
    revision: str | None = option(
        "--revision", "Branch, tag or commit of the Hugging Face repository.", MODEL, "NAME",
    )  # fmt: skip
    trust_remote_code: bool = option(
        "--trust-remote-code", "Run Python code that comes with the model.", MODEL, default=False, execution=True,
    )  # fmt: skip
    preview: bool = option(
        "--preview/--no-preview",
        "Until something is scored, show coarse pictures of the candidates under way: preview.png in the folder (no).",
        RUN, default=False, execution=True,
    )  # fmt: skip
    name: str | None = option(
        "--name", "Names of the image files, such as '{prompt:.40}-{seed}'; also index, role (best or base), rank, "
        "model and sampler.", RUN, "TEMPLATE", check=NAME, execution=True,
    )  # fmt: skip
    layout: str | None = option(
        "--layout",
        "Also write the images where the scorer of a benchmark looks for them: geneval, t2i-compbench, dpg, drawbench, "
        "partiprompts or vbench, into DIR/NAME.", RUN, "NAME", execution=True,
    )  # fmt: skip
    metadata: bool = option(
        "--metadata/--no-metadata", "Write into the image files how they were made (yes).",
        RUN, default=True, execution=True,
    )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it, without what was left at its default."""
        plain = json.loads(json.dumps(registry.plain(asdict(self))))
        empty = json.loads(json.dumps(asdict(type(self)())))
        return {k: v for k, v in plain.items() if k == "model" or k == "sampler" or v != empty[k]}

    def difference(self, other: Request) -> str | None:
        """A field in which the two ask for different results, or None."""
        mine, theirs = self.as_dict(), other.as_dict()
        same = {name for name, how in options_of(type(self)).items() if how.execution}
        names = (f.name for f in fields(self) if f.name not in same)
        return next((name for name in names if mine.get(name) != theirs.get(name)), None)

    def seeded(self) -> Request:
        """With a seed, drawn where none was given."""
        return self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "big"))

    def anchored(self) -> Request:
        """With the paths of local files absolute, so that it means the same from every working folder."""
        files = [name for name, how in options_of(type(self)).items() if how.completes == "file"]
        moved: dict[str, Any] = {k: os.path.abspath(v) for k in files if (v := getattr(self, k)) is not None}
        if os.path.exists(self.model):
            moved["model"] = os.path.abspath(self.model)
        moved["mix"] = tuple(
            f"{os.path.abspath(name)}:{weight}" if os.path.exists(name) else term
            for term in self.mix
            for name, _, weight in [term.rpartition(":")]
        )
        for role in ("verifiers", "select", "held_out"):
            moved[role] = tuple(map(verifier_specs.anchored, getattr(self, role)))
        if self.stop is not None and "guard" in self.stop:
            from genscale.engine.stopping import Stop  # loads torch, which options and help do not need

            moved["stop"] = str(Stop.parse(self.stop).with_verifiers(verifier_specs.anchored))
        return replace(self, **moved)
