"""An export in a server that takes text: the tokens are those of the training, and its answer can be told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from blade_dist.catalog.codec import Codec
from blade_dist.data.bundle import load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.serving.export import CODEC
from blade_dist.serving.manifest import check_files, read_manifest
from blade_dist.stages.export import export_stage
from tests.cases.wild import Wild
from tests.helpers.runs import random_policy

SMALL = "model.build={hidden_size: 32, layers: 1, heads: 1, kv_heads: 1, ffn_size: 32, context: 256}"
METRICS = ("reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]")


def exported(wild: Wild, *settings: str) -> Path:
    """The export of a model with weights at random."""
    config = wild.config(SMALL, *METRICS, *settings)
    prepare_data(config)
    checkpoint = random_policy(config, load_data(config.run.dir), config.run.dir / "policy", tied=True)
    export_stage(config, checkpoint, config.run.dir / "out", Console(quiet=True))
    return config.run.dir / "out"


@pytest.mark.parametrize("prompt", ["{history}", "The user took:{history} Next:"])
def test_text_gives_the_tokens_of_the_training(wild: Wild, prompt: str) -> None:
    out = exported(wild, "codec.kind=title", f"codec.prompt='{prompt}'")
    manifest, data = read_manifest(out), load_data(out.parent)
    check_files(out, manifest)
    assert manifest.text is not None
    assert (manifest.text.item, manifest.text.separator) == (" {title}<sep>", "<sep>")
    tokenizer = AutoTokenizer.from_pretrained(out)
    histories = data.test.rows(np.arange(len(data.test))).history
    for row in range(len(histories)):
        items = [manifest.text.item.replace("{title}", data.catalog.titles[item]) for item in histories[row]]
        text = manifest.prompt.replace("{history}", "".join(items))
        assert tokenizer(text)["input_ids"] == data.codec.encode_prompt(histories[row]).tolist()


def test_a_list_by_hand_is_the_same_by_text_and_by_tokens(wild: Wild) -> None:
    """With names that a reader finds in the folder, and nothing of ours."""
    out = exported(wild, "codec.kind=title")
    asked, codec = (json.loads((out / name).read_text()) for name in ("recommender.json", "codec/codec.json"))
    assert asked["k"] == asked["lists"]["k"] == 3
    assert codec == json.loads((out.parent / "data/codec/codec.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(out)
    by_item = pa.ipc.open_file(out / "codec/codec.arrow").read_all()["tokens"].to_pylist()
    titles = pa.ipc.open_file(out / "catalog/items.arrow").read_all()["title"].to_pylist()
    for items in ([0, 5, 11], [23], [7, 8]):
        tokens = [token for item in items for token in [*by_item[item], codec["separator"]]]
        shown = "".join(asked["text"]["item"].replace("{title}", titles[item]) for item in items)
        text = tokenizer(asked["prompt"].replace("{history}", shown))["input_ids"]
        assert text == [*codec["prefix"], *tokens, *codec["suffix"]]
        answer = tokenizer.decode([*tokens, codec["end"], codec["pad"]], skip_special_tokens=True)
        named = [title.strip() for title in answer.split(asked["text"]["separator"])[: asked["k"]]]
        assert [title for title in named if title] == [titles[item] for item in items]


def test_an_answer_without_special_tokens_still_has_its_separators(wild: Wild) -> None:
    out = exported(wild, "codec.kind=title")
    tokenizer, data = AutoTokenizer.from_pretrained(out), load_data(out.parent)
    answer = tokenizer.decode(data.codec.encode_list(np.array([3, 1, 2], np.int32)), skip_special_tokens=True)
    titles = [part.strip() for part in answer.split("<sep>")]
    assert titles == [*(data.catalog.titles[item] for item in (3, 1, 2)), ""]
    # ours reads its own copy, in which titles can't hold the separator
    assert (
        Codec.load(out / CODEC).tokenizer.convert_tokens_to_ids("<sep>")
        in Codec.load(out / CODEC).tokenizer.all_special_ids
    )


def test_items_that_no_text_writes_are_sent_as_tokens(wild: Wild) -> None:
    assert read_manifest(exported(wild)).text is None


def test_a_tokenizer_that_joins_titles_with_what_follows_takes_tokens_only(wild: Wild) -> None:
    words = {
        word: number
        for number, word in enumerate(["?", "\n", "Title", *map(str, range(24)), *(f"{n}\n" for n in range(24))])
    }
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?").save_pretrained(wild.folder / "tokenizer")
    out = exported(wild, "codec.kind=title", f"codec.tokenizer={wild.folder / 'tokenizer'}")
    assert read_manifest(out).separator_token_id == words["\n"]
    assert read_manifest(out).text is None
