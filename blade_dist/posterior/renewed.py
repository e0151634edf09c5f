"""Reference rewards that a later policy wrote, in the place of the prior's for some prompts. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.posterior.beta import Array


@dataclass(frozen=True)
class Renewed:
    """``R`` rows of the prior."""

    rows: NDArray[np.int64]
    """``[R]`` ascending."""
    rewards: Array
    """``[R, M]``, each row ascending, as the prior has them."""

    @classmethod
    def none(cls, lists: int) -> Renewed:
        """No rows, of ``lists`` lists each."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, lists)))

    def covers(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``[B]`` whether each of the prior's rows was renewed."""
        return np.isin(rows, self.rows)

    def over(self, rows: NDArray[np.int64], reference: Array) -> Array:
        """``[B, M]``: ``reference`` (the prior's of these rows), with the renewed ones in their places."""
        covered = self.covers(rows)
        result = reference.copy()
        result[covered] = self.rewards[np.searchsorted(self.rows, rows[covered])]
        return result

    def renew(self, rows: NDArray[np.int64], rewards: Array) -> Renewed:
        """With the given rows (each once) renewed, again where they were before; rewards in any order."""
        kept = ~np.isin(self.rows, rows)  # a new object: what was before a step stays as it was, for its state
        every = np.concatenate([self.rows[kept], rows])
        order = np.argsort(every)
        values = np.concatenate([self.rewards[kept], np.sort(rewards, axis=1)])
        return Renewed(every[order], values[order])


class Renewals:
    """What is renewed now, and what was before the last step that renewed any.

    Two versions are enough: renewals need ``rollout.max_staleness`` 0, so that a state is never saved further back.
    """

    def __init__(self, lists: int) -> None:
        """``lists``: M."""
        self._lists = lists
        self.forget()

    def forget(self) -> None:
        """As if there had been none."""
        self.newest = self._replaced = Renewed.none(self._lists)
        self._step = -1

    def add(self, step: int, rows: NDArray[np.int64], rewards: Array) -> None:
        """A step's first call counts: a retry has written other lists, and answers to the first may be out already."""
        if step > self._step:
            self._step, self._replaced = step, self.newest
            self.newest = self.newest.renew(rows, rewards)

    def write(self, sink: pa.NativeFile, step: int, prompts: NDArray[np.int64]) -> None:
        """As they were before ``step``, as an Arrow IPC stream; ``prompts`` are those of the prior's rows."""
        renewed = self.newest if self._step < step else self._replaced
        rewards = pa.FixedSizeListArray.from_arrays(pa.array(renewed.rewards.reshape(-1)), self._lists)
        table = pa.table({"prompt": pa.array(prompts[renewed.rows]), "rewards": rewards})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    def read(self, source: pa.NativeFile, where: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> None:
        """The opposite of :meth:`write`; ``where`` gives the prior's rows of prompts."""
        table = pa.ipc.open_stream(source).read_all()
        rewards = table["rewards"].combine_chunks().flatten().to_numpy().reshape(-1, self._lists)
        self.forget()
        self.newest = self.newest.renew(where(table["prompt"].to_numpy()), rewards)
