"""Steps that were left out, as loss or gradient was not finite: how many, and when it is too many. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from blade_dist.errors import DivergedError


@dataclass
class Skips:
    """Part of a checkpoint."""

    total: int = 0
    in_a_row: int = 0

    def see(self, not_finite: str | None, step: int, allowed: int, setting: str) -> None:
        """A further step.

        Args:
            not_finite: what was not finite, so that it was left out; None where it was taken.
            step: counted from 0.
            allowed: ``train.max_skipped``.
            setting: that of the learning rate.

        Raises:
            DivergedError: more than ``allowed`` in a row were left out.
        """
        self.in_a_row = 0 if not_finite is None else self.in_a_row + 1
        self.total += not_finite is not None
        if self.in_a_row > allowed:
            before = f", and the {allowed} before it were left out for the like (train.max_skipped)" if allowed else ""
            raise DivergedError(
                f"{not_finite} is not finite at step {step + 1}{before}: lower {setting} and run the same command again"
            )
