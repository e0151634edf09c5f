"""A list as text: every item is its title."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog, unique_titles
from blade_dist.catalog.tokenizer import encode, load_tokenizer, train_tokenizer
from blade_dist.settings import CodecSettings

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
    titles, before = list(catalog.titles), "" if base_tokenizer is not None else " "
    if base_tokenizer is not None:
        tokenizer = load_tokenizer(base_tokenizer)
    else:
        tokenizer = train_tokenizer([*(before + title for title in titles), settings.prompt], settings.vocab_size)
    rows = encode(tokenizer, [before + title for title in titles])
    remarks = []
    if most is not None and (long := [item for item, row in enumerate(rows) if len(row) > most]):
        for item in long:
            # half of a letter at the cut is shown as U+FFFD
            titles[item] = tokenizer.decode(rows[item][:most]).strip().rstrip("\ufffd").rstrip() or titles[item]
        remarks.append(
            f"{len(long)} titles are cut to {most} tokens (data.max_title_tokens), as that of item "
            f"{catalog.item_ids[long[0]]!r}, which has {len(rows[long[0]])}"
        )
        titles = unique_titles(titles, list(catalog.item_ids))
        _encode_again(
            rows, tokenizer, titles, [n for n, title in enumerate(titles) if title != catalog.titles[n]], before
        )
    alike = _equal(rows)
    if alike:
        first, item = alike[0]
        remarks.append(
            f"{len(alike)} titles are written with the same tokens as another one and have a number now, as "
            f"{titles[item]!a} (item {catalog.item_ids[item]!r}) beside {titles[first]!a} "
            f"({catalog.item_ids[first]!r})"
        )
    _number(titles, rows, tokenizer, before)
    return Written(tokenizer, titles, Ragged.of(rows), remarks)


def _number(titles: list[str], rows: list[list[int]], tokenizer: PreTrainedTokenizerBase, before: str) -> None:
    """Puts `` (2)``, `` (3)``, ... behind titles that are written as an earlier one, and encodes them again."""
    plain, taken, number = list(titles), set(titles), Counter[int]()
    for _ in range(_ROUNDS):
        alike = _equal(rows)
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
