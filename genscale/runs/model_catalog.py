"""The bundled toy models as records."""

from __future__ import annotations

from typing import Any


def model_records() -> list[dict[str, Any]]:
    from genscale.pipelines.loading import EMBEDDED, folder_of

    return [
        {
            "name": name,
            "about": m.about,
            "size": f"{m.size}x{m.size}",
            "steps": m.steps,
            "guidance": m.guidance,
            "verifier": m.verifier,
            "held_out": m.held_out,
            "installed": (folder_of(name) / "model_index.json").is_file(),
        }
        for name, m in EMBEDDED.items()
    ]
