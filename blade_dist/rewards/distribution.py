"""Set target distributions over groups: what a list should show of each provider, category, or of the long tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import EVERY
from blade_dist.errors import UserError, nearest
from blade_dist.rewards.item_features import tail_items
from blade_dist.rewards.lists import Lists

Scores = NDArray[np.float64]

BY_POPULARITY = ("head", "tail")
"""Groups that every catalog has: the items that make up 80 % of the training interactions, and the others."""

ROUNDING = 1e-6
"""How far the shares may be from a sum of 1."""


@dataclass(frozen=True)
class Distribution:
    """Wanted shares of some groups, and what each item adds to them."""

    wanted: Scores
    """``[groups]``, sum 1."""
    mass: Scores
    """``[I + 1, groups]``: an item's mass of 1, split evenly over its groups among these; a miss has none."""

    def mgu(self, lists: Lists, k: int) -> Scores:
        """``mean_g |share of g in the list - wanted share|``; less is better. A miss is one group more, not wanted.

        List all in a, wanted half a half b:

        >>> lists = example([0, 1], groups=["a", "a", "b"])
        >>> make_distribution("fair", {"a": 0.5, "b": 0.5}, lists.catalog).mgu(lists, 2)
        array([0.5])
        """
        difference, missing = self._differences(lists, k)
        return (np.abs(difference).sum(axis=1) + missing) / len(self.wanted)

    def dgu(self, lists: Lists, k: int) -> Scores:
        """``max_g d_g - min_g d_g`` of the signed differences d, plus the share of misses; less is better.

        List all in a, wanted half a half b:

        >>> lists = example([0, 1], groups=["a", "a", "b"])
        >>> make_distribution("fair", {"a": 0.5, "b": 0.5}, lists.catalog).dgu(lists, 2)
        array([1.])
        """
        difference, missing = self._differences(lists, k)
        return np.ptp(difference, axis=1) + missing

    def _differences(self, lists: Lists, k: int) -> tuple[Scores, Scores]:
        shares = self.mass[lists.items[:, :k]].mean(axis=1)
        return shares - self.wanted, 1 - lists.valid[:, :k].mean(axis=1)


def make_distribution(name: str, wanted: Mapping[str, float], catalog: Catalog) -> Distribution:
    """The distribution ``reward.distributions.<name>`` over a catalog's groups, or over head and tail.

    ``*`` stands for the items in none of the other groups, those without any group among them.

    Raises:
        UserError: shares that do not sum to 1, a group that is not there, items in none of the groups, a share for
            ``*`` where it stands for no item, ``*`` alone.
    """
    setting = f"reward.distributions.{name}"
    if abs(sum(wanted.values()) - 1) > ROUNDING:
        raise UserError(f"{setting}: the shares sum to {sum(wanted.values()):g}; they must sum to 1")
    named = [group for group in wanted if group != EVERY]
    if not named:
        raise UserError(
            f"{setting}: {EVERY!r} stands for the items in none of the other groups; name a group beside it"
        )
    member = _members(setting, named, catalog)
    for group, column in zip(named, member.T, strict=True):
        if wanted[group] > 0 and not column.any():
            raise UserError(
                f"{setting}: a share of {wanted[group]:g} for {group!r}, and no item of the catalog is in it"
            )
    outside = ~member.any(axis=1)
    if EVERY in wanted:
        _check_others(setting, wanted[EVERY], int(outside.sum()))
        # the columns stand in the order of ``wanted``, whose values become the wanted shares
        member = np.insert(member, list(wanted).index(EVERY), outside, axis=1)
    elif outside.any():
        first = np.flatnonzero(outside)[0]
        raise UserError(
            f"{setting}: {outside.sum()} of {len(catalog)} items are in none of its groups, the first is "
            f"{catalog.item_ids[first]!r} ({catalog.titles[first]!r}); name a group of each, or add {EVERY!r} with the "
            "share of all others"
        )
    mass = np.append(member / member.sum(axis=1, keepdims=True), np.zeros((1, len(wanted))), axis=0)
    return Distribution(np.array(list(wanted.values()), dtype=np.float64), mass)


def _check_others(setting: str, share: float, items: int) -> None:
    """Raises UserError where a share above 0 is wanted of no item."""
    if share > 0 and not items:
        raise UserError(f"{setting}: a share of {share:g} for {EVERY!r}, and every item is in one of the other groups")


def _members(setting: str, groups: list[str], catalog: Catalog) -> NDArray[np.bool_]:
    """``[I, groups]`` whether an item is in a group."""
    if set(groups) <= set(BY_POPULARITY) and not set(groups) & set(catalog.group_names):
        tail = tail_items(catalog)[:-1]
        return np.stack([tail if group == "tail" else ~tail for group in groups], axis=1)
    for group in groups:
        if group not in catalog.group_names:
            hint = "the catalog has no groups (data.columns.groups)"
            if catalog.n_groups:
                hint = f"did you mean {nearest(group, catalog.group_names)!r}?"
            raise UserError(f"{setting}: there is no group {group!r}; {hint} ('head' and 'tail' stand alone)")
    column = np.full(catalog.n_groups, -1)
    column[[catalog.group_names.index(group) for group in groups]] = np.arange(len(groups))
    owners, columns = np.repeat(np.arange(len(catalog)), catalog.groups.lengths), column[catalog.groups.flat]
    member = np.zeros((len(catalog), len(groups)), dtype=bool)
    member[owners[columns >= 0], columns[columns >= 0]] = True
    return member
