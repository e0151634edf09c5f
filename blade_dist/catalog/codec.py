"""How prompts and lists become tokens, and tokens become items again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from blade_dist.batches import MISS, Ragged
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table, write_table
from blade_dist.store.files import readable, whole_folder, write_json
from blade_dist.store.fingerprint import fingerprint_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("title", "semantic_id")
"""How items may be written."""


@dataclass(frozen=True, eq=False)
class Codec:
    """``prefix item item ... suffix`` is a prompt, ``item item ...`` a list.

    Where the items' tokens are prefix-free, an item ends with its last token and a list with its K-th item. Where they
    are not, as titles begin each other, there is a separator after every item, and an end after a list.
    """

    kind: str
    """``title`` or ``semantic_id``: how ``item_tokens`` were made."""
    source: PreTrainedTokenizerBase | Path
    """The tokenizer, or the folder that it is read from when :attr:`tokenizer` is first needed."""
    item_tokens: Ragged
    """``I`` rows, int32: the item's tokens, without separator or end. No two rows are equal."""
    separator: int | None
    """Token after every item, in no item's tokens; None where those are prefix-free."""
    end: int
    """Token after the last item (eos); without separators only after lists that rules leave short of K items."""
    pad: int
    """Token that fills a batch."""
    prefix: NDArray[np.int32]
    """The prompt before the history."""
    suffix: NDArray[np.int32]
    """The prompt after the history."""
    shown_tokens: Ragged | None = None
    """``I`` rows, int32: the item's tokens in a history, where those are others than in a list: an item that the user
    took is then another thing to the model than one that it has just written itself. None: they are the same."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With every token that the codec uses."""
        if not isinstance(self.source, Path):
            return self.source
        from transformers import AutoTokenizer  # takes seconds; who only encodes items needs no tokenizer

        return AutoTokenizer.from_pretrained(str(self.source), local_files_only=True, trust_remote_code=False)

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that the model needs to know: all of the tokenizer's."""
        saved = self.source / "tokenizer.json" if isinstance(self.source, Path) else None
        if saved is None or not saved.is_file():
            return len(self.tokenizer)
        # Transformers copies every token that was added, which takes long where each of 100,000 items has one
        return int(Tokenizer.from_file(str(saved)).get_vocab_size())

    @cached_property
    def item_blocks(self) -> Ragged:
        """``item_tokens`` with the separator, if there is one, after every item: prefix-free."""
        return self.item_tokens if self.separator is None else _appended(self.item_tokens, self.separator)

    @cached_property
    def shown_blocks(self) -> Ragged:
        """As :attr:`item_blocks`, of items in a history."""
        if self.shown_tokens is None:
            return self.item_blocks
        return self.shown_tokens if self.separator is None else _appended(self.shown_tokens, self.separator)

    @cached_property
    def _closing(self) -> NDArray[np.int32]:
        """What follows a list's K-th item."""
        return np.array([] if self.separator is None else [self.end], np.int32)

    def encode_prompt(self, history: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32 tokens of one prompt; ``history``: item indices, oldest first."""
        return self.encode_prompts(Ragged.of([history]))[0]

    def encode_prompts(self, histories: Ragged) -> Ragged:
        """int32 tokens of every prompt; ``histories``: item indices, oldest first."""
        return _join(self.shown_blocks, self.prefix, histories, self.suffix)

    def encode_list(self, items: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32 tokens of one list of item indices."""
        return self.encode_lists(Ragged.of([items]))[0]

    def encode_lists(self, lists: Ragged) -> Ragged:
        """int32 tokens of every list; ``lists``: item indices."""
        return _join(self.item_blocks, np.zeros(0, np.int32), lists, self._closing)

    def max_list_tokens(self, k: int) -> int:
        """Tokens of the longest list of ``k`` different items, with all that separates and ends them."""
        return _longest(self.item_blocks, k) + len(self._closing)

    def max_prompt_tokens(self, items: int) -> int:
        """Tokens of the longest prompt with ``items`` different items in its history."""
        return len(self.prefix) + _longest(self.shown_blocks, items) + len(self.suffix)

    def parse(self, tokens: Ragged, k: int) -> NDArray[np.int32]:
        """The items that were written.

        With separators, a position is what stands before one, or before ``end`` if it isn't empty; what is cut off in
        mid-item is no position. It names an item if its tokens are the item's, or (``title``) if its text is. Without,
        a position ends where an item does, or with the first token that continues no item.

        Args:
            tokens: int32, ``n`` rows; what follows ``end`` or ``k`` items is ignored.
            k: positions per list.

        Returns:
            int32 ``[n, k]`` catalog indices, :data:`MISS` where a position names no item or is missing.
        """
        items = np.full((len(tokens), k), MISS, dtype=np.int32)
        for row in range(len(tokens)):
            for position, segment in enumerate(self._segments(tokens[row], k)):
                items[row, position] = self._item(segment)
        return items

    def fingerprint(self) -> str:
        """Equal codecs (same tokens for the same items and prompts), equal fingerprint."""
        separator = -1 if self.separator is None else self.separator
        numbers = np.array([separator, self.end, self.pad, self.vocabulary], dtype=np.int64)
        shown = [] if self.shown_tokens is None else [self.shown_tokens]
        return fingerprint_arrays(self.kind, self.item_tokens, numbers, self.prefix, self.suffix, *shown)

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer/``, ``codec.arrow`` and ``codec.json``; the folder appears when it is whole."""
        plain = {"kind": self.kind, "separator": self.separator, "end": self.end, "pad": self.pad}
        text = {"prefix": self.prefix.tolist(), "suffix": self.suffix.tolist()}
        with whole_folder(folder) as temporary:
            if isinstance(self.source, Path):
                shutil.copytree(self.source, temporary / "tokenizer")
            else:
                self.source.save_pretrained(str(temporary / "tokenizer"))
            columns = {"tokens": self.item_tokens, "shown": self.shown_tokens}
            table = {name: ragged_to_arrow(rows) for name, rows in columns.items() if rows is not None}
            write_table(pa.table(table), temporary / "codec.arrow")
            write_json(temporary / "codec.json", plain | text)

    @classmethod
    def load(cls, folder: Path) -> Codec:
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no codec there.
            UserError: it is damaged.
        """
        table = read_table(folder / "codec.arrow")
        with readable(folder, f"delete {folder.parent}, and make it again"):
            plain = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
            tokens = {name: arrow_to_ragged(table.column(name)) for name in table.column_names}
            numbers = [number for number in (plain["separator"], plain["end"], plain["pad"]) if number is not None]
            prefix, suffix = (np.array(plain.pop(name), dtype=np.int32) for name in ("prefix", "suffix"))
            parts = [prefix, suffix, *(rows.flat for rows in tokens.values()), np.array(numbers, dtype=np.int64)]
            if plain["kind"] not in KINDS or any(part.ndim != 1 or (part < 0).any() for part in parts):
                raise ValueError(f"a kind that is not one of {', '.join(KINDS)}, or a token below 0")
            return cls(
                source=folder / "tokenizer",
                item_tokens=tokens["tokens"],
                shown_tokens=tokens.get("shown"),
                prefix=prefix,
                suffix=suffix,
                **plain,
            )

    def _segments(self, tokens: NDArray[np.int32], k: int) -> list[NDArray[np.int32]]:
        ends = np.flatnonzero(tokens == self.end)
        if ended := len(ends) > 0:
            tokens = tokens[: ends[0]]
        if self.separator is None:
            return self._prefix_free_segments(tokens, k)
        cuts = np.flatnonzero(tokens == self.separator)[:k]
        starts = np.concatenate([[0], cuts + 1])
        segments = [tokens[start:cut] for start, cut in zip(starts, cuts, strict=False)]
        if ended and len(segments) < k and starts[-1] < len(tokens):
            segments.append(tokens[starts[-1] :])
        return segments

    def _prefix_free_segments(self, tokens: NDArray[np.int32], k: int) -> list[NDArray[np.int32]]:
        segments: list[NDArray[np.int32]] = []
        start = 0
        for stop in range(1, len(tokens) + 1):
            segment = tokens[start:stop]
            if len(segments) < k and segment.tobytes() not in self._beginnings:
                segments.append(segment)
                start = stop
        return segments

    def _item(self, segment: NDArray[np.int32]) -> int:
        item = self._by_tokens.get(np.asarray(segment, np.int32).tobytes())
        # Unconstrained, a model may spell a title with other tokens than the tokenizer does; it reads the same.
        if item is None and self.kind == "title" and len(segment):
            item = self._by_text.get(self.tokenizer.decode(segment).strip())
        return MISS if item is None else item

    @cached_property
    def _by_tokens(self) -> dict[bytes, int]:
        return {self.item_tokens[item].tobytes(): item for item in range(len(self.item_tokens))}

    @cached_property
    def _beginnings(self) -> set[bytes]:
        """Of the items' tokens, an item's last one left out."""
        rows = (self.item_tokens[item] for item in range(len(self.item_tokens)))
        return {row[:size].tobytes() for row in rows for size in range(1, len(row))}

    @cached_property
    def _by_text(self) -> dict[str, int]:
        texts = self.tokenizer.batch_decode([self.item_tokens[item] for item in range(len(self.item_tokens))])
        return {text.strip(): item for item, text in enumerate(texts)}


def _join(blocks: Ragged, before: NDArray[np.int32], rows: Ragged, after: NDArray[np.int32]) -> Ragged:
    """``before``, then the items' blocks, then ``after``, for every row."""
    # Three scatters into one array instead of a loop over the rows: the items, which move right by what
    # stands before and after the earlier rows; ``before`` at each row's start; ``after`` at its end.
    body = blocks.take(rows.flat)
    ends = body.offsets[rows.offsets]
    extra = len(before) + len(after)
    offsets = ends + np.arange(len(rows) + 1) * extra
    flat = np.empty(offsets[-1], dtype=np.int32)
    row = np.repeat(np.arange(len(rows)), np.diff(ends))
    flat[np.arange(len(body.flat)) + row * extra + len(before)] = body.flat
    flat[offsets[:-1, None] + np.arange(len(before))] = before
    flat[offsets[1:, None] - len(after) + np.arange(len(after))] = after
    return Ragged(flat, offsets)


def _longest(blocks: Ragged, count: int) -> int:
    """Tokens of the ``count`` longest items together."""
    return int(np.sort(blocks.lengths)[::-1][:count].sum())


def _appended(rows: Ragged, value: int) -> Ragged:
    """``value`` after every row."""
    offsets = rows.offsets + np.arange(len(rows) + 1)
    flat = np.full(offsets[-1], value, dtype=np.int32)
    flat[np.arange(len(rows.flat)) + np.repeat(np.arange(len(rows)), rows.lengths)] = rows.flat
    return Ragged(flat, offsets)
