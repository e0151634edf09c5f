"""Items of which no interaction was trained on: how often lists hold them, and whether they do so rightly. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from blade_dist.rewards.lists import Lists

LISTED: Final = "cold_listed"
ASKED: Final = "cold_asked"
HIT: Final = "cold_hit"
"""Of cold items: the share of all positions; the share of what was held out; the share of these held-out ones that the
list of their user holds."""


def cold_numbers(lists: Lists, cold: NDArray[np.bool_]) -> dict[str, float]:
    """:data:`LISTED`, :data:`ASKED` and :data:`HIT`; ``cold``: ``[I]``. Nothing is hit where nothing was asked for.

    With two lists of two positions, and items 7 and 8 cold::

        lists    targets     cold in lists   cold targets   hit
        7 3      7 5         7               7              7
        1 8      8 7         8               8 7            8       listed 2/4, asked 3/4, hit 2/3
    """
    listed = lists.valid & cold[np.where(lists.valid, lists.items, 0)]
    asked = int(cold[lists.targets.flat].sum())
    return {
        LISTED: float(listed.mean()),
        ASKED: asked / max(1, len(lists.targets.flat)),
        HIT: int((listed & lists.hits).sum()) / max(1, asked),
    }


def render_cold(title: str, by_policy: Mapping[str, Mapping[str, Any]], policies: Sequence[str]) -> Table:
    """A row for each policy; ``by_policy``: numbers of :func:`cold_numbers` among others."""
    asked = by_policy[policies[0]][ASKED]
    table = Table(title=f"{title}: items that were never trained on, {asked:.1%} of what was held out")
    table.add_column("", no_wrap=True)
    for head in ("share of the lists", "of those held out, hit"):
        table.add_column(head, justify="right")
    for policy in policies:
        table.add_row(policy, *(f"{by_policy[policy][name]:.2%}" for name in (LISTED, HIT)))
    return table
