"""Titles and prompts as a tokenizer reads them."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from tests.cases.test_models import base
from tests.cases.wild import Outcome, Wild


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the small log, with normalisation: composed and decomposed letters are the same to it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    Wild(folder).data("codec.kind=title")
    made = AutoTokenizer.from_pretrained(str(folder / "runs" / "1" / "data" / "codec" / "tokenizer"))
    made.backend_tokenizer.normalizer = normalizers.NFC()
    made.save_pretrained(str(folder / "nfc"))
    return folder / "nfc"


def test_titles_that_a_tokenizer_makes_equal_are_numbered_all_at_once(wild: Wild, tokenizer: Path) -> None:
    new = {
        "i1": "Caf\u00e9",
        "i2": "Cafe\u0301",
        "i3": "Caf\u00e9 2",
        "i4": "Cafe\u0301 2",
        "i5": "e\u0301",
        "i6": "\u00e9",
    }
    wild.items([(f"i{n}", new.get(f"i{n}", f"Title {n}"), "a") for n in range(24)])
    made = wild.data(f"codec.tokenizer={tokenizer}", "codec.kind=title")
    assert made.titles["i2"] == "Cafe\u0301 (2)"
    line = made.line("with the same tokens")
    assert line.startswith("data: note: 3 titles")
    assert "'Cafe\\u0301' (item 'i2') beside 'Caf\\xe9' ('i1')" in line
    tokens = made.bundle.codec.item_tokens
    assert len({tokens[item].tobytes() for item in range(len(tokens))}) == 24


@pytest.mark.parametrize("words", [30, 200, 400])
def test_long_titles_are_cut_where_that_is_asked_for(wild: Wild, words: int) -> None:
    wild.items([(f"i{n}", "word " * (words + n) if n in (3, 5) else f"Title {n}", "a") for n in range(24)])
    text = wild.refused("codec.kind=title", "model.build.context=96")
    assert text.startswith("data.max_title_tokens: the title of item 'i5' takes")
    most = text.partition("set data.max_title_tokens=")[2].split()[0]
    made = wild.data("codec.kind=title", "model.build.context=96", f"data.max_title_tokens={most}")
    assert "2 titles are cut" in made.said
    assert sorted(made.titles[item] for item in ("i3", "i5"))[1].endswith("(2)")


def test_one_token_items_may_have_long_titles(wild: Wild) -> None:
    wild.items([(f"i{n}", "word " * 400 if n == 3 else f"Title {n}", "a") for n in range(24)])
    wild.data("model.build.context=96")


def _prefix(made: Outcome, tokenizer: Path, prompt: str) -> list[str]:
    return AutoTokenizer.from_pretrained(str(tokenizer)).convert_ids_to_tokens(made.bundle.codec.prefix.tolist())


@pytest.mark.parametrize(
    ("prompt", "first", "said"),
    [
        ("<sep>user {history}<sep>", "<sep>", "codec.prompt: <sep> is read as a special token"),
        ("<eos>user {history}", "<eos>", "codec.prompt: <eos> is read as a special token"),
        ("<|im_start|>user {history}", "<", "codec.prompt: <|im_start|> is no token of this tokenizer"),
        ("[INST] {history} [/INST]", "[", "codec.prompt: [/INST], [INST] is no token of this tokenizer"),
    ],
)
@pytest.mark.parametrize("kind", ["title", "semantic_id"])
def test_special_tokens_of_a_prompt(wild: Wild, tokenizer: Path, kind: str, prompt: str, first: str, said: str) -> None:
    made = wild.data(f"codec.tokenizer={tokenizer}", f"codec.kind={kind}", f"codec.prompt={json.dumps(prompt)}")
    assert _prefix(made, tokenizer, prompt)[0] == first
    assert said in made.said


@pytest.mark.parametrize("kind", [["codec.kind=title"], [], ["codec.kind=semantic_id", "codec.levels=2"]])
@pytest.mark.parametrize("first", [[], ["codec.kind=semantic_id", "codec.levels=2", "codec.codes=5"]])
def test_a_tokenizer_of_another_run_gives_up_its_tokens_of_items(wild: Wild, first: list[str], kind: list[str]) -> None:
    """A model that is built anew knows none of them."""
    wild.data(*first)
    tokenizer = wild.folder / "runs" / "1" / "data" / "codec" / "tokenizer"
    wild.items([(f"i{n}", f"Title {n}", "a") for n in range(20)])  # fewer than it has tokens for
    made = wild.data(f"codec.tokenizer={tokenizer}", *kind, "data.windows=2")
    added = made.bundle.codec.tokenizer.get_added_vocab()
    used = set(made.bundle.codec.item_tokens.flat.tolist())
    assert {token for text, token in added.items() if text.startswith("<a_")} <= used
    assert ("<a_0>" in added) == ("codec.kind=title" not in kind)
    assert made.bundle.codec.vocabulary == len(made.bundle.codec.tokenizer)


def test_a_base_model_may_have_tokens_of_another_run_s_items_where_titles_are_written(wild: Wild) -> None:
    wild.data()
    model = base(wild.folder / "gpt2", 256)
    shutil.copytree(wild.folder / "runs" / "1" / "data" / "codec" / "tokenizer", model, dirs_exist_ok=True)
    metrics = ("reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]")
    made = wild.data(f"model.path={model}", *metrics)
    assert "gpt2: its tokens of another run's items, as <a_0>, write no title here" in " ".join(made.said.split())
    assert made.bundle.codec.kind == "title"
    codes = {number for text, number in made.bundle.codec.tokenizer.get_vocab().items() if text.startswith("<a_")}
    assert codes.isdisjoint(made.bundle.codec.item_tokens.flat.tolist())
    said = wild.refused(f"model.path={model}", "codec.kind=semantic_id", *metrics)
    assert "its tokens of items, as <a_0>, are of another run's items" in said
