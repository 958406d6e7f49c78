"""Tune the flow model to a reward with a small LoRA: the reward is back-propagated through sampling.

DRaFT (Clark et al. 2024, arXiv 2309.17400, section 3) through all of a short run, without guidance, with a penalty on
how far the tuned velocity leaves the base's on the way: up to a factor of the noise levels the KL divergence of the
two path measures. With it the optimum is near base(x) exp(reward(x) / beta), what reinforcement-learning guidance
(arXiv 2508.21016) takes its tuned model for; the scale of the guidance then moves along that tilt.

    python -m training.reward_lora --out genscale/models/shapes-flow-reward

The reward is the bundled CLIP; the exact judge sees nothing of it. Captions that benchmarks use are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import genscale
from genscale.toy.shapes import PROMPTS, fresh_prompts
from genscale.verifiers.clip import ShapesClip
from training.flow import SHIFT

# The projections of both streams of the SD3 blocks.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


def rolled_out(pipe: Any, tokens: Tensor, pooled: Tensor, steps: int, anchor: float) -> tuple[Tensor, Tensor]:
    """Clean latents [n, c, h, w] of the tuned model's Euler run, with their graph, and the mean penalty."""
    transformer = pipe.transformer
    n, size = len(tokens), transformer.config.sample_size
    x = torch.randn(n, transformer.config.in_channels, size, size)
    sigmas = torch.linspace(1, 0, steps + 1)
    sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
    penalty = x.new_zeros(())

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return transformer(x, tokens, pooled, 1000 * sigma.expand(n), return_dict=False)[0].float()

    for sigma, following in pairwise(sigmas):
        tuned = checkpoint(velocity, x, sigma, use_reentrant=False)
        if anchor > 0:
            transformer.disable_adapters()
            with torch.no_grad():
                base = velocity(x, sigma)
            transformer.enable_adapters()
            penalty = penalty + (tuned - base).square().mean() / steps
        x = x + (following - sigma) * tuned
    return x, penalty


def pictures(pipe: Any, latents: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] in [0, 1]."""
    config = pipe.vae.config
    decoded = pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def fit(pipe: Any, texts: list[str], args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    with torch.no_grad():
        tokens, _, pooled, _ = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
    clip = ShapesClip()
    parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.0)
    begun, means = time.perf_counter(), dict[str, float]()
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 20) * (1 - step / args.steps)
        rows = torch.randint(len(texts), (args.batch,))
        latents, penalty = rolled_out(pipe, tokens[rows], pooled[rows], args.sampling, args.anchor)
        rewards = clip.score_tensor(pictures(pipe, latents), [texts[i] for i in rows.tolist()])
        loss = args.anchor * penalty - rewards.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        for name, value in (("reward", float(rewards.mean().detach())), ("penalty", float(penalty.detach()))):
            means[name] = value if step == 0 else 0.95 * means[name] + 0.05 * value
        if step % 20 == 0:
            shown = {k: round(v, 4) for k, v in means.items()}
            print(json.dumps({"step": step, **shown, "s": round(time.perf_counter() - begun)}), flush=True)
            if step:
                save(pipe, args.out)


def save(pipe: Any, out: Path) -> None:
    from diffusers import StableDiffusion3Pipeline
    from peft import get_peft_model_state_dict

    layers = get_peft_model_state_dict(pipe.transformer, adapter_name="reward")
    layers = {name: tensor.to(torch.float16) for name, tensor in layers.items()}
    StableDiffusion3Pipeline.save_lora_weights(out, transformer_lora_layers=layers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--sampling", type=int, default=8, help="steps of a run")
    parser.add_argument(
        "--anchor", type=float, default=0.5, help="weight of the penalty; 0 lets go of the base"
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from peft import LoraConfig

    pipe = genscale.load_pipeline("shapes-flow", device="cpu", dtype="float32")
    known = {p.text for p in PROMPTS}
    texts = [p.text for p in fresh_prompts(args.seed + 77, 2 * args.captions) if p.text not in known]
    texts = list(dict.fromkeys(texts))[: args.captions]
    for part in (pipe.transformer, pipe.vae):
        part.requires_grad_(False)
    torch.manual_seed(args.seed)
    config = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=TARGETS)
    pipe.transformer.add_adapter(config, adapter_name="reward")
    fit(pipe, texts, args)
    save(pipe, args.out)


if __name__ == "__main__":
    main()
