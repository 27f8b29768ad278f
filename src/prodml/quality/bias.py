"""What late labels teach: by how much estimates are off, believed as far as the evidence goes."""

import math
from dataclasses import dataclass

__all__ = ["Bias"]

_CERTAIN = 9.0
# No variance is below this share of a square: nothing is known to more than three digits.
_LEAST = 1e-6


@dataclass(slots=True)
class Bias:
    """Mean difference between realised and estimated, shrunk towards none.

    Differences are weighted by their precision, which fades: a label counts ``1/e`` of what it
    did after ``memory`` more labels, and all that was before no more than as many labels as
    certain as today's would (or labels without any noise would never be outweighed).  Their
    weighted mean ``d`` with variance ``v`` is shrunk to ``d * t / (t + v)``, the posterior mean
    of a normal prior around 0 with variance ``t``: the larger of ``prior ** 2`` (what the
    realised metric varies by between chunks of the reference) and ``d ** 2 - 9 v`` (what the
    labels say for certain: only beyond three standard errors do they speak for more than the
    usual variation [1]_).  The posterior variance is ``t v / (t + v)``.

    References
    ----------
    .. [1] Morris (1983), *Parametric empirical Bayes inference*, Journal of the American
       Statistical Association 78.

    Examples
    --------
    >>> bias = Bias(prior=0.01, memory=10_000)
    >>> bias.learn(-0.05, 0.01**2, labels=500)
    >>> round(bias.value, 4), round(bias.variance**0.5, 4)
    (-0.0471, 0.0097)
    """

    prior: float
    memory: int
    precision: float = 0.0
    total: float = 0.0

    def learn(self, difference: float, variance: float, labels: int) -> None:
        """Take in one difference; ``variance`` is that of its noise."""
        least = _LEAST * max(self.prior * self.prior, difference * difference)
        weight = 1.0 / min(max(variance, least, 1e-200), 1e300)
        keep = math.exp(-labels / self.memory)
        old = min(self.precision * keep, weight * keep / -math.expm1(-labels / self.memory))
        if self.precision:
            self.total *= old / self.precision
        self.precision = old + weight
        self.total += weight * difference

    @property
    def value(self) -> float:
        """What to add to an estimate."""
        return self.total / self.precision * self._trust() if self.precision else 0.0

    @property
    def variance(self) -> float:
        """Uncertainty of :attr:`value`; 0 while nothing was learnt."""
        return self._trust() / self.precision if self.precision else 0.0

    def _trust(self) -> float:
        noise = 1.0 / self.precision
        mean = self.total * noise
        spread = max(self.prior * self.prior, mean * mean - _CERTAIN * noise)
        return spread / (spread + noise)
