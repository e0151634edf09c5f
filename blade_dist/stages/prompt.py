"""``blade-dist prompt``: what the model reads of one user, and where it learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from blade_dist.data.assemble import SPLITS
from blade_dist.data.bundle import DataBundle, load_matching_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.tracking.say import last_lines, say, say_whole, show_table
from blade_dist.training.shown import Part, prompt_parts, row_parts

WIDTH = 120
NAMED = 3
"""Users that a message names."""
_DRAWN = ", and where the prompt's second text stands is drawn anew for every pass"


def prompt_stage(config: Config, user: str, console: Console) -> None:
    """Prints the user's prompt and fine-tuning row: the text, the tokens, and which of them are learned.

    Raises:
        UserError: no prepared data, data of other settings, or a user who has no prompt there.
    """
    data = load_matching_data(config)
    out, ids = last_lines(console), data.catalog.item_ids.tolist()
    found = {name: getattr(data, name).of_user(user) for name in reversed(SPLITS)}
    split = next((name for name, rows in found.items() if len(rows)), None)
    row = data.sequences.of_user(user)
    if split is None and not len(row):
        some = ", ".join(repr(name) for name in data.test.rows(np.arange(min(NAMED, len(data.test)))).user)
        raise UserError(
            f"--user {user}: the prepared data in {config.run.dir} have no prompt and no sequence of this user; they "
            f"have those of {some}, say"
        )
    if split is not None:
        prompts = getattr(data, split).rows(found[split][-1:])
        parts = prompt_parts(data.codec, prompts.history[0], ids)
        say(out, f"prompt: {len(found[split])} {split} prompts; the last one, {_size(parts)}, as engines get it:")
        _show(parts, data, out)
        asked = ", ".join(repr(ids[item]) for item in prompts.targets[0])
        say(
            out,
            f"prompt: a list of {config.lists.k} items follows, which hits with {asked}; in the alignment the loss is "
            "on its tokens, wherever more than one is legal",
        )
    if len(row):
        _show_row(config, data, data.sequences.rows(row)[0], ids, out)


def _show_row(
    config: Config, data: DataBundle, sequence: NDArray[np.int32], ids: Sequence[str], console: Console
) -> None:
    """The end of the training sequence, with the prompt's second text where a list of K items would begin."""
    items = sequence[-(config.data.max_history + config.lists.k) :]
    place = max(1, len(items) - config.lists.k)
    parts = row_parts(data.codec, items, place, not config.lists.exclude_history, ids)
    learned = sum(len(part.tokens) for part in parts if part.loss)
    say(
        console,
        f"prompt: the last {len(items)} of {len(sequence)} items to train on, {_size(parts)}, as sft reads them; the "
        f"loss is on {learned} of these tokens{_DRAWN if len(data.codec.suffix) else ''}",
    )
    _show(parts, data, console)


def _size(parts: Sequence[Part]) -> str:
    return f"{sum(len(part.tokens) for part in parts)} tokens"


def _show(parts: Sequence[Part], data: DataBundle, console: Console) -> None:
    """The text as it is, and a table of its tokens."""
    tokenizer = data.codec.tokenizer
    say_whole(console, tokenizer.decode(np.concatenate([part.tokens for part in parts])))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("part", "loss", "tokens"):
        table.add_column(head, overflow="fold")
    for part in parts:
        table.add_row(escape(part.what), "yes" if part.loss else "", escape(_pieces(tokenizer, part)))
    show_table(console, table, WIDTH)


def _pieces(tokenizer: PreTrainedTokenizerBase, part: Part) -> str:
    """Number and text of each token."""
    return " ".join(f"{token}:{tokenizer.decode([token])!r}" for token in part.tokens.tolist())
