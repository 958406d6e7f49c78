"""Tune the flow model to a reward with a small LoRA, by reward-weighted regression.

Pictures of the model alone (without guidance) are drawn for many captions, and a LoRA is fitted to them with weights
exp(reward / beta), normalised among the pictures of one caption (Peters & Schaal 2007; for diffusion models Lee et al.
2023, arXiv 2302.12192). With samples and capacity without end that gives the tilted model q(x) exp(reward(x) / beta)
/ Z, the optimum that reinforcement learning with a KL penalty of coefficient beta aims at: what reinforcement-learning
guidance (arXiv 2508.21016) takes its tuned model for.

    python -m training.reward_lora --out genscale/models/shapes-flow-reward

The reward is the embedded CLIP; the exact judge sees nothing of it. About 8 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genscale
from genscale.shapes import PROMPTS, fresh_prompts
from genscale.verifiers.clip import ShapesClip
from training.flow import SHIFT

# The projections of both streams of the SD3 blocks.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


@torch.no_grad()
def samples(pipe: Any, texts: list[str], each: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents [captions, each, c, h, w] of the model alone and their rewards [captions, each]."""
    clip, latents, rewards = ShapesClip(), list[Tensor](), list[Tensor]()
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(texts), 16):
        some = [t for t in texts[start : start + 16] for _ in range(each)]
        x = pipe(
            some, num_inference_steps=steps, guidance_scale=1.0, generator=generator, output_type="latent"
        ).images.float()
        config = pipe.vae.config
        pixels = pipe.vae.decode(x / config.scaling_factor + (config.shift_factor or 0)).sample
        scores = clip.score_tensor((pixels / 2 + 0.5).clamp(0, 1), some)
        latents.append(x.view(-1, each, *x.shape[1:]))
        rewards.append(scores.view(-1, each))
    return torch.cat(latents), torch.cat(rewards)


def tilted(rewards: Tensor, beta: float) -> Tensor:
    """Weights [captions, each], each caption's with mean 1."""
    weights: Tensor = torch.softmax(rewards.double() / beta, dim=1).float() * rewards.shape[1]
    return weights


def fit(
    pipe: Any,
    texts: list[str],
    latents: Tensor,
    weights: Tensor,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> None:
    """Fit the adapter that the pipeline's transformer holds; rows are drawn in proportion to their weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        tokens, _, pooled, _ = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
    parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    clean, chances = latents.flatten(0, 1), weights.flatten()
    begun, mean = time.perf_counter(), None
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
        rows = torch.multinomial(chances, batch, replacement=True)
        sigma = torch.sigmoid(torch.special.ndtri((torch.randperm(batch) + torch.rand(batch)) / batch))
        sigma = (SHIFT * sigma / (1 + (SHIFT - 1) * sigma)).clamp(1e-3, 1 - 1e-3)
        level, noise = sigma.view(-1, 1, 1, 1), torch.randn(batch, *clean.shape[1:])
        caption = rows // latents.shape[1]
        with torch.autocast("cpu", torch.bfloat16):
            velocity = pipe.transformer(
                (1 - level) * clean[rows] + level * noise, tokens[caption], pooled[caption], 1000 * sigma,
                return_dict=False,
            )[0]  # fmt: skip
        loss = torch.nn.functional.mse_loss(velocity.float(), noise - clean[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            print(
                json.dumps({"step": step, "loss": round(mean, 5), "s": round(time.perf_counter() - begun)}),
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=640)
    parser.add_argument("--each", type=int, default=16, help="pictures of one caption")
    parser.add_argument("--beta", type=float, default=0.1, help="of the tilt, in units of the reward")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from diffusers import StableDiffusion3Pipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = genscale.load_pipeline("shapes-flow", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    known = {p.text for p in PROMPTS}  # those that benchmarks use stay unseen
    texts = [p.text for p in fresh_prompts(args.seed + 77, 2 * args.captions) if p.text not in known]
    texts = list(dict.fromkeys(texts))[: args.captions]
    latents, rewards = samples(pipe, texts, args.each, 8, args.seed)
    weights = tilted(rewards, args.beta)
    effective = (weights.sum(1) ** 2 / (weights**2).sum(1)).mean()
    print(json.dumps({
        "captions": len(texts), "reward": round(float(rewards.mean()), 4),
        "reward tilted": round(float((weights * rewards).mean()), 4), "effective of each": round(float(effective), 2),
    }), flush=True)  # fmt: skip
    pipe.transformer.requires_grad_(False)
    torch.manual_seed(args.seed)
    pipe.transformer.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=TARGETS), adapter_name="reward"
    )
    fit(pipe, texts, latents, weights, args.steps, args.batch, args.rate, args.seed)
    layers = get_peft_model_state_dict(pipe.transformer, adapter_name="reward")
    layers = {name: tensor.to(torch.float16) for name, tensor in layers.items()}
    StableDiffusion3Pipeline.save_lora_weights(args.out, transformer_lora_layers=layers)


if __name__ == "__main__":
    main()
