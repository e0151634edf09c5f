"""The text of a prompt, plain and in a chat template: its tokens, its end, and what differs from the whole text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.build import Built, build_codec
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.prompt_text import DATE, PromptText, chat_turns
from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings
from blade_dist.settings.load import load_config
from tests.helpers.tokenizers import TEMPLATE, chat_tokenizer

TITLES = ["Toy Story (1995)", "Heat", "Toy", "2001", "Up!"]
PROMPT = "Items, oldest first:\n{history}What is next?"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_tokenizer(tmp_path_factory.mktemp("chat"), [" ".join(TITLES)])


def built(tokenizer: Path, **changes: str) -> Built:
    catalog = Catalog.build([f"i{n}" for n in range(5)], TITLES, [[]] * 5, np.zeros(5, np.int64), None)
    wanted = CodecSettings.model_validate({"prompt": PROMPT} | changes)
    return build_codec(catalog, wanted, CodecChoice.of(wanted, True, 5), tokenizer, 0)


@settings(max_examples=30)
@given(history=st.lists(st.integers(0, 4), min_size=1, max_size=4), system=st.sampled_from([None, "Be kind."]))
def test_a_chat_prompt_is_what_the_template_makes_of_the_whole_text(
    chat: Path, history: list[int], system: str | None
) -> None:
    wanted = CodecSettings(prompt=PROMPT, format="chat", system=system)
    codec = built(chat, format="chat", **({} if system is None else {"system": system})).codec
    shown = "".join(f"{TITLES[item]}\n" for item in history)
    turns = [turn | {"content": turn["content"].replace("{history}", shown)} for turn in chat_turns(wanted)]
    whole = load_tokenizer(chat).apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert codec.encode_prompt(np.array(history, np.int32)).tolist() == list(whole)
    text = codec.tokenizer.decode(whole)
    assert text.startswith(f"<bos><|start|>system\n{system or 'Be short.'}<|stop|>\n<|start|>user\nItems")
    assert text.endswith("What is next?<|stop|>\n<|start|>assistant\n")


def test_the_list_is_ended_as_the_assistant_s_turn_is(chat: Path) -> None:
    codec, plain = built(chat, format="chat").codec, built(chat).codec
    assert codec.tokenizer.convert_ids_to_tokens([codec.end, plain.end]) == ["<|stop|>", "<eos>"]
    assert codec.encode_list(np.array([1], np.int32))[-1] == codec.end


def test_a_plain_prompt_gets_the_tokenizer_s_own_first_token_once(chat: Path) -> None:
    for prompt in (PROMPT, f"<bos>{PROMPT}"):
        tokens = built(chat, prompt=prompt).codec.encode_prompt(np.array([0, 1], np.int32))
        text = PROMPT.replace("{history}", "Toy Story (1995)\nHeat\n")
        assert tokens.tolist() == load_tokenizer(chat)(text)["input_ids"]


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_what_servers_are_sent_gives_the_same_tokens(chat: Path, form: str) -> None:
    codec = built(chat, format=form).codec
    text = PromptText.of(codec.tokenizer, CodecSettings(prompt=PROMPT, format=form)).sent(codec.tokenizer)
    sent = codec.tokenizer(text.replace("{history}", "Up!\n"))["input_ids"]
    assert sent == codec.encode_prompt(np.array([4], np.int32)).tolist()


def test_tokens_that_are_not_those_of_the_whole_text_are_said(chat: Path) -> None:
    assert built(chat).remarks == []
    (line,) = built(chat, prompt="Had: {history}Next:").remarks
    assert line.startswith("codec.prompt: 5 of 5 titles tried have other tokens than in the whole text of a prompt")
    assert built(chat, prompt="Had:\n{history}\nNext:").codec.suffix[0] == built(chat).codec.separator


def test_a_date_stays_that_of_the_training(chat: Path) -> None:
    today = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b') %}{% endif %}{{ date_string }}"
    )
    dated = chat_tokenizer(chat.parent / "dated", [" ".join(TITLES)], today + TEMPLATE)
    made = built(dated, format="chat")
    (line,) = made.remarks
    assert line == f"codec.format: the chat template writes the date of the day; prompts of this run always have {DATE}"
    assert DATE in made.codec.tokenizer.decode(made.codec.prefix)


@pytest.mark.parametrize(
    ("template", "changes", "said"),
    [
        (None, {}, "codec.format: chat needs a tokenizer with a chat template"),
        (TEMPLATE, {"system": "Of {history}"}, "writes {history} 2 times"),
        ("{{ raise_exception('no system here') }}", {"system": "Hi"}, "no system here.*leave codec.system out"),
        ("{{ raise_exception('no') }}", {}, "refuses these turns .no.; set codec.format=plain"),
        ("{{ messages[0]['role'] }}", {}, "writes {history} 0 times"),
        (TEMPLATE, {"prompt": "no place"}, "codec.prompt: {history} must stand in it once, not 0 times"),
    ],
)
def test_what_can_t_be_written_is_one_line(
    tmp_path: Path, template: str | None, changes: dict[str, str], said: str
) -> None:
    folder = chat_tokenizer(tmp_path / "chat", TITLES, template)
    with pytest.raises(UserError, match=said.replace("{", r"\{")) as error:
        built(folder, format="chat", **changes)
    assert "\n" not in str(error.value)


def test_a_system_without_a_chat_is_refused() -> None:
    with pytest.raises(UserError, match=r"codec.system: only codec.format = chat has a system"):
        load_config(None, ["codec.system=Hi"])


def test_a_prompt_of_one_token_items_has_its_turns_too(chat: Path) -> None:
    codec = built(chat, format="chat", kind="semantic_id").codec
    rows = codec.encode_prompts(Ragged.of([[0, 3]]))
    assert codec.tokenizer.decode(rows[0]).endswith("first:\n<a_0><a_3>What is next?<|stop|>\n<|start|>assistant\n")
