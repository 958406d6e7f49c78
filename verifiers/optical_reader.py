"""rapidocr: the lines of text in an image, by the models that its package has."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import refusing
from genscale.verifiers.quoted_text import comparable

DETECTOR, DIRECTION = "PP-OCRv6_det_small.onnx", "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
BACKBONE = "PP-OCRv6 small"


@dataclass(eq=False)
class Reader:
    """The loaded models, on the CPU."""

    engine: Any
    alphabet: frozenset[str]  # characters that it can read, as they are compared, in both cases
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lines(self, image: Image.Image) -> list[str]:
        """The recognised lines, from top to bottom and from left to right."""
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # it takes arrays as OpenCV has them
        with self._lock:  # its settings belong to one call at a time
            found = self.engine(np.ascontiguousarray(pixels))
        return list(getattr(found, "txts", None) or ())


def load_reader(confidence: float, recogniser: str | None) -> Reader:
    """The models, from files that are here: nothing is downloaded. UsageError: the package or a file is missing."""
    try:
        import onnxruntime  # noqa: F401
        import rapidocr
    except ImportError as error:
        raise UsageError(
            f"text_in_image needs the packages rapidocr and onnxruntime ({error.name} is missing): "
            "pip install 'genscale[ocr]'."
        ) from None
    folder = Path(rapidocr.__file__).parent / "models"
    own = Path(recogniser).expanduser() if recogniser else folder / RECOGNISER
    for path in (folder / DETECTOR, folder / DIRECTION, own):
        if not path.is_file():
            what = (
                "give the file of a recognition model"
                if path == own and recogniser
                else "install rapidocr again"
            )
            raise UsageError(f"there is no file '{path}' for text_in_image: {what}.")
    with refusing(f"the recognition model '{own}'", "give an .onnx file of PaddleOCR with its alphabet"):
        engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": confidence,
                "Det.model_path": str(folder / DETECTOR),
                "Cls.model_path": str(folder / DIRECTION),
                "Rec.model_path": str(own),
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
            }
        )
        engine(
            np.zeros((64, 64, 3), np.uint8), use_det=False, use_cls=False
        )  # models are loaded at their first use
        engine.update_params(use_det=True, use_cls=True)
        letters = engine.text_rec.session.get_character_list()
    readable = {comparable(letter, case) for letter in letters for case in (True, False)}
    return Reader(engine, frozenset("".join(readable)))
