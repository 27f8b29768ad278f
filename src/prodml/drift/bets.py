"""Bets against "nothing has moved": how likely are these counts if it has, and if it has not?

A reference of ``n`` rows cuts the line into cells.  Where its values have no ties, the chances
of the cells are *exactly* Dirichlet distributed, whatever the distribution of the data is: the
gaps between ordered uniform values are [1]_.  So, if nothing has moved, counts of later rows by
cell have the Dirichlet-multinomial (Polya) distribution whose parameters are the ranks between
the edges, and its likelihood in the denominator of a bet makes a martingale of it: the
sampling error of the reference is inside, not added on.  The numerator may be any distribution.
Here it is a mixture of

* *tilts*: the reference pushed up or down, or spread out, by normal scores, as uncertain as the
  reference itself is, so that its sampling error cancels in the ratio; and
* *groups*: a set of cells (all below an edge, one level, what is missing) that takes any other
  share, near or far.

References
----------
.. [1] Wilks (1962), *Mathematical Statistics*, section 8.7; Shaer, Bar, Prinster and Romano
   (2026), "Testing for distribution shifts with conditional conformal test martingales",
   PMLR 306, keep the reference fixed as well and pay for its sampling error by a band.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Bets", "level_bets", "normal_scores", "number_bets"]

Floats: TypeAlias = npt.NDArray[np.float64]

# Standard deviations by which the middle may have moved, and what happens to the spread.
_SHIFTS = (0.06, 0.12, 0.2, 0.35, 0.6, 1.0, 1.7)
_SPREADS = (0.1, 0.25, 0.6)
# How near the other share of a group is expected: standard deviation sqrt(p (1 - p) / nearness).
_NEARNESS = np.array([5.0, 40.0, 300.0])
# Of the stake: moved, spread out, groups of cells.
_STAKES = (0.5, 0.15, 0.35)
_STEEPEST = 3.0
_LEAST = 0.5


@dataclass(frozen=True, slots=True)
class Bets:
    """Everything staked on one column.

    Parameters
    ----------
    cells : array of shape (seasons, cells)
        Parameters of the Dirichlet distribution: rows of the reference in each cell.
    tilts : array of shape (bets, seasons, cells)
        The same for reference distributions that have moved; each sums to what ``cells`` does.
    stakes : array of shape (bets,)
    groups : array of shape (groups, cells), 0 or 1
    group_stakes : array of shape (groups,)
        With ``stakes`` they sum to 1.
    doubts : array of shape (groups,)
        How many times less certain than the Dirichlet distribution says the share of a group
        is, if nothing has moved; at least 1.

    Examples
    --------
    >>> bets = number_bets(np.full((1, 10), 100.0))
    >>> same, moved = np.full((1, 10), 25), np.arange(10).reshape(1, 10) * 50 / 9
    >>> [round(float(x), 1) for x in bets.log_wealth(np.array([same, moved]))]
    [-1.3, 38.5]
    """

    cells: Floats
    tilts: Floats
    stakes: Floats
    groups: Floats
    group_stakes: Floats
    doubts: Floats
    _fixed: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fixed", _log_gamma(self.tilts) - _log_gamma(self.cells))

    def log_wealth(self, counts: npt.NDArray[np.generic]) -> Floats:
        """Logarithm of what a stake of 1 has become, for counts of shape (n, seasons, cells)."""
        seen = np.asarray(counts, dtype=np.float64)
        found = [self._of_groups(seen)]
        if len(self.tilts):
            up = _log_gamma(self.tilts[None] + seen[:, None])
            found.append(
                up - _log_gamma(self.cells + seen)[:, None] - self._fixed + np.log(self.stakes)
            )
        every = np.concatenate(found, axis=1)
        top = every.max(axis=1)
        return np.asarray(top + np.log(np.exp(every - top[:, None]).sum(axis=1)))

    def _of_groups(self, seen: Floats) -> Floats:
        total = self.cells.sum(axis=1)[None, :, None]
        rows = seen.sum(axis=2)[:, :, None]
        inside, hits = (self.cells @ self.groups.T)[None], seen @ self.groups.T
        yes, no = inside / self.doubts, (total - inside) / self.doubts
        fair = _log_beta(yes + hits, no + rows - hits) - _log_beta(yes, no)
        share = (inside / total)[:, None]
        near = _NEARNESS[None, :, None, None]
        # No bet that something rare stays away: it would win where there is no such thing.
        a, b = np.maximum(near * share, _LEAST), np.maximum(near * (1.0 - share), _LEAST)
        hits, rows = hits[:, None], rows[:, None]
        moved = _log_beta(a + hits, b + rows - hits) - _log_beta(a, b)
        ratio = (moved - fair[:, None]).sum(axis=2)
        stakes = np.log(self.group_stakes / len(_NEARNESS))
        return np.asarray(ratio + stakes).reshape(len(seen), -1)


def _log_gamma(cells: Floats) -> Floats:
    """Summed over seasons and cells."""
    from scipy.special import gammaln

    return np.asarray(gammaln(cells).sum(axis=(-2, -1)))


def _log_beta(a: Floats, b: Floats) -> Floats:
    """Like ``scipy.special.betaln``, which takes three times as long."""
    from scipy.special import gammaln

    return np.asarray(gammaln(a) + gammaln(b) - gammaln(a + b))


def normal_scores(cells: Floats) -> Floats:
    """Quantile of the normal distribution in the middle of each cell."""
    from scipy.special import ndtri

    middle = (np.cumsum(cells, axis=1) - cells / 2) / cells.sum(axis=1, keepdims=True)
    return np.asarray(ndtri(middle))


def number_bets(cells: Floats) -> Bets:
    """Stakes on ordered cells: moved, spread out, or another share below some edge."""
    total = cells.sum(axis=1, keepdims=True)
    score = normal_scores(cells)
    spread = np.clip((score**2 - 1.0) / 2.0, -1.0, _STEEPEST)
    powers = [sign * by * score for by in _SHIFTS for sign in (1, -1)]
    powers += [sign * by * spread for by in _SPREADS for sign in (1, -1)]
    moved, wider, _ = _STAKES
    stakes = [moved / len(_SHIFTS) / 2] * len(_SHIFTS) * 2
    stakes += [wider / len(_SPREADS) / 2] * len(_SPREADS) * 2
    tilted = cells * np.exp(np.array(powers))
    tilted *= total / tilted.sum(axis=2, keepdims=True)
    size = cells.shape[1]
    below = np.tril(np.ones((size, size)))[:-1]
    even = np.full(size - 1, _STAKES[2] / (size - 1))
    return Bets(cells, tilted, np.array(stakes), below, even, np.ones(size - 1))


def level_bets(cells: Floats, doubts: Floats | None = None) -> Bets:
    """Stakes on the share of each level; with ``doubts``, half of them on the last, new ones."""
    size = cells.shape[1]
    stakes = np.full(size, 1.0 / size)
    if doubts is not None:
        stakes = stakes / 2.0
        stakes[-1] += 0.5
    certain = np.ones(size) if doubts is None else doubts
    return Bets(cells, np.empty((0, *cells.shape)), np.empty(0), np.eye(size), stakes, certain)
