"""genscale: spend more compute at inference to get better samples from pretrained diffusion and flow models.

    import genscale
    better = genscale.scale(pipe, sampler="best_of_n", candidates=16, verifier="clip")
    image = better("a red star left of a blue ring").images[0]

The public names, all importable from here; everything else in the package is private and may change:

Scaling     scale, Scaled, SearchBlock, load_pipeline, remote_images, token_texts, Arms, Budget, Draft
Workers     Processes
Masked      RemaskingScheduler, block_ensemble, adaptive_blocks, AdaptiveBlocks
Long videos tree_of_frames, TreeOfFrames, ChunkedVideo, ChunkTree
Plug-ins    list_samplers, list_verifiers, make_sampler, make_verifier, citation
Verifiers   calibrate_verifier
Results     SearchResult, load_result, Entry, Population, Ledger, Plan, compare, SideBySide, Mean, Media
Stopping    Patience, MarginalGain, AdaptiveN, Guard, Target, Stop, StopRule
Errors      UsageError, VerifierError, AllCandidatesFailed, BudgetExhausted
Events      Event, Denoised, Differentiated, Scored, Estimated, Dropped, Failure, BatchHalved
Interfaces  Sampler, SamplerHooks, Verifier, Process, Calibration
Queries     Query, Solve, Denoise, Score, Gradient, Ask
Answers     Particles, Prediction, Scores, Graded
Candidates  Candidate, OWN, draw, branch, Key, neighbour, slerp
Budgeting   affordable, spend_leftover_budget
Kernels     Kernel, Transition, Ddim, Sde, Glass, parse_kernel, NoiseSchedule, NoiseLevel
Mixes       Mix, Source, MixtureContext, Weighted, Tempered, Guided, compose, negate, rlg, autoguidance
Guidance    Cfg, CfgPlusPlus
Regions     Boxes, Box
Toy models  analytic, toy

A name is imported when it is first used (`__init__.pyi` says from where), so `import genscale` loads no torch.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

__version__ = "0.1.0"

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _lazy("UsageError" if name == "Refusal" else name)  # Refusal: its name before 0.1.0
