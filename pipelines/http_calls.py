"""Requests to a service of HTTP and JSON: time limits, and further attempts that wait as long as the service asks."""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from genscale.errors import UsageError
from genscale.pipelines.remote_failures import STATUS

MOST_BYTES = 2**28  # of an answer
_CHUNK = 2**16


class RemoteError(UsageError):
    """A service refused a request; another attempt would be refused as well. status: of HTTP, where there is one."""

    status: int | None = None


class NoJson(RemoteError):
    """A service answered a request with something that is no JSON."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is tried.

    timeout: seconds of one attempt. retries: further attempts. first, most: seconds of the first wait and of the
    longest; each wait is twice the one before, and up to half of it longer, so that several callers do not come at
    once. A service that asks for more than `most` is not tried again.
    """

    timeout: float = 120.0
    retries: int = 5
    first: float = 1.0
    most: float = 120.0

    def wait(self, attempt: int, asked: float | None) -> float | None:
        """Seconds before the attempt after this one (counted from 0); None: no further attempt. asked: Retry-After."""
        if attempt >= self.retries or (asked is not None and asked > self.most):
            return None
        own = min(self.first * 2**attempt, self.most) * (1 + random.random() / 2)
        return asked or own


def post_json(
    url: str, body: Mapping[str, Any], headers: Mapping[str, str], patience: Patience,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:  # fmt: skip
    """The JSON that a service answers. RemoteError: it refuses the request. NoJson: its answer is no JSON.

    TimeoutError, ConnectionError, urllib.error.HTTPError: it failed at every attempt.
    """
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", **headers}, method="POST"
    )
    return _json_of(url, _tried(request, patience, sleep))


def get_json(
    url: str, headers: Mapping[str, str], patience: Patience, sleep: Callable[[float], None] = time.sleep
) -> Any:
    """The JSON at an address; raises as `post_json`."""
    return _json_of(url, _tried(urllib.request.Request(url, headers=dict(headers)), patience, sleep))


def _json_of(url: str, answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise NoJson(f"{host_of(url)} answered no JSON: look whether the address is right.") from None


def download(url: str, patience: Patience, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """What is at an address; raises as `post_json`."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise RemoteError(f"the service named an image at '{url[:60]}', which is no address of HTTP.")
    return _tried(urllib.request.Request(url), patience, sleep)


def host_of(url: str) -> str:
    """For messages: without what may be secret."""
    return urlsplit(url).hostname or "the service"


def key_header(variable: str | None, url: str) -> dict[str, str]:
    """The header with the key that an environment variable holds; none for None. UsageError: it is not set."""
    if variable is None:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(
            f"the environment variable {variable} is not set: put the key of {host_of(url)} there."
        )
    return {"Authorization": f"Bearer {key}"}


def _tried(request: urllib.request.Request, patience: Patience, sleep: Callable[[float], None]) -> bytes:
    attempt = 0
    while True:
        try:
            return _answer(request, patience.timeout)
        except urllib.error.HTTPError as error:
            if error.code not in STATUS and error.code < 500:
                raise _refused(request, error) from None
            failed: Exception = error
            wait = patience.wait(attempt, _retry_after(error.headers.get("Retry-After")))
        except (TimeoutError, ConnectionError) as error:
            failed, wait = error, patience.wait(attempt, None)
        if wait is None:
            raise failed
        sleep(wait)
        attempt += 1


def _answer(request: urllib.request.Request, timeout: float) -> bytes:
    """The body of one attempt, within the time limit as a whole."""
    ends, parts, size = time.monotonic() + timeout, list[bytes](), 0
    try:
        with _opener.open(request, timeout=timeout) as response:
            while part := response.read1(_CHUNK):
                size += len(part)
                parts.append(part)
                if time.monotonic() > ends:
                    raise TimeoutError(f"no whole answer within {timeout:g} s")
                if size > MOST_BYTES:
                    raise RemoteError(f"{host_of(request.full_url)} answered more than {MOST_BYTES:,} bytes.")
            wanted = response.headers.get("Content-Length")
            if wanted is not None and wanted.isdecimal() and size < int(wanted):
                raise ConnectionError("the answer ended early")
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        raise ConnectionError(f"{host_of(request.full_url)} cannot be reached: {reason}") from None
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer broke off ({type(error).__name__})") from None
    return b"".join(parts)


def _refused(request: urllib.request.Request, error: urllib.error.HTTPError) -> RemoteError:
    try:
        said: Any = json.loads(error.read(_CHUNK))
        said = said.get("error", said)
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, OSError, AttributeError):
        said = error.reason
    what = " ".join(str(said).split())[:200].rstrip(".")
    refused = RemoteError(
        f"{host_of(request.full_url)} refused the request with status {error.code}: {what}."
    )
    refused.status = error.code
    return refused


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without one."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
