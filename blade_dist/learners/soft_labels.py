"""Tokens that might have been written as well, as a teacher says. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SoftLabels:
    """Of each of ``T`` places, ``S`` tokens with what they count beside the one that was written."""

    tokens: NDArray[np.int64]
    """``[T, S]``"""
    shares: NDArray[np.float32]
    """``[T, S]`` what each counts; the token that was written counts 1 less their sum."""

    def take(self, places: NDArray[np.int64]) -> SoftLabels:
        """Of the given places."""
        return SoftLabels(self.tokens[places], self.shares[places])

    def beside(self, label: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The tokens that were written, ``[T]``, before the others: tokens and shares ``[T, 1 + S]``, rows sum to 1."""
        rest = 1 - self.shares.sum(axis=1, keepdims=True)
        return np.column_stack([label, self.tokens]), np.concatenate([rest, self.shares], axis=1)
