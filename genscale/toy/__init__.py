"""Toy worlds and closed-form models, to train, judge and test on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["analytic", "moving_shapes", "shapes"]
)
