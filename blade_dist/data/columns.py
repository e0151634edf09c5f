"""Which column is which: as ``data.columns`` says, or by the names that published logs give them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from blade_dist.data.rawlog import require_columns
from blade_dist.data.remarks import Remarks
from blade_dist.settings import ColumnSettings

ALIASES: dict[str, tuple[str, ...]] = {
    "user": (
        *("user_id", "uid", "reviewerID", "customer_id", "client_id", "account_id", "member_id"),
        *("user_pseudo_id", "visitorid", "fullVisitorId", "session_id", "username", "customer", "visitor"),
    ),
    "item": (
        *("item_id", "iid", "parent_asin", "asin", "movie_id", "product_id", "sku"),
        *("article_id", "business_id", "book_id", "isbn", "news_id", "song_id", "track_id", "video_id", "game_id"),
        *("artist_id", "anime_id", "recipe_id", "listing_id", "content_id", "variant_id", "stock_code", "product_code"),
        *("app_id", "gmap_id", "venue_id", "location_id", "course_id", "click_article_id", "product", "article"),
    ),
    "time": (
        *("timestamp", "unixReviewTime", "ts", "datetime", "date", "event_time", "created_at"),
        *("event_timestamp", "t_dat", "date_added", "unix_timestamp", "unix_time", "event_date", "order_date"),
        *("purchase_date", "invoice_date", "review_date", "ordered_at", "purchased_at", "click_timestamp", "rated_at"),
    ),
    "rating": ("stars", "score", "overall"),
    "title": (
        *("name", "movie_title", "item_name", "item_title", "product_title", "product_name", "prod_name"),
        *("book_title", "app_name", "track_name", "song_title", "artist_name", "headline", "description"),
    ),
}
ALIASES["id"] = ("item", *ALIASES["item"], "id")
"""By setting; looked for, in this order, where the setting is left at its default, whatever their case, and whether
words are parted by ``_``, ``-``, a blank or nothing."""


def folded(name: str) -> str:
    """A name of a column without what programs spell in their own way.

    >>> folded("User ID"), folded("userId"), folded("USER_ID")
    ('userid', 'userid', 'userid')
    """
    return re.sub(r"[\s_-]+", "", name.lower())


def is_rating(name: str) -> bool:
    """Whether it is a name that a column of ratings has."""
    return folded(name) in map(folded, ("rating", *ALIASES["rating"]))


def resolve(
    given: ColumnSettings,
    names: Iterable[str],
    roles: Iterable[str],
    file: object,
    remarks: Remarks,
    header: str | None = None,
) -> dict[str, str]:
    """The column of each role that has one.

    Args:
        given: ``data.columns``.
        names: of the columns that there are.
        roles: fields of ``given``.
        file: for a message.
        remarks: says which columns were taken by another name.
        header: the setting that names the columns of text whose first line is a row; None: the file has types.

    Raises:
        UserError: a column that is not there.
    """
    names = list(names)
    there = {folded(name): name for name in reversed(names)}
    found: dict[str, str] = {}
    asked: dict[str, str] = {}
    for role in roles:
        by = "item" if role == "id" and given.id is None else role
        if (wanted := getattr(given, by)) is None:
            continue
        if wanted not in names and (by != role or wanted == role):
            spelt = [folded(name) for name in (wanted, *ALIASES.get(role, ()))]
            known = [there[name] for name in spelt if name in there]
            if known:
                what = "item id of the items" if role == "id" else role
                remarks.hint(f"column {known[0]!r} is taken as the {what} (data.columns.{role})")
                wanted = known[0]
        found[role] = asked[f"data.columns.{by}"] = wanted
    require_columns(file, names, asked, header)
    return found


def every_name(given: ColumnSettings) -> set[str]:
    """All names that columns may have, by which a separator is seen."""
    named = {value for value in given.model_dump().values() if isinstance(value, str)}
    return named.union(*ALIASES.values())
