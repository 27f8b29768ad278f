"""What every multivariate method is told, and what it does with blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prodml.drift.multivariate.dealing import Coder, Dealt, Held, dealt
from prodml.drift.multivariate.encoding import Sheet
from prodml.drift.sample import Kind
from prodml.errors import BadConfiguration

__all__ = ["PERMUTATIONS", "Method"]

PERMUTATIONS = 499
"""Dealings beside the real one."""


@dataclass(kw_only=True, slots=True, eq=False)
class Method:
    """Settings that all methods share.

    Parameters
    ----------
    reference
        The data that the model knows, a table in any form of :class:`DriftDetector`.
    feature_names, kinds
        Columns to compare (default all); kinds as for :class:`DriftDetector`.
    seed
        Of every draw.
    alpha, min_effect, min_rows
        As for :class:`DriftDetector`.
    blocks
        One label a row of the reference (its day, say) when rows of one block are alike.
    """

    reference: Any = field(kw_only=False, repr=False)
    feature_names: Sequence[str] | None = field(default=None, kw_only=False)
    seed: int = 0
    alpha: float = 0.05
    min_effect: float = 0.05
    min_rows: int = 30
    kinds: Mapping[str, Kind] | None = field(default=None, repr=False)
    blocks: Any = field(default=None, repr=False)
    _held: Held | None = field(default=None, init=False, repr=False)

    def _settle(self, names: Sequence[str], held: Held | None) -> None:
        """Forget the raw data, which may be large."""
        self.reference = self.blocks = None
        self.feature_names = tuple(names)
        self._held = held

    def _hold(self, columns: Mapping[str, Any], coder: Coder, most: int) -> Held | None:
        """What is kept of a reference in blocks."""
        if self.blocks is None:
            return None
        if self.alpha * (PERMUTATIONS + 1) <= 1.0:
            raise BadConfiguration(
                f"alpha must be above {1 / (PERMUTATIONS + 1):g} with blocks, not {self.alpha!r}: "
                f"they are dealt {PERMUTATIONS} times"
            )
        rng = np.random.default_rng([self.seed, 4])
        return Held.of(columns, self.blocks, coder.survey(columns).some, most, rng)

    def _dealt(
        self,
        coder: Coder,
        current: Any,
        sheet: Sheet,
        blocks: Any,
        permutations: int = PERMUTATIONS,
    ) -> Dealt | None:
        """Rows of both samples, to be dealt by block; None where there are none.

        Raises
        ------
        BadConfiguration
            Blocks of current, but none of the reference.
        TypeError
            There is not one label a row.
        """
        if self._held is not None:
            deals = {"permutations": permutations, "seed": self.seed}
            return dealt(self._held, coder, current, sheet, blocks, **deals)
        if blocks is not None:
            raise BadConfiguration(
                "blocks of current need those of the reference: give them when it is fitted"
            )
        return None
