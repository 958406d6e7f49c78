"""Code of a module that the user names, as `package.module:name`: it is imported only because it was named."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from genscale.errors import UsageError

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def names_code(name: str) -> bool:
    """Whether a name is that of code in a module, not of a file or folder."""
    return _FORM.fullmatch(name) is not None and not os.path.exists(name)


def imported(name: str, what: str, form: str) -> Any:
    """What the name stands for; of a class an object. The working folder is searched, too.

    what: what it is to be, and form: how that is called, for messages. UsageError: it cannot be imported or called.
    """
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` has it; a console script does not
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found()
    except Exception as error:  # the module's own code may raise anything
        why = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise UsageError(f"{what} '{name}' cannot be imported: {why}{error}.") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"{what} '{name}' is a {type(found).__name__}, not a callable {form}.")
    return found
