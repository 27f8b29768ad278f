"""What late labels teach: by how much estimates are off, believed as far as the evidence goes."""

import math
from dataclasses import dataclass

__all__ = ["Bias"]

_CERTAIN = 9.0


@dataclass(slots=True)
class Bias:
    """Mean difference between realised and estimated, shrunk towards none.

    Differences are weighted by their precision, which fades: a label counts ``1/e`` of what it
    did after ``memory`` more labels.  Their weighted mean ``d`` with variance ``v`` is shrunk to
    ``d * t / (t + v)``, the posterior mean of a normal prior around 0 with variance ``t``: the
    larger of ``prior ** 2`` (what the realised metric varies by between chunks of the reference)
    and ``d ** 2 - 9 v`` (what the labels say for certain: only beyond three standard errors do
    they speak for more than the usual variation [1]_).  The posterior variance is
    ``t v / (t + v)``.

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
        keep = math.exp(-labels / self.memory)
        weight = 1.0 / max(variance, 1e-6 * self.prior**2, 1e-300)
        self.precision = self.precision * keep + weight
        self.total = self.total * keep + weight * difference

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
        spread = max(self.prior**2, (self.total * noise) ** 2 - _CERTAIN * noise)
        return spread / (spread + noise)
