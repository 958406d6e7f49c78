"""`genscale demo`: run searches from a browser, on this machine."""

from __future__ import annotations

import json
import os
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from genscale.demo.form import Limits, Offer
from genscale.demo.jobs import JobQueue
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.plugins.automatic import AUTO
from genscale.runs.request import Request

LOCAL = ("127.0.0.1", "localhost", "::1")


def offer(models: Mapping[str, Request], limits: Limits) -> Offer:
    """These models, all samplers and "auto", and all verifiers that work without options."""
    verifiers = tuple(name for name in registry.found("verifier") if _by_name(name))
    return Offer(models, (AUTO, *registry.found("sampler")), verifiers, limits)


def _by_name(verifier: str) -> bool:
    from dataclasses import MISSING

    try:
        cls = registry.load("verifier", verifier)
        options = registry.options(cls)
    except UsageError:  # a package is missing
        return False
    if getattr(cls, "gives_embeddings", False):  # the page shows scores while candidates come
        return False
    return all(f.default is not MISSING or f.default_factory is not MISSING for f in options.values())


def application(queue: JobQueue, host: str = LOCAL[0], port: int = 7860) -> Any:
    """The ASGI application: the page, and the routes for images and files."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        from fastapi import FastAPI
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the demo needs a package that is missing ({error.name}): pip install 'genscale[demo]'."
        ) from None
    from genscale.demo.live_curve import LiveCurve
    from genscale.demo.page import build, theme
    from genscale.demo.routes import Gate, add_routes
    from genscale.demo.style import CSS

    app, curves = FastAPI(openapi_url=None), dict[str, LiveCurve]()
    add_routes(app, queue, curves)
    page = build(queue, curves)
    page.queue(max_size=4 * queue.offer.limits.waiting, default_concurrency_limit=4)
    gradio.mount_gradio_app(
        app, page, path="", server_name=host, server_port=port, footer_links=[], run_history=False,
        allowed_paths=[], max_file_size=1, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=theme(), css=CSS,
    )  # fmt: skip
    if host in LOCAL:  # against DNS rebinding: pages of other hosts cannot reach this one
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])
    app.add_middleware(Gate, presence=queue.presence)
    return app


def serve(
    queue: JobQueue,
    host: str,
    port: int,
    *,
    open_page: bool = False,
    as_json: bool = False,
    offline: bool = True,
) -> None:
    """Serve until Ctrl-C; the first line on stdout is the address. UsageError: the port is taken.

    offline: fetch nothing from Hugging Face, so that what a client chooses cannot fill the disk of this machine.
    """
    app = application(queue, host, port)
    import socket

    import uvicorn

    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port, or --port 0 for any."
        ) from None
    port = listening.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}"
    line = json.dumps({"address": address, "out": str(queue.out)})
    print(line if as_json else f"genscale demo: {address}  (Ctrl-C ends it)", flush=True)
    if open_page:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    try:
        with _offline() if offline else nullcontext():
            server.run(sockets=[listening])
    finally:
        queue.close()


@contextmanager
def _offline() -> Iterator[None]:
    """Let huggingface_hub use its cache only."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
