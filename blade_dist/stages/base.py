"""Checkpoints that nobody of ours trained, above all ``model.path``: evaluated as they are, without fine-tuning."""

from __future__ import annotations

from pathlib import Path

from blade_dist.catalog.codec import Codec
from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.stages.opening import next_stage
from blade_dist.store.base_files import check_weights
from blade_dist.store.policy import STAMP, PolicyStamp, read_policy, weights_digest
from blade_dist.store.run import RunPaths

BASE = "base"
"""Such a checkpoint, in tables; and ``model.path``, on the command line."""
NAMED = 3
"""Tokens that a message names."""


def checkpoint_of(config: Config, given: Path) -> Path:
    """The folder that a command was given; ``base`` stands for ``model.path``.

    Raises:
        UserError: ``base``, and there is no ``model.path``.
    """
    if str(given) != BASE:
        return given
    if config.model.path is None:
        raise UserError(
            "--checkpoint base: there is no model.path, and a model that is built from nothing has nothing to say "
            "before `blade-dist sft`"
        )
    return config.model.path


def is_base(path: Path) -> bool:
    """Whether it is a Hugging Face folder without our stamp."""
    return (path / "config.json").is_file() and not (path / STAMP).is_file()


def read_checkpoint(path: Path, codec: Codec) -> PolicyStamp:
    """The stamp of a checkpoint of ours, or one for a Hugging Face folder that knows the tokens of the items' titles.

    Raises:
        UserError: no checkpoint there, or one whose tokens are others than those of the run's codec: what it would
            write are no items. Codes of semantic IDs mean nothing to a checkpoint that was not trained on them.
    """
    if not is_base(path) or codec.kind != "title":
        return read_policy(path, codec.fingerprint())
    check_weights(path)
    there, wanted = load_tokenizer(path).get_vocab(), codec.tokenizer.get_vocab()
    if new := sorted(wanted.keys() - there.keys(), key=wanted.__getitem__):
        some = ", ".join(map(repr, new[:NAMED])) + ", ..." * (len(new) > NAMED)
        raise UserError(
            f"{path}: it knows no token {some}, with which this run's lists are written; give it as model.path and run "
            "`blade-dist sft` first"
        )
    if other := next((token for token, number in wanted.items() if there[token] != number), None):
        raise UserError(
            f"{path}: a checkpoint of another tokenizer: {other!r} is token {there[other]} there and {wanted[other]} "
            "in this run (data/codec); run `blade-dist data` with it, in another run.dir"
        )
    return PolicyStamp(BASE, 0, codec.fingerprint(), weights_digest(path))


def after_evaluation(config: Config, checkpoint: Path) -> list[str]:
    """The command that comes next, and its options: what is not ours is not exported, and may be trained."""
    if is_base(checkpoint):
        return [next_stage(config)]
    return ["export", "--checkpoint", str(checkpoint), "--out", str(RunPaths(config.run.dir).root / "export")]
