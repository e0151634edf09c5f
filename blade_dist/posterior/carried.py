"""The evidence that a prompt's visits leave for its later ones (``posterior.carry``). Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.posterior.beta import Array, Evidence

CARRIED_VALUES = 64
"""Past rewards kept per prompt, the newest ones."""

_SCHEMA = pa.schema(
    [
        ("prompt", pa.int64()),
        ("values", pa.list_(pa.float64(), CARRIED_VALUES)),
        ("weights", pa.list_(pa.float64(), CARRIED_VALUES)),
    ]
)


@dataclass(frozen=True)
class Visit:
    """A step's visit to some prompts."""

    rows: NDArray[np.int64]
    """``[B]`` of the prior."""
    before: Evidence
    """What these rows carried before it."""


class Carried:
    """Past rewards of every prompt of the prior, newest first, and their weights; 1 KiB per prompt.

    A visit puts the group's rewards in front with weight ``carry`` and multiplies the weights of the others by it, so
    that a reward which is v visits old weighs ``carry ** v``. With ``carry`` 0.5 and groups of two:

        visit of rewards 1, 2:    values 1 2          weights .5 .5
        visit of rewards 3, 4:    values 3 4 1 2      weights .5 .5 .25 .25
    """

    def __init__(self, prompts: int, carry: float) -> None:
        """Begins empty.

        Args:
            prompts: P, rows of the prior.
            carry: in [0, 1); at 0 nothing is kept.
        """
        self._carry = carry
        self._shape = (prompts if carry else 0, CARRIED_VALUES)
        self.forget()

    def forget(self) -> None:
        """As if there had been no visit."""
        self._evidence = Evidence(np.zeros(self._shape), np.zeros(self._shape))

    def of(self, rows: NDArray[np.int64]) -> Evidence | None:
        """``[B, CARRIED_VALUES]`` evidence of the given rows; None where nothing is kept at all."""
        if not self._carry:
            return None
        return Evidence(self._evidence.values[rows], self._evidence.weights[rows])

    def visit(self, rows: NDArray[np.int64], rewards: Array) -> list[Visit]:
        """Takes the groups' rewards, ``[B, G]``, in; what :meth:`before` needs to take them back."""
        before = self.of(rows)
        if before is None:
            return []
        ones = np.ones_like(rewards)
        values, weights = self._evidence.values, self._evidence.weights
        values[rows] = np.concatenate([rewards, before.values], axis=1)[:, :CARRIED_VALUES]
        weights[rows] = self._carry * np.concatenate([ones, before.weights], axis=1)[:, :CARRIED_VALUES]
        return [Visit(rows, before)]

    def table(self, prompts: NDArray[np.int64], later: Sequence[Visit]) -> pa.Table:
        """What was carried before the ``later`` visits (in their order): a row for each prompt that carried anything.

        Args:
            prompts: ``[P]`` those of the prior's rows.
            later: visits to be taken back.
        """
        values, weights = self._evidence.values.copy(), self._evidence.weights.copy()
        for visit in reversed(later):  # a prompt may have several: the oldest one has the last word
            values[visit.rows], weights[visit.rows] = visit.before.values, visit.before.weights
        kept = np.flatnonzero(weights.any(axis=1))
        columns = [
            pa.FixedSizeListArray.from_arrays(pa.array(a[kept].reshape(-1)), CARRIED_VALUES) for a in (values, weights)
        ]
        return pa.table([pa.array(prompts[kept]), *columns], schema=_SCHEMA)

    def load(self, table: pa.Table, rows: NDArray[np.int64]) -> None:
        """The opposite of :meth:`table`; ``rows`` are those of its prompts in the prior."""
        self.forget()
        for name, target in (("values", self._evidence.values), ("weights", self._evidence.weights)):
            target[rows] = table[name].combine_chunks().flatten().to_numpy().reshape(-1, CARRIED_VALUES)
