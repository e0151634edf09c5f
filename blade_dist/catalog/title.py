"""A list as text: every item is its title."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog, unique_titles
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.tokenizer import CODE, encode, load_base, train_tokenizer
from blade_dist.settings import CodecSettings

BLANK = " "
TRIED = 200
"""Titles that show what stands before each."""
_ROUNDS = 5
"""A number behind a title may be written with the same tokens as another one's; then the next is tried."""


@dataclass(frozen=True)
class Written:
    """Titles as a tokenizer writes them."""

    tokenizer: PreTrainedTokenizerBase
    titles: list[str]
    """``[I]``: cut, and with a number where two were written alike."""
    tokens: Ragged
    """``I`` rows, int32: each title encoded alone, so the same in every list."""
    remarks: list[str]
    """What was changed."""


def title_tokens(
    catalog: Catalog, settings: CodecSettings, base_tokenizer: Path | None, most: int | None = None
) -> Written:
    """The titles' tokens.

    A trained tokenizer's titles carry a leading space, so that a word is one token wherever it stands; a pretrained
    one's are written as they are.

    Args:
        catalog: the items.
        settings: the ``codec`` section.
        base_tokenizer: a Hugging Face tokenizer folder; None trains one on the titles.
        most: tokens of a title; longer ones are cut.

    Raises:
        UserError: see :mod:`blade_dist.catalog.tokenizer`.
    """
    titles, before = list(catalog.titles), "" if base_tokenizer is not None else BLANK
    if base_tokenizer is not None:
        tokenizer = load_base(base_tokenizer, titles=True)
    else:
        tokenizer = train_tokenizer([*(before + title for title in titles), settings.prompt], settings.vocab_size)
    rows = encode(tokenizer, [before + title for title in titles])
    written = _written(titles, rows, list(catalog.item_ids), 0, tokenizer, before, most)
    if CODE in tokenizer.get_added_vocab():
        written.remarks.append(f"{base_tokenizer}: its tokens of another run's items, as {CODE}, write no title here")
    return written


def more_title_tokens(
    codec: Codec, titles: Sequence[str], item_ids: Sequence[str], before: str, most: int | None
) -> Written:
    """Tokens of titles beside those that items have.

    Args:
        codec: of the first ``I`` titles, which keep their tokens.
        titles: ``[I + n]``, all different.
        item_ids: ``[I + n]``, for messages.
        before: what stands before each, see :func:`blank_before`.
        most: tokens of a title; longer ones are cut.

    Returns:
        ``I + n`` titles and rows; the first ``I`` as they are.
    """
    kept = len(codec.item_tokens)
    more = encode(codec.tokenizer, [before + title for title in titles[kept:]])
    rows = [*(codec.item_tokens[item].tolist() for item in range(kept)), *more]
    return _written(list(titles), rows, item_ids, kept, codec.tokenizer, before, most)


def blank_before(codec: Codec, titles: Sequence[str]) -> str:
    """What stands before each title where the codec writes it: of two ways the one that gives more of its tokens."""
    own = [codec.item_tokens[item].tolist() for item in range(min(TRIED, len(titles)))]
    ways = {way: encode(codec.tokenizer, [way + title for title in titles[:TRIED]]) for way in ("", BLANK)}
    return max(ways, key=lambda way: sum(map(operator.eq, ways[way], own)))


def _written(
    titles: list[str],
    rows: list[list[int]],
    item_ids: Sequence[str],
    first: int,
    tokenizer: PreTrainedTokenizerBase,
    before: str,
    most: int | None,
) -> Written:
    """The titles' tokens ``rows``, cut, and different; those before ``first`` are so already, and stay."""
    remarks = []
    if most is not None and (long := [item for item in range(first, len(rows)) if len(rows[item]) > most]):
        whole = list(titles)
        for item in long:
            # half of a letter at the cut is shown as U+FFFD
            titles[item] = tokenizer.decode(rows[item][:most]).strip().rstrip("\ufffd").rstrip() or titles[item]
        remarks.append(
            f"{len(long)} titles are cut to {most} tokens (data.max_title_tokens), as that of item "
            f"{item_ids[long[0]]!r}, which has {len(rows[long[0]])}"
        )
        titles = unique_titles(titles, item_ids)
        _encode_again(rows, tokenizer, titles, [n for n, title in enumerate(titles) if title != whole[n]], before)
    alike = _equal(rows)
    if alike:
        other, item = alike[0]
        remarks.append(
            f"{len(alike)} titles are written with the same tokens as another one and have a number now, as "
            f"{titles[item]!a} (item {item_ids[item]!r}) beside {titles[other]!a} "
            f"({item_ids[other]!r})"
        )
    _number(titles, rows, tokenizer, before)
    return Written(tokenizer, titles, Ragged.of(rows), remarks)


def _number(titles: list[str], rows: list[list[int]], tokenizer: PreTrainedTokenizerBase, before: str) -> None:
    """Puts `` (2)``, `` (3)``, ... behind titles that are written as an earlier one, and encodes them again."""
    plain, taken, number = list(titles), set(titles), Counter[int]()
    for _ in range(_ROUNDS):
        if not (alike := _equal(rows)):
            return
        for first, item in alike:
            number[first] = max(number[first], 1) + 1
            while (candidate := f"{plain[item]} ({number[first]})") in taken:
                number[first] += 1
            titles[item] = candidate
            taken.add(candidate)
        _encode_again(rows, tokenizer, titles, [item for _, item in alike], before)


def _equal(rows: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(the first row, a later one that is equal) of all that are not empty."""
    first: dict[tuple[int, ...], int] = {}
    pairs = ((first.setdefault(tuple(row), number), number) for number, row in enumerate(rows) if row)
    return [pair for pair in pairs if pair[0] != pair[1]]


def _encode_again(
    rows: list[list[int]], tokenizer: PreTrainedTokenizerBase, titles: list[str], changed: list[int], before: str
) -> None:
    for item, row in zip(changed, encode(tokenizer, [before + titles[item] for item in changed]), strict=True):
        rows[item] = row
