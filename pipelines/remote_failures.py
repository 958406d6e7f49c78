"""Which exceptions of a call say that a service failed, not the code that was called.

Such a call drops its candidate, and the search goes on without it. Everything else comes through: it would happen
again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

STATUS = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 that another attempt may not meet: timeouts, conflicts, rate limits."""

_KINDS = (TimeoutError, ConnectionError, socket.gaierror)


def remote_failure(error: Exception) -> str | None:
    """In a few words what failed; None where it was not a remote service.

    It was one where the exception, or one that caused it, is a TimeoutError or ConnectionError, or says an HTTP status
    of a service that is busy or broken (408, 409, 425, 429, 500 and more), as the clients of HTTP services do.
    """
    status = next((code for e in _chain(error) if (code := status_of(e)) is not None), None)
    if status is not None:
        failed = status in STATUS or status >= 500
    else:
        failed = any(isinstance(e, _KINDS) for e in _chain(error))
    said = " ".join(str(error).split())[:120]
    return f"{type(error).__name__}{f' ({said})' if said else ''}" if failed else None


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception carries; None without one."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            found = getattr(holder, name, None)
            if isinstance(found, int) and 100 <= found < 600:
                return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what caused it. A mistake of the code (TypeError, ...) was not caused by what came before."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        plain = type(found).__module__ == "builtins" and not isinstance(found, OSError)
        found = found.__cause__ or (None if plain else found.__context__)
