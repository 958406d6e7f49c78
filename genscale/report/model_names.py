"""Names of models in titles."""

from __future__ import annotations


def short_model_name(model: str) -> str:
    """The last part of a path or of a Hugging Face id."""
    return model.replace("\\", "/").rstrip("/").split("/")[-1]
