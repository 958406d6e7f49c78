"""Beam search over denoising states: many noises start, the best states are kept and branched."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.beam_search import BeamSearch


@dataclass(frozen=True)
class Beam(BeamSearch):
    """Beam search: keep and branch the best of many states at half, 5/8 and 3/4 of the run.

    Beam search as in DLBS (arXiv 2501.19252) and TreeG (arXiv 2502.11420). In addition, options can be given for each
    level, which early pruning needs, and there is the diversity term of ETS (arXiv 2502.13575) and TTS-VAR (arXiv
    2507.18537).

    Other settings give other methods. `dlbs` and `treeg` are presets of this search. branch=1 with kernel="ode" and
    survivors=0.5 is `successive_halving` with every rung one step later, so early pruning has no preset here. A
    diversity far above 1 at the first of several levels and 0 at the later ones is the plan of TTS-VAR, which looks at
    clusters first and at scores afterwards.

    levels: by default half, 5/8 and 3/4 of the run, where previews begin to predict the image. On both bundled toy
        models with 8 steps, the mean rank correlation of previews and final scores (`genscale calibrate-steps`) is 0.1
        at an eighth of the run, 0.6 at 3/8 and 0.9 at half.
    survivors: 0.125 by default, so an eighth of each pool is kept.
    branch: 4 by default, so that each pool is half as large as the one before it.

    These defaults were chosen on the bundled flow model, with 60 prompts at 100 and 300 NFE, on seeds used for nothing
    else. Keeping 1/4 or 1/2 of a pool, and 2, 3 or 8 children, gained less over best_of_n, but the intervals overlap. A
    first level at a quarter of the run scored below best_of_n (-0.0041 +- 0.0038 at 300 NFE). lookahead=2 and
    diversity=1 made no measurable difference, because an eighth of a pool leaves few states to be diverse.

    Cost in NFE: f(a, b) being the evaluations from step a to step b, n the noises, p_k = branch * survivors the size of
    the pool that leaves level s_k: n f(0, s_1 + 1) + p_1 f(s_1 + 1, s_2 + 1) + ... + p_K f(s_K + 1, T), and for a
    look-ahead of l calls (min(l, T - s_k) - 1) more for each state that reaches a level. With the defaults and 8 steps
    about 5.9 n, so 1.36 times as many noises begin as in best_of_n. Scores: n, p_1, ... at the levels, p_K at the end.
    """
