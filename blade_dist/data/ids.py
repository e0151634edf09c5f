"""Ids as text, and the join of the log's item ids with those of the items, however each file spells them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.remarks import Remarks, shown

_BLANKS = "\0 \t\r\n\v\f\u00a0\u200b\u200e\u200f\u2060\ufeff"
"""Stripped from both ends: white space, and what no eye sees."""
_AROUND = _BLANKS + "\"'`{}[]()<>=#"
"""Stripped from both ends of ids that are not found as they are spelt."""
_EXACT = 2.0**53
"""From here on a float stands for several whole numbers."""
_SHORTENED = r"^[0-9][.,][0-9]+[eE]\+[0-9]+$"


def id_text(column: pa.ChunkedArray | pa.Array, what: str, remarks: Remarks) -> pa.Array:
    """Ids as text, null where there is none: without blanks around them, and 12.0 as 12.

    A column with a null in it becomes floats in pandas: 12 is written 12.0, so that ``.0`` behind digits is no id's.
    Numbers as spreadsheets shorten them, 1.23457E+11, stay as they are and are said: several ids may be one.

    Args:
        column: texts or numbers.
        what: whose ids they are, for the remark.
        remarks: where changes are counted.

    Raises:
        ValueError: a column of lists or of other things that are no ids.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    raw = _as_text(column, what)
    clean = pc.utf8_trim(raw, _BLANKS)
    pointed = pc.match_substring_regex(clean, r"^-?[0-9]+\.0+$")
    if pc.any(pointed).as_py():
        clean = pc.replace_substring_regex(clean, r"^(-?[0-9]+)\.0+$", r"\1")
    changed = pc.not_equal(clean, raw).fill_null(False)
    if (count := pc.sum(changed).as_py() or 0) > 0:
        place = pc.index(changed, True).as_py()
        before, after = raw[place].as_py(), clean[place].as_py()
        remarks.repair(f"{what} ids with blanks or .0", count, f"{shown(before)} read as {shown(after)}")
    if (place := pc.index(pc.match_substring_regex(clean, _SHORTENED), True).as_py()) >= 0:
        remarks.hint(
            f"{what} ids are numbers that a spreadsheet shortened: several may be one; export the column as text",
            shown(clean[place].as_py()),
        )
    return pc.if_else(pc.equal(clean, ""), None, clean)


def _as_text(column: pa.Array, what: str) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.cast(kind.value_type), what)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        encoded = column.dictionary_encode()
        return pa.array(map(_of_bytes, encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)
    if pa.types.is_floating(kind):
        if (pc.max(pc.abs(column)).as_py() or 0) >= _EXACT:
            raise ValueError("holds floats above 2**53, where several ids are one; write them as integers or as text")
        whole = pc.equal(pc.round(column), column)
        if pc.all(whole).as_py() is not False:  # also where all are null
            column = pc.if_else(pc.is_finite(column), column, None).cast(pa.int64())
    if pa.types.is_decimal(kind) and pc.all(pc.equal(pc.round(column), column)).as_py() is not False:
        column = column.cast(pa.decimal128(38, 0))  # of more digits after the point, 0 would be written 0E-10
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        raise ValueError(f"holds objects, as {shown(column.drop_null()[:1].to_pylist())}; name a column of plain ids")
    if pa.types.is_nested(kind):
        raise ValueError(f"is a list, and a row must be one interaction ({what})")
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ValueError(f"holds no ids, but {kind}") from None


def _of_bytes(value: bytes) -> str:
    """Text where it is some, else a UUID or hexadecimal digits."""
    with suppress(UnicodeDecodeError):
        if (text := value.decode()).isprintable():
            return text
    return str(UUID(bytes=value)) if len(value) == 16 else value.hex()


def is_null_word(ids: pa.Array, words: Sequence[str]) -> pa.Array:
    """Where an id is a word for nothing."""
    return pc.is_in(ids, value_set=pa.array(list(words), pa.string()))


class ItemIndex:
    """Rows of the items table by id.

    An id that is not there as it is spelt is looked for without leading zeros, quotes, brackets, ``#`` or ``=`` around
    it, commas between thousands or ``gid://shopify/Product/`` before it, in lower case and with letters of one kind
    (Unicode's NFKC), as ``007`` is ``7`` in a file that has been through a spreadsheet; where two items are alike then,
    it stays unknown.
    """

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids
        keys = loose(ids)
        _, first, count = np.unique(keys.dictionary_encode().indices.to_numpy(), return_index=True, return_counts=True)
        self._rows = pa.array(first[count == 1], pa.int32())
        self._keys = keys.take(self._rows)

    def rows(self, ids: pa.Array, remarks: Remarks, where: str = "the log") -> pa.Array:
        """int32 rows of the items table, null where there is no such item; ``where`` the ids are, for the remark."""
        exact = pc.index_in(ids, value_set=self._ids)
        missing = exact.is_null()
        if not exact.null_count:
            return exact
        place = pc.index_in(loose(pc.if_else(missing, ids, None)), value_set=self._keys)
        found = pc.and_(missing, pc.and_(place.is_valid(), ids.is_valid()))
        if not (count := pc.sum(found).as_py() or 0):
            return exact
        first = pc.index(found, True).as_py()
        row = self._rows[place[first].as_py()].as_py()
        spelt, found_id = ids[first].as_py(), self._ids[row].as_py()
        apart = shown if spelt.isascii() else ascii  # letters that look alike are shown by their numbers
        example = f"{apart(spelt)} in {where} is item {apart(found_id)}"
        remarks.repair("item ids joined by other zeros, case or marks", count, example)
        return pc.if_else(found, self._rows.take(place), exact)


def loose(ids: pa.Array) -> pa.Array:
    """What ids have in common that are alike; null stays null."""
    plain = pc.utf8_normalize(ids, form="NFKC")
    plain = pc.utf8_lower(pc.utf8_trim(plain, _AROUND))
    plain = pc.replace_substring_regex(plain, r"^gid://\w+/\w+/", "")  # of Shopify's GraphQL
    grouped = pc.match_substring_regex(plain, r"^[0-9]{1,3}(,[0-9]{3})+$")
    plain = pc.if_else(grouped, pc.replace_substring(plain, ",", ""), plain)
    plain = pc.replace_substring_regex(plain, r"\s+", " ")
    return pc.replace_substring_regex(plain, r"^0+([0-9a-z])", r"\1")
