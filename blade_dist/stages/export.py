"""``blade-dist export``: a checkpoint as a folder that holds all that serving needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from blade_dist.data.bundle import load_matching_data
from blade_dist.serving.card import Base, model_card
from blade_dist.serving.export import check_exportable, write_export
from blade_dist.serving.held_out import HeldOut, held_out
from blade_dist.serving.manifest import check_out
from blade_dist.settings import Config
from blade_dist.stages.grown import say_new, with_todays_items
from blade_dist.stages.opened import written_lists
from blade_dist.store.policy import read_policy
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say_end

SHOWN = 3
"""Items of the history that a list may be asked for."""

TRIED = 1000
"""Histories that are written as text, to see whether the tokens are those of the training."""


def export_stage(config: Config, checkpoint: Path, out: Path, console: Console) -> list[str]:
    """Writes weights, tokenizer, items, codec, trie, rules and a model card with the run's held-out numbers.

    Returns:
        Item ids of a history, to try the export with.

    Raises:
        UserError: the checkpoint is of another catalog, or nothing legal can be served from it; or ``out`` is there
            and is not an export, or can't be.
    """
    data, paths = load_matching_data(config), RunPaths(config.run.dir)
    say_new("export", checkpoint, config, data, console)
    checkpoint = with_todays_items(checkpoint, config, data)
    stamp = read_policy(checkpoint, data.codec.fingerprint())
    check_out(out)
    check_exportable(config, checkpoint, data.catalog)
    base = Base.of(config.model.path)
    table = held_out(paths.evaluation, stamp.weights, written_lists(config.lists), config.evaluate, config.run.seed)
    card = model_card(config, stamp, data.card, base, table)
    histories = data.test.rows(np.arange(min(TRIED, len(data.test)))).history
    write_export(out, config, checkpoint, stamp, data.catalog, data.codec, paths.trie, card, base.files, histories)
    made = f"{out} holds {stamp.policy} (step {stamp.step}) with all that serving needs, and its model card"
    say_end(console, "export", made, _number(config, table))
    return list(data.catalog.item_ids[histories[0][-SHOWN:]])


def _number(config: Config, table: HeldOut | None) -> str:
    """The first held-out number of the model card."""
    if table is None:
        return "no held-out numbers are in the card, as these weights are not evaluated"
    metric = next(iter([*config.evaluate.metrics, *config.reward.scored]))
    found = table.by_policy[table.policy][metric]
    return f"held-out {metric} {found.mean:.4f} [{found.low:.3f}, {found.high:.3f}] of {table.users} users"
