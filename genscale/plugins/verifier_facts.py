"""What users ask of a built-in verifier beside its options: scale, weights, licence, how much of a prompt it reads.

The table of docs/verifiers.md says the same (tests/test_docs_tables.py).
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER, HERE, NONE = "never", "in the tests", "it has none"
THEIRS = "as those verifiers'"


@dataclass(frozen=True)
class VerifierFacts:
    """What is known of a verifier's scores and weights.

    scale: of its scores. weights: those of the defaults, and their size (float32 unless said). reads: how much of the
    prompt. licence: of the weights. loaded: whether these weights were ever loaded where genscale is tested; there no
    model hub can be reached, so learned verifiers are tested with small random weights against their formulas.
    """

    scale: str
    weights: str
    reads: str
    licence: str
    loaded: str


FACTS: dict[str, VerifierFacts] = {
    "aesthetic": VerifierFacts(
        "1 to 10, mostly 4 to 7",
        "CLIP ViT-L/14 and a head of 4 MB",
        "nothing",
        "Apache-2.0 (v2 repository)",
        NEVER,
    ),
    "answers": VerifierFacts("a number that stands for the answer", "none", "nothing", "-", NONE),
    "background_consistency": VerifierFacts(
        "mean cosine, up to 1", "openai ViT-B/32", "nothing", "MIT (not checked)", NEVER
    ),
    "boxes": VerifierFacts("that verifier's", "that verifier's", "the regions' texts, too", "-", THEIRS),
    "calibrated": VerifierFacts("probability", "those verifiers'", "those verifiers'", "-", THEIRS),
    "clap": VerifierFacts(
        "cosine, -1 to 1",
        "laion/clap-htsat-unfused, 154 M (not checked)",
        "512 tokens",
        "Apache-2.0 (not checked)",
        NEVER,
    ),
    "classifier": VerifierFacts(
        "log P(class), up to 0; also logit, log-odds, probability",
        ("facebook/dinov2-base-imagenet1k-1-layer, 87 M (not checked); any image classifier of transformers"),
        "its label",
        "Apache-2.0 (not checked)",
        NEVER,
    ),
    "clip": VerifierFacts(
        "cosine, 0.15 to 0.35 (ViT-L/14)", "openai ViT-L/14, 428 M", "77 tokens", "MIT (not checked)", NEVER
    ),
    "clip_flant5": VerifierFacts(
        "log-odds of Yes, unbounded; scale=probability for the paper's",
        (
            "zhiqiulin/clip-flant5-xxl, 11 B, 23 GB in bfloat16, or -xl, 3 B; CLIP ViT-L/14-336; FlanT5's "
            "tokenizer"
        ),
        "2,048 tokens",
        "Apache-2.0 (not checked)",
        NEVER,
    ),
    "clipping": VerifierFacts("1 minus share of samples", "none", "nothing", "-", NONE),
    "compressibility": VerifierFacts("minus kB", "none", "nothing", "-", NONE),
    "detector": VerifierFacts(
        "0 to 1; score=verdict for 0 or 1",
        "IDEA-Research/grounding-dino-base, 233 M, or google/owlv2-*; for colours the CLIP of clip",
        "nouns, numbers, colours and places; other prompts by metadata",
        "Apache-2.0 (not checked)",
        NEVER,
    ),
    "dynamic_degree": VerifierFacts("mean difference of frames, 0 to 1", "none", "nothing", "-", NONE),
    "frames": VerifierFacts("that verifier's", "that verifier's", "that verifier's", "-", THEIRS),
    "hps": VerifierFacts("cosine, 0.14 to 0.34", "xswu/HPSv2, 986 M", "77 tokens", "Apache-2.0", NEVER),
    "hps3": VerifierFacts(
        "mean preference, about 0 to 13",
        "MizzenAI/HPSv3, 8.3 B (17 GB in bfloat16)",
        "all",
        "Apache-2.0 card (not checked)",
        NEVER,
    ),
    "image_reward": VerifierFacts(
        "standard deviations, -2.3 to 2",
        "THUDM/ImageReward, 445 M (1.8 GB), and BERT's tokenizer",
        "35 tokens",
        "Apache-2.0",
        NEVER,
    ),
    "learned_preview": VerifierFacts("that verifier's", "that verifier's", "that verifier's", "-", THEIRS),
    "measured": VerifierFacts("that verifier's", "that verifier's", "that verifier's", "-", THEIRS),
    "medoid": VerifierFacts(
        "mean cosine to the others, -1 to 1",
        "bundled CLIP; or any CLIP or image model",
        "nothing",
        "this package's; the model's",
        HERE,
    ),
    "moving_attributes": VerifierFacts(
        "P(right), 0 to 1", "bundled, 0.6 M (1.3 MB)", "all", "this package's", HERE
    ),
    "moving_shapes": VerifierFacts("0 or 1", "none", "all", "this package's", NONE),
    "pickscore": VerifierFacts(
        "18 to 24; 1 point: 73 % prefer it",
        "yuvalkirstain/PickScore_v1, 986 M",
        "77 tokens",
        "MIT repository; card not checked",
        NEVER,
    ),
    "question_list": VerifierFacts(
        "mean P(yes), 0 to 1",
        "those of vqa_score; or a server's model",
        "all; the grammar reads English",
        "Apache-2.0 mostly",
        NEVER,
    ),
    "shapes": VerifierFacts("0 or 1", "none", "all", "this package's", NONE),
    "shapes_attributes": VerifierFacts(
        "P(right), 0 to 1", "bundled, 0.6 M (1.3 MB)", "all", "this package's", HERE
    ),
    "shapes_clip": VerifierFacts("cosine", "bundled", "10 tokens", "this package's", HERE),
    "shapes_video_clip": VerifierFacts("cosine", "bundled", "11 words", "this package's", HERE),
    "sharpness": VerifierFacts(
        "0 to 650,250 (of levels 0 to 255); photographs 100 to some thousands", "none", "nothing", "-", NONE
    ),
    "silence": VerifierFacts("share of windows", "none", "nothing", "-", NONE),
    "subject_consistency": VerifierFacts(
        "mean cosine, up to 1", "facebook/dino-vitb16, 86 M", "nothing", "Apache-2.0 (not checked)", NEVER
    ),
    "temporal_consistency": VerifierFacts(
        "mean cosine, up to 1", "openai ViT-B/32", "nothing", "MIT (not checked)", NEVER
    ),
    "temporal_flickering": VerifierFacts("1 minus mean difference, 0 to 1", "none", "nothing", "-", NONE),
    "text_in_image": VerifierFacts(
        "1 minus edit distance by length, 0 to 1",
        "those of rapidocr (32 MB; extra ocr), on the CPU",
        "its quotes",
        "Apache-2.0",
        HERE,
    ),
    "unified_reward": VerifierFacts(
        "1 to 5",
        "CodeGoat24/UnifiedReward-2.0-qwen3vl-2b, 4.5 GB in bfloat16; 4b, 8b, 32b; or a server",
        "all",
        "MIT repository; card not checked",
        NEVER,
    ),
    "vlm_judge": VerifierFacts(
        "0 to 10",
        "Qwen/Qwen3-VL-2B-Instruct, 4.5 GB in bfloat16; any image-text model; or a server's",
        "all",
        "the model's",
        NEVER,
    ),
    "vqa_score": VerifierFacts(
        "log-odds of Yes, unbounded; scale=probability for the paper's",
        "Qwen/Qwen3-VL-2B-Instruct, 4.5 GB in bfloat16; any Qwen-VL",
        "all",
        "Apache-2.0 mostly; Qwen2.5-VL-3B a research licence (not checked)",
        NEVER,
    ),
    "warp_error": VerifierFacts(
        "minus mean squared error, -3 to 0",
        "torchvision's raft_large, 5 M",
        "nothing",
        "BSD-3 (torchvision; its training data not checked)",
        NEVER,
    ),
}
