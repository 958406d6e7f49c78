"""The form on the page, and the texts that explain its choices."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from genscale.demo.jobs import JobQueue
from genscale.demo.sampler_words import sampler_choices
from genscale.pipelines.loading import EMBEDDED
from genscale.plugins.automatic import ABOUT, AUTO
from genscale.plugins.catalog import plugin_records

IMAGE_PROMPT, VIDEO_PROMPT = "a red star left of a blue ring", "a red circle moving left"
SAMPLER = "best_of_n"  # the one chosen at first


def html_block(text: str = "", **more: Any) -> Any:
    """A gr.HTML without the theme's own margins and rules for its content."""
    return gr.HTML(text, apply_default_css=False, **more)


class FormFields:
    """The components of the form. `inputs` are the fields of a DemoForm, in its order."""

    def __init__(self, queue: JobQueue) -> None:
        self._prompt_and_buttons(queue)
        self._model_and_sampler(queue)
        self._verifiers_and_budget(queue)
        self._numbers(queue)

    def _prompt_and_buttons(self, queue: JobQueue) -> None:
        limits, first = queue.offer.limits, next(iter(queue.offer.models))
        self.prompt = gr.Textbox(
            _example(queue, first),
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
        self.plan = html_block('<p class="gs-plan">Working out the cost.</p>', elem_id="plan")

    def _model_and_sampler(self, queue: JobQueue) -> None:
        models = list(queue.offer.models)
        self.model = gr.Dropdown(models, value=models[0], label="Model", elem_id="model")
        self.sampler = gr.Dropdown(
            sampler_choices(queue.offer.samplers), value=SAMPLER, label="Sampler", info="How the search is done.",
            elem_id="sampler",
        )  # fmt: skip
        self.about = html_block(about_sampler(SAMPLER))
        with gr.Accordion("Options of the sampler", open=False):
            self.options = gr.Textbox(
                "", label="Options", info="NAME=VALUE, one a line", lines=2, max_lines=6, elem_id="options",
                placeholder="empty: the defaults below", max_length=2000,
            )  # fmt: skip
            self.known = html_block(sampler_options(SAMPLER))

    def _verifiers_and_budget(self, queue: JobQueue) -> None:
        offer = queue.offer
        verifiers, held_out = default_verifiers(queue, next(iter(offer.models)))
        self.verifiers = gr.Dropdown(
            list(offer.verifiers), value=verifiers, multiselect=True, label="Verifiers",
            info="Score the images; the search looks for a high score.", elem_id="verifiers",
        )  # fmt: skip
        self.held_out = gr.Dropdown(
            list(offer.verifiers), value=held_out, multiselect=True, label="Held out",
            info="A second score that the search never sees.", elem_id="held-out",
        )  # fmt: skip
        self.nfe = gr.Slider(
            1, offer.limits.nfe, value=min(1280, offer.limits.nfe), step=1, label="Budget, NFE a prompt",
            info="Denoiser evaluations; with guidance 2 a step.", elem_id="budget",
        )  # fmt: skip

    def _numbers(self, queue: JobQueue) -> None:
        known = EMBEDDED.get(queue.offer.models[next(iter(queue.offer.models))].model)
        with gr.Accordion("Steps, guidance, seed", open=False), gr.Row():
            # Textboxes, because gr.Number turns an empty field into 0.
            self.steps = gr.Textbox(
                _text(known and known.steps), label="Steps", max_length=9, min_width=90, elem_id="steps",
                placeholder="the model's",
            )  # fmt: skip
            self.guidance = gr.Textbox(
                _text(known and known.guidance), label="Guidance", max_length=9, min_width=90, elem_id="guidance",
                placeholder="the model's",
            )  # fmt: skip
            self.seed = gr.Textbox(
                "", label="Seed", max_length=20, min_width=90, elem_id="seed", placeholder="random"
            )

    @property
    def inputs(self) -> list[Any]:
        return [
            self.prompt, self.model, self.sampler, self.options, self.verifiers, self.held_out, self.nfe, self.steps,
            self.guidance, self.seed,
        ]  # fmt: skip

    @property
    def of_model(self) -> list[Any]:
        """The components that `model_defaults` fills in."""
        return [self.prompt, self.verifiers, self.held_out, self.steps, self.guidance]


def model_defaults(queue: JobQueue, model: str, prompt: str) -> list[Any]:
    """The values of `FormFields.of_model` for a model. A prompt that the user typed is kept."""
    known = EMBEDDED.get(queue.offer.models[model].model)
    verifiers, held_out = default_verifiers(queue, model)
    hint = _hint(queue, model)
    is_example = prompt.strip() in ("", IMAGE_PROMPT, VIDEO_PROMPT)
    return [
        gr.update(info=hint, value=_example(queue, model)) if is_example else gr.update(info=hint),
        verifiers,
        held_out,
        _text(known and known.steps),
        _text(known and known.guidance),
    ]


def default_verifiers(queue: JobQueue, model: str) -> tuple[list[str], list[str]]:
    """(the verifiers that go with a model, those to hold out)."""
    known = EMBEDDED.get(queue.offer.models[model].model)
    verifiers, held_out = (["clip"], []) if known is None else ([known.verifier], [known.held_out])
    offered = queue.offer.verifiers
    return [v for v in verifiers if v in offered], [v for v in held_out if v in offered]


def about_sampler(sampler: str) -> str:
    if sampler == AUTO:
        return f'<p class="gs-about">{escape(ABOUT[0].upper() + ABOUT[1:])}.</p>'
    record = plugin_records("sampler", sampler)[0]
    cost = f" Cost in NFE: {record['cost']}." if record.get("cost") else ""
    return f'<p class="gs-about">{escape(record["about"])}{escape(cost)}</p>'


def sampler_options(sampler: str) -> str:
    """A table of its options: default, meaning, type; nothing for "auto", since they depend on what it stands for."""
    if sampler == AUTO:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}={escape(str(option['default']))}</td>"
        f"<td>{escape(option['about'] or option['type'])}<br><small>{escape(option['type'])}</small></td></tr>"
        for name, option in plugin_records("sampler", sampler)[0]["options"].items()
    )
    return f'<table class="gs-options">{rows}</table>'


def _text(number: Any) -> str:
    return "" if number is None else f"{number:g}"


def _example(queue: JobQueue, model: str) -> str:
    known = EMBEDDED.get(queue.offer.models[model].model)
    return VIDEO_PROMPT if known is not None and known.frames is not None else IMAGE_PROMPT


def _hint(queue: JobQueue, model: str) -> str:
    """What to write into the prompt."""
    known = EMBEDDED.get(queue.offer.models[model].model)
    lines = f"Several lines are several prompts, at most {queue.offer.limits.prompts}."
    if known is None:
        return lines
    examples = (
        ("three green circles", IMAGE_PROMPT)
        if known.frames is None
        else (VIDEO_PROMPT, "a blue circle moving up")
    )
    return f"This model knows shapes, such as “{examples[0]}” or “{examples[1]}”. {lines}"
