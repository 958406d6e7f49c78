"""Audio families for `zoo`: Stable Audio and AudioLDM2, tiny, with random weights.

`AUDIO[name].build()` makes the pipeline and `AUDIO[name].arguments(n)` what to call it with for n prompts. Sounds are a
fraction of a second long.
"""

import warnings

from tests.zoo_configs import UNET_OF_SOUNDS
from tests.zoo_parts import ALPHABET, dim, make, pipeline, scheduler, stable, t5, t5_tokenizer

RATE = 8000  # samples a second of Stable Audio here
SPEECH_RATE = 16000  # of AudioLDM2
SOUNDS = ("a dog barks", "rain on a tin roof", "one bell", "a train far away", "wind")


def sounds(n):
    """`n` distinct prompts of different lengths."""
    return [f"{SOUNDS[i % len(SOUNDS)]} {i}" for i in range(n)]


# ---------------------------------------------------------------- Stable Audio


def stable_audio(**more):
    parts = {
        "vae": oobleck(),
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
        "projection_model": make(
            "StableAudioProjectionModel", text_encoder_dim=16, conditioning_dim=4, min_value=0, max_value=32
        ),
        "transformer": make(
            "StableAudioDiTModel",
            sample_size=64,
            in_channels=3,
            num_layers=2,
            attention_head_dim=4,
            num_key_value_attention_heads=2,
            out_channels=3,
            cross_attention_dim=4,
            time_proj_dim=8,
            global_states_input_dim=8,
            cross_attention_input_dim=4,
        ),
        "scheduler": scheduler(
            "EDMDPMSolverMultistepScheduler",
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    }
    return pipeline("StableAudioPipeline", **parts | more)


def oobleck(rate=RATE, channels=2):
    """An autoencoder of waveforms, 8 samples a latent."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.*", FutureWarning)
        autoencoder = make(
            "AutoencoderOobleck",
            encoder_hidden_size=6,
            downsampling_ratios=[2, 4],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=channels,
            channel_multiples=[2, 4],
            sampling_rate=rate,
        )
    layer = autoencoder.decoder.conv2
    layer.weight_g.data *= 0.02  # else far beyond full scale
    return autoencoder


def _stable_audio_arguments(n):
    return {"prompt": sounds(n), "num_inference_steps": 3, "audio_end_in_s": 0.064}


# ---------------------------------------------------------------- AudioLDM2


def audioldm2(**more):
    parts = {
        "vae": make(
            "AutoencoderKL",
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        ),
        "text_encoder": clap(),
        "tokenizer": roberta_tokenizer(),
        "feature_extractor": clap_features(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(),
        "projection_model": make(
            "AudioLDM2ProjectionModel", text_encoder_dim=16, text_encoder_1_dim=16, langauge_model_dim=16
        ),
        "language_model": _language_model(),
        "unet": make("AudioLDM2UNet2DConditionModel", **UNET_OF_SOUNDS, cross_attention_dim=(16, 16)),
        "scheduler": stable(clip_sample=False, set_alpha_to_one=False),
        "vocoder": _vocoder(),
    }
    return pipeline("AudioLDM2Pipeline", **parts | more)


def clap(size=16):
    """A CLAP model, for `roberta_tokenizer` and `clap_features`."""
    text = {
        "vocab_size": 5 + len(ALPHABET),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "max_position_embeddings": 96,
        "projection_dim": size,
    }
    audio = {
        "spec_size": 32,
        "window_size": 2,
        "num_mel_bins": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "patch_size": 2,
        "patch_stride": [2, 2],
        "projection_dim": size,
    }
    return make("ClapModel", text_config=text, audio_config=audio, projection_dim=size)


def clap_features():
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=SPEECH_RATE,
        hop_length=400,
        fft_window_size=2048,
        max_length_s=1,
        truncation="rand_trunc",
        padding="repeatpad",
    )


def roberta_tokenizer():
    from transformers import RobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *ALPHABET]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _language_model():
    model = make("GPT2LMHeadModel", n_embd=16, n_head=2, n_layer=1, vocab_size=64, n_positions=256)
    model.config.max_new_tokens = 4
    return model


def _vocoder():
    vocoder = make(
        "SpeechT5HifiGan",
        model_in_dim=16,
        sampling_rate=SPEECH_RATE,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    dim(vocoder.conv_post, 0.3)
    return vocoder


def _audioldm2_arguments(n):
    return {"prompt": sounds(n), "num_inference_steps": 3, "audio_length_in_s": 0.064}


class Family:
    """How to build a pipeline, what to call it with for n prompts, and its sampling rate."""

    def __init__(self, build, arguments, rate):
        self.build, self.arguments, self.rate = build, arguments, rate


AUDIO = {
    "stable_audio": Family(stable_audio, _stable_audio_arguments, RATE),
    "stable_audio_mono": Family(lambda: stable_audio(vae=oobleck(channels=1)), _stable_audio_arguments, RATE),
    "audioldm2": Family(audioldm2, _audioldm2_arguments, SPEECH_RATE),
}
