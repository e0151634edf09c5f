"""Quotes that begin a field of CSV and that nothing ends: the next rows become a part of that field. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

_NUMBERS = "[0-9][0-9.:+TZ/ -]*"
"""A field of numbers, times and dates."""
_LEAST = 8
"""Lines that must look like rows where no field of a row is a number: those of a text may have as many commas."""
_SHARE = 0.9


class RowLike:
    """What a line must be like to be a row.

    Args:
        fields: of a row of the file.
        delimiter: between two fields.
    """

    def __init__(self, fields: Sequence[str], delimiter: str) -> None:
        numbers = [re.fullmatch(_NUMBERS, field.strip()) is not None for field in fields]
        other = rf"[^{re.escape(delimiter)}\n]*"
        line = re.escape(delimiter).join(_NUMBERS if number else other for number in numbers)
        self._line, self._least = rf"(?m)^{line}\r?$", 1 if any(numbers) else _LEAST

    def is_in(self, fields: pa.Array | pa.ChunkedArray) -> bool:
        """Whether nine of ten whole lines of a field are like that; the first and the last are parts of one."""
        whole = pc.subtract(pc.count_substring(fields, "\n"), 1)
        fields, whole = (part.filter(pc.greater_equal(whole, self._least)) for part in (fields, whole))
        like = pc.cast(pc.count_substring_regex(fields, self._line), pa.float64())
        return bool(pc.any(pc.greater_equal(like, pc.multiply(pc.cast(whole, pa.float64()), _SHARE))).as_py())
