"""`SearchBlock`: a search as a block of somebody's own modular pipeline, in the place of its denoising blocks.

    blocks = FluxAutoBlocks()
    parts = blocks.sub_blocks
    parts["denoise"] = SearchBlock(parts["denoise"], parts["decode"], sampler="smc", verifier="pickscore")
    pipe = blocks.init_pipeline("...")

The block makes a pipeline of the blocks that it stands for and of those that decode, with the components of the
pipeline that it is in, and searches with that. The blocks before it have encoded the prompts; those after it get the
latents of the best candidates, as from the blocks that it stands for.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

from genscale.errors import UsageError
from genscale.pipelines.modular_blocks import PlainBlock
from genscale.pipelines.modular_inputs import PROMPT, makes_latents
from genscale.pipelines.prompt_texts import TEXTS
from genscale.pipelines.scale import scale

_KEPT = "denoised."

if TYPE_CHECKING:
    SearchBlock: Any


def __getattr__(name: str) -> Any:
    """`SearchBlock`, made when it is asked for: its base class is of diffusers."""
    if name == "SearchBlock":
        return _block_class()
    raise AttributeError(name)


class _Searching:
    """The methods of SearchBlock; `_block_class` joins them to diffusers' base class of blocks.

    denoise: the blocks to search with, from those that draw the initial latents to the loop's end. decode: the blocks
    that make images or videos of latents, for verifiers; None where nothing is verified. Further arguments are those of
    `genscale.scale`. UsageError: the blocks draw no initial latents.

    It takes the inputs of those blocks, and `texts`, what the verifiers are told: the prompts, unless a block before
    this one has written a template into them. Its outputs are those of `denoise`, and `search`, the SearchResult.
    """

    def __init__(self, denoise: Any, decode: Any = None, **settings: Any) -> None:
        from diffusers.modular_pipelines import SequentialPipelineBlocks
        from diffusers.modular_pipelines.modular_pipeline_utils import InsertableDict

        self.sub_blocks = (
            InsertableDict()
        )  # it is one block: what looks for blocks to run must not look inside
        parts = {"denoise": denoise, "keep": _Keep(denoise)} | ({} if decode is None else {"decode": decode})
        self.denoise, self.settings = denoise, settings
        self.inner: Any = SequentialPipelineBlocks.from_blocks_dict(parts)
        if not makes_latents(denoise):
            raise UsageError(
                f"{type(denoise).__name__} gets its initial latents from a block before it, and a search makes them "
                "itself: give SearchBlock the blocks from the one that prepares the latents on."
            )
        scale(None, **settings)  # refuses wrong settings before a pipeline is called

    @property
    def model_name(self) -> Any:
        return self.inner.model_name

    @property
    def description(self) -> str:
        return f"Searches among candidates (genscale) with the loop of {type(self.denoise).__name__}."

    @property
    def expected_components(self) -> Any:
        return self.inner.expected_components

    @property
    def expected_configs(self) -> Any:
        return self.inner.expected_configs

    @property
    def inputs(self) -> Any:
        from diffusers.modular_pipelines import InputParam

        own = self.inner.inputs
        return [*own, *(InputParam(name=n) for n in (PROMPT, TEXTS) if all(p.name != n for p in own))]

    @property
    def intermediate_outputs(self) -> Any:
        from diffusers.modular_pipelines import OutputParam

        return [*self.denoise.intermediate_outputs, OutputParam("search", description="The SearchResult")]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Verifiers and callbacks are shared: they may hold models."""
        made = copy.copy(self)
        made.denoise, made.inner = copy.deepcopy((self.denoise, self.inner), memo)
        return made

    def __call__(self, components: Any, state: Any) -> Any:
        pipe = copy.copy(components)  # the same class and components, with other blocks
        pipe._blocks = self.inner
        found = scale(pipe, **self.settings)(state=state, texts=state.get(TEXTS))
        for output in self.denoise.intermediate_outputs:
            if _KEPT + output.name in found.values:
                state.set(output.name, found.values[_KEPT + output.name], output.kwargs_type)
        state.set("search", found.search)
        return components, state


class _Keep(PlainBlock):
    """Keeps what the denoising blocks made under other names: those that decode may write over it."""

    def __init__(self, denoise: Any) -> None:
        super().__init__()
        self.denoise = denoise

    def __call__(self, components: Any, state: Any) -> Any:
        for output in self.denoise.intermediate_outputs:
            if output.name in state.values:
                state.set(_KEPT + output.name, state.values[output.name])
        return components, state


@cache
def _block_class() -> Any:
    from diffusers.modular_pipelines import ModularPipelineBlocks

    names = {"__module__": __name__, "__qualname__": "SearchBlock", "__doc__": _Searching.__doc__}
    return type("SearchBlock", (_Searching, ModularPipelineBlocks), names)
