"""The codec: lists to tokens and back, both kinds, trained and given tokenizers."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.build import build_codec
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import load_trie, write_trie
from blade_dist.catalog.tokenizer import train_tokenizer
from blade_dist.catalog.trie import build_trie
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings
from tests.helpers.catalogs import made_codec

TITLES = ["Toy Story (1995)", "Toy", "Toy Story", "Café <sep> Ünïcode", "日本語 映画", "Heat", "Heat"]


def _catalog(titles: list[str] = TITLES, embeddings: np.ndarray | None = None) -> Catalog:
    ids = [f"i{number}" for number in range(len(titles))]
    groups = [[f"g{number % 3}"] for number in range(len(titles))]
    return Catalog.build(ids, titles, groups, np.zeros(len(titles), np.int64), embeddings)


def codec_of(catalog: Catalog, wanted: CodecSettings, tokenizer: Path | None, seed: int) -> Codec:
    return build_codec(catalog, wanted, CodecChoice.of(wanted, False, len(catalog)), tokenizer, seed).codec


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with a bos that it adds itself, an eos, and no pad."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = train_tokenizer([" ".join(TITLES)], 400).backend_tokenizer
    backend.add_special_tokens(["<bos>"])
    backend.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["title", "semantic_id", "title pretrained", "semantic_id pretrained"])
def codec(request: pytest.FixtureRequest, pretrained: Path) -> Codec:
    kind, *given = request.param.split()
    wanted = CodecSettings(kind=kind, codes=3, levels=2, prompt="Seen:\n{history}\nNext:")
    return codec_of(_catalog(), wanted, pretrained if given else None, seed=1)


ITEMS = st.integers(0, len(TITLES) - 1)
LISTS = st.lists(st.lists(ITEMS, max_size=6), max_size=5)


@given(lists=LISTS, k=st.integers(1, 6))
@settings(max_examples=40)
def test_parse_reads_what_encode_wrote(codec: Codec, lists: list[list[int]], k: int) -> None:
    tokens = codec.encode_lists(Ragged.of(lists))
    expected = [(row + [MISS] * k)[:k] for row in lists]
    assert codec.parse(tokens, k).tolist() == expected
    assert all(
        len(tokens[n]) <= codec.max_list_tokens(len(row)) for n, row in enumerate(lists) if len({*row}) == len(row)
    )


@given(lists=LISTS)
@settings(max_examples=40)
def test_many_are_encoded_like_one_by_hand(codec: Codec, lists: list[list[int]]) -> None:
    prompts, written = codec.encode_prompts(Ragged.of(lists)), codec.encode_lists(Ragged.of(lists))
    for n, row in enumerate(lists):
        mark, end = ([], []) if codec.separator is None else ([codec.separator], [codec.end])
        body = [token for item in row for token in [*codec.item_tokens[item], *mark]]
        assert prompts[n].tolist() == [*codec.prefix, *body, *codec.suffix]
        assert written[n].tolist() == [*body, *end]
        assert codec.encode_prompt(np.array(row, np.int32)).tolist() == prompts[n].tolist()
        assert codec.encode_list(np.array(row, np.int32)).tolist() == written[n].tolist()


def test_longest_list_and_prompt_are_reached(codec: Codec) -> None:
    longest = np.argsort(-codec.item_tokens.lengths, kind="stable")[:3].astype(np.int32)
    assert len(codec.encode_list(longest)) == codec.max_list_tokens(3)
    assert len(codec.encode_prompt(longest)) == codec.max_prompt_tokens(3)


def test_marks_are_in_no_item_and_none_begins_another(codec: Codec) -> None:
    assert (codec.separator is None) == (codec.kind == "semantic_id")
    marks = {codec.separator, codec.end}
    assert len(marks) == 2
    assert not marks & set(codec.item_tokens.flat.tolist())
    assert len(build_trie(codec.item_blocks)) == len(TITLES)


def test_a_saved_codec_is_the_same(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    assert loaded.fingerprint() == codec.fingerprint()
    tokens = loaded.encode_lists(Ragged.of([[3, 0, 6]]))
    assert tokens.flat.tolist() == codec.encode_lists(Ragged.of([[3, 0, 6]])).flat.tolist()
    assert loaded.parse(tokens, 3).tolist() == [[3, 0, 6]]
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]


def test_a_codec_is_not_lost_where_another_can_not_take_its_place(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk error")

    codec.save(tmp_path / "codec")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk error"):
        codec.save(tmp_path / "codec")
    assert Codec.load(tmp_path / "codec").fingerprint() == codec.fingerprint()


def test_a_pretrained_tokenizer_separates_by_newline_and_keeps_its_bos(pretrained: Path) -> None:
    codec = codec_of(_catalog(), CodecSettings(kind="title", prompt="Seen:\n{history}"), pretrained, seed=0)
    assert codec.tokenizer.decode([codec.separator]) == "\n"
    assert codec.prefix[0] == codec.tokenizer.bos_token_id
    assert codec.pad == codec.end == codec.tokenizer.eos_token_id
    text = codec.tokenizer.decode(codec.encode_prompt(np.array([0, 5], np.int32))[1:])
    assert text == "Seen:\nToy Story (1995)\nHeat\n"


def test_a_tokenizer_without_eos_or_newline_gets_tokens(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(["?", "a", "b", "c"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?").save_pretrained(tmp_path)
    codec = codec_of(_catalog(["a b", "c", "a"]), CodecSettings(kind="title"), tmp_path, seed=0)
    assert sorted([codec.separator, codec.end]) == [4, 5]
    assert len(codec.tokenizer) == 6
    with pytest.raises(UserError, match=r"writes 1 titles with the same tokens .*: item 'i2' .* as item 'i1'"):
        codec_of(_catalog(["x", "y", "z"]), CodecSettings(kind="title"), tmp_path, seed=0)


def test_trained_titles_take_one_token_per_word() -> None:
    titles = [
        f"{first} {second}" for first in ["amber", "cobalt", "velvet"] for second in ["river", "garden", "signal"]
    ]
    codec = codec_of(_catalog(titles), CodecSettings(kind="title"), None, seed=0)
    assert set(codec.item_tokens.lengths.tolist()) == {2}


def test_text_that_is_tokenized_otherwise_still_names_its_title() -> None:
    codec = codec_of(_catalog(), CodecSettings(kind="title"), None, seed=0)
    letters = codec.tokenizer.convert_tokens_to_ids(list("Heat"))
    wrong = codec.tokenizer.convert_tokens_to_ids(list("Heats"))
    tokens = [*letters, codec.separator, *wrong, codec.separator, codec.separator, *codec.item_tokens[1], codec.end, 3]
    assert codec.parse(Ragged.of([tokens]), 5).tolist() == [[5, MISS, MISS, 1, MISS]]


def test_a_token_that_continues_no_code_ends_its_position() -> None:
    codec = made_codec([(1, 2), (1, 3, 4), (5,)], None, end=9)
    written = [[1, 2, 5, 1, 3, 4], [1, 7, 5, 8, 1, 2], [1, 1, 2], [2, 1, 3, 9, 5], [5, 1, 3]]
    read = codec.parse(Ragged.of(written), 4)
    assert read.tolist() == [
        [0, 2, 1, MISS],
        [MISS, 2, MISS, 0],
        [MISS, MISS, MISS, MISS],  # 1 1 is no beginning, nor is 2
        [MISS, MISS, MISS, MISS],  # what the end cuts off is no item
        [2, MISS, MISS, MISS],
    ]


def test_an_item_cut_off_is_no_item() -> None:
    codec = codec_of(_catalog(), CodecSettings(kind="title"), None, seed=0)
    cut = [*codec.item_tokens[5], codec.separator, *codec.item_tokens[1]]
    assert codec.parse(Ragged.of([cut]), 3).tolist() == [[5, MISS, MISS]]


def test_semantic_ids_repeat_with_the_seed_and_follow_the_embeddings() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32) * 9, 4, axis=0)
    catalog = _catalog([f"t{number}" for number in range(12)], vectors)
    wanted = CodecSettings(kind="semantic_id", levels=2, codes=3)
    first, second = (codec_of(catalog, wanted, None, seed=4) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    start = first.item_tokens.flat[first.item_tokens.offsets[:-1]].reshape(3, 4)
    assert (start == start[:, :1]).all()
    assert len({*start[:, 0].tolist()}) == 3
    assert first.item_tokens.lengths.tolist() == [3] * 12  # equal vectors: the last code tells them apart
    assert first.tokenizer.convert_tokens_to_ids("<a_0>") in start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "title", "vocab_size": 100}, "codec.vocab_size: 100 is too small"),
        ({"prompt": "{history} {history}"}, "codec.prompt: .*once, not 2 times"),
        ({"kind": "semantic_id", "levels": 26}, "codec.levels: 26 is too many"),
    ],
)
def test_bad_settings_say_so(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codec_of(_catalog(), CodecSettings(**changes), None, seed=0)


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        codec_of(_catalog(), CodecSettings(kind="title"), tmp_path / "none", seed=0)
    with pytest.raises(UserError, match="no tokenizer could be read"):
        codec_of(_catalog(), CodecSettings(kind="title"), tmp_path, seed=0)


def test_the_trie_of_an_earlier_version_is_made_anew(codec: Codec, tmp_path: Path) -> None:
    """It held the items without their separators, and its file did not say so."""
    write_trie(codec, tmp_path / "trie")
    (tmp_path / "trie" / "trie.json").write_text(json.dumps({"codec": codec.fingerprint()}))
    np.save(tmp_path / "trie" / "token.npy", np.zeros(1, np.int32))
    np.testing.assert_array_equal(load_trie(codec, tmp_path / "trie").token, build_trie(codec.item_blocks).token)


@pytest.mark.parametrize(
    ("given", "pretrained", "items", "kind", "why"),
    [
        ({}, True, 40, "title", {"codec.kind": "there is model.path"}),
        (
            {},
            False,
            19_999,
            "semantic_id",
            {"codec.kind": "there is no model.path", "codec.levels": "1, for 19,999 items"},
        ),
        (
            {"kind": "semantic_id"},
            True,
            32_000,
            "semantic_id",
            {"codec.levels": "3, for 32,000 items", "codec.codes": "40, for 32,000 items"},
        ),
        ({"kind": "semantic_id", "levels": 2}, True, 450, "semantic_id", {"codec.codes": "32, for 450 items"}),
        ({"kind": "title"}, False, 40, "title", {}),
    ],
)
def test_what_the_settings_leave_open_follows_from_model_and_catalog(
    given: dict, pretrained: bool, items: int, kind: str, why: dict[str, str]
) -> None:
    choice = CodecChoice.of(CodecSettings(**given), pretrained, items)
    assert choice.kind == kind
    assert choice.why == why


def test_one_level_is_a_token_for_each_item_in_catalog_order() -> None:
    wanted = CodecSettings(codes=1)
    catalog = _catalog(["same"] * 5, np.ones((5, 2), np.float32))
    codec = codec_of(catalog, wanted, None, seed=0)
    assert codec.item_tokens.lengths.tolist() == [1] * 5
    assert codec.tokenizer.convert_ids_to_tokens(codec.item_tokens.flat) == [f"<a_{item}>" for item in range(5)]
    assert codec.shown_tokens is not None
    assert codec.tokenizer.convert_ids_to_tokens(codec.shown_tokens.flat) == [f"<shown_{item}>" for item in range(5)]
    assert codec.shown_tokens.flat.tolist() == [*range(len(codec.tokenizer) - 5, len(codec.tokenizer))]
    described = CodecChoice.of(wanted, False, 5).describe(codec)
    assert described["codes_in_use"] == [5]
    assert described["items_that_share_their_codes"] == 0


def test_an_item_in_a_history_is_not_the_token_of_a_list(tmp_path: Path) -> None:
    codec = codec_of(_catalog(["same"] * 5, np.ones((5, 2), np.float32)), CodecSettings(), None, seed=0)
    row = np.array([3, 0], np.int32)
    assert codec.shown_tokens is not None
    assert codec.encode_prompt(row).tolist() == codec.shown_tokens.flat[row].tolist()
    assert codec.encode_list(row).tolist() == codec.item_tokens.flat[row].tolist()
    assert codec.parse(codec.encode_prompts(Ragged.of([row])), 2).tolist() == [[MISS, MISS]]
    codec.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    assert loaded.fingerprint() == codec.fingerprint() != replace(codec, shown_tokens=None).fingerprint()
    assert loaded.encode_prompt(row).tolist() == codec.encode_prompt(row).tolist()


def test_the_card_says_how_far_codes_tell_items_apart() -> None:
    vectors = np.array([[0, 0], [0, 0], [0, 0], [9, 0], [9, 9]], np.float32)
    wanted = CodecSettings(levels=2, codes=2)
    described = CodecChoice.of(wanted, False, 5).describe(codec_of(_catalog(list("abcde"), vectors), wanted, None, 0))
    assert described["levels"] == 2
    assert described["codes_in_use"] == [2, 2]
    assert described["items_that_share_their_codes"] == 2  # five items, four combinations
