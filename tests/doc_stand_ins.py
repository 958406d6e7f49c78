"""What the code of the docs finds when tests run it: small things of the same kind in the place of large ones.

A page runs in a folder of its own. Models and weights of the hub are folders there (`owner/name`) with random weights,
so that what loads them is the program itself.
"""

from __future__ import annotations

import base64
import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from tests.image_service import png
from tests.test_black_box import token_pipeline
from tests.test_inversion import dit
from tests.zoo import ZOO
from tests.zoo_audio import AUDIO, clap, clap_features, roberta_tokenizer
from tests.zoo_modular import MODULAR

# Pipelines by the names that the docs use. Their default sizes are 16 to 32 pixels.
VIDEO = "path/or/video-hub-id"
PIPELINES = {
    "path/or/hub-id": "stable_diffusion",
    "owner/name": "stable_diffusion",
    VIDEO: "animatediff",
    "black-forest-labs/FLUX.1-dev": "flux",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}
SOUND = "cvssp/audioldm2"
SOUNDS = {
    SOUND: "audioldm2",
    "cvssp/audioldm2-music": "audioldm2",
    "stabilityai/stable-audio-open-1.0": "stable_audio",
}
WORDS = GPT2Config(vocab_size=260, n_layer=1, n_head=2, n_embd=16, bos_token_id=0, eos_token_id=1)
PROMPTS = "a red star left of a blue ring\nthree green circles\n"


def furnish(folder: Path) -> None:
    """Everything that a page may name, written once."""
    for name, family in PIPELINES.items():
        where = folder / name
        where.mkdir(parents=True)
        ZOO[family].build().save_pretrained(where)
    MODULAR["sdxl"].build().save_pretrained(
        str(folder / "path/or/modular-hub-id"), overwrite_modular_index=True
    )
    token_pipeline().save_pretrained(folder / "amused/amused-512")
    for part in (GPT2LMHeadModel(WORDS), ByT5Tokenizer(extra_ids=1, mask_token="<extra_id_0>")):
        part.save_pretrained(folder / "inclusionAI/LLaDA2.1-mini")  # any model that gives logits writes texts
    dit().save_pretrained(folder / "facebook/DiT-XL-2-256")
    for name, family in SOUNDS.items():
        AUDIO[family].build().save_pretrained(folder / name)
    _weights(folder)
    (folder / "prompts.txt").write_text(PROMPTS)
    (folder / "captions.txt").write_text("a red circle moving left\na blue circle moving up\n")
    for name, colour in {"a.png": "red", "b.png": "blue", "photo.png": "grey", "mask.png": "white"}.items():
        Image.new("RGB", (32, 32), colour).save(folder / name)
    _made(folder)
    _benchmarks(folder)
    package = Path(__file__).parents[1] / "genscale"
    tuned = package / "models" / "shapes-flow-reward" / "pytorch_lora_weights.safetensors"
    (folder / "tuned.safetensors").symlink_to(tuned)


def _made(folder: Path) -> None:
    """An image of genscale's, and a video and sounds of somebody else's."""
    from genscale.cli.app import main
    from genscale.media_items import Audio
    from genscale.report import audio_files, video_files

    out = folder / "before"
    assert (
        main(["generate", "a red star", "--budget", "32nfe", "--steps", "4", "--out", str(out), "--json"])
        == 0
    )
    (folder / "best.png").symlink_to(out / "best.png")
    frames = [Image.new("RGB", (32, 32), (40 * i, 90, 200)) for i in range(5)]
    video_files.write_video(folder / "clip.mp4", "mp4", frames, 8.0)
    for name in ("a.wav", "b.flac"):
        audio_files.write_audio(
            folder / name, name[-4:].strip("."), Audio(np.ones((1, 800), np.float32), 8000)
        )


def _benchmarks(folder: Path) -> None:
    """Prompt files in the form that benchmarks have, with words of our own."""
    wanted = {"class": "star", "count": 1}
    lines = [{"tag": "single_object", "include": [wanted], "prompt": f"a {c} star"} for c in ("red", "blue")]
    (folder / "evaluation_metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "color_val.txt").write_text("a red star\n")
    (folder / "dpg_bench" / "prompts").mkdir(parents=True)
    for n in range(3):
        (folder / "dpg_bench" / "prompts" / f"{n}.txt").write_text("a red star")
    (folder / "VBench_full_info.json").write_text(
        json.dumps([{"prompt_en": "a red circle", "dimension": ["color"]}])
    )


def _weights(folder: Path) -> None:
    """Verifiers' weights in the layouts that their repositories have."""
    from tests.test_classifier import saved as classifier
    from tests.test_detector import grounding_dino
    from tests.test_image_reward import VOCABULARY, original
    from tests.test_verifiers import clip_folder, open_clip_model
    from tests.test_verifiers import saved as aesthetic_head
    from tests.test_vqa_score import saved as vqa

    clip_folder(folder / "yuvalkirstain/PickScore_v1")
    clip_folder(folder / "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    (folder / "xswu/HPSv2").mkdir(parents=True)
    torch.save(open_clip_model().state_dict(), folder / "xswu/HPSv2/HPS_v2.1_compressed.pt")
    reward = folder / "THUDM/ImageReward"
    reward.mkdir(parents=True)
    torch.save(original(), reward / "ImageReward.pt")
    (reward / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    for checkpoint in ("laion/clap-htsat-unfused", "laion/larger_clap_music"):
        for part in (clap(), clap_features(), roberta_tokenizer()):
            part.save_pretrained(folder / checkpoint)
    vqa(folder / "Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl")
    classifier(folder / "facebook/dinov2-base-imagenet1k-1-layer", "dinov2")
    grounding_dino(folder / "IDEA-Research/grounding-dino-tiny")
    heads = folder / "heads"
    heads.mkdir()
    aesthetic_head(heads, "v2", ".pth")
    aesthetic_head(heads, "v1", ".pth")


def install(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What no folder can stand for: open_clip's names, sizes that a pipeline's class has by default, a served demo."""
    import open_clip
    from diffusers import DiffusionPipeline

    from genscale.verifiers import clip_checkpoints
    from tests.test_verifiers import OPEN_CLIP

    for name in ("ViT-L-14", "ViT-B-32", "ViT-H-14"):
        patch.setitem(open_clip.factory._MODEL_CONFIGS, name, OPEN_CLIP)
    find, file = clip_checkpoints._weights, str(folder / "xswu/HPSv2/HPS_v2.1_compressed.pt")
    patch.setattr(clip_checkpoints, "_weights", lambda model, tag: find(model, tag) and file)
    for version in ("v1", "v2"):
        patch.setenv(f"GENSCALE_AESTHETIC_{version.upper()}", str(folder / "heads" / f"{version}.pth"))
    if find_spec("uvicorn"):  # the demo is built and gets its port; then it would serve until Ctrl-C
        patch.setattr("uvicorn.Server.run", lambda server, sockets: [s.close() for s in sockets])
        patch.setenv("HF_HUB_OFFLINE", "1")  # which the demo sets for good
    patch.setenv("IMAGES_API_KEY", "none")
    patch.setenv("JUDGE_KEY", "none")
    patch.setenv("GENSCALE_CACHE", str(folder / "user-cache"))
    patch.setattr("genscale.verifiers.chat_endpoint.get_json", lambda *_: {"data": [{"id": "qwen3-vl"}]})
    patch.setattr("genscale.verifiers.chat_endpoint.post_json", _judged)
    patch.setattr("genscale.pipelines.remote_images.post_json", _painted)
    patch.setattr("diffusers.FluxModularPipeline.default_sample_size", 8)  # as in _small
    load = DiffusionPipeline.from_pretrained.__func__
    patch.setattr(DiffusionPipeline, "from_pretrained", classmethod(partial(_small, load)))


def _painted(url: str, body: dict[str, Any], *more: Any) -> dict[str, Any]:
    """What an image service answers."""
    return {"data": [{"b64_json": base64.b64encode(png(body["seed"])).decode()}]}


def _judged(url: str, body: dict[str, Any], *more: Any) -> dict[str, Any]:
    """What a server with a vision-language model answers."""
    size = len(str(body))
    said = {"reason": "as it is", **dict.fromkeys(("alignment", "quality", "aesthetics"), size % 101 / 10)}
    return {"choices": [{"message": {"content": json.dumps(said)}}]}


def _small(load: Any, cls: type, *args: Any, **kwargs: Any) -> Any:
    pipe = load(cls, *args, **kwargs)
    if hasattr(pipe, "default_sample_size"):  # 128 for any Flux, whatever its weights
        pipe.default_sample_size = 8
    return pipe
