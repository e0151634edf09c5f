"""Lists that were written as text: ``['Crime', 'Drama']``, ``["Crime", "Drama"]``, ``{Crime,Drama}``. Pure."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_LISTED = r"^\s*(\[.*\]|\"\[.*\]\"|\{[^:]*\}|\(.*,.*\))\s*$"
_QUOTED = r"^\s*\[\s*['\"].*['\"]\s*\]\s*$"
"""What is a list even beside texts that are none."""
_PART = r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^\s,'\"][^,]*)"
"""One value of a list: in quotes, or as it is (``{"Science Fiction",Drama}``, as Postgres writes it)."""
_NAMES = ("name", "title", "label", "value", "id", "item_id", "product_id", "sku")
"""Where a list has objects, as ``[{'id': 16, 'name': 'Animation'}]``, the first of these fields is the value."""


def looks_listed(texts: pa.ChunkedArray | pa.Array) -> bool:
    """Whether nine of ten texts that are not empty are lists."""
    there = texts.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False))
    if not len(there):
        return False
    listed = pc.sum(pc.match_substring_regex(there, _LISTED)).as_py() or 0
    return bool(10 * listed >= 9 * len(there))


def listed(texts: pa.ChunkedArray | pa.Array) -> int:
    """How many texts are lists: all where nearly all look like it, else those of quoted texts."""
    return len(texts) if looks_listed(texts) else pc.sum(pc.match_substring_regex(texts, _QUOTED)).as_py() or 0


def as_lists(texts: pa.ChunkedArray | pa.Array, separator: str | None = None) -> pa.Array:
    """Each text as the list that it shows; another text is parted by the separator, an empty one an empty list."""
    chunked = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    encoded = chunked.combine_chunks().dictionary_encode()
    lists = pa.array([parsed(text, separator) for text in encoded.dictionary.to_pylist()], pa.list_(pa.string()))
    return lists.take(encoded.indices)


def values(value: Any) -> list[str]:
    """The values of a list, a list of lists, an object or a list of objects."""
    if value is None:
        return []
    flat = _flat(value) if isinstance(value, list | tuple | set) else [value]
    return [plain for one in flat if (plain := _plain(one))]


def parsed(text: str, separator: str | None = None) -> list[str]:
    """The values of one text; ``separator``: of a text that shows no list, None: such a one is one value."""
    text = text.strip()
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        # numpy writes ['a' 'b'], which Python reads as one text: its words are told apart by their quotes below
        if isinstance(value, list | tuple | set) and not re.search(r"['\"]\s+['\"]", text):
            return values(value)
        if isinstance(value, dict):
            return values(value)
        if isinstance(value, str) and re.match(_LISTED, value):
            return parsed(value, separator)  # JSON in JSON
    if not re.match(_LISTED, text):
        return text.split(separator) if text and separator else [text] if text else []
    parts = ("".join(part) for part in re.findall(_PART, text.strip()[1:-1]))
    return [part.strip() for part in parts if part.strip()]


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in (_flat(part) if isinstance(part, list | tuple | set) else [part])]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return next((str(value[name]) for name in _NAMES if name in value), "")
    return "" if value is None else str(value)
