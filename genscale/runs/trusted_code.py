"""Code that a run folder asks for is run only where the command says so: a folder may come from somebody else."""

from __future__ import annotations

from pathlib import Path

from genscale.errors import UsageError
from genscale.runs.named_code import names_code
from genscale.runs.request import Request
from genscale.runs.verifier_specs import needs_trust

FLAG = "--trust-folder"


def refuse_code(request: Request, folder: Path, trust: bool, verifiers: bool = True) -> None:
    """UsageError if the request of a folder asks for code that is not trusted.

    verifiers: whether its verifiers are made as well; decoding needs its model only.
    """
    if trust:
        return
    asked = "Python code that comes with its model" if request.trust_remote_code else None
    if names_code(request.model):
        asked = f"code of a module, its model {request.model}"
    found = needs_trust([*request.verifiers, *request.select, *request.held_out]) if verifiers else []
    if found:
        asked = f"code of a module or send images to a server, by its verifier {found[0]}"
    if asked is not None:
        raise UsageError(
            f"'{folder}' asks to run {asked}: read that code first, then add {FLAG} (trust=True in Python)."
        )
