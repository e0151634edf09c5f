"""Prompts with their lists, cut into micro-batches by a token budget. Pure numpy; torch only for the tensors.

What a list holds after its last decision is no input: nothing that matters depends on it.

A *block* is a prompt followed by lists of it. With a shared prefix a block holds all lists of the prompt, so that the
prompt is computed once; without, every list has a block, and a row, to itself. A block of prompt ``p q`` with the
lists ``a b`` and ``c d e`` (every token a decision) is five inputs, of which four predict the five decisions:

    input      p  q     a  c  d
    position   0  1     2  2  3
    member     0  0     1  2  2
    predicts   -  a, c  b  d  e
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.catalog.legal import LegalSets
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.trie import Trie
from blade_dist.learners.legal_head import HeadPlan, head_plan
from blade_dist.learners.soft_labels import SoftLabels

PADDING = -1
"""Segment of what fills a row."""


@dataclass(frozen=True)
class LegalTokens:
    """The legal set at each list token; where it has one token only, that token is no decision."""

    sets: LegalSets
    """``[T]``"""
    trie: Trie


def legal_tokens(legality: Legality | None, tokens: Ragged, excluded: Ragged) -> LegalTokens | None:
    """The legal set at each token of constrained lists (``excluded``: items, a row each); None without constraint."""
    if legality is None:
        return None
    return LegalTokens(legality.sets(tokens, excluded), legality.trie)


@dataclass(frozen=True)
class PromptLists:
    """``P`` prompts with ``n`` lists of ``T`` tokens; the log-probs that matter are those of the lists' tokens."""

    prompt: Ragged
    """int32, ``P`` rows."""
    tokens: Ragged
    """int32, ``n`` rows: the lists' tokens; lists of one prompt stand together, in the prompts' order."""
    owner: NDArray[np.int64]
    """``[n]`` each list's prompt, ascending."""
    legal: LegalTokens | None = None
    """The same for all that may follow one beginning of a prompt's lists. None: every token of the vocabulary is
    legal."""
    given: NDArray[np.bool_] | None = None
    """``[T]`` whether the token is a prompt's text within the list, which nobody writes; None: none is."""
    labels: NDArray[np.int32] | None = None
    """``[T]`` what is to be predicted where the token stands; None: the token itself."""
    soft: SoftLabels | None = None
    """``[T]`` what else might have been written, where every token of the vocabulary is legal; None: nothing."""

    @classmethod
    def single(
        cls,
        prompt: Ragged,
        tokens: Ragged,
        legal: LegalTokens | None = None,
        given: NDArray[np.bool_] | None = None,
        labels: NDArray[np.int32] | None = None,
        soft: SoftLabels | None = None,
    ) -> PromptLists:
        """One list per prompt."""
        return cls(prompt, tokens, np.arange(len(tokens)), legal, given, labels, soft)

    @property
    def predicted(self) -> NDArray[np.int32]:
        """``[T]`` what is to be predicted where each token stands."""
        flat: NDArray[np.int32] = self.tokens.flat if self.labels is None else self.labels
        return flat

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def decision(self) -> NDArray[np.bool_]:
        """``[T]`` whether the token was one of several legal ones: only those have a log-prob that matters."""
        if self.legal is not None:
            return self.legal.sets.sizes(self.legal.trie) > 1
        return np.ones(len(self.tokens.flat), dtype=bool) if self.given is None else ~self.given

    @cached_property
    def inputs(self) -> Ragged:
        """Of each list, the tokens that stand before its last decision: all that a model must read."""
        place = ranges(0, self.tokens.lengths)
        # One number is appended because an empty list at the end starts where `flat` ends, where reduceat can't start.
        # For any empty list reduceat returns the next list's first number, which the line after replaces.
        last = np.maximum.reduceat(np.append(np.where(self.decision, place, 0), 0), self.tokens.offsets[:-1])
        lengths = np.where(self.tokens.lengths > 0, last, 0)
        flat = self.tokens.flat[ranges(self.tokens.offsets[:-1], lengths)]
        return Ragged(flat, offsets_of(lengths))


@dataclass(frozen=True)
class Blocks:
    """Lists ``first`` to ``stop`` of one prompt each."""

    first: NDArray[np.int64]
    """``[b]``"""
    stop: NDArray[np.int64]
    """``[b]``"""
    lengths: NDArray[np.int64]
    """``[b]`` tokens, prompt included."""


@dataclass(frozen=True)
class Cut:
    """One micro-batch: its blocks, and the place of each."""

    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    """``[b]`` where the block starts in its row."""
    shape: tuple[int, int]
    """Rows and width."""


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows and where their decisions are. All int64 tensors; ``D`` decisions in total."""

    input_ids: Tensor
    """``[rows, width]``, padded on the right."""
    position: Tensor
    """``[rows, width]`` position of the token in its own sequence ``prompt, list``."""
    segment: Tensor
    """``[rows, width]`` number of the block, or :data:`PADDING`."""
    member: Tensor
    """``[rows, width]`` 0 in a prompt, else the number of the list in its block, from 1."""
    wanted: Tensor
    """``[W]`` the positions that predict any decision, each once: ``row * width + column``, ascending."""
    place: Tensor
    """``[D]`` which of ``wanted`` predicts each decision."""
    label: Tensor
    """``[D]`` the token that was written, or is to be; with soft labels ``[D, 1 + S]``, it and what else might be."""
    flat: Tensor
    """``[D]`` position of the token in ``PromptLists.tokens.flat``."""
    head: HeadPlan | None
    """The legal tokens after each of ``wanted``; None: the whole vocabulary."""
    share: Tensor | None
    """``[D, 1 + S]`` what each label counts; None: there is one for each decision."""
    packed: bool
    """Whether a row holds more than one sequence, so that attention needs a mask of blocks and lists."""
    imitating: int | None = None
    """Decisions of each list, of which the later ones imitate the first; None: labels say what is learned."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """On another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor | HeadPlan)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Beginnings:
    """``n`` sequences that are to go on, padded on the right. Int64 tensors."""

    input_ids: Tensor
    """``[n, width]``"""
    last: Tensor
    """``[n]`` column of each one's last token."""

    @classmethod
    def of(cls, rows: Ragged, pad: int) -> Beginnings:
        """``rows``: tokens, none empty."""
        lengths = rows.lengths
        ids = np.full((len(rows), int(lengths.max())), pad, dtype=np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = rows.flat
        return cls(torch.from_numpy(ids), torch.from_numpy(lengths - 1))

    def to(self, device: torch.device | str) -> Beginnings:
        """On another device."""
        return Beginnings(self.input_ids.to(device), self.last.to(device))


def blocks(sequences: PromptLists, shared: bool, budget: int) -> Blocks:
    """One block per list, or with ``shared`` one per prompt; where that exceeds ``budget`` tokens, as few as fit it."""
    lengths, owner = sequences.inputs.lengths, sequences.owner
    prompt = sequences.prompt.lengths
    starts = []  # a loop over lists, not tokens: where a block ends depends on where the one before ended
    size = 0
    for number in range(len(owner)):
        new = not shared or number == 0 or owner[number] != owner[number - 1]
        if new or size + lengths[number] > budget:
            starts.append(number)
            size = prompt[owner[number]]
        size += lengths[number]
    first = np.array(starts, dtype=np.int64)
    stop = np.append(first[1:], len(owner)) if len(first) else first
    total = offsets_of(lengths)
    return Blocks(first, stop, total[stop] - total[first] + prompt[owner[first]] if len(first) else first)


def microbatches(sequences: PromptLists, budget: int, shared: bool) -> list[Cut]:
    """Micro-batches with ``rows * width <= budget`` (one row at least), longest blocks first.

    With ``shared``, a block takes the first row that has room for it (first fit, decreasing), so that prompts share
    rows; without, it has a row for itself. The sum of the loss over the micro-batches does not depend on the cut.

    Blocks of 6, 5, 1 and 1 tokens with a budget of 12, shared: the first micro-batch has the rows ``[6]`` and ``[5 1]``
    of width 6; a third row would make 18, so that the last block opens a second micro-batch.
    """
    whole = blocks(sequences, shared, budget)
    cuts: list[Cut] = []
    taken: list[tuple[int, int, int]] = []
    filled: list[int] = []
    width = 0

    def close() -> None:
        if taken:
            block, row, column = (np.array(values, dtype=np.int64) for values in zip(*taken, strict=True))
            shape = (len(filled), int(max(filled)))
            cuts.append(Cut(whole.first[block], whole.stop[block], row, column, shape))
            taken.clear()
            filled.clear()

    for block in np.argsort(-whole.lengths, kind="stable").tolist():
        length = int(whole.lengths[block])
        with_room = (r for r, used in enumerate(filled) if used + length <= width)
        row = next(with_room, len(filled)) if shared else len(filled)
        if row == len(filled) and filled and (row + 1) * width > budget:
            close()
            row = 0
        if row == len(filled):
            width = width if filled else length  # the first block is the longest, and with it the width is fixed
            filled.append(0)
        taken.append((block, row, filled[row]))
        filled[row] += length
    close()
    return cuts


def collate(sequences: PromptLists, cut: Cut, pad: int) -> MicroBatch:
    """The tensors of one micro-batch: the columns of the module's example, written for all blocks at once."""
    prompt = sequences.prompt.take(sequences.owner[cut.first])
    counts = cut.stop - cut.first
    lists = ranges(cut.first, counts)
    block = np.repeat(np.arange(len(counts)), counts)
    inputs = sequences.inputs.take(lists)
    # A list's column: where its block's prompt ends, plus the inputs of the block's earlier lists. Those are the inputs
    # of all earlier lists of the micro-batch, less the ones of all earlier blocks.
    before = inputs.offsets[:-1]
    start = (cut.column + prompt.lengths)[block] + before - before[offsets_of(counts)[:-1]][block]

    arrays = np.zeros((4, *cut.shape), dtype=np.int64)  # ids, position, segment, member
    arrays[0], arrays[2] = pad, PADDING
    segment = np.repeat(np.arange(len(counts)), prompt.lengths)
    column = ranges(cut.column, prompt.lengths)
    place = column - cut.column[segment]
    arrays[:, cut.row[segment], column] = prompt.flat, place, segment, np.zeros_like(place)
    of_list = np.repeat(np.arange(len(lists)), inputs.lengths)
    column = ranges(start, inputs.lengths)
    position = prompt.lengths[block][of_list] + column - start[of_list]
    member = (lists - cut.first[block] + 1)[of_list]
    arrays[:, cut.row[block][of_list], column] = inputs.flat, position, block[of_list], member
    ids, positions, segments, members = (torch.from_numpy(array) for array in arrays)

    flat = ranges(sequences.tokens.offsets[lists], sequences.tokens.lengths[lists])
    of_list = np.repeat(np.arange(len(lists)), sequences.tokens.lengths[lists])
    decision = sequences.decision[flat]
    flat, of_list = flat[decision], of_list[decision]
    within = flat - sequences.tokens.offsets[lists][of_list]
    # A token is predicted one column to its left; a list's first token by the prompt's last one, which all lists share.
    last_of_prompt = (cut.column + prompt.lengths - 1)[block]
    row = cut.row[block][of_list]
    column = np.where(within == 0, last_of_prompt[of_list], start[of_list] + within - 1)
    wanted, first, place = np.unique(row * cut.shape[1] + column, return_index=True, return_inverse=True)
    legal, soft = sequences.legal, sequences.soft
    label, share = sequences.predicted[flat].astype(np.int64), None
    if soft is not None:
        label, share = soft.take(flat).beside(label)
    return MicroBatch(
        input_ids=ids,
        position=positions,
        segment=segments,
        member=members,
        wanted=torch.from_numpy(wanted),
        place=torch.from_numpy(place),
        label=torch.from_numpy(label),
        flat=torch.from_numpy(flat),
        head=None if legal is None else head_plan(legal.sets.take(flat[first]), legal.trie),
        share=None if share is None else torch.from_numpy(share),
        packed=len(lists) > cut.shape[0],
    )


def idle_microbatch(pad: int) -> MicroBatch:
    """Two padding tokens whose log-prob nobody wants (``flat`` is empty): runs every module, counts for nothing."""
    zero = torch.zeros(1, dtype=torch.int64)
    ids = torch.full((1, 2), pad, dtype=torch.int64)
    nothing = torch.zeros_like(ids)
    return MicroBatch(ids, torch.arange(2)[None], nothing, nothing, zero, zero, zero + pad, zero[:0], None, None, False)


def in_step(cuts: list[Cut], sequences: PromptLists, pad: int, count: int) -> Iterator[MicroBatch]:
    """Exactly ``count`` micro-batches: the real ones, then idle ones (ZeRO-2/3 want equal counts on all ranks)."""
    for cut in cuts:
        yield collate(sequences, cut, pad)
    for _ in range(count - len(cuts)):
        yield idle_microbatch(pad)
