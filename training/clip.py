"""Train the verifier: a small CLIP of the shapes world, contrastively, with hard negatives.

The images are drawn ones and what the autoencoder makes of them (from latents with noise, too),
blurred and noised at random, so that the verifier carries over to generated images. Beside the
other captions of the batch every image is held against captions that are wrong in one thing: a
colour, a kind, a number, a relation, or colours exchanged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPVisionConfig

from genscale.toy.shapes import COLOURS, KINDS, RELATIONS, Requirement
from training.common import contrastive_loss, descend, options, set_rates, started
from training.data import draw, to_unit
from training.export import load_as_float32, replace
from training.optimiser import optimisers
from training.run import Run
from training.text import LENGTH, WIDTH, text_config, tokenizer

HARD = 3  # hard negatives an image


def build(folder: Path) -> CLIPModel:
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=64,
        patch_size=16,
        hidden_act="gelu",
    )
    text = text_config(tokenizer(folder))
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    return CLIPModel(config)


def spoiled(requirement: Requirement, rng: np.random.Generator) -> str:
    """A caption that is wrong of `requirement`'s images in one thing."""
    r = requirement
    ways = ["colour", "kind"] + {
        "single": ["add"],
        "two": ["exchange"] * 2,
        "colours": ["drop"],
        "counting": ["count"] * 3,
        "position": ["relation"] * 3 + ["exchange"],
    }[r.category]
    way = ways[rng.integers(len(ways))]
    nouns = list(r.nouns)
    if way == "exchange" and nouns[0][0] != nouns[1][0] and nouns[0][1] != nouns[1][1]:
        nouns = [(nouns[1][0], nouns[0][1]), (nouns[0][0], nouns[1][1])]
        return Requirement(r.category, tuple(nouns), r.relation).text
    if way == "count":
        others = [n for n in (1, 2, 3, 4) if n != r.count]
        count = others[rng.integers(3)]
        return Requirement("counting" if count > 1 else "single", (nouns[0],) * count).text
    if way == "relation":
        others = [name for name in RELATIONS if name != r.relation]
        opposite = RELATIONS[RELATIONS.index(r.relation or "") ^ 1]
        return Requirement(
            "position", r.nouns, opposite if rng.random() < 0.6 else others[rng.integers(3)]
        ).text
    if way == "drop":
        return Requirement("single", (nouns[rng.integers(2)],)).text
    if way == "add":
        return Requirement(
            "two", (nouns[0], (list(COLOURS)[rng.integers(len(COLOURS))], KINDS[rng.integers(len(KINDS))]))
        ).text
    place = 0 if r.category == "counting" else int(rng.integers(len(nouns)))
    colour, kind = nouns[place]
    if way == "kind":
        kind = rng.choice([k for k in KINDS if k != kind])
    else:
        colour = rng.choice([c for c in COLOURS if c != colour])
    changed = (
        [(str(colour), str(kind))] * len(nouns)
        if r.category == "counting"
        else [*nouns[:place], (str(colour), str(kind)), *nouns[place + 1 :]]
    )
    return Requirement(r.category, tuple(changed), r.relation).text


@torch.no_grad()
def soften(pictures: torch.Tensor, vae: AutoencoderTiny) -> torch.Tensor:
    """Images [n, 3, 64, 64] in [-1, 1] through the autoencoder.

    Its latents carry noise of a random strength up to 0.6.
    """
    latents = vae.encoder(pictures)
    strength = 0.6 * torch.rand(len(latents), 1, 1, 1, device=latents.device) ** 2
    return vae.decoder(latents + strength * torch.randn_like(latents)).clamp(-1, 1)


def worsen(pictures: torch.Tensor) -> torch.Tensor:
    """Some images blurred, some noised."""
    n = len(pictures)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = (torch.rand(n, 1, 1, 1, device=pictures.device) - 0.5).clamp(min=0) * 2
    noise = (
        0.15
        * (torch.rand(n, 1, 1, 1, device=pictures.device) - 0.5).clamp(min=0)
        * torch.randn_like(pictures)
    )
    return pictures.lerp(blurred, share) + noise


def save(model: CLIPModel, folder: Path, full: bool = False) -> None:
    """Model and processor as an ordinary transformers folder, in half precision."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
        size = {"height": 64, "width": 64}
        images = CLIPImageProcessor(
            size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        new = Path(scratch) / "text_encoder"  # so that load_as_float32 finds it
        CLIPProcessor(images, tokenizer(Path(scratch) / "words")).save_pretrained(new)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        copy = CLIPModel(model.config)
        copy.load_state_dict(state)
        copy.to(dtype=torch.float32 if full else torch.float16).save_pretrained(new)
        load_as_float32(Path(scratch))
        replace(folder, new)


def main() -> None:
    parser = options(__doc__, minutes=15, batch=256, out="checkpoint and log")
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of the trained autoencoder")
    parser.add_argument("--export", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--pictures", type=int, default=24_576)
    args = started(parser)
    model = build(args.out / "tokenizer")
    words = tokenizer(args.out / "tokenizer")
    run = Run(args.out, args.minutes, {"clip": model}, seed=5)
    model.to(run.device)
    tools = optimisers(model, 2e-3, 1e-3, ".mlp.|.self_attn.")
    vae = AutoencoderTiny.from_pretrained(args.autoencoder).to(run.device).requires_grad_(False)
    pictures, soft, wanted = [], [], []
    for _ in range(args.pictures // 64):
        drawn, requirements = draw(64, run.rng)
        pictures.append(torch.from_numpy(drawn).permute(0, 3, 1, 2))
        soft.append(soften(to_unit(drawn).to(run.device), vae).add(1).mul(127.5).byte().cpu())
        wanted += requirements
    both = torch.stack([torch.cat(pictures), torch.cat(soft)], 1)

    def encode(texts: list[str]) -> torch.Tensor:
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        places = [unique[text] for text in texts]
        ids = words(list(unique), padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        pooled = model.text_model(ids.to(run.device)).pooler_output
        return nn.functional.normalize(model.text_projection(pooled), dim=-1)[places]

    for step in run.steps():
        set_rates(tools, run, warmup=50)
        rows = run.rng.integers(len(wanted), size=args.batch)
        which = torch.from_numpy((run.rng.random(args.batch) < 0.6).astype(np.int64))
        batch = worsen(both[torch.from_numpy(rows), which].to(run.device).float().div(127.5).sub(1))
        seen = model.visual_projection(model.vision_model(batch).pooler_output)
        seen = nn.functional.normalize(seen, dim=-1)
        chosen = [wanted[i] for i in rows]
        named = encode([r.text for r in chosen])
        wrong = encode([spoiled(r, run.rng) for r in chosen for _ in range(HARD)]).view(args.batch, HARD, -1)
        scale = model.logit_scale.exp().clamp(max=60)
        nouns = [tuple(sorted(r.nouns)) for r in chosen]
        loss, best = contrastive_loss(scale, seen, named, wrong, nouns)
        descend(tools, loss, list(model.parameters()))
        run.log(step, every=25, loss=loss.item(), hard_right=best.item(), scale=scale.item())
    run.save()
    save(model, args.export)


if __name__ == "__main__":
    main()
