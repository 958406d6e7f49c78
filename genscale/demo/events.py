"""What the page does on each event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from genscale.demo import component_values as values
from genscale.demo import html
from genscale.demo.fields import FormFields, about_sampler, model_defaults, sampler_options
from genscale.demo.form import DemoForm
from genscale.demo.jobs import REFUSED, Job, JobQueue, Session
from genscale.demo.search_view import SearchView
from genscale.errors import UsageError

LOOK = 0.25  # seconds between two updates of the page
NFE = 6  # place of the budget in `FormFields.inputs`
TO_STATUS = """() => {
  const status = document.getElementById("status");
  if (status.getBoundingClientRect().top > 0.7 * innerHeight) status.scrollIntoView({behavior: "smooth"});
}"""  # on a phone the search is far below the form

# No handler is offered as an API. Without `postprocess` Gradio passes values on as they are: see `component_values`.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "postprocess": False}
# Only searches use Gradio's queue: where a short event of the same page ends while a search runs, the server may close
# the stream on which the page waits for the messages of the search.
AT_ONCE: dict[str, Any] = {**PRIVATE, "queue": False}


def connect(page: gr.Blocks, queue: JobQueue, fields: FormFields, view: SearchView) -> None:
    """Attach the handlers to their events."""
    handlers = Handlers(queue, fields, view)
    searched = fields.search.click(
        handlers.search,
        fields.inputs,
        [fields.search, fields.stop, view.prompts, *view.outputs],
        concurrency_limit=queue.offer.limits.waiting + 2,
        trigger_mode="multiple",
        **PRIVATE,
    )
    searched.then(handlers.plan, fields.inputs, fields.plan, **AT_ONCE)  # the device is free again
    fields.search.click(None, js=TO_STATUS)
    fields.stop.click(handlers.stop, None, fields.stop, **AT_ONCE)
    view.prompts.input(handlers.show_prompt, view.prompts, view.outputs, **AT_ONCE)
    opened = [view.gallery, *view.label_buttons]
    view.gallery.select(handlers.enlarge, None, opened, **AT_ONCE)
    view.gallery.preview_close(handlers.close_image, None, opened, **AT_ONCE)
    for button, label in zip(view.label_buttons, (handlers.call_right, handlers.call_wrong), strict=True):
        button.click(label, None, [*opened, *view.buttons], **AT_ONCE)
    fields.sampler.input(
        lambda name: (about_sampler(name), sampler_options(name), ""),
        fields.sampler,
        [fields.about, fields.known, fields.options],
        **AT_ONCE,
    )
    fields.model.input(
        lambda name, prompt: model_defaults(queue, name, prompt),
        [fields.model, fields.prompt],
        fields.of_model,
        **AT_ONCE,
    )
    gr.on(
        [
            page.load, fields.prompt.blur, fields.options.blur, fields.nfe.release,
            *(
                component.change
                for component in (
                    fields.nfe, fields.model, fields.sampler, fields.verifiers, fields.held_out, fields.steps,
                    fields.guidance,
                )
            ),
        ],
        handlers.plan, fields.inputs, fields.plan, trigger_mode="always_last", **AT_ONCE,
    )  # fmt: skip
    page.unload(handlers.leave)


class Handlers:
    """The functions that Gradio calls; a `gr.Request` says which page it is."""

    def __init__(self, queue: JobQueue, fields: FormFields, view: SearchView) -> None:
        self.queue, self.fields, self.view = queue, fields, view

    def _session(self, request: gr.Request) -> Session:
        return self.queue.session(str(request.session_hash))

    def search(self, request: gr.Request, *fields: Any) -> Iterator[list[Any]]:
        session = self._session(request)
        self.queue.presence.heard(session.name)
        try:
            job = self.queue.submit(session, DemoForm(*cleaned(fields)))
        except UsageError as error:
            gr.Warning(str(error), title="Not done")
            if session.job is None or session.job.over:  # else a second click: the first search goes on
                rest = [gr.skip()] * (len(self.view.outputs) - 1)
                yield [gr.update(interactive=True), gr.skip(), gr.skip(), html.refused(str(error)), *rest]
            return
        yield from self._watched(job, session)
        if job.phase == REFUSED:
            gr.Warning(job.sentence, title="Not done")

    def _watched(self, job: Job, session: Session) -> Iterator[list[Any]]:
        """All values at every update, because a busy page may skip all but the last of several messages."""
        prompts = [(prompt, place) for place, prompt in enumerate(job.request.prompts)]
        several, over = len(prompts) > 1, False
        shown = gr.update(choices=prompts, value=0, visible=several)
        while not over:
            over = job.over  # read before drawing, so that the last drawing shows the end
            buttons = [gr.update(interactive=over), gr.update(interactive=not over and not job.halting)]
            yield [*buttons, shown, *self.view.drawn(job, session, self.queue.ahead(job))]
            shown = gr.update(choices=prompts, visible=True) if several else gr.skip()
            if not over:
                time.sleep(LOOK)

    def stop(self, request: gr.Request) -> Any:
        job = self._session(request).job
        if job is not None:
            self.queue.stop(job)
        return gr.update(interactive=False)

    def show_prompt(self, index: int | None, request: gr.Request) -> list[Any]:
        session = self._session(request)
        job = session.job
        if job is None or index is None or not 0 <= index < len(job.request.prompts):
            return [gr.skip()] * len(self.view.outputs)
        session.index, session.enlarged = index, None
        return self.view.drawn(job, session, self.queue.ahead(job))

    def enlarge(self, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """The clicked image of the gallery in full size. It is known by its address: its place may have changed."""
        session = self._session(request)
        item = event.value if isinstance(event.value, dict) else {}
        image = item.get("image")
        key = values.image_key(image.get("url") if isinstance(image, dict) else None)
        job = session.job
        if job is None or key not in (row.image for row in values.gallery_rows(job, session.index)):
            return [gr.skip()] * 3
        session.enlarged = key
        return self._opened(job, session)

    def _opened(self, job: Job | None, session: Session) -> list[Any]:
        """The gallery with the open image, and the buttons that label it."""
        key, index = session.enlarged, session.index
        shown: Any = values.gallery(job, index, key)
        keys = [] if job is None else [row.image for row in values.gallery_rows(job, index)]
        if key in keys:
            shown = gr.update(value=shown, selected_index=keys.index(key))
        return [shown, *values.label_buttons(job, key)]

    def close_image(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        session.enlarged = None
        return self._opened(session.job, session)

    def call_right(self, request: gr.Request) -> list[Any]:
        return self._label(self._session(request), right=True)

    def call_wrong(self, request: gr.Request) -> list[Any]:
        return self._label(self._session(request), right=False)

    def _label(self, session: Session, right: bool) -> list[Any]:
        if session.job is not None:
            session.job.label(session.enlarged, right)
        return [*self._opened(session.job, session), *self.view.download_buttons(session.job, session.index)]

    def plan(self, *fields: Any) -> str:
        try:
            request, found = self.queue.plan(DemoForm(*cleaned(fields)))
        except UsageError as error:
            return f'<p class="gs-plan gs-wrong">{escape(str(error))}</p>'
        return html.plan(found, int(fields[NFE]), len(request.prompts))

    def leave(self, request: gr.Request) -> None:
        self.queue.leave(str(request.session_hash))


def cleaned(fields: tuple[Any, ...]) -> list[Any]:
    """The values of `FormFields.inputs` as those of a DemoForm: lists as tuples, no choice as an empty one."""
    return [
        tuple(f or ()) if isinstance(f, list) else () if f is None and place in (4, 5) else f
        for place, f in enumerate(fields)
    ]
