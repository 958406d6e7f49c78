"""Tiny modular pipelines: the presets of `diffusers.modular_pipelines` on the components of `tests.zoo`.

`MODULAR[name].build()` makes the pipeline and `MODULAR[name].arguments(n)` what to call it with for n prompts, without
`output`. `media` is the name of the output that holds the pixels. `MORE` has other presets, and other inputs of these.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.zoo import ZOO, images, masks, text


@dataclass(frozen=True)
class Modular:
    """A preset: the class of its blocks, the entry of the zoo that lends the components, and a call for n prompts.

    types: what `output_type` may be, where not all are taken.
    """

    blocks: str
    components: str
    arguments: Callable[[int], dict]
    media: str = "images"
    types: tuple[str, ...] | None = None

    def classic(self):
        return ZOO[self.components].build()

    def components_of(self):
        return self.classic().components

    def build(self):
        return modular(self.blocks, self.components_of())


def modular(blocks, components):
    """A modular pipeline of these blocks, named or made, with those of the components that it takes."""
    import diffusers

    pipe = (getattr(diffusers, blocks)() if isinstance(blocks, str) else blocks).init_pipeline()
    taken = {name: part for name, part in components.items() if name in pipe.components}
    pipe.update_components(**{name: part for name, part in taken.items() if part is not None})
    for step in steps_of(pipe._blocks):
        if hasattr(step, "set_progress_bar_config"):
            step.set_progress_bar_config(disable=True)
    return pipe


def steps_of(block):
    """A block and all blocks inside it."""
    yield block
    for part in block.sub_blocks.values():
        yield from steps_of(part)


def pictures(n, size=16):
    """`n` distinct PIL images."""
    from PIL import Image

    arrays = (images(n, size).movedim(1, -1).numpy() * 255).astype("uint8")
    return [Image.fromarray(array) for array in arrays]


def _images(size=16, **more):
    return lambda n: {"prompt": text(n), "num_inference_steps": 3, "height": size, "width": size} | more


def _videos(size=16, **more):
    return _images(size, num_frames=5, **more)


def _edit(**more):
    """Image to image: one picture for each prompt."""
    return lambda n: _images(strength=0.7, **more)(n) | {"image": images(n)}


def _repaint(**more):
    return lambda n: _edit(**more)(n) | {"mask_image": masks(n)}


def _guided(call):
    """With a negative prompt for each prompt."""
    return lambda n: call(n) | {"negative_prompt": ["grey fog"] * n}


SDXL, SD3, QWEN = "StableDiffusionXLAutoBlocks", "StableDiffusion3AutoBlocks", "QwenImageAutoBlocks"
LAYERS = {"max_sequence_length": 64, "text_encoder_out_layers": (1,)}

MODULAR = {
    "flux": Modular("FluxAutoBlocks", "flux", _images(max_sequence_length=32)),
    "sd3": Modular(SD3, "sd3", _images(max_sequence_length=32)),
    "sdxl": Modular(SDXL, "sdxl", _images()),
    "wan": Modular("WanBlocks", "wan", _videos(), "videos"),
    "qwen_image": Modular(QWEN, "qwen_image", _guided(_images())),
    "z_image": Modular("ZImageAutoBlocks", "z_image", _images(max_sequence_length=64)),
    "ltx": Modular("LTXAutoBlocks", "ltx", _videos(32), "videos"),
}
MORE = {
    "flux_img2img": Modular("FluxAutoBlocks", "flux", _edit(max_sequence_length=32)),
    "sd3_img2img": Modular(SD3, "sd3", _edit(max_sequence_length=32)),
    "sdxl_img2img": Modular(SDXL, "sdxl", _edit()),
    "sdxl_inpaint": Modular(SDXL, "sdxl", _repaint()),
    "sdxl_controlnet": Modular(
        SDXL,
        "sdxl_controlnet",
        lambda n: _images(controlnet_conditioning_scale=0.5)(n) | {"control_image": images(1)},
    ),
    "qwen_img2img": Modular(QWEN, "qwen_image", _guided(_edit())),
    "qwen_inpaint": Modular(QWEN, "qwen_image", _guided(_repaint()), types=("pil",)),
    "z_image_img2img": Modular("ZImageAutoBlocks", "z_image", _edit(max_sequence_length=64)),
    "wan22": Modular("Wan22Blocks", "wan22", _videos(), "videos"),
    "ltx_i2v": Modular("LTXAutoBlocks", "ltx", lambda n: _videos(32)(n) | {"image": images(1, 32)}, "videos"),
    "flux2": Modular("Flux2AutoBlocks", "flux2", _images(**LAYERS)),
    "flux2_klein": Modular("Flux2KleinAutoBlocks", "flux2_klein", _images(**LAYERS)),
}
