"""The demo's page: a form on the left, the search as it runs on the right. The searches themselves are in `jobs`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from genscale.demo.events import connect
from genscale.demo.fields import FormFields, html_block
from genscale.demo.jobs import JobQueue
from genscale.demo.live_curve import LiveCurve
from genscale.demo.search_view import SearchView

TITLE = "genscale"
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    """Only fonts that every system has, so that none is fetched."""
    base = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=SANS, font_mono=MONO, radius_size="md"
    )
    subdued, subdued_dark = "*neutral_500", "*neutral_400"  # the theme's own are too pale to read
    return base.set(
        body_text_color_subdued=subdued,
        body_text_color_subdued_dark=subdued_dark,
        block_info_text_color=subdued,
        block_info_text_color_dark=subdued_dark,
    )


def build(queue: JobQueue, curves: dict[str, LiveCurve]) -> gr.Blocks:
    """curves: the drawn curves by the token of their search; `routes` serves them."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        html_block(
            '<div class="gs-head"><h1>genscale</h1><p>More compute at inference, better images: '
            "draw many, score them, keep the best.</p></div>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes="gs-form"):
                fields = FormFields(queue)
            with gr.Column(scale=8, min_width=320):
                view = SearchView(curves)
        connect(page, queue, fields, view)
    return page
