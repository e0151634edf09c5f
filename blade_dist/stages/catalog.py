"""``blade-dist catalog``: an export with the items of the day, without a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from blade_dist.catalog.renewed import renewed
from blade_dist.data.today import read_today
from blade_dist.errors import UserError
from blade_dist.serving.manifest import check_out
from blade_dist.serving.opened import open_export
from blade_dist.serving.renew import RenewedExport, check_room, write_renewed
from blade_dist.settings import DataSettings
from blade_dist.tracking.say import say, say_end

SHOWN = 3
"""Items of the history that a list may be asked for."""


def catalog_stage(served: Path, items: Path, out: Path, settings: DataSettings, console: Console) -> list[str]:
    """Writes the export whose catalog is the file's.

    Args:
        served: the export that it is made from; stays as it is.
        items: table of all items that are on sale today.
        out: folder to write.
        settings: how the table is written.
        console: for messages.

    Returns:
        Item ids of a history, to try the export with: new ones, where there are some.

    Raises:
        UserError: no whole export there; items that can't be read, that are none of the export's, or too few for a
            list; or ``out`` is there and is not an export, or can't be.
    """
    _check_out(served, out)
    today = read_today(items, settings)
    opened = open_export(served)
    day = renewed(opened.catalog, today.item_ids, today.titles, today.groups)
    if day.new == len(today.item_ids):
        raise UserError(
            f"--items {items}: none of its {day.new} ids is an item of {served}, as {today.item_ids[0]!r}; its ids are "
            f"written as {opened.catalog.item_ids[0]!r}"
        )
    check_room(opened.manifest, day)
    made = write_renewed(out, opened, day)
    for line in [*today.remarks.hints, *made.remarks]:
        say(console, f"catalog: {line}")
    _say_what_is_new(made, out, console)
    on_sale = np.flatnonzero(~day.gone)
    return list(day.catalog.item_ids[on_sale[-SHOWN:]])


def _check_out(served: Path, out: Path) -> None:
    if served.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {out}: is, or is in, the export that is read, which stays as it is; choose another one")
    check_out(out)


def _say_what_is_new(made: RenewedExport, out: Path, console: Console) -> None:
    day, trained = made.manifest.day, made.manifest.trained
    assert day is not None
    assert trained is not None
    told = "" if made.told is None else f"; words tell {made.told:.0%} of the items' vectors, and new ones got theirs"
    number = (
        f"{day.on_sale:,} items are on sale: {day.new:,} new since the training, {day.changed:,} changed; "
        f"{day.withdrawn:,} withdrawn, which histories may name and no list holds{told}"
    )
    say_end(
        console, "catalog", f"{out} holds {made.manifest.policy} (weights {trained.weights}) as it was trained", number
    )
