"""The weights of a checkpoint whose vocabulary grows: rows of items that there are move, and new ones get theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.catalog.alike import vectors_like
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.layout import Layout
from blade_dist.errors import UserError
from blade_dist.serving.manifest import WEIGHTS
from blade_dist.store.files import read_json, write_json

INDEX = "model.safetensors.index.json"
Features = tuple[NDArray[np.float32], NDArray[np.float32]]
"""``[I, D]`` of the items that there are, ``[n, D]`` of the new ones."""


@dataclass(frozen=True)
class Tables:
    """Names of a checkpoint's tensors with a row per token."""

    embedding: str
    head: str | None
    """None where it is the embedding."""
    bias: str | None

    @classmethod
    def of(cls, folder: Path) -> Tables:
        """Those of a Hugging Face folder, of which the config alone is read."""
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        names = {id(parameter): name for name, parameter in model.named_parameters()}  # of a tied one, the embedding's
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = head.weight is embedding.weight or bool(model.config.tie_word_embeddings)
        bias = getattr(head, "bias", None)
        return cls(
            names[id(embedding.weight)],
            None if tied else names[id(head.weight)],
            None if bias is None else names[id(bias)],
        )

    @property
    def all(self) -> list[str]:
        return [name for name in (self.embedding, self.head, self.bias) if name is not None]


def copy_policy(
    files: Sequence[Path],
    folder: Path,
    codec: Codec,
    layout: Layout | None,
    trained: int,
    features: Callable[[], Features],
) -> float | None:
    """Copies the files of a policy, with the weights and the tokenizer of a vocabulary that grows where it does.

    Args:
        files: config, weights, tokenizer and what else belongs to it, of one folder.
        folder: gets the copies.
        codec: as for :func:`grow_weights`.
        layout: of the grown vocabulary; None where it stays.
        trained: as for :func:`grow_weights`.
        features: makes those of :func:`grow_weights`; is called where the vocabulary grows.

    Returns:
        As :func:`grow_weights`; None where the weights stay.

    Raises:
        UserError: weights or a tokenizer that can't grow.
    """
    for path in files:
        is_weights = path.name.endswith(WEIGHTS)
        if layout is None or not (is_weights or path.name in ("config.json", INDEX)):
            copy = _share if is_weights else shutil.copyfile
            copy(path, folder / path.name)
    if layout is None:
        return None
    known, new = features()
    layout.grow_tokenizer(folder)
    return grow_weights(files[0].parent, folder, codec, layout, trained, known, new)


def _share(source: Path, copy: Path) -> None:
    """The same bytes under another name, as nobody writes into finished weights; a copy where links can't be."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def grow_weights(
    source: Path,
    folder: Path,
    codec: Codec,
    layout: Layout,
    trained: int,
    known: NDArray[np.float32],
    new: NDArray[np.float32],
) -> float:
    """Writes weights and config of a grown vocabulary; all rows that there are stay as they are, bit for bit.

    Args:
        source: the checkpoint.
        folder: gets what changes; nothing else is written there.
        codec: of the checkpoint, with a token for each item.
        layout: of the grown vocabulary.
        trained: items that the policy was trained with, the first ones: the vectors of others follow from theirs.
        known: ``[I, D]`` features of the items that there are.
        new: ``[n, D]`` features of the new ones.

    Returns:
        How much of the vectors' variance the features tell, see :func:`~blade_dist.catalog.alike.vectors_like`.

    Raises:
        UserError: a checkpoint without these tensors.
    """
    from safetensors.torch import load_file, save_file

    tables, shards = Tables.of(source), _shards(source)
    held = {name: load_file(source / shards[name])[name] for name in tables.all if name in shards}
    if missing := set(tables.all) - held.keys():
        raise UserError(f"{source}: its weights have no {sorted(missing)[0]}; export the checkpoint again")
    vectors, told = _new_vectors(tables, held, codec, trained, known, new)
    grown = {name: _grown(held[name], layout, vectors[name]) for name in held}
    for shard in {shards[name] for name in held}:
        state = load_file(source / shard)
        save_file(
            state | {name: grown[name] for name in grown if shards[name] == shard}, folder / shard, {"format": "pt"}
        )
    for name in {*shards.values()} - {shards[name] for name in held}:
        shutil.copyfile(source / name, folder / name)
    _write_config(source, folder, len(held[tables.embedding]), len(grown[tables.embedding]))
    if (index := read_json(source / INDEX)) is not None:
        index["metadata"] = {"total_size": sum(map(_bytes, (load_file(folder / one) for one in {*shards.values()})))}
        write_json(folder / INDEX, index)
    return told


Rows = dict[str, tuple[Tensor, Tensor | None]]
"""By table: rows of the new items' tokens in a list, and in a history where those are others."""


def _new_vectors(
    tables: Tables,
    held: dict[str, Tensor],
    codec: Codec,
    trained: int,
    known: NDArray[np.float32],
    new: NDArray[np.float32],
) -> tuple[Rows, float]:
    """All tables at once, so that they share the choice of the penalty.

    Nothing is written by a token of a history: its row of the head stays 0, as the training leaves it.
    """
    listed = torch.from_numpy(codec.item_tokens.flat[:trained].astype(np.int64))
    shown = None if codec.shown_tokens is None else torch.from_numpy(codec.shown_tokens.flat[:trained].astype(np.int64))
    places = [(name, listed) for name in tables.all]
    if shown is not None:
        places += [(name, shown) for name in tables.all]
    parts = [held[name][rows].float().reshape(trained, -1).double().numpy() for name, rows in places]
    found, told = vectors_like(known[:trained], np.concatenate(parts, axis=1), new)
    cuts = np.cumsum([part.shape[1] for part in parts])[:-1]
    made = [
        torch.from_numpy(np.ascontiguousarray(part)).to(held[name].dtype).reshape(len(new), *held[name].shape[1:])
        for (name, _), part in zip(places, np.split(found, cuts, axis=1), strict=True)
    ]
    count = len(tables.all)
    return {
        name: (made[number], made[number + count] if shown is not None else None)
        for number, name in enumerate(tables.all)
    }, told


def _grown(table: Tensor, layout: Layout, rows: tuple[Tensor, Tensor | None]) -> Tensor:
    """With the new rows between those that there are; they replace rows behind the vocabulary, which no token reads."""
    listed, shown = rows
    moved = layout.at + layout.known if layout.shown else layout.at
    parts = [table[: layout.at], listed, table[layout.at : moved], *([] if shown is None else [shown])]
    return torch.cat([*parts, table[layout.size :]]).contiguous()


def _shards(folder: Path) -> dict[str, str]:
    """File of each tensor."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path.name)
    return found


def _write_config(source: Path, folder: Path, before: int, after: int) -> None:
    config = read_json(source / "config.json") or {}
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and part.get("vocab_size") == before:
            part["vocab_size"] = after
    write_json(folder / "config.json", config)


def _bytes(state: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
