"""Rollouts by the thousand: the error-rate guard as arrays, beside controllers with a floor.

One block of the guard is one element: the stable requests that come while five canary requests
do are negative binomial.  ``tests/rollout/test_simulation.py`` holds these arrays to the guard
itself, request by request.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prodml.rollout.odds import BLOCK, ODDS, WEIGHTS
from prodml.rollout.rollout import ERA

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LIMIT = np.log(100.0)
NEVER = 10**9
_LATER = 0.25
_LOG_ODDS = np.log(ODDS)
_POWERS = np.power.outer(np.array(ODDS), np.arange(BLOCK + 1)).T


@dataclass(frozen=True)
class Cell:
    """Canary and stable fail at these rates; the canary has ``share`` of the traffic.

    ``look`` is how many canary requests there are from one look to the next.  For the first
    ``good`` requests the canary fails as stable does.
    """

    canary: float
    stable: float
    share: float
    look: int
    good: int = 0

    @property
    def requests(self) -> int:
        """Canary requests of a rollout: 25 looks, or as many as 5,000 make."""
        least = self.good + 5000
        return max(25, -(-least // self.look)) * self.look


def log_wealth(canary: int, bad: Ints, stable: Ints, worse: Ints) -> Floats:
    """Logarithm of what each bet makes of each block, of ``canary`` requests each."""
    failed = bad + worse
    x = np.arange(canary + 1)
    possible = (x <= failed[:, None]) & (failed[:, None] - x <= stable[:, None])
    # From one number of the canary's failures to the next the chance changes by this factor.
    up = (canary - x[:-1]) * (failed[:, None] - x[:-1])
    down = x[1:] * (stable[:, None] - failed[:, None] + x[1:])
    chances = np.zeros(possible.shape)
    chances[np.arange(len(bad)), possible.argmax(axis=1)] = 1.0
    for place in range(canary):
        ratio = np.where(down[:, place] > 0, up[:, place] / np.maximum(down[:, place], 1), 0.0)
        chances[:, place + 1] += chances[:, place] * ratio * possible[:, place + 1]
    chances /= chances.sum(axis=1, keepdims=True)
    return bad[:, None] * _LOG_ODDS - np.log(chances @ _POWERS[: canary + 1])


def evidence(wealth: Floats, look: int, *, eras: bool = True) -> Floats:
    """Evidence at each look: blocks along the second axis, bets along the third."""
    sums = np.concatenate([np.zeros_like(wealth[:, :1]), np.cumsum(wealth, axis=1)], axis=1)
    blocks = (np.arange(1, wealth.shape[1] * BLOCK // look + 1) * look) // BLOCK
    length = -(-ERA // look) * look // BLOCK
    starts = range(0, wealth.shape[1], length) if eras else [0]
    found = np.full((len(wealth), len(blocks)), -np.inf)
    for number, start in enumerate(starts, 1):
        weight = (1.0 - _LATER) if number == 1 else _LATER / (number * (number - 1))
        tail = sums[:, blocks] - sums[:, [start]]
        mean = _log_mean(tail) + np.log(weight)
        # Not begun yet: the weight counts with wealth one.
        found = np.logaddexp(found, np.where(blocks > start, mean, np.log(weight)))
    return np.logaddexp(found, np.log(_LATER / max(len(starts), 1)))


def _log_mean(wealth: Floats) -> Floats:
    top = wealth.max(axis=2)
    return top + np.log(np.exp(wealth - top[..., None]) @ np.array(WEIGHTS))


def blocks(cell: Cell, rollouts: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Wealth of each block, some rollouts at a time."""
    count = cell.requests // BLOCK
    at_once = max(1, 1_000_000 // count)
    harmed = np.arange(count) * BLOCK >= cell.good
    rate = np.where(harmed, cell.canary, cell.stable)
    for begun in range(0, rollouts, at_once):
        shape = (min(at_once, rollouts - begun), count)
        stable = rng.negative_binomial(BLOCK, cell.share, size=shape)
        # A block is open until it has as many stable requests.
        stable = np.maximum(stable, BLOCK)
        bad, worse = rng.binomial(BLOCK, rate, size=shape), rng.binomial(stable, cell.stable)
        wealth = np.zeros((*shape, len(ODDS)))
        some = bad + worse > 0
        wealth[some] = log_wealth(BLOCK, bad[some], stable[some], worse[some])
        yield wealth


def guarded(cell: Cell, *, rollouts: int = 4000, seed: int = 0, eras: bool = True) -> Ints:
    """Canary requests until the look that called the canary worse, for each rollout."""
    rng = np.random.default_rng(seed)
    found = [
        _first(evidence(wealth, cell.look, eras=eras) >= LIMIT, cell.look)
        for wealth in blocks(cell, rollouts, rng)
    ]
    return np.concatenate(found)


def floored(cell: Cell, threshold: int, *, rollouts: int = 4000, seed: int = 0) -> Ints:
    """The same for a floor of 99 %: ``threshold`` failed checks end the rollout.

    Flagger's rule, made simple: 25 looks, a look without traffic is a failed check, and
    failed checks are never forgiven.
    """
    rng = np.random.default_rng(seed)
    requests = rng.poisson(cell.look, size=(rollouts, 25))
    good = rng.binomial(requests, 1.0 - cell.canary) / np.maximum(requests, 1)
    return _first((good < 0.99).cumsum(axis=1) >= threshold, cell.look)


def _first(hit: NDArray[np.bool_], look: int) -> Ints:
    return np.where(hit.any(axis=1), (hit.argmax(axis=1) + 1) * look, NEVER)


def caught(found: Ints, within: float = NEVER - 1) -> float:
    """Share of the rollouts that were ended within so many canary requests."""
    return float((found <= within).mean())
