"""What must hold before any list is written: enough free items for everybody."""

from __future__ import annotations

import pytest

from blade_dist.catalog.legality import check_free_items
from blade_dist.errors import UserError
from tests.helpers.catalogs import made_prompts


def test_a_user_with_too_few_free_items_is_named() -> None:
    batch = made_prompts([[1, 2], [2, 3], [3]], [[0]] * 3, seen=[[1, 2], [0, 1, 2, 3], [3]])
    check_free_items(batch, items=6, k=2, exclude_history=True)
    with pytest.raises(UserError, match=r"user 'u1' has 2 of 6 items outside the history, fewer than the 3 of a list"):
        check_free_items(batch, items=6, k=3, exclude_history=True)
    check_free_items(batch, items=6, k=4, exclude_history="shown")
    with pytest.raises(UserError, match=r"user 'u0' has 4 of 6 .* or set lists\.exclude_history=false"):
        check_free_items(batch, items=6, k=5, exclude_history="shown")
    check_free_items(batch, items=6, k=6, exclude_history=False)
