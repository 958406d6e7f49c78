"""`genscale.remote_images`: an image service that speaks the API of OpenAI, as a generator for `genscale.scale`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from genscale.errors import UsageError
from genscale.pipelines.http_calls import Patience, RemoteError, download, host_of, key_header, post_json
from genscale.plugins.limits import COUNT, shown
from genscale.storage.durable_files import save_bytes, stored

_PATH = "/images/generations"


@dataclass(frozen=True)
class RemoteImages:
    """A service as a function `(prompt, seed, ...) -> PIL image`. Made by `remote_images`, which explains the fields.

    calls_at_once: `genscale.scale` calls it in so many threads, at most.
    """

    url: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    key_from: str | None = None
    calls_at_once: int = 4
    patience: Patience = field(default_factory=Patience)
    cache: Path | None = None
    seed_field: str | None = "seed"

    @property
    def identity(self) -> str:
        """What decides its images, for `out=`; not the key, and not how patient it is."""
        return json.dumps([self.url, dict(self.fields), self.seed_field], sort_keys=True)

    @property
    def __name__(self) -> str:
        return f"remote_images({host_of(self.url)})"

    def __call__(self, prompt: str, seed: int | None = None, **fields: Any) -> Image.Image:
        """One image. fields: further ones of the request. Raises as `http_calls.post_json` does."""
        body = {**self.fields, **fields, "prompt": prompt, "n": 1}
        if seed is not None and self.seed_field is not None:
            body[self.seed_field] = seed
        place = self._place(body, seed)
        if place is not None and place.exists():
            image = _opened(stored(place))
            if image is not None:
                return image
        data = self._bytes(post_json(self.url, body, key_header(self.key_from, self.url), self.patience))
        image = _opened(data)
        if image is None:
            raise RemoteError(f"{host_of(self.url)} answered with something that is no image.")
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(place, data)
        return image

    def _place(self, body: Mapping[str, Any], seed: int | None) -> Path | None:
        """The file of an answer, by the content of the request. Without a seed every answer is another."""
        if self.cache is None or seed is None:
            return None
        asked = json.dumps([self.url, body, seed], sort_keys=True)
        return self.cache / hashlib.sha256(asked.encode()).hexdigest()

    def _bytes(self, answer: Any) -> bytes:
        try:
            [found] = answer["data"]
            if found.get("b64_json"):
                return base64.b64decode(found["b64_json"], validate=True)
            address = str(found["url"])
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
            raise RemoteError(
                f"{host_of(self.url)} did not answer with one image as b64_json or url: it may have another API."
            ) from None
        return download(address, self.patience)


def remote_images(
    url: str, *, model: str | None = None, key_from: str | None = None, at_once: int = 4, timeout: float = 120.0,
    retries: int = 5, cache: str | Path | None = None, seed_field: str | None = "seed", **fields: Any,
) -> RemoteImages:  # fmt: skip
    """An image service with the API of OpenAI (`POST /v1/images/generations`), to be given to `genscale.scale`.

    url: of the API, such as "http://localhost:8000/v1". model, fields: further fields of the request (size, quality,
    ...). key_from: name of the environment variable that holds the key; None sends none. The key is written nowhere.
    at_once: requests at the same time, at most. timeout: seconds of one attempt. retries: further attempts after a
    timeout, a lost connection, or a status of a busy or broken service; the waits double, and are as long as
    Retry-After asks. When all have failed, the search drops the candidate.
    cache: folder that keeps answers by the content of their requests; such a request is not sent again.
    seed_field: name of the field that carries a candidate's seed; None for services that take none, whose candidates
    differ by chance and cannot be made again (but by the cache).

    UsageError: an argument is out of range, or key_from names a variable that is not set.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise UsageError(f"url={shown(url)} must be an address that begins with http:// or https://.")
    for name, value in (("at_once", at_once), ("retries", retries)):
        least = 0 if name == "retries" else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= COUNT.most:
            raise UsageError(f"{name}={shown(value)} must be a whole number, {least} or more.")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise UsageError(f"timeout={shown(timeout)} must be a number of seconds above 0.")
    url = url.rstrip("/")
    made = RemoteImages(
        url if url.endswith(_PATH) else url + _PATH,
        {**({} if model is None else {"model": model}), **fields},
        key_from,
        at_once,
        Patience(timeout=float(timeout), retries=retries),
        None if cache is None else Path(cache),
        seed_field,
    )
    key_header(key_from, made.url)  # refuses a key that is not there
    return made


def _opened(data: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception:  # Pillow raises many kinds for damaged files
        return None
