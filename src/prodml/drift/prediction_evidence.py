"""What speaks for drift in a window of predictions, and how much of it chance explains.

The window is reduced to how many of its values lie in each of some seventy cells, cut at the
quantiles of the baseline.  Five aspects follow from these counts: the location and the
spread (means of rank scores, which no outlier can move far), the shape (all cells, a dozen
or so at a time), values outside the baseline's range, and values that are no finite number.

A baseline is a sample too: a new value lies beyond all ``n`` of it with a chance of
``2 / (n + 1)``, and the unit of the scores is learnt from it, so means are judged by Student's
distribution.

A window is looked at again and again, and each look could alarm by chance.  A p-value ``p``
of one look is therefore multiplied by three numbers: 5 for the aspects, ``1 - 2 log p`` for all
looks while the window moves on by one length (the largest of a sliding mean: Siegmund [1]_,
section 9), and ``e (e + 1)`` for the ``e`` lengths since the baseline (a look that comes after
more than one length counts as one, for nobody looked meanwhile), as the sum of
``1 / e (e + 1)`` is one.  What comes out may be compared with one level at every look, for
ever.

References
----------
.. [1] Siegmund (1985), *Sequential Analysis*.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from prodml._sketch import Moments
from prodml.drift.moments import Floats, moments_of
from prodml.drift.streaming.rank_cusum import edges_of, scores_of

__all__ = ["Baseline", "Finding", "Limits", "at_every_look", "findings"]

Counts: TypeAlias = npt.NDArray[np.int64]

_CELLS = 64
_GROUPS = 16
_ASPECTS = 5
# Fewer bad answers than this are an accident, not a change.
_FEW = 5


class Finding(NamedTuple):
    """One aspect: a p-value of one look, whether it is large, and the numbers in words."""

    aspect: str
    p_once: float
    large: bool
    reason: str


class Limits(NamedTuple):
    """Sizes from which aspects matter; see :class:`~prodml.drift.PredictionDriftMonitor`."""

    threshold: float
    spread: float
    shape: float
    outside: float
    invalid: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline, reduced to its cells and scores."""

    moments: Moments
    rows: int
    edges: Floats
    # Where groups of cells begin, and how many values of the baseline lie in each.
    groups: Counts
    grouped: Counts
    location: Floats
    spread: Floats
    location_skew: float
    spread_skew: float

    @classmethod
    def of(cls, values: Floats) -> "Baseline":
        """Baseline of ``values``, NaN where there was no finite number."""
        finite = np.sort(values[np.isfinite(values)])
        edges = np.array(edges_of(finite.tolist(), _CELLS) if finite.size else [0.0])
        counts = np.diff([0, *finite.searchsorted(edges), len(finite)])
        kept = counts.tolist() if finite.size else [0, 1]
        # A new value is as likely below all of the baseline as between any two of it.
        weights = [kept[0] + 1, *kept[1:-1], kept[-1] + 1]
        location, spread = (np.array(scores_of(weights, spread=wide)) for wide in (False, True))
        skews = (float(np.array(weights) @ z**3) / sum(weights) for z in (location, spread))
        groups = _groups(kept)
        grouped = np.add.reduceat(np.array(kept), groups)
        return cls(
            moments_of(finite), len(values), edges, groups, grouped, location, spread, *skews
        )

    @property
    def usually(self) -> float:
        """Share of the predictions that were no finite number."""
        return 1.0 - self.moments.count / self.rows

    def cells(self, values: Floats) -> Counts:
        """How many of ``values`` lie in each cell; one more for those not finite."""
        # Sorting and looking up the edges is faster than looking up the values; NaN sorts last.
        ordered = np.sort(values)
        cuts = np.empty(len(self.edges) + 3, dtype=np.int64)
        cuts[0], cuts[-1] = 0, len(values)
        cuts[1:-2] = ordered.searchsorted(self.edges)
        cuts[-2] = ordered.searchsorted(np.nan)
        return np.diff(cuts)

    def shift(self, window: Moments) -> float:
        """Mean of the window less that of the baseline, in standard deviations of it."""
        moved = window.mean - self.moments.mean if window.count else math.nan
        if moved == 0.0 or self.moments.std > 0.0 or math.isnan(moved):
            return moved / (self.moments.std or 1.0)
        return math.copysign(math.inf, moved)


def findings(
    baseline: Baseline, window: Moments, cells: Counts, limits: Limits
) -> tuple[Finding, ...]:
    """All aspects of a window that can be judged; the finite values need some on both sides."""
    counts, invalid = cells[:-1], int(cells[-1])
    rows = invalid + int(counts.sum())
    found = [_invalid(baseline, invalid, rows, limits)] if rows else []
    if window.count and baseline.moments.count:
        found += [
            _location(baseline, window, counts, limits),
            _spread(baseline, counts, limits),
            _shape(baseline, counts, limits),
            _outside(baseline, counts, limits),
        ]
    return tuple(found)


def at_every_look(p_once: float, lengths: float) -> float:
    """P-value that stays valid however often one looks, ``lengths`` windows after the start.

    Examples
    --------
    >>> round(at_every_look(1e-6, 1.0), 6), at_every_look(0.04, 1.0)
    (0.000286, 1.0)
    """
    if p_once <= 0.0:
        return 0.0
    looks = 1.0 - 2.0 * math.log(p_once)
    return min(1.0, _ASPECTS * p_once * looks * lengths * (lengths + 1.0))


def _location(baseline: Baseline, window: Moments, counts: Counts, limits: Limits) -> Finding:
    mean, p = _score(baseline.location, baseline.location_skew, counts, baseline)
    shift = baseline.shift(window)
    reason = (
        f"mean {baseline.moments.mean:.4g} -> {window.mean:.4g}: {shift:+.2f} standard "
        "deviations of the baseline"
    )
    # Outliers alone move a mean and not the ranks; ranks alone move a little at any change.
    large = abs(shift) >= limits.threshold and mean * shift >= 0.0
    return Finding("location", p, large, reason)


def _spread(baseline: Baseline, counts: Counts, limits: Limits) -> Finding:
    mean, p = _score(baseline.spread, baseline.spread_skew, counts, baseline)
    word = "wider" if mean > 0.0 else "narrower"
    reason = f"the predictions are spread {word}: {mean:+.2f} standard deviations of the score"
    return Finding("spread", p, abs(mean) >= limits.spread, reason)


def _score(scores: Floats, skew: float, counts: Counts, baseline: Baseline) -> tuple[float, float]:
    """Mean score of the window, and its two-sided p-value."""
    from scipy.special import stdtr

    count = int(counts.sum())
    mean = float(counts @ scores) / count
    z = abs(mean) / math.sqrt(1.0 / count + 1.0 / baseline.moments.count)
    # A skew score has a longer tail on one side than the normal one (Bernstein).
    tail = max(0.0, skew if mean > 0.0 else -skew) / math.sqrt(count)
    z /= math.sqrt(1.0 + tail * z / 3.0)
    # The unit of the scores was learnt from the baseline: with few values it is a guess.
    return mean, 2.0 * float(stdtr(max(1, baseline.moments.count - 1), -z))


def _groups(counts: list[int]) -> Counts:
    """First cells of groups that hold about a sixteenth of the values each, five at least."""
    least, held, first = max(sum(counts) / _GROUPS, 5.0), 0, [0]
    for cell, count in enumerate(counts):
        if held >= least and sum(counts[cell:]) >= least:
            first.append(cell)
            held = 0
        held += count
    return np.array(first, dtype=np.int64)


def _shape(baseline: Baseline, counts: Counts, limits: Limits) -> Finding:
    """Pearson's chi-square of two samples over the groups of cells."""
    from scipy.special import gammaincc

    old, new = baseline.grouped, np.add.reduceat(counts, baseline.groups)
    rows, known = int(new.sum()), int(old.sum())
    apart = new * math.sqrt(known / rows) - old * math.sqrt(rows / known)
    statistic = float((apart * apart / np.maximum(new + old, 1)).sum())
    moved = float(np.abs(new / rows - old / known).sum()) / 2.0
    p = float(gammaincc((len(old) - 1) / 2.0, statistic / 2.0)) if len(old) > 1 else 1.0
    reason = f"{moved:.3g} of the predictions moved to other quantiles of the baseline"
    return Finding("shape", p, moved >= limits.shape, reason)


def _outside(baseline: Baseline, counts: Counts, limits: Limits) -> Finding:
    count, below, above = int(counts.sum()), int(counts[0]), int(counts[-1])
    # That the k largest of both samples are all of the window has at most this probability.
    chance = count / (count + baseline.moments.count)
    p = min(1.0, 2.0 * chance ** max(below, above))
    share = (below + above) / count
    low, high = baseline.moments.minimum, baseline.moments.maximum
    reason = f"{share:.3g} of the predictions lie outside of [{low:.4g}, {high:.4g}]"
    return Finding("range", p, share >= limits.outside, reason)


def _invalid(baseline: Baseline, invalid: int, rows: int, limits: Limits) -> Finding:
    share, usually = invalid / rows, baseline.usually
    reason = f"{share:.3g} of the predictions are no finite number, {usually:.3g} of the baseline"
    large = invalid >= _FEW and share - usually >= limits.invalid
    # The baseline is a sample too.  That so many of both samples' bad answers lie in the window
    # is a draw without replacement, seen from either side (Hoeffding 1963, section 6).
    together = (invalid + baseline.rows * usually) / (rows + baseline.rows)
    apart = max(rows * _apart(share, together), baseline.rows * _apart(usually, together))
    p = math.exp(-apart) if share > usually else 1.0
    return Finding("invalid", p, large, reason)


def _apart(share: float, known: float) -> float:
    """Exponent of Chernoff's bound on ``share`` where ``known`` is expected."""
    pairs = ((share, known), (1.0 - share, 1.0 - known))
    return max(0.0, sum(a * math.log(a / b) for a, b in pairs if a > 0.0 and b > 0.0))
