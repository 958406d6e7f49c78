"""The part of the page that shows a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from genscale.demo import component_values as values
from genscale.demo import html
from genscale.demo.fields import html_block
from genscale.demo.jobs import KEPT, Job, Session
from genscale.demo.live_curve import LiveCurve

Draw = Callable[[Job | None, int], Any]


class SearchView:
    """The components, and what each shows of a job and the prompt looked at."""

    def __init__(self, curves: dict[str, LiveCurve]) -> None:
        self.curves = curves
        self.parts: list[tuple[Any, Draw]] = []
        self.status = html_block(html.status(None), elem_id="status")
        self.prompts = gr.Radio([], label="Prompt shown", visible=False, elem_id="shown")
        self._base_and_best()
        self._population()
        self._add_html("curve", self._curve, "Score against NFE")
        self._scores()
        self._downloads()
        self._add_html("lineage", html.lineage, "Lineage")

    def _base_and_best(self) -> None:
        with gr.Tabs():
            with gr.Tab("Side by side"):
                self._add_html("pair", html.pair)
            with gr.Tab("Slider"):
                slider = gr.ImageSlider(
                    interactive=False,
                    show_label=False,
                    buttons=["fullscreen"],
                    max_height=420,
                    elem_id="slider",
                )
                self.parts.append((slider, values.slider))
                self._add_html("slider-note", html.slider_note)

    def _population(self) -> None:
        self._add_html("count", html.count, "Population")
        self.gallery = gr.Gallery(
            interactive=False, show_label=False, columns=6, object_fit="cover", height="auto",
            buttons=["fullscreen", "download"], elem_id="gallery",
        )  # fmt: skip
        html_block(
            '<p class="gs-count">Open an image and say whether it is right: labels teach a verifier '
            "(<code>genscale calibrate-verifier</code>).</p>"
        )
        with gr.Row(elem_id="labels"):
            self.label_buttons = [
                gr.Button(f"{sign} {word}", interactive=False, size="sm", min_width=110, elem_id=word.lower())
                for sign, word in (("✓", "Right"), ("✗", "Wrong"))
            ]

    def _scores(self) -> None:
        html_block(_heading("Scores"))
        table = gr.Dataframe(
            headers=values.table(None, 0)["headers"], interactive=False, show_label=False, max_height=340, buttons=[],
            elem_id="table",
        )  # fmt: skip
        self.parts.append((table, values.table))

    def _downloads(self) -> None:
        self._add_html("no-downloads", lambda job, index: html.downloads(job), "Downloads")
        with gr.Row(elem_id="downloads"):
            self.buttons = [
                gr.DownloadButton(visible=False, size="sm", min_width=110) for _ in range(values.DOWNLOADS)
            ]
        self.same = gr.Textbox(
            "", label="The same on the command line", lines=2, max_lines=6, interactive=False, visible=False,
            buttons=["copy"], elem_id="same", elem_classes="gs-command",
        )  # fmt: skip

    def _add_html(self, name: str, draw: Draw, title: str = "") -> None:
        head = _heading(title) if title else ""

        def titled(job: Job | None, index: int) -> str:
            return head + str(draw(job, index))

        self.parts.append((html_block(titled(None, 0), elem_id=name), titled))

    def _curve(self, job: Job | None, index: int) -> str:
        if job is None:
            return html.curve(None, 0)
        live = self.curves.setdefault(job.token, LiveCurve(job))
        while len(self.curves) > KEPT:
            del self.curves[next(iter(self.curves))]
        live.look(index)
        return html.curve(job, live.number if live.index == index else 0)

    @property
    def outputs(self) -> list[Any]:
        return [
            self.status, *(component for component, _ in self.parts), self.gallery, *self.label_buttons,
            *self.buttons, self.same,
        ]  # fmt: skip

    def drawn(self, job: Job, session: Session, ahead: int) -> list[Any]:
        """The values of `outputs`, as JSON that Gradio passes on without postprocessing."""
        index, command = session.index, html.same(job)
        return [
            html.status(job, ahead),
            *(draw(job, index) for _, draw in self.parts),
            # An open lightbox keeps its images: places change with every new best.
            gr.skip() if session.enlarged else values.gallery(job, index),
            *values.label_buttons(job, session.enlarged),
            *self.download_buttons(job, index),
            gr.update(value=command, visible=bool(command)),
        ]

    def download_buttons(self, job: Job | None, index: int) -> list[Any]:
        return [_button(found) for found in values.downloads(job, index)]


def _heading(text: str) -> str:
    return f'<h3 class="gs-title">{text}</h3>'


def _button(found: tuple[str, dict[str, Any]] | None) -> Any:
    if found is None:
        return gr.update(visible=False)
    label, file = found
    return gr.update(label=label, value=file, visible=True)
