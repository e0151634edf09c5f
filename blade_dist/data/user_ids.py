"""User ids that are spelt in two ways, in one log or in the log and a ready split. Pure.

The rule is that of item ids, see :class:`blade_dist.data.ids.ItemIndex`: ids are alike where they differ by zeros, case
or marks alone. A split has a log to be compared with, so that its ids are joined with those of the log; within a log
nobody knows which spelling is right, or whether two people are meant, so that it is said and left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.distinct import hashed
from blade_dist.data.ids import loose
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.sequences import SequenceStore


def say_alike(store: SequenceStore, remarks: Remarks) -> None:
    """Counts the users of a log who differ by their ids' spelling alone, and shows two of them."""
    keys = [hashed(loose(users)) for users in _users(store)]
    different, counts = np.unique(np.concatenate(keys), return_counts=True)
    often = different[counts > 1]
    if not often.size:
        return
    pair = [
        user.as_py()
        for users, of in zip(_users(store), keys, strict=True)
        for user in users.filter(pa.array(of == often[0]))
    ]
    first, second = (shown(user) if user.isascii() else ascii(user) for user in sorted(pair)[:2])
    remarks.hint(
        f"{counts[counts > 1].sum():,} users have ids that differ from another's by zeros, case or marks alone, and "
        "count as different users: write such ids alike where they mean one",
        f"{first} and {second}",
    )


def joined(users: pa.Array, store: SequenceStore, remarks: Remarks) -> pa.Array:
    """The users of a split as the log spells them; one whom it does not have, or has in two spellings, stays."""
    missing = pc.invert(pa.array(_in_any(users, store)))
    if not pc.any(missing).as_py():
        return users
    keys = loose(pc.if_else(missing, users, None))
    found: dict[str, list[str]] = {}
    for known in _users(store):
        of = loose(known)
        wanted = pc.and_(pc.is_in(of, value_set=keys), of.is_valid())
        for key, user in zip(of.filter(wanted).to_pylist(), known.filter(wanted).to_pylist(), strict=True):
            found.setdefault(key, []).append(user)
    one = {key: alike[0] for key, alike in found.items() if len(alike) == 1}
    names = pa.array([one.get(key) for key in keys.to_pylist()], pa.string())
    if count := len(names) - names.null_count:
        place = pc.index(names.is_valid(), True).as_py()
        example = f"{shown(users[place].as_py())} in data.splits is user {shown(names[place].as_py())}"
        remarks.repair("user ids joined by other zeros, case or marks", count, example)
    return pc.coalesce(names, users)


def _users(store: SequenceStore) -> Iterator[pa.Array]:
    """Of each partition, each once."""
    for partition in range(len(store)):
        yield store.load(partition).users


def _in_any(users: pa.Array, store: SequenceStore) -> np.ndarray:
    known = np.zeros(len(users), dtype=bool)
    for part in _users(store):
        known |= pc.is_in(users, value_set=part).to_numpy(zero_copy_only=False)
    return known
