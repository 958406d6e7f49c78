"""Audio families for `zoo`: Stable Audio and AudioLDM2, tiny, with random weights.

`AUDIO[name].build()` makes the pipeline and `AUDIO[name].arguments(n)` what to call it with for n prompts. Sound is a
fraction of a second long, at sampling rates of 1 to 16 kHz.
"""

from tests.zoo_parts import (
    ALPHABET,
    make,
    pipeline,
    scheduler,
    stable,
    t5,
    t5_tokenizer,
)

RATE = 1600  # samples a second of Stable Audio here
SPEECH_RATE = 16000  # of AudioLDM2


def stable_audio(**more):
    parts = {
        "vae": make(
            "AutoencoderOobleck",
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=RATE,
        ),
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
        "projection_model": make(
            "StableAudioProjectionModel",
            text_encoder_dim=16,
            conditioning_dim=4,
            min_value=0,
            max_value=32,
        ),
        "transformer": make(
            "StableAudioDiTModel",
            sample_size=400,
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


