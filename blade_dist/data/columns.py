"""Which column is which: as ``data.columns`` says, or by the names that published logs give them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from blade_dist.data.rawlog import require_columns
from blade_dist.data.remarks import Remarks
from blade_dist.settings import ColumnSettings

ALIASES: dict[str, tuple[str, ...]] = {
    "user": (
        "user_id",
        "userId",
        "userid",
        "uid",
        "reviewerID",
        "customer_id",
        "visitorid",
        "session_id",
        "user:token",
    ),
    "item": ("item_id", "itemId", "itemid", "iid", "parent_asin", "asin", "movieId", "movie_id", "product_id", "sku"),
    "time": ("timestamp", "unixReviewTime", "ts", "datetime", "date", "event_time", "created_at", "time_stamp"),
    "rating": ("stars", "score", "overall"),
    "title": ("name", "movie_title", "item_name", "product_title", "product_name"),
}
"""By setting; looked for, in this order and whatever their case, where the setting is left at its default."""


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
    folded = {name.lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for role in roles:
        wanted = getattr(given, role)
        if wanted is None:
            continue
        if wanted not in names and wanted == type(given).model_fields[role].default:
            known = [folded[name.lower()] for name in (wanted, *ALIASES.get(role, ())) if name.lower() in folded]
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
