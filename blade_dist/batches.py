"""What flows between the folders of the package: a few struct-of-arrays batches, numpy only.

Every array is contiguous, so that Ray's object store hands it over without a copy. Letters in shapes:
``B`` prompts, ``G`` lists per prompt (the group), ``K`` items per list, ``T`` tokens of all lists together.
Ragged arrays are a flat array and offsets: row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MISS = -1
"""Item index of a list position that is invalid, repeated, excluded, against a rule, or missing."""

ExcludeHistory = bool | Literal["shown"]
"""``lists.exclude_history``."""


def offsets_of(lengths: NDArray | Sequence[int]) -> NDArray[np.int64]:
    """Where rows of these lengths begin in a flat array, and where the last one ends: 3, 0, 2 give 0, 3, 3, 5."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: NDArray | int, lengths: NDArray) -> NDArray[np.int64]:
    """``starts[i], starts[i] + 1, ...`` (``lengths[i]`` of them), row after row: from 7 two and from 2 three give
    7, 8, 2, 3, 4. With ``starts`` 0: the place of each element within its row."""
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


@dataclass(frozen=True)
class Ragged:
    """Rows of different length. ``flat``: any dtype ``[sum of lengths]``; ``offsets``: int64 ``[rows + 1]``."""

    flat: NDArray
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The given rows, in the given order.

        One gather instead of a slice per row: of ``a b b c c c`` with the offsets ``0 1 3 6`` the rows 2 and 0 are the
        places 3, 4, 5 and 0.
        """
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        return Ragged(self.flat[ranges(self.offsets[rows], lengths)], offsets_of(lengths))

    def distinct(self) -> Ragged:
        """Each row without repeats, the first of equal values stays; itself where there are none. Values: from 0 on."""
        kept = self.first_times()
        return self if kept.all() else Ragged(self.flat[kept], offsets_of(kept)[self.offsets])

    def first_times(self) -> NDArray[np.bool_]:
        """Of each of ``flat``, whether its row has not had the value before. Values: from 0 on."""
        # One number for each (row, value); np.unique gives the place of its first occurrence.
        row = np.repeat(np.arange(len(self)), self.lengths)
        first = np.unique(row * (int(self.flat.max(initial=0)) + 1) + self.flat, return_index=True)[1]
        new = np.zeros(len(self.flat), dtype=bool)
        new[first] = True
        return new

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray], dtype: np.dtype | type = np.int32) -> Ragged:
        """Built from Python or numpy rows."""
        offsets = offsets_of([len(row) for row in rows])
        flat = np.concatenate([np.asarray(row, dtype=dtype) for row in rows]) if rows else np.zeros(0, dtype)
        return cls(flat.astype(dtype, copy=False), offsets)

    @classmethod
    def of_pairs(cls, row: NDArray, value: NDArray, rows: int) -> Ragged:
        """``rows`` rows: each one's values, in the order given."""
        counts = np.bincount(row, minlength=rows)
        return cls(value[np.argsort(row, kind="stable")], offsets_of(counts))

    @classmethod
    def concat(cls, parts: Sequence[Ragged]) -> Ragged:
        """All rows of all parts, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), offsets_of(lengths))


@dataclass(frozen=True)
class Prompts:
    """Rows of one split: what is asked, and what was held out."""

    index: NDArray[np.int64]
    """``[B]`` row number in the split's table: the prompt's identity."""
    user: NDArray
    """``[B]`` user id as in the log (object array of str); a user's windows share it."""
    history: Ragged
    """int32 item indices, oldest first; with ``data.repeats: all`` an item may stand there twice."""
    targets: Ragged
    """int32 item indices, held out, next first: as many as there are, at least one, none twice in a row."""
    seen: Ragged
    """int32 item indices, none twice in a row: all that the user had before the targets, the history (what the prompt
    shows) among it; in the order in which the user first had them."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: NDArray[np.int64]) -> Prompts:
        """The given rows (positions in this batch, not table indices)."""
        ragged = (part.take(rows) for part in (self.history, self.targets, self.seen))
        return Prompts(self.index[rows], self.user[rows], *ragged)

    def excluded(self, exclude_history: ExcludeHistory) -> Ragged:
        """int32 item indices that a list may not hold, none twice in a row: what was seen, what is shown, or none."""
        if exclude_history == "shown":
            return self.history.distinct()
        return self.seen if exclude_history else Ragged(np.zeros(0, np.int32), np.zeros(len(self) + 1, np.int64))


@dataclass(frozen=True)
class Ranked:
    """The best items of ``n`` prompts, none twice in a row: what a list may be chosen from."""

    items: NDArray[np.int32]
    """``[n, C]`` catalog indices, the best first, :data:`MISS` where there is none."""
    scores: NDArray[np.floating]
    """``[n, C]`` what they are ranked by: log-probs (nats) of a policy, logits of another model; not read at misses."""

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64]) -> Ranked:
        """The given prompts' items."""
        return Ranked(self.items[rows], self.scores[rows])

    @classmethod
    def concat(cls, parts: Sequence[Ranked]) -> Ranked:
        """All prompts of all parts, in order."""
        return cls(np.concatenate([part.items for part in parts]), np.concatenate([part.scores for part in parts]))


@dataclass(frozen=True)
class Rollouts:
    """The lists that an engine wrote for ``B`` prompts, ``G`` each, group after group."""

    prompt: NDArray[np.int64]
    """``[B]`` prompt index (row of the split's table)."""
    items: NDArray[np.int32]
    """``[B, G, K]`` catalog index of each position, or :data:`MISS`."""
    tokens: Ragged
    """int32, ``B * G`` rows: the list's tokens, end token included when it was written."""
    logprobs: NDArray[np.float32]
    """``[T]`` log-prob (nats) of each token under the engine's sampling distribution."""
    decision: NDArray[np.bool_]
    """``[T]`` whether the token was one of several legal ones; the others have log-prob 0 and no gradient."""
    version: NDArray[np.int64]
    """``[B, 2]`` (attempt, step) of the weights that wrote the group."""
    invalid: NDArray[np.int32]
    """``[B, G]`` positions that name no catalog item, or that are missing."""
    duplicate: NDArray[np.int32]
    """``[B, G]`` positions that repeat an earlier one, or are excluded, or break a rule."""
    seconds: NDArray[np.float64]
    """``[engines]`` how long each engine wrote."""

    @classmethod
    def concat(cls, parts: Sequence[Rollouts]) -> Rollouts:
        """All prompts of all parts, in order."""
        merged = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls) if f.name != "tokens"
        }
        return cls(tokens=Ragged.concat([part.tokens for part in parts]), **merged)

    def take(self, rows: NDArray[np.int64]) -> Rollouts:
        """The groups of the given rows (positions in this batch)."""
        group = self.items.shape[1]
        lists = (np.asarray(rows)[:, None] * group + np.arange(group)).reshape(-1)
        tokens = self.tokens.take(lists)
        logprobs, decision = (
            Ragged(values, self.tokens.offsets).take(lists).flat for values in (self.logprobs, self.decision)
        )
        picked = {name: getattr(self, name)[rows] for name in ("prompt", "items", "version", "invalid", "duplicate")}
        return replace(self, tokens=tokens, logprobs=logprobs, decision=decision, **picked)

    def pick(self, chosen: NDArray[np.int64]) -> Rollouts:
        """One list of each group, by its number in the group (``[B]``): groups of one."""
        prompts, group, k = self.items.shape
        single = replace(
            self,
            prompt=np.repeat(self.prompt, group),
            items=self.items.reshape(-1, 1, k),
            version=np.repeat(self.version, group, axis=0),
            invalid=self.invalid.reshape(-1, 1),
            duplicate=self.duplicate.reshape(-1, 1),
        )
        return single.take(np.arange(prompts) * group + chosen)

    def digests(self) -> NDArray[np.uint64]:
        """``[B]`` a digest of each group's tokens: what makes two groups the same rollouts."""
        group = self.items.shape[1]
        tokens, offsets = np.ascontiguousarray(self.tokens.flat), self.tokens.offsets
        hashes = [
            hashlib.blake2b(
                tokens[offsets[first] : offsets[first + group]].tobytes()
                + np.diff(offsets[first : first + group + 1]).tobytes(),
                digest_size=8,
            ).digest()
            for first in range(0, len(self.tokens), group)
        ]
        return np.frombuffer(b"".join(hashes), dtype=np.uint64)


@dataclass(frozen=True)
class Rewards:
    """What the lists are worth."""

    prompt: NDArray[np.int64]
    """``[B]`` prompt index."""
    total: NDArray[np.float64]
    """``[B, G]`` the composite reward."""
    parts: dict[str, NDArray[np.float64]]
    """Each metric of the composite by name, ``[B, G]``, unweighted."""
    digests: NDArray[np.uint64]
    """``[B]`` of the groups' rollouts, see :meth:`Rollouts.digests`."""


@dataclass(frozen=True)
class Estimates:
    """What the learner maximises."""

    prompt: NDArray[np.int64]
    """``[B]`` prompt index."""
    proxy: NDArray[np.float64]
    """``[B, G]`` proxy reward ``R`` (log of the posterior CDF for ``blade`` and ``static``)."""
    advantage: NDArray[np.float32]
    """``[B, G]`` group-centred (and, with ``scale: std``, scaled) proxy reward."""
    informative: NDArray[np.bool_]
    """``[B]`` whether the group's proxy rewards differ at all."""
    report: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """What to report of posterior, multipliers and prior by name, ``[B]`` or ``[B, bins]``; not a number where it was
    not looked at."""
    imitated: NDArray[np.int64] | None = None
    """``[B]`` number, among an anchor's lists for the prompt, of the one to be imitated; None without an anchor."""

    def take(self, rows: NDArray[np.int64]) -> Estimates:
        """The given groups."""
        report = {name: values[rows] for name, values in self.report.items()}
        imitated = None if self.imitated is None else self.imitated[rows]
        return Estimates(
            self.prompt[rows], self.proxy[rows], self.advantage[rows], self.informative[rows], report, imitated
        )

    @classmethod
    def concat(cls, parts: Sequence[Estimates]) -> Estimates:
        """All groups of all parts, in order."""
        names = ["prompt", "proxy", "advantage", "informative", *([] if parts[0].imitated is None else ["imitated"])]
        report = {name: np.concatenate([part.report[name] for part in parts]) for name in parts[0].report}
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}, report=report)


@dataclass(frozen=True)
class LearnBatch:
    """One rank's share of a step."""

    prompt_tokens: Ragged
    """int32, ``B`` rows."""
    excluded: Ragged
    """int32 item indices that lists may not hold, ``B`` rows, none twice in a row."""
    rollouts: Rollouts
    estimates: Estimates
    decision_tokens: int
    """Decision tokens of *all* groups on *all* ranks: the loss's denominator."""
    imitated: Rollouts | None = None
    """Lists to imitate, one per prompt (``G`` of 1), that another policy wrote; None where there are none."""

    @property
    def group_size(self) -> int:
        """G."""
        return int(self.rollouts.items.shape[1])

    def take(self, rows: NDArray[np.int64]) -> LearnBatch:
        """The given prompts with what belongs to them; ``decision_tokens`` stays that of the whole step."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens.take(rows),
            excluded=self.excluded.take(rows),
            rollouts=self.rollouts.take(rows),
            estimates=self.estimates.take(rows),
            imitated=None if self.imitated is None else self.imitated.take(rows),
        )
