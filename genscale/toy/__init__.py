"""Toy worlds and closed-form models, to train, score and test on.

analytic: Gaussian mixtures under a flow, with exact answers. shapes: the images that the bundled models paint, with
their prompts (`shapes.PROMPTS`) and the exact check of an image. moving_shapes: the same for videos.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["analytic", "moving_shapes", "shapes"]
)
