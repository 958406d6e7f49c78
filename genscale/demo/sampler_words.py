"""The samplers in a few plain words each, in groups, for the list on the page."""

from __future__ import annotations

from collections.abc import Iterable

from genscale.errors import UsageError
from genscale.plugins.catalog import plugin_records

GROUPS: dict[str, dict[str, str]] = {
    "Simple": {
        "auto": "accept_reject or best_of_n, by the verifier",
        "best_of_n": "keep the best of N images",
        "accept_reject": "stop at the first image that is right",
        "successive_halving": "start many, drop the worse half a few times",
        "search_over_paths": "vary the last part of good images",
    },
    "Noise search": {
        "zero_order": "try small changes of the best image",
        "annealing": "small changes, sometimes to a worse image",
        "trust_region": "search around the best few images",
        "snes": "learn which noises score well",
        "cma_es": "learn which noises score well, in depth",
        "cem_lowfreq": "learn a good coarse layout",
    },
    "Particles": {
        "smc": "copy promising images, drop weak ones",
        "fk_steering": "as smc, with 4 particles",
        "bfs": "as smc, ever stricter along the run",
        "vasr": "as smc, with even resampling",
        "rebirth": "replace weak images by copies of others",
        "das": "as smc, steps follow the gradient",
        "tds": "as smc, proposals follow the gradient",
        "svdd": "at every step keep the best child",
        "code": "after every few steps keep the best child",
        "particle_gibbs": "smc again and again around one image",
        "importance": "best of N with weights",
        "fkc": "combine several prompts or models",
        "rollover": "one image, retry each step until it improves",
    },
    "Trees and beams": {
        "beam": "keep and branch the best, three times",
        "dlbs": "branch at every step, look ahead",
        "treeg": "branch at every step, keep the best",
        "dts_star": "a tree that learns where to branch",
        "dts": "a tree, branches drawn at random",
        "ab_mcts": "a tree that goes wider or deeper",
        "dfs": "one image, go back where it scores badly",
        "evolution": "mutate the best for generations",
    },
    "No score needed": {
        "nlg": "move the noise to where the prompt pulls",
        "zigzag": "each step forth, back and forth again",
    },
    "Gradients": {
        "gradient_guidance": "push each image up the score's gradient",
        "reno": "improve the noise by gradients",
        "carinox": "as reno, fair to several verifiers",
        "ditto": "improve the noise through the whole run",
        "ditto2": "improve the noise through a few steps",
        "dno": "improve the noise of every step",
        "dflow": "improve the noise by L-BFGS",
    },
}
OTHERS = "Plug-ins"


def sampler_choices(samplers: Iterable[str]) -> list[tuple[str, str]]:
    """(label, name) of each, group by group; those of other packages come last, by their docstring's first line."""
    left = list(samplers)
    found = []
    for group, known in GROUPS.items():
        found += [(f"{name}: {known[name]} ({group.lower()})", name) for name in known if name in left]
    grouped = {name for _, name in found}
    return found + [
        (f"{name}: {_about(name)} ({OTHERS.lower()})", name) for name in left if name not in grouped
    ]


def _about(name: str) -> str:
    try:
        return str(plugin_records("sampler", name)[0]["about"]).rstrip(".")
    except UsageError as error:  # its package is missing
        return str(error)
