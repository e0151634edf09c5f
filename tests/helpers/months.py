"""A shop whose log and items change from month to month, with a run for each month. No Ray."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from blade_dist.data.bundle import DataBundle, load_data
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage
from tests.cases.wild import log, write_csv
from tests.helpers.exports import KINDS


class Shop:
    """A log and items that change from one month to the next."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self._kind = folder, kind

    def month(self, name: str, items: list[int], *settings: str) -> Config:
        """The settings of a run on a log of so many items."""
        rows = [(user, f"i{items[int(item[1:])]}", time) for user, item, time in log(items=len(items))]
        write_csv(self.folder / f"{name}-log.csv", ["user", "item", "time"], rows)
        table = [(f"i{item}", f"Title {item} of {item % 5}", "abcd"[item % 4]) for item in items]
        write_csv(self.folder / f"{name}-items.csv", ["item", "title", "genre"], table)
        given = [
            *(f"run.dir={self.folder / name}", "data.source=table", f"data.path={self.folder / name}-log.csv"),
            *(f"data.items={self.folder / name}-items.csv", "data.columns.groups=genre", "data.k_core=2"),
            *("data.targets=3", "lists.k=3", "codec.vocab_size=512", "reward.weights={ndcg@3: 1.0}"),
            *("evaluate.metrics=[ndcg@3]", "evaluate.rerank={}"),
            "model.build={hidden_size: 64, layers: 1, heads: 2, kv_heads: 1, ffn_size: 64, context: 256}",
        ]
        return load_config(None, [*given, *KINDS[self._kind], *settings])


def prepared(config: Config) -> tuple[DataBundle, str]:
    said = io.StringIO()
    data_stage(config, Console(width=400, file=said))
    return load_data(config.run.dir), said.getvalue()


def names(data: DataBundle, item: int, shown: bool) -> list[str]:
    """The tokens of an item, in a list or in a history."""
    codec = data.codec
    tokens = codec.shown_tokens if shown and codec.shown_tokens is not None else codec.item_tokens
    return codec.tokenizer.convert_ids_to_tokens(tokens[item].tolist())


def first_logits(folder: Path, data: DataBundle, items: list[str]) -> torch.Tensor:
    """What a policy gives the first token of each item, after a history of the first three."""
    from transformers import AutoModelForCausalLM

    row = {item: number for number, item in enumerate(data.catalog.item_ids.tolist())}
    history = np.array([row[item] for item in items[:3]], np.int32)
    prompt = torch.from_numpy(data.codec.encode_prompt(history)[None].astype(np.int64))
    first = [int(data.codec.item_tokens[row[item]][0]) for item in items]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.get_input_embeddings().num_embeddings == data.codec.vocabulary
    with torch.no_grad():
        return model(input_ids=prompt).logits[0, -1][first]
