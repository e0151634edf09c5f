"""Which positions of a list count, against the definition in plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.mask import mask_illegal

ITEM = st.integers(MISS, 5)


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.lists(
            st.tuples(st.lists(ITEM, min_size=k, max_size=k), st.lists(st.integers(0, 5), max_size=4)), max_size=6
        ).map(lambda rows: (k, rows))
    )
)
def test_mask_illegal_is_the_definition(case: tuple[int, list[tuple[list[int], list[int]]]]) -> None:
    k, rows = case
    items = np.array([row[0] for row in rows], dtype=np.int32).reshape(-1, k)
    masked, invalid, duplicate = mask_illegal(items, Ragged.of([row[1] for row in rows]))
    for n, (written, excluded) in enumerate(rows):
        kept, repeats = [], 0
        for position, item in enumerate(written):
            wrong = item != MISS and (item in written[:position] or item in excluded)
            repeats += wrong
            kept.append(MISS if wrong else item)
        assert masked[n].tolist() == kept
        assert invalid[n] == written.count(MISS)
        assert duplicate[n] == repeats
    twice = mask_illegal(items.repeat(2, axis=0), Ragged.of([row[1] for row in rows]))
    for once, pairs in zip((masked, invalid, duplicate), twice, strict=True):
        np.testing.assert_array_equal(pairs, once.repeat(2, axis=0))
    assert masked.dtype == invalid.dtype == duplicate.dtype == np.int32
