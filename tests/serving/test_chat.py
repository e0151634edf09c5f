"""An export of prompts in a chat template: every server is sent the tokens of the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.data.bundle import load_data
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.serving.request import ListRequest, Resolver
from tests.helpers.exports import small_export
from tests.helpers.tokenizers import TEMPLATE, chat_tokenizer
from tests.serving.test_renew import of_the_day, renew

PROMPT = 'codec.prompt="Had:\\n{history}What is next?"'
TRIMMING = TEMPLATE.replace("message['content'] }", "message['content'] | trim }")
WORDS = ["amber river garden signal harbour velvet copper"]


def export(folder: Path, template: str, *settings: str) -> Path:
    tokenizer = chat_tokenizer(folder / "tokenizer", WORDS, template)
    chat = (f"codec.tokenizer={tokenizer}", "codec.format=chat", "model.build.context=512")
    return small_export(folder, "title", *chat, *settings)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedExport:
    return open_export(export(tmp_path_factory.mktemp("chat"), TEMPLATE, PROMPT, "codec.system=Be kind."))


def test_our_own_server_builds_the_prompt_of_the_training(opened: OpenedExport) -> None:
    data = load_data(opened.folder.parent / "run")
    history = data.test.rows(np.arange(1)).history[0]
    ids = data.catalog.item_ids[history].tolist()
    (wanted,) = Resolver(opened).resolve([ListRequest(history=ids)], ["request: "])
    assert opened.codec.encode_prompt(wanted.history).tolist() == data.codec.encode_prompt(history).tolist()
    assert opened.codec.end == data.codec.end == opened.manifest.end_token_id
    assert load_tokenizer(opened.folder).convert_ids_to_tokens(opened.codec.end) == "<|stop|>"
    assert opened.manifest.format == "chat"


def test_other_servers_are_told_how_to_ask(opened: OpenedExport) -> None:
    manifest, tokenizer = opened.manifest, load_tokenizer(opened.folder)
    assert manifest.text is not None
    assert manifest.turns is not None
    assert [turn.role for turn in manifest.turns] == ["system", "user"]
    items = np.array([3, 7], np.int32)
    shown = "".join(manifest.text.item.replace("{title}", opened.catalog.titles[item]) for item in items)
    said = [turn.model_dump() | {"content": turn.content.replace("{history}", shown)} for turn in manifest.turns]
    wanted = opened.codec.encode_prompt(items).tolist()
    assert tokenizer(manifest.prompt.replace("{history}", shown))["input_ids"] == wanted
    assert tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False) == wanted


def test_turns_that_a_chat_server_would_write_otherwise_are_not_told(tmp_path: Path) -> None:
    """Its template cuts the line break off with which the history ends."""
    manifest = open_export(export(tmp_path, TRIMMING, 'codec.prompt="Had:\\n{history}"')).manifest
    assert manifest.text is not None  # the whole text has it
    assert manifest.turns is None


def test_the_items_of_the_day_are_asked_for_alike(opened: OpenedExport, tmp_path: Path) -> None:
    renew(opened.folder, of_the_day(opened), tmp_path / "today")
    before, after = opened.manifest, open_export(tmp_path / "today").manifest
    kept = ("format", "prompt", "text", "turns")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
