"""`genscale train-preview`: from the previews that runs have kept to a verifier that predicts final scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genscale.commands.preview_pictures import PreviewRun, read_previews, same_steps
from genscale.commands.tune_previews import Tuning
from genscale.engine.ledger import Ledger
from genscale.engine.tensor_files import save_tensors
from genscale.engine.verifier_roles import VerifierSet
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.media_items import IMAGE, VIDEO, plural
from genscale.numerics.probability_curve import FOLDS, Array, folds
from genscale.numerics.rank_correlation import agreement
from genscale.numerics.ridge import Chosen, chosen_ridge
from genscale.results.run_files import versions
from genscale.results.verifier_calibration import FEWEST_PROMPTS, Member, Reference
from genscale.runs import verifier_specs
from genscale.runs.progress import Display
from genscale.runs.run_folder import RunFolder
from genscale.runs.saved_run import Decode, decoder_of
from genscale.verifiers.learned_preview import features_of
from genscale.verifiers.learned_preview_file import FILE, IMAGES, Learned, PreviewLevel, write
from genscale.verifiers.reference_images import eight_bit, panel, with_references

REFERENCES = 2  # images by which a changed verifier is noticed
TRUSTED = 0.98  # rank correlation of the own score of previews from which on no network is tuned (ours)

Rows = NDArray[np.int64]


class Gathered:
    """The candidates of some runs, decoded in batches. texts: [n] prompts; prompts: [n] their numbers."""

    def __init__(self, runs: Sequence[PreviewRun], tune: int, trust: bool) -> None:
        self.runs, self.steps, self.total = runs, same_steps(runs), runs[0].scored.steps
        self.rows = [(k, f, p) for k, r in enumerate(runs) for f, p in r.rows]
        self.texts = [runs[k].scored.run.request.prompts[f.prompt] for k, f, _ in self.rows]
        names = list(dict.fromkeys(self.texts))
        numbers = {text: i for i, text in enumerate(names)}
        self.prompts: Rows = np.array([numbers[text] for text in self.texts], dtype=np.int64)
        fewest = FEWEST_PROMPTS * (FOLDS if tune else 1)
        if len(names) < fewest:
            how = "a tuned preview" if tune else "a learned preview"
            raise UsageError(
                f"{how} needs runs of at least {fewest} prompts, some to be held out, not {len(names)}: add "
                "runs of others."
            )
        self._decode: list[Decode] = [decoder_of(r.scored.run, trust=trust) for r in runs]

    def media(self, step: int | None, chosen: Rows | None = None) -> Iterator[tuple[Rows, Media]]:
        """Batches (numbers of rows, Media) of candidates: finished (None), or their previews at a step.

        chosen: the candidates, increasing; None: all.
        """
        rest = np.arange(len(self.rows)) if chosen is None else chosen
        while len(rest):
            run = self.rows[rest[0]][0]
            request = self.runs[run].scored.run.request
            some = [i for i in rest[: request.decode_batch or request.batch_size] if self.rows[i][0] == run]
            told = [self.rows[i] for i in some]
            yield np.array(some), self._decode[run]([f if step is None else p[step] for _, f, p in told])
            rest = rest[len(some) :]

    def texts_of(self, rows: Rows) -> list[str]:
        return [self.texts[i] for i in rows]


def train_preview(
    folders: Sequence[Path], spec: str, tune: int, out: Path | None, display: Display, *, trust: bool = False
) -> tuple[Path, Learned]:
    """Learn from the runs in folders how previews predict the final score of a verifier, and write it to a folder.

    spec: the verifier as on the command line. tune: passes over the previews for tuning a copy of its network, which
    learns on four fifths of the prompts, and the heads on the others; 0: heads alone, on all prompts.
    """
    member = _member(spec, tune)
    runs = [read_previews(folder) for folder in folders]
    gathered = Gathered(runs, tune, trust)
    with RunFolder.for_calibration(out, FILE, "learned preview") as folder:
        first = next(iter(gathered.media(None)))[1]
        if first.kind not in (IMAGE, VIDEO):
            raise UsageError(
                f"previews of {plural(first.kind)} cannot be learned: learn those of images or videos."
            )
        frames = runs[0].scored.run.request.per_frame if first.is_video else None
        judges = panel([member], frames)
        texts = list(dict.fromkeys(gathered.texts))
        judges.prepare(texts, first.device)
        finals, [media] = _finals(gathered, judges, display)
        levels, measured = _levels(gathered, judges.members[0].verifier, finals, tune, display)
        pixels, again = eight_bit(media)
        saved: list[str] = []
        folder.write(IMAGES, lambda path: saved.append(save_tensors(path, {"pixels": pixels})))
        shown = gathered.texts[: len(pixels)]
        [member] = with_references([member], judges, again, shown, finals[:, None])
        about = {
            "model": runs[0].scored.run.request.model,
            "candidates": len(finals),
            "prompts": len(texts),
            "tuned": tune,
            "levels": measured,
            "versions": versions(),
        }
        found = Learned(member, levels, Reference(saved[-1], tuple(shown)), gathered.total, frames, about)
        write(found, folder.write)
    return folder.path, found


def _member(spec: str, tune: int) -> Member:
    name, options = verifier_specs.plugin_of(spec)
    if name in verifier_specs.FOLDERS:
        raise UsageError(f"'{spec}' was learned itself: name the verifier that it was learned of.")
    if tune < 0:
        raise UsageError(f"--tune {tune} is no number of passes: give 0 or more.")
    [(verifier, _)] = verifier_specs.weighted_verifiers([spec])
    if tune and not hasattr(verifier, "preview_network"):
        raise UsageError(f"verifier '{name}' offers no network to tune: leave --tune out.")
    return Member.unscored(name, options)


def _finals(gathered: Gathered, judges: VerifierSet, display: Display) -> tuple[Array, list[Media]]:
    """The scores of the finished candidates [n], and the first of them for reference."""
    finals, kept = np.empty(len(gathered.rows)), list[Media]()
    for rows, media in gathered.media(None):
        texts = gathered.texts_of(rows)
        labels = [f"candidate {i} of '{t}'" for i, t in zip(rows, texts, strict=True)]
        finals[rows] = judges.score(media, texts, labels, Ledger())[:, 0].numpy()
        if not kept:
            kept.append(media[:REFERENCES])
    display.say(f"{len(finals)} finished candidates scored")
    return finals, kept


def _levels(
    gathered: Gathered, verifier: Any, finals: Array, tune: int, display: Display
) -> tuple[tuple[PreviewLevel, ...], list[dict[str, Any]]]:
    """What was learned at each step, from clean to noisy, and how well it predicts, both by progress."""
    tuner = _Tuner(gathered, verifier, finals, tune, display) if tune else None
    rows = np.arange(len(finals)) if tuner is None else np.flatnonzero(tuner.held_out)
    wanted, prompts = finals[rows], gathered.prompts[rows]
    levels, measured = [], []
    for step in reversed(gathered.steps):
        own = _read(gathered, verifier, step, rows, None)
        plain = Head.of(own[:, :1], wanted, prompts)
        tried = [plain, Head.of(own, wanted, prompts)]
        network = None if tuner is None or plain.rho >= TRUSTED else tuner.next(step)
        if network is not None:
            seen = _read(gathered, verifier, step, rows, network)
            tried += [Head.of(x, wanted, prompts, network) for x in (seen[:, :1], seen)]
        best = max(tried, key=lambda head: head.rho)  # of equals the simplest
        levels.append(best.level(step / gathered.total, own.shape[1]))
        measured.append(
            {
                "progress": step / gathered.total,
                "plain": plain.rho,
                "learned": best.rho,
                "explained": best.explained(wanted),
                "features": len(best.chosen.predictor.weights),
                "tuned": best.network is not None,
            }
        )
        display.say(f"the previews at {step / gathered.total:.3g} of the run were learned")
    return tuple(reversed(levels)), measured[::-1]


@dataclass(frozen=True)
class Head:
    """A ridge regression on features of previews. rho: mean Spearman correlation of its held-out predictions with the
    final scores within a prompt; 0 where all are equal."""

    chosen: Chosen
    rho: float
    network: nn.Module | None

    @staticmethod
    def of(features: Array, finals: Array, prompts: Rows, network: nn.Module | None = None) -> Head:
        chosen = chosen_ridge(features, finals, prompts)
        pools = [prompts == k for k in np.unique(prompts)]
        # A single feature ranks as itself: the folds differ in no prompt's order, but for a slope of another sign.
        early = [chosen.held_out[p] for p in pools]
        return Head(chosen, agreement(early, [finals[p] for p in pools]).rho or 0.0, network)

    def explained(self, finals: Array) -> float:
        """The share of the variance of the final scores that held-out predictions explain."""
        missed = np.square(self.chosen.held_out - finals).mean()
        return float(1 - missed / max(float(np.var(finals)), 1e-12))

    def level(self, progress: float, width: int) -> PreviewLevel:
        """As it is stored. width: number of all features, of which it reads the first."""
        found = self.chosen.predictor
        weights = np.pad(found.weights, (0, width - len(found.weights)))
        state = None if self.network is None else {k: v.half() for k, v in self.network.state_dict().items()}
        return PreviewLevel(progress, replace(found, weights=weights), state)


class _Tuner:
    """Tunes the network level by level. held_out: [n], the candidates whose prompts it does not see."""

    def __init__(self, gathered: Gathered, verifier: Any, finals: Array, tune: int, display: Display) -> None:
        self.gathered, self.display = gathered, display
        self.held_out = folds(finals, gathered.prompts) == 0
        self.tuning = Tuning(verifier, tune, Key.from_seed(0).fold("tune previews"))
        pictures = self._pictures(None)
        self.network: nn.Module = verifier.preview_network(pictures.device)
        self.wanted = self.tuning.wanted(self.network, pictures)

    def next(self, step: int) -> nn.Module:
        """A copy for the previews at a step, which begins with the weights of the one before."""
        tuning = replace(self.tuning, key=self.tuning.key.fold(step))
        made = tuning.tuned(self.network, self._pictures(step), self.wanted, self.display.say)
        made.load_state_dict(
            {k: v.half().to(v.dtype) for k, v in made.state_dict().items()}
        )  # as it is stored
        self.network = made
        return made

    def _pictures(self, step: int | None) -> Tensor:
        """uint8 pictures of the candidates that are tuned on."""
        some = self.gathered.media(step, np.flatnonzero(~self.held_out))
        return torch.cat([(media.pixels * 255).round().to(torch.uint8) for _, media in some])


def _read(gathered: Gathered, verifier: Any, step: int, chosen: Rows, network: nn.Module | None) -> Array:
    """The features [n, F] of the previews of some candidates at a step."""
    some = gathered.media(step, chosen)
    return np.concatenate(
        [
            features_of(verifier, media, gathered.texts_of(rows), network).double().cpu().numpy()
            for rows, media in some
        ]
    )
