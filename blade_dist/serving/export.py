"""Writes an export: a Hugging Face folder with all that makes its lists items of the catalog."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from blade_dist import __version__
from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import load_trie, save_trie
from blade_dist.catalog.prompt_text import PromptText, chat_turns
from blade_dist.catalog.rules import make_rules
from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.errors import UserError
from blade_dist.serving.manifest import CARD, WEIGHTS, Manifest, checksums
from blade_dist.serving.text import Turn, item_text, sent_turns, show_separator
from blade_dist.settings import Config, Decode
from blade_dist.settings.reports import BEAMS
from blade_dist.store.context import context_length
from blade_dist.store.exported import MANIFEST
from blade_dist.store.files import whole_folder, write_json, write_text
from blade_dist.store.policy import PolicyStamp

CATALOG, CODEC, TRIE = "catalog", "codec", "trie"
"""Folders of an export."""
KEPT = (WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Files of a checkpoint that go along: no pickled weights and no code."""


def check_exportable(config: Config, checkpoint: Path, catalog: Catalog) -> None:
    """Raises UserError where nothing legal could be served: free text, a rule without its item, pickled weights."""
    if config.lists.constrain == "none":
        raise UserError(
            "lists.constrain: none is for comparison, and what is served holds items of the catalog only; "
            "add --set lists.constrain=catalog"
        )
    make_rules(config.lists, catalog)
    if not any(checkpoint.glob(f"*{WEIGHTS}")):
        raise UserError(f"{checkpoint}: no *{WEIGHTS} there, and pickled weights are not exported; save it anew")


def write_export(
    out: Path,
    config: Config,
    checkpoint: Path,
    stamp: PolicyStamp,
    catalog: Catalog,
    codec: Codec,
    trie: Path,
    card: str,
    licences: list[Path],
    histories: Ragged,
) -> None:
    """Writes the folder, whole or not at all; it takes the place of an export that is there.

    Args:
        out: the folder.
        config: says how lists are decoded and which are legal.
        checkpoint: a folder of ours.
        stamp: what the checkpoint is.
        catalog: the items; their embeddings stay behind.
        codec: of the items.
        trie: folder of the codec's trie.
        card: text of the model card.
        licences: files of the base model's licence.
        histories: what prompts show, to find out how they are written as text.

    Raises:
        UserError: the trie was built for other tokens.
    """
    items, legal = replace(catalog, embeddings=None), load_trie(codec, trie)
    with whole_folder(out) as folder:
        for path in sorted(checkpoint.iterdir()):
            if path.is_file() and path.suffix in KEPT:
                shutil.copyfile(path, folder / path.name)
        decode, beams = config.evaluate.decode, config.evaluate.beams or BEAMS
        write_generation(folder, codec, decode, beams, config.lists.k)
        if codec.separator is not None:
            show_separator(folder, codec.tokenizer.convert_ids_to_tokens(codec.separator))
        tokenizer, turns = load_tokenizer(folder), []
        prompt = PromptText.of(codec.tokenizer, config.codec).sent(codec.tokenizer)
        if config.codec.format == "chat":
            turns = [Turn.model_validate(turn) for turn in chat_turns(config.codec)]
        text = item_text(tokenizer, codec, catalog, prompt, histories)
        items.save(folder / CATALOG)
        codec.save(folder / CODEC)
        save_trie(legal, codec, folder / TRIE)
        for path in licences:
            shutil.copyfile(path, folder / path.name)
        manifest = Manifest(
            blade_dist=__version__,
            policy=stamp.policy,
            step=stamp.step,
            weights=stamp.weights,
            codec=stamp.codec,
            catalog=items.fingerprint(),
            dtype=config.model.dtype,
            context=context_length(checkpoint),
            seed=config.run.seed,
            decode=decode,
            beams=beams,
            lists=config.lists,
            max_history=config.data.max_history,
            # rows of a ready split are prompts as they stand
            repeats="all" if config.data.splits is not None else config.data.repeats,
            format=config.codec.format,
            prompt=prompt,
            text=text,
            turns=sent_turns(tokenizer, codec, catalog, turns, text, histories),
            separator_token_id=codec.separator,
            end_token_id=codec.end,
            max_title_tokens=config.data.max_title_tokens,
            files=checksums(folder),
        )
        write_json(folder / MANIFEST, manifest.written())
        write_text(folder / CARD, card)


def write_generation(folder: Path, codec: Codec, decode: Decode, beams: int, k: int) -> None:
    """How transformers and vLLM are to generate: greedily, or by a beam search for the K best items.

    vLLM reads no ``do_sample``: its greedy decoding is a temperature of 0.
    """
    plain = {"eos_token_id": codec.end, "pad_token_id": codec.pad, "do_sample": False, "temperature": 0.0}
    write_json(folder / "generation_config.json", plain | _decoding(codec, decode, beams, k))


def _decoding(codec: Codec, decode: Decode, beams: int, k: int) -> dict[str, Any]:
    """Token by token, or by transformers' beam search.

    The K best items are the K best beams over one item; where a separator ends it, the search ends there, too.
    """
    if decode == "rank":
        ends = [codec.end] if codec.separator is None else [codec.end, codec.separator]
        longest = int(codec.item_blocks.lengths.max())
        return {"max_new_tokens": longest, "num_beams": k, "num_return_sequences": k, "eos_token_id": ends}
    return {"max_new_tokens": codec.max_list_tokens(k), "num_beams": beams if decode == "beam" else 1}
