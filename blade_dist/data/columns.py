"""Which column is which: as ``data.columns`` says, or by the names that published logs give them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from blade_dist.data.rawlog import require_columns
from blade_dist.data.remarks import Remarks
from blade_dist.settings import ColumnSettings

ALIASES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "uid", "reviewerID", "customer_id", "visitorid", "session_id", "username", "user:token"),
    "item": (
        *("item_id", "iid", "parent_asin", "asin", "movie_id", "product_id", "sku"),
        *("article_id", "business_id", "book_id", "isbn", "news_id", "song_id", "track_id", "video_id", "game_id"),
    ),
    "time": (
        *("timestamp", "unixReviewTime", "ts", "datetime", "date", "event_time", "created_at", "time_stamp"),
        *("event_timestamp", "t_dat", "date_added"),
    ),
    "rating": ("stars", "score", "overall"),
    "title": (
        "name",
        "movie_title",
        "item_name",
        "product_title",
        "product_name",
        "prod_name",
        "book_title",
        "app_name",
    ),
}
"""By setting; looked for, in this order, where the setting is left at its default, whatever their case, and whether
words are parted by ``_``, ``-``, a blank or nothing."""


def folded(name: str) -> str:
    """A name of a column without what programs spell in their own way.

    >>> folded("User ID"), folded("userId"), folded("USER_ID")
    ('userid', 'userid', 'userid')
    """
    return re.sub(r"[\s_-]+", "", name.lower())


def resolve(
    given: ColumnSettings, names: Iterable[str], roles: Iterable[str], file: object, remarks: Remarks
) -> dict[str, str]:
    """The column of each role that has one.

    Args:
        given: ``data.columns``.
        names: of the columns that there are.
        roles: fields of ``given``.
        file: for a message.
        remarks: says which columns were taken by another name.

    Raises:
        UserError: a column that is not there.
    """
    names = list(names)
    there = {folded(name): name for name in reversed(names)}
    found: dict[str, str] = {}
    for role in roles:
        wanted = getattr(given, role)
        if wanted is None:
            continue
        if wanted not in names and wanted == type(given).model_fields[role].default:
            spelt = [folded(name) for name in (wanted, *ALIASES.get(role, ()))]
            known = [there[name] for name in spelt if name in there]
            if known:
                remarks.hint(f"column {known[0]!r} is taken as the {role} (data.columns.{role})")
                wanted = known[0]
        found[role] = wanted
    require_columns(file, names, {f"data.columns.{role}": name for role, name in found.items()})
    return found


def every_name(given: ColumnSettings) -> set[str]:
    """All names that columns may have, by which a separator is seen."""
    named = {value for value in given.model_dump().values() if isinstance(value, str)}
    return named.union(*ALIASES.values())
