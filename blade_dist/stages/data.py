"""``blade-dist data``: raw log and items to Arrow, and a table of what came of it."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console

from blade_dist.data.card import WITHOUT_GROUP
from blade_dist.data.grown_from import of_new
from blade_dist.data.prepare import PHASES, prepare_data
from blade_dist.settings import Config
from blade_dist.stages.data_table import WIDTH, log_lines, log_table
from blade_dist.store.files import read_json
from blade_dist.store.lock import held
from blade_dist.tracking.bar import Bar
from blade_dist.tracking.say import say, say_end, show_table


def data_stage(config: Config, console: Console) -> None:
    """Prepares the data where that is not done, and shows the card's counts.

    Raises:
        UserError: a raw file that can't be read; data there of other settings; settings that leave nothing; another
            command that is preparing data in the same folder.
    """
    folder = config.run.dir / "data"
    there = folder.exists()
    with held(folder, "blade-dist data", "run.dir"), Bar("data", sum(PHASES.values()), "parts", console) as bar:
        prepare_data(config, lambda phase: bar.at(_before(phase), phase))
        bar.at(sum(PHASES.values()))
    if there:
        say(console, f"data: {folder} was there with these settings, and nothing is read anew; it is of this log:")
    card = read_json(folder / "card.json") or {}
    show_table(console, log_table(card), WIDTH)
    for line in log_lines(card):
        say(console, f"data: {line}")
    _say_early_rows(card["split"], card["prompts"]["test"], console)
    _say_sources(card, console)
    _say_codec(card["codec"], console)
    _say_grown(card, console)
    _name_items_without_group(card["catalog"], folder, console)
    _say_result(card, folder, console)


def _before(phase: str) -> int:
    """The share of the phases that come first."""
    return sum(share for _, share in takewhile(lambda part: part[0] != phase, PHASES.items()))


def _say_result(card: dict[str, Any], folder: Path, console: Console) -> None:
    """What was made and where, and how much of the log teaches."""
    log, users, targets = card["log"], card["users"], card["test_targets"]
    say_end(
        console,
        "data",
        f"{folder} holds {log['left']:,} of {log['read']:,} interactions read; {log['users']:,} users, "
        f"{card['catalog']['items']:,} items in {card['catalog']['groups']:,} groups; prompts (a history "
        "and what came next): " + ", ".join(f"{count:,} {split}" for split, count in card["prompts"].items()),
        f"of {users['read']:,} users {users['with_training_sequence']:,} have a training sequence and "
        f"{users['with_training_prompt']:,} a training prompt, {users['validated']:,} are validated, "
        f"{users['tested']:,} tested; {targets['cold']:,} of {targets['all']:,} test items are never trained on",
    )


def _say_early_rows(split: dict[str, Any], tested: int, console: Console) -> None:
    """Says how many rows of a ready split are tested with what was known later, and which rows were not read."""
    if early := split.get("test_before_any_training"):
        say(
            console,
            f"data: of {tested} test rows {split['test_before_own_training']} are earlier than a training interaction "
            f"of the same user, {early} than one of any user",
        )
    if unread := split.get("train_rows_not_read"):
        say(console, f"data: {unread} train rows of data.splits are not read: training prompts come from the log")


def _say_sources(card: dict[str, Any], console: Console) -> None:
    """Says where the training prompts come from, where that was set."""
    if (chosen := card["settings"].get("train.prompts_from")) is not None:
        counts = card["training_prompts"]
        say(
            console,
            f"data: of {sum(counts.values())} training prompts {counts['train']} are of what is fine-tuned on, "
            f"{counts['held_out']} ask for an item that is kept from it (train.prompts_from: {chosen})",
        )


def _say_codec(codec: dict[str, Any], console: Console) -> None:
    """Says how items are written, and why."""
    how = "items are written as their titles"
    if (levels := codec.get("levels")) == 1:
        how = "each item is one token of its own"
    elif levels is not None:
        used, shared = " x ".join(map(str, codec["codes_in_use"])), codec["items_that_share_their_codes"]
        apart = f", {shared} items share theirs and have one more" if shared else ""
        how = f"items are written in {levels} codes each, {used} in use{apart}"
    why = "; ".join(f"{setting}: {reason}" for setting, reason in codec["why"].items()) or "as set"
    say(console, f"data: {how} ({why})")


def _say_grown(card: dict[str, Any], console: Console) -> None:
    """Says what the policies of the earlier run know, where the items are written as that run's."""
    if (grown := card.get("grown")) is not None:
        say(
            console,
            f"data: policies of {grown['from']} know {grown['known']:,} of {card['catalog']['items']:,} items; "
            f"{of_new(grown)}; {grown['withdrawn']:,} of theirs are withdrawn",
        )


def _name_items_without_group(catalog: dict[str, Any], folder: Path, console: Console) -> None:
    """Says which items no metric of groups knows, where some have a group and some have none."""
    ids = folder / WITHOUT_GROUP
    bare, named = catalog["items_without_group"], catalog.get("first_without_group")
    if named and catalog["groups"]:
        listed = f" (all ids: {ids})" if ids.is_file() else ""
        say(
            console,
            f"data: {bare} of {catalog['items']} items have no group: {', '.join(named)}{', ...' * (bare > len(named))}"
            f"{listed}; they count in no group's share (mgu, dgu, calibration), and two of them are alike (ild)",
        )
