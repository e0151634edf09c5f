"""What a result was made with against the settings of now: which ones changed, and the error that names them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from blade_dist.errors import UserError

LONGEST = 140
"""Characters of the changes in a message, but for the first one."""
LONGEST_VALUE = 48
"""Characters of a value in a message."""


def changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Values that differ: dotted name -> ``name: 8 there, 7 now``; None stands for one that is missing.

    >>> changes({"lists": {"k": 8}, "seed": 0}, {"lists": {"k": 7}, "seed": 0})
    {'lists.k': 'lists.k: 8 there, 7 now'}
    """
    old, new = (dict(_flat(json.loads(json.dumps(tree, default=str)))) for tree in (there, now))
    return {
        name: "{}: {} there, {} now".format(name, *_apart(str(old.get(name)), str(new.get(name))))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _apart(old: str, new: str) -> tuple[str, str]:
    """The two, or, where one of them is long, what is around the first place where they differ."""
    if max(len(old), len(new)) <= LONGEST_VALUE:
        return old, new
    alike = next((place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(old))
    start = max(0, min(alike, len(old), len(new)) - LONGEST_VALUE // 3)
    end = start + LONGEST_VALUE
    there, now = (f"{'...' * (start > 0)}{text[start:end]}{'...' * (len(text) > end)}" for text in (old, new))
    return there, now


def made_otherwise(what: object, changed: Iterable[str], instead: str) -> UserError:
    """The error of work that was made with other settings.

    Args:
        what: the work, or where it is.
        changed: texts of :func:`changes`.
        instead: what there is to do beside setting them back, and what that makes anew; follows a comma.
    """
    first, *rest = changed
    named = [first]
    while rest and len("; ".join([*named, rest[0]])) <= LONGEST:
        named.append(rest.pop(0))
    more = f" and {len(rest)} more" if rest else ""
    return UserError(
        f"{what} was made with other settings: {'; '.join(named)}{more}; it stays as it is: set them back, {instead}"
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
