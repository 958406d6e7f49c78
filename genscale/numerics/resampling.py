"""Weights of particles: normalisation, effective sample size, resampling, tempering.

Log-weights are float64 [n] on the CPU; other tensors are converted. A particle with a log-weight of -inf (weight 0) is
called dead, and NaN counts as -inf. `segments` (long [n], ids 0..k-1 in any order) separates pools that do not compete,
such as several prompts or the children of each parent. The result for a segment is exactly that of the segment alone.

Resampling draws m ancestors by normalised weights W so that row i has m W_i offspring on average. The schemes differ in
the variance of that number (Douc, Cappé & Moulines 2005, "Comparison of resampling schemes for particle filtering").
On a typical pool the order is multinomial > killing > residual > stratified > systematic = ssp. Use systematic if in
doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genscale.key import Key

_SUM = (
    1e-3  # tolerance of the sum of weights around 1: allows float32 round-off, but not unnormalised weights
)
_WHOLE = 1e-12  # relative difference below which an expected number of offspring is rounded to an integer
_HALVINGS = 60  # bisection steps in the search for a tempering step

# ---------------------------------------------------------------- log-weights


def normalised(log_w: Tensor, segments: Tensor | None = None) -> Tensor:
    """Softmax of log_w [n] within each segment: float64 [n] that sum to 1 in each segment.

    If all particles of a segment are dead (-inf), their weights are uniform.
    """
    w, peak, ids = _scaled(log_w, segments)
    return w / _sums(w, ids, len(peak))[ids]


def log_mean_exp(log_w: Tensor, segments: Tensor | None = None) -> Tensor:
    """log of the mean of exp(log_w): float64 [], or [k] with segments. -inf if all are -inf, or if a segment is empty.

    The mean of unnormalised importance weights is the estimate of the normalising constant Z.
    """
    w, peak, ids = _scaled(log_w, segments)
    size = _sums(torch.ones_like(w), ids, len(peak)).clamp(min=1)
    means = peak + (_sums(w, ids, len(peak)) / size).log()
    return means[0] if segments is None else means


def ess(log_w: Tensor, segments: Tensor | None = None) -> Tensor:
    """Effective sample size 1 / sum W^2 (Kong, Liu & Wong 1994): float64 [], or [k] with segments.

    It is between 1 (one particle has all the weight) and n (all weights are equal, or all particles are dead), and 0
    for an empty segment.
    """
    w, peak, ids = _scaled(log_w, segments)
    squares = _sums(w.square(), ids, len(peak)).clamp(min=1)  # the largest w of a segment is 1
    sizes = _sums(w, ids, len(peak)).square() / squares
    return sizes[0] if segments is None else sizes


def flatten(log_w: Tensor, progress: float) -> Tensor:
    """Log-weights [n] that are more even in the first half of the run, in which scores are less reliable.

    The ESS rule of entropic particle filtering (arXiv 2510.05825): log_w / T with T = max(1, (n / ESS) (1 - progress))
    if ESS / n < 0.5 and progress < 0.5, else log_w itself. log_w: [n]. progress: the completed fraction of the run, in
    [0, 1]. To keep the target distribution, resampling by flattened weights must set the new weight of each offspring
    to the ratio of true to flattened weight, as the particle filter of genscale does.
    """
    n, effective = len(log_w), float(ess(log_w))
    if effective >= 0.5 * n or progress >= 0.5:
        return log_w
    return log_w / max(1.0, n / effective * (1 - progress))


def temper_to_ess(log_w: Tensor, gain: Tensor, target: float, most: float) -> float:
    """The largest step d in [0, most] for which ess(log_w + d * gain) >= target * n.

    Adaptive tempering: Jasra, Stephens, Doucet & Tsagaris 2011; Del Moral, Doucet & Jasra 2012. log_w: [n]. gain: [n],
    increase of each log-weight per unit of d; a particle with a gain of -inf or NaN is dead at every d, d = 0 included.
    target: fraction of n, in (0, 1]. Returns `most` if the ESS suffices there, and 0.0 if it is too low already at
    d = 0. Otherwise d is found by bisection, to within most / 2**60. From uniform weights the ESS decreases
    monotonically with d. From other weights it can rise and fall several times, and the result is then one of the
    points at which it falls below the target. ValueError: target or most is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"the ESS to keep is a share of the particles in (0, 1], not {target}")
    if not 0 <= most < math.inf:
        raise ValueError(f"the largest tempering step is a finite number of at least 0, not {most}")
    log_w, gain = _float64(log_w), _float64(gain)

    def keeps(d: float) -> bool:
        return float(ess(log_w + d * gain)) >= target * len(log_w)

    if not keeps(0.0):
        return 0.0
    if keeps(most):
        return float(most)
    low, high = 0.0, float(most)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


# ---------------------------------------------------------------- resampling


def resample(scheme: str, weights: Tensor, m: int, key: Key) -> Tensor:
    """Ancestors of m offspring, long [m], ascending, drawn by a scheme of SCHEMES.

    weights: normalised, [n]. In every scheme row i has m W_i offspring on average, and a row of weight 0 has none.
    ValueError: the scheme is unknown, the weights are not normalised, or m is below 1.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown resampling scheme {scheme!r}: it is one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme](weights, m, key)


def resample_segments(scheme: str, weights: Tensor, segments: Tensor, m: int, key: Key) -> Tensor:
    """m offspring of every segment: rows of the whole pool, long [k * m], segment by segment, ascending in each.

    weights: [n], normalised within each segment. Segment s draws from key.fold(s), independently of the others.
    ValueError: as in `resample`, or an id below the largest one has no row.
    """
    ids = _ids(segments, len(weights))
    pools = torch.argsort(ids, stable=True).tensor_split(torch.bincount(ids).cumsum(0)[:-1])
    if any(len(rows) == 0 for rows in pools):
        raise ValueError("a segment without particles has no offspring: number segments 0..k-1 without gaps")
    weights = weights.cpu()
    chosen = [rows[resample(scheme, weights[rows], m, key.fold(s))] for s, rows in enumerate(pools)]
    return torch.cat(chosen)


def _multinomial(weights: Tensor, m: int, key: Key) -> Tensor:
    """m independent draws (Gordon, Salmond & Smith 1993)."""
    return _inverse_cdf(_expected(weights, m), m * key.uniform(m).sort().values)


def _residual(weights: Tensor, m: int, key: Key) -> Tensor:
    """floor(m W) copies of each row, and multinomial draws for the remainder (Liu & Chen 1998)."""
    expected = _expected(weights, m)
    counts = expected.floor().long()
    rest, left = expected - counts, m - int(counts.sum())
    if left:
        drawn = _inverse_cdf(rest, rest.sum() * key.uniform(left).sort().values)
        counts = counts + torch.bincount(drawn, minlength=len(counts))
    return _ancestors(counts)


def _stratified(weights: Tensor, m: int, key: Key) -> Tensor:
    """One uniform draw in each of m equal parts of the cumulative distribution (Kitagawa 1996): the number of offspring
    differs from m W by less than 2."""
    return _inverse_cdf(_expected(weights, m), _strata(m, key.uniform(m)))


def _systematic(weights: Tensor, m: int, key: Key) -> Tensor:
    """Stratified with the same random offset in all parts (Carpenter, Clifford & Fearnhead 1999): the number of
    offspring differs from m W by less than 1."""
    return _inverse_cdf(_expected(weights, m), _strata(m, key.uniform(1)))


def _ssp(weights: Tensor, m: int, key: Key) -> Tensor:
    """Srinivasan sampling process (Gerber, Chopin & Whiteley 2019): floor(m W) or floor(m W) + 1 offspring of each row,
    with negatively associated numbers.

    The fractional parts of m W are processed in pairs. Mass moves at random, without bias, from one to the other until
    one of them is 0 or 1, and the other is paired with the next row. Unlike systematic resampling, this converges for
    every order of the rows. It is a sequential loop over n.
    """
    expected = _expected(weights, m)
    counts: list[int] = expected.floor().long().tolist()
    parts, coins = (expected - expected.floor()).tolist(), key.uniform(len(counts)).tolist()
    going, part = 0, 0.0  # the row whose part is still a fraction, and that fraction
    for row, (other, coin) in enumerate(zip(parts, coins, strict=True)):
        if other == 0:
            continue
        both = part + other
        if both < 1:  # one takes all of it, the other is 0
            going = going if coin < part / both else row
            part = both
        else:  # one becomes 1, the other keeps the remainder
            done, going = (going, row) if coin < (1 - other) / (2 - both) else (row, going)
            counts[done] += 1
            part = both - 1
    counts[going] += m - sum(counts)  # the last fraction is 0 or 1, up to round-off
    return _ancestors(torch.tensor(counts))


def _killing(weights: Tensor, m: int, key: Key) -> Tensor:
    """Row i survives with probability W_i / max W, and is otherwise replaced by a draw from all rows (Del Moral 2004).
    m must be n."""
    expected = _expected(weights, m)
    if m != len(expected):
        raise ValueError(f"killing gives each row one successor: m must be {len(expected)}, not {m}")
    survives = key.fold("survive").uniform(m) < expected / expected.max()
    drawn = _inverse_cdf(expected, m * key.fold("draw").uniform(int((~survives).sum())))
    return torch.cat([survives.nonzero()[:, 0], drawn]).sort().values


SCHEMES: dict[str, Callable[[Tensor, int, Key], Tensor]] = {
    "systematic": _systematic,  # the default
    "ssp": _ssp,
    "stratified": _stratified,
    "residual": _residual,
    "killing": _killing,
    "multinomial": _multinomial,
}
"""name -> (normalised weights [n], m, key) -> ancestors, long [m], ascending. All are unbiased."""


def _expected(weights: Tensor, m: int) -> Tensor:
    """m W, float64 [n]. Values within round-off of an integer are rounded, so W = 1/n and m = n give exactly 1."""
    w = weights.cpu().double()
    total = float(w.sum())
    if w.ndim != 1 or not (w >= 0).all() or not abs(total - 1) <= _SUM:
        raise ValueError(
            f"weights are [n], at least 0 and add up to 1: these are {list(w.shape)}, sum {total}"
        )
    if m < 1:
        raise ValueError(f"resampling gives at least one offspring, not {m}")
    expected = w * (m / total)
    whole = expected.round()
    return torch.where((expected - whole).abs() <= _WHOLE * whole, whole, expected)


def _inverse_cdf(mass: Tensor, points: Tensor) -> Tensor:
    """The row of each point, long, in the shape of points: row i covers an interval of length mass[i], from 0 on.

    A row of mass 0 gets no point. Points beyond the end, by round-off, belong to the last row with mass.
    """
    last = int(mass.nonzero()[-1])
    return torch.searchsorted(mass.cumsum(0), points, right=True).clamp(max=last)


def _ancestors(counts: Tensor) -> Tensor:
    """Row i repeated counts[i] times, ascending. (repeat_interleave would need 10 ms to start threads.)"""
    ends = counts.cumsum(0)
    return torch.searchsorted(ends, torch.arange(int(ends[-1])), right=True)


def _strata(m: int, offsets: Tensor) -> Tensor:
    """Points i + offset [m] of the strata [i, i + 1), i < m, kept below i + 1 if the sum would round up to it."""
    i = torch.arange(m, dtype=torch.float64)
    return torch.minimum(i + offsets, torch.nextafter(i + 1, i))


# ---------------------------------------------------------------- segments


def _scaled(log_w: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """exp(log_w - peak) [n], the largest log-weight (peak) of each segment [k], and the segment of each row [n]."""
    log_w = _float64(log_w)
    log_w = torch.where(log_w.isnan(), -math.inf, log_w)
    ids = torch.zeros(len(log_w), dtype=torch.long) if segments is None else _ids(segments, len(log_w))
    k = 1 if segments is None else len(torch.bincount(ids))
    peak = torch.full((k,), -math.inf, dtype=torch.float64).scatter_reduce(0, ids, log_w, "amax")
    # inf - inf is NaN, so the difference of rows at an infinite peak is set to 0.
    return torch.where(log_w == peak[ids], 0.0, log_w - peak[ids]).exp(), peak, ids


def _sums(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Sums [k] of the values [n] of each segment, added in the order of the rows."""
    return torch.zeros(k, dtype=torch.float64).index_add(0, ids, values)


def _ids(segments: Tensor, n: int) -> Tensor:
    ids = segments.cpu().long()
    if ids.shape != (n,) or (ids < 0).any():
        raise ValueError(f"segments are ids 0..k-1, one for each of {n} rows; these are {list(ids.shape)}")
    return ids


def _float64(x: Tensor) -> Tensor:
    return x.cpu().double()  # first to the CPU, because mps has no float64
