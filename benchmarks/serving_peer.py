"""The peer of the server: Transformers' beam search over the trie of single items, as papers serve such models.

Runs as a process of its own, with all cores and without HTTP:
``python -m benchmarks.serving_peer EXPORT JSON REQUESTS SECONDS``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM

from benchmarks.serving_clients import percentiles_ms, until
from benchmarks.serving_export import LISTS, HeldOut, K, held_out, in_own_process
from blade_dist.catalog.codec import Codec
from blade_dist.serving.opened import open_export

BATCHES = (1, 8, 64)


def beam_by_transformers(export: Path, requests: int, seconds: float) -> dict[str, Any]:
    """By batch size answers per second and latencies; memory, lists and accuracy; measured in another process."""
    found = in_own_process(__name__, export, requests, seconds)
    return found | {LISTS: {int(row): items for row, items in found[LISTS].items()}}


class Trie:
    """What may follow in an item: token ids by the tokens before."""

    def __init__(self, codec: Codec) -> None:
        after: dict[tuple[int, ...], set[int]] = {}
        for item in range(len(codec.item_tokens)):
            tokens = codec.item_tokens[item].tolist()
            for place, token in enumerate(tokens):
                after.setdefault(tuple(tokens[:place]), set()).add(token)
        self._after = {before: torch.tensor(sorted(tokens)) for before, tokens in after.items()}
        self._end = torch.tensor([codec.end])
        self.of = {tuple(codec.item_tokens[item].tolist()): item for item in range(len(codec.item_tokens))}

    def allowed(self, written: list[int]) -> torch.Tensor:
        """After these tokens of an item; the end after a whole one."""
        return self._after.get(tuple(written), self._end)


def _lists(model: Any, trie: Trie, codec: Codec, users: HeldOut, rows: np.ndarray) -> dict[int, list[int]]:
    """The best K items of each prompt, without those that the user has had."""
    tokens = codec.encode_prompts(users.prompts.take(rows).history)
    width, longest = int(tokens.lengths.max()), int(codec.item_tokens.lengths.max())
    ids = torch.full((len(rows), width), codec.pad)
    for number in range(len(rows)):
        ids[number, width - tokens.lengths[number] :] = torch.from_numpy(tokens[number].astype(np.int64))
    written = model.generate(
        input_ids=ids,
        attention_mask=(torch.arange(width)[None] >= width - torch.from_numpy(tokens.lengths)[:, None]).long(),
        num_beams=K,
        num_return_sequences=K,
        do_sample=False,
        max_new_tokens=longest,
        prefix_allowed_tokens_fn=lambda _, row: trie.allowed(row[width:].tolist()),
        pad_token_id=codec.pad,
        eos_token_id=codec.end,
    )
    found: dict[int, list[int]] = {}
    for number, row in enumerate(rows.tolist()):
        texts = written[number * K : (number + 1) * K, width:].tolist()
        items = [trie.of[key] for text in texts if (key := before(text, codec.end, codec.pad)) in trie.of]
        had = set(users.prompts.history[row].tolist())
        found[row] = [item for item in items if item not in had]
    return found


def before(tokens: list[int], *ends: int) -> tuple[int, ...]:
    """The tokens before the first of ``ends``."""
    cut = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:cut])


def main(export: Path, out: Path, requests: int, seconds: float) -> None:
    """Measures every batch size, on so many prompts and for so long at most."""
    codec, users = open_export(export).codec, held_out(export.parent)
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    trie = Trie(codec)
    _lists(model, trie, codec, users, np.arange(BATCHES[0]))  # what is done once
    speed: dict[str, float] = {}
    took: dict[str, list[float]] = {}
    found: dict[int, list[int]] = {}
    for batch in BATCHES:
        count = min(len(users.prompts), max(batch, requests * batch // BATCHES[-1]))
        done, times = 0, took.setdefault(str(batch), [])
        for start in until(time.perf_counter() + seconds, range(0, count, batch)):
            rows = np.arange(start, min(start + batch, count))
            began = time.perf_counter()
            found |= _lists(model, trie, codec, users, rows)
            times.append(time.perf_counter() - began)
            done += len(rows)
        speed[str(batch)] = done / sum(times)
    info = psutil.Process().memory_info()
    result = {
        "answers_per_second": speed,
        **percentiles_ms(took),
        "memory_mb": (info.rss - info.shared) / 2**20,
        **users.accuracy_of(found),
        LISTS: found,
    }
    out.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
