"""``blade-dist export``: a checkpoint as a folder that holds all that serving needs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from blade_dist.data.bundle import load_matching_data
from blade_dist.errors import UserError
from blade_dist.serving.card import Base, model_card
from blade_dist.serving.export import check_exportable, write_export
from blade_dist.serving.held_out import held_out
from blade_dist.serving.manifest import MANIFEST
from blade_dist.settings import Config
from blade_dist.stages.opened import written_lists
from blade_dist.store.files import check_folder
from blade_dist.store.policy import read_policy
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say


def export_stage(config: Config, checkpoint: Path, out: Path, console: Console) -> None:
    """Writes weights, tokenizer, items, codec, trie, rules and a model card with the run's held-out numbers.

    Raises:
        UserError: the checkpoint is of another catalog, or nothing legal can be served from it; or ``out`` is there
            and is not an export, or can't be.
    """
    data, paths = load_matching_data(config), RunPaths(config.run.dir)
    stamp = read_policy(checkpoint, data.codec.fingerprint())
    if out.exists() and not (out / MANIFEST).is_file():
        raise UserError(f"--out {out}: exists and is not an export; choose another one")
    check_folder(out, "--out")
    check_exportable(config, checkpoint, data.catalog)
    base = Base.of(config.model.path)
    table = held_out(paths.evaluation, stamp.weights, written_lists(config.lists), config.evaluate, config.run.seed)
    card = model_card(config, stamp, data.card, base, table)
    write_export(out, config, checkpoint, stamp, data.catalog, data.codec, paths.trie, card, base.files)
    numbers = "with its held-out numbers" if table else "without held-out numbers, as these weights are not evaluated"
    say(console, f"export: {stamp.policy} (step {stamp.step}) -> {out}, {numbers}")
