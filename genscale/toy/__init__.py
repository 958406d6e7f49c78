"""Toy worlds and closed-form models, to train, score and test on.

analytic: Gaussian mixtures under a flow, with exact answers. shapes: the images that the bundled models paint, with
their prompts (`shapes.PROMPTS`) and the exact check of an image. captions: what
they may ask for. hard_prompts: prompts for a search. moving_shapes: the same as shapes, for videos.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["analytic", "captions", "hard_prompts", "moving_shapes", "shapes"]
)
