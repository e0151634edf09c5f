"""``blade-dist export``: a checkpoint as a Hugging Face folder that `vllm serve` and transformers load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from blade_dist.catalog.codec import Codec
from blade_dist.data.bundle import load_matching_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.files import check_folder, whole_folder
from blade_dist.store.policy import read_policy
from blade_dist.tracking.say import say


def export_stage(config: Config, checkpoint: Path, out: Path, console: Console) -> None:
    """Copies weights, config and tokenizer; adds how to decode and how to write a prompt.

    Raises:
        UserError: the checkpoint is of another catalog, or ``out`` is there and is not an export, or can't be.
    """
    codec = load_matching_data(config).codec
    stamp = read_policy(checkpoint, codec.fingerprint())
    if out.exists() and not (out / "recommender.json").is_file():
        raise UserError(f"--out {out}: exists and is not an export; choose another one")
    check_folder(out, "--out")
    with whole_folder(out) as folder:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        generation = {
            "eos_token_id": codec.end,
            "pad_token_id": codec.pad,
            "do_sample": False,
            **_decoding(config, codec),
        }
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        recommender = {
            "policy": stamp.policy,
            "step": stamp.step,
            "k": config.lists.k,
            "decode": config.evaluate.decode,
            "prompt": config.codec.prompt,
            "separator_token_id": codec.separator,
            "end_token_id": codec.end,
            **config.lists.model_dump(include={"exclude_history", "exclude", "at_most"}),
        }
        (folder / "recommender.json").write_text(json.dumps(recommender, indent=2) + "\n")
    say(console, f"export: {stamp.policy} (step {stamp.step}) -> {out}")


def _decoding(config: Config, codec: Codec) -> dict[str, Any]:
    """How transformers is to generate what is served: token by token, or by its beam search.

    The K best items are the K best beams over one item; where a separator ends it, the search ends there, too.
    """
    k = config.lists.k
    if config.evaluate.decode == "rank":
        ends = [codec.end] if codec.separator is None else [codec.end, codec.separator]
        longest = int(codec.item_blocks.lengths.max())
        return {"max_new_tokens": longest, "num_beams": k, "num_return_sequences": k, "eos_token_id": ends}
    beams = config.evaluate.beams if config.evaluate.decode == "beam" else 1
    return {"max_new_tokens": codec.max_list_tokens(k), "num_beams": beams}
