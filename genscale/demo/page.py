"""The demo's page: a form on the left, the search as it goes on the right. All that it knows is in demo_search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from genscale.demo import html as words
from genscale.demo.form import DemoForm
from genscale.demo.jobs import KEPT, Job, JobQueue
from genscale.demo.live_curve import LiveCurve
from genscale.errors import UsageError
from genscale.pipelines.loading import EMBEDDED
from genscale.plugins.catalog import plugin_records

TITLE = "genscale"
LOOK = 0.25  # seconds between two looks at a search
PICTURE, CLIP = "a red star left of a blue ring", "a red circle moving left"
TO_STATUS = """() => {
  const status = document.getElementById("status");
  if (status.getBoundingClientRect().top > 0.7 * innerHeight) status.scrollIntoView({behavior: "smooth"});
}"""  # on a phone the search is shown far below the form
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    """Of fonts that every system has: none is fetched."""
    look = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=SANS, font_mono=MONO, radius_size="md"
    )
    quiet, quiet_dark = "*neutral_500", "*neutral_400"  # paler ones cannot be read
    return look.set(
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
    )


def build(queue: JobQueue, curves: dict[str, LiveCurve]) -> gr.Blocks:
    """curves: those drawn, by the token of their search; what the routes give out."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        _html(
            '<div class="gs-head"><h1>genscale</h1><p>More compute at inference, better images: '
            "draw many, judge them while they form, keep the best.</p></div>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320, elem_classes="gs-form"):
                form = _Form(queue)
            with gr.Column(scale=7, min_width=320):
                view = _View(curves)
        _connect(page, queue, form, view)
    return page


def _html(text: str = "", **more: Any) -> Any:
    """HTML as it is, without the theme's own margins and rules for what stands in it."""
    return gr.HTML(text, apply_default_css=False, **more)


class _Form:
    """What is asked for. `inputs` are the fields of a DemoForm, in its order."""

    def __init__(self, queue: JobQueue) -> None:
        offer = queue.offer
        limits, first = offer.limits, next(iter(offer.models))
        known = EMBEDDED.get(offer.models[first].model)
        self.prompt = gr.Textbox(
            PICTURE if known is None or known.frames is None else CLIP,
            label="Prompt",
            info=_hint(queue, first),
            lines=2,
            max_lines=limits.prompts,
            max_length=limits.prompts * (limits.letters + 1),
            elem_id="prompt",
        )
        with gr.Row():
            self.search = gr.Button("Search", variant="primary", min_width=120, elem_id="search")
            self.stop = gr.Button("Stop", interactive=False, min_width=120, elem_id="stop")
        self.plan = _html('<p class="gs-plan">The cost is being worked out.</p>', elem_id="plan")
        self.model = gr.Dropdown(list(offer.models), value=first, label="Model", elem_id="model")
        self.sampler = gr.Dropdown(
            list(offer.samplers), value="best_of_n", label="Sampler", elem_id="sampler"
        )
        self.about = _html(_about("best_of_n"))
        with gr.Accordion("Options of the sampler", open=False):
            self.options = gr.Textbox(
                "", label="Options", info="NAME=VALUE, one a line", lines=2, max_lines=6, elem_id="options",
                placeholder="as below where nothing is said", max_length=2000,
            )  # fmt: skip
            self.known = _html(_options("best_of_n"))
        verifiers, held_out = defaults(queue, first)
        self.verifiers = gr.Dropdown(
            list(offer.verifiers), value=verifiers, multiselect=True, label="Verifiers",
            info="What steers the search.", elem_id="verifiers",
        )  # fmt: skip
        self.held_out = gr.Dropdown(
            list(offer.verifiers), value=held_out, multiselect=True, label="Held out",
            info="Measures only, and is not searched for.", elem_id="held-out",
        )  # fmt: skip
        self.nfe = gr.Slider(
            1, limits.nfe, value=min(1280, limits.nfe), step=1, label="Budget, NFE a prompt",
            info="Evaluations of the model; guidance counts twice.", elem_id="budget",
        )  # fmt: skip
        with gr.Accordion("Steps, guidance, seed", open=False), gr.Row():
            # Texts: an empty field of gr.Number is a 0.
            self.steps = gr.Textbox(
                _text(known and known.steps), label="Steps", max_length=9, min_width=90, elem_id="steps",
                placeholder="the model's",
            )  # fmt: skip
            self.guidance = gr.Textbox(
                _text(known and known.guidance), label="Guidance", max_length=9, min_width=90, elem_id="guidance",
                placeholder="the model's",
            )  # fmt: skip
            self.seed = gr.Textbox(
                "", label="Seed", max_length=20, min_width=90, elem_id="seed", placeholder="drawn"
            )

    @property
    def inputs(self) -> list[Any]:
        return [
            self.prompt, self.model, self.sampler, self.options, self.verifiers, self.held_out, self.nfe, self.steps,
            self.guidance, self.seed,
        ]  # fmt: skip


class _View:
    """The parts that show a search: (component, its HTML from a job and the prompt looked at)."""

    def __init__(self, curves: dict[str, LiveCurve]) -> None:
        self.curves = curves
        self.status = _html(words.status(None), elem_id="status")
        self.prompts = gr.Radio([], label="Prompt shown", visible=False, elem_id="shown")
        self.parts: list[tuple[Any, Callable[[Job | None, int], str]]] = []
        self._add("pair", words.pair)
        self._add("gallery", words.gallery, "Population")
        self._add("curve", self._curve, "Score against NFE")
        self._add("table", words.table, "Scores")
        self._add("downloads", words.downloads, "Downloads")
        self.same = gr.Textbox(
            "", label="The same on the command line", lines=2, max_lines=6, interactive=False, visible=False,
            buttons=["copy"], elem_id="same", elem_classes="gs-command",
        )  # fmt: skip
        self._add("lineage", words.lineage, "Lineage")

    def _add(self, name: str, draw: Callable[[Job | None, int], str], title: str = "") -> None:
        head = f'<h3 class="gs-title">{title}</h3>' if title else ""

        def titled(job: Job | None, index: int) -> str:
            return head + draw(job, index)

        self.parts.append((_html(titled(None, 0), elem_id=name), titled))

    def _curve(self, job: Job | None, index: int) -> str:
        if job is None:
            return words.curve(None, 0)
        live = self.curves.setdefault(job.token, LiveCurve(job))
        while len(self.curves) > KEPT:
            del self.curves[next(iter(self.curves))]
        live.look(index)
        return words.curve(job, live.number if live.index == index else 0)

    @property
    def outputs(self) -> list[Any]:
        return [self.status, *(component for component, _ in self.parts), self.same]

    def drawn(self, job: Job, index: int, ahead: int) -> list[Any]:
        """What `outputs` show."""
        command = words.same(job)
        return [
            words.status(job, ahead),
            *(draw(job, index) for _, draw in self.parts),
            gr.update(value=command, visible=bool(command)),
        ]


def _connect(page: gr.Blocks, queue: JobQueue, form: _Form, view: _View) -> None:
    """What happens on which event. None of it is offered as an interface for programs."""
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # Only searches go through the queue: where a short event of the same page ends just then, the server closes the
    # stream on which the page waits for the other's messages.
    at_once: dict[str, Any] = {**private, "queue": False}
    buttons = [form.search, form.stop, view.prompts]

    def search(request: gr.Request, *fields: Any) -> Iterator[list[Any]]:
        session = queue.session(str(request.session_hash))
        try:
            job = queue.submit(session, DemoForm(*_clean(fields)))
        except UsageError as error:
            gr.Warning(str(error), title="Not done")
            if (
                session.job is not None and not session.job.over
            ):  # a second click: the first one's search goes on
                return
            yield [
                _ready(),
                gr.skip(),
                gr.skip(),
                words.refused(str(error)),
                *[gr.skip()] * (len(view.outputs) - 1),
            ]
            return
        prompts = [(p, i) for i, p in enumerate(job.request.prompts)]
        shown = gr.update(choices=prompts, value=0, visible=len(prompts) > 1)
        over = False
        while not over:
            over = job.over  # asked before looking: what comes after the last look would be missed
            buttons = [gr.update(interactive=over), gr.update(interactive=not over and not job.halting)]
            # All of it each time: a page that is busy may leave out all but the last of several messages.
            yield [*buttons, shown, *view.drawn(job, session.index, queue.ahead(job))]
            shown = gr.skip() if len(prompts) == 1 else gr.update(choices=prompts, visible=True)
            if not over:
                time.sleep(LOOK)
        if job.phase == "refused":
            gr.Warning(job.sentence, title="Not done")

    def stop(request: gr.Request) -> Any:
        job = queue.session(str(request.session_hash)).job
        if job is not None:
            queue.stop(job)
        return gr.update(interactive=False)

    def look(index: int | None, request: gr.Request) -> list[Any]:
        session = queue.session(str(request.session_hash))
        job = session.job
        if job is None or index is None or not 0 <= index < len(job.request.prompts):
            return [gr.skip()] * len(view.outputs)
        session.index = index
        return view.drawn(job, index, queue.ahead(job))

    def plan(*fields: Any) -> str:
        try:
            request, found = queue.plan(DemoForm(*_clean(fields)))
        except UsageError as error:
            return f'<p class="gs-plan gs-wrong">{escape(str(error))}</p>'
        return words.plan(found, int(fields[6]), len(request.prompts))

    def leave(request: gr.Request) -> None:
        queue.leave(str(request.session_hash))

    form.search.click(
        search,
        form.inputs,
        [*buttons, *view.outputs],
        concurrency_limit=queue.offer.limits.waiting + 2,
        trigger_mode="multiple",
        **private,
    )
    form.search.click(None, js=TO_STATUS)
    form.stop.click(stop, None, form.stop, **at_once)
    view.prompts.input(look, view.prompts, view.outputs, **at_once)
    form.sampler.input(
        lambda name: (_about(name), _options(name), ""),
        form.sampler,
        [form.about, form.known, form.options],
        **at_once,
    )
    form.model.input(
        lambda name, prompt: _for_model(queue, name, prompt),
        [form.model, form.prompt],
        [form.prompt, form.verifiers, form.held_out, form.steps, form.guidance],
        **at_once,
    )
    gr.on(
        [
            page.load, form.prompt.blur, form.options.blur, form.nfe.release, form.nfe.change,
            *(c.change for c in (form.model, form.sampler, form.verifiers, form.held_out, form.steps, form.guidance)),
        ],
        plan, form.inputs, form.plan, trigger_mode="always_last", **at_once,
    )  # fmt: skip
    page.unload(leave)


def _ready() -> Any:
    return gr.update(interactive=True)


def _clean(fields: tuple[Any, ...]) -> list[Any]:
    """Lists as tuples; nothing chosen is an empty one."""
    return [
        tuple(f or ()) if isinstance(f, list) else () if f is None and n in (4, 5) else f
        for n, f in enumerate(fields)
    ]


def defaults(queue: JobQueue, model: str) -> tuple[list[str], list[str]]:
    """The verifiers that go with a model, and those to hold out."""
    known = EMBEDDED.get(queue.offer.models[model].model)
    verifiers, held_out = (["clip"], []) if known is None else ([known.verifier], [known.held_out])
    there = queue.offer.verifiers
    return [v for v in verifiers if v in there], [v for v in held_out if v in there]


def _text(number: Any) -> str:
    return "" if number is None else f"{number:g}"


def _hint(queue: JobQueue, model: str) -> str:
    """What to write into the prompt."""
    known = EMBEDDED.get(queue.offer.models[model].model)
    lines = f"Several lines are several prompts, at most {queue.offer.limits.prompts}."
    if known is None:
        return lines
    examples = ("three green circles", PICTURE) if known.frames is None else (CLIP, "a blue circle moving up")
    return f"This model knows shapes, such as “{examples[0]}” or “{examples[1]}”. {lines}"


def _for_model(queue: JobQueue, name: str, prompt: str) -> list[Any]:
    known = EMBEDDED.get(queue.offer.models[name].model)
    verifiers, held_out = defaults(queue, name)
    example = CLIP if known is not None and known.frames is not None else PICTURE
    hint, known_prompt = _hint(queue, name), prompt.strip() in ("", PICTURE, CLIP)
    return [
        gr.update(info=hint, value=example) if known_prompt else gr.update(info=hint),
        verifiers,
        held_out,
        known and known.steps,
        known and known.guidance,
    ]


def _about(sampler: str) -> str:
    record = plugin_records("sampler", sampler)[0]
    cost = f" Cost in NFE: {record['cost']}." if record.get("cost") else ""
    return f'<p class="gs-about">{escape(record["about"])}{escape(cost)}</p>'


def _options(sampler: str) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}={escape(str(option['default']))}</td>"
        f"<td>{escape(option['about'] or option['type'])}<br><small>{escape(option['type'])}</small></td></tr>"
        for name, option in plugin_records("sampler", sampler)[0]["options"].items()
    )
    return f'<table class="gs-options">{rows}</table>'
