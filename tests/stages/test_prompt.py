"""``blade-dist prompt``: what is shown is what engines get and what fine-tuning learns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from blade_dist.batches import Ragged
from blade_dist.data.prepare import prepare_data
from blade_dist.errors import UserError
from blade_dist.stages.prompt import prompt_stage
from blade_dist.training.shown import TEXT, prompt_parts, row_parts
from blade_dist.training.windows import training_rows
from tests.cases.wild import Wild
from tests.helpers.tokenizers import chat_tokenizer

PROMPT = 'codec.prompt="Had:\\n{history}Next:\\n"'


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Wild:
    return Wild(tmp_path_factory.mktemp("prompt"))


@pytest.mark.parametrize("kind", ["title", "semantic_id"])
def test_its_parts_are_what_is_read_and_learned(wild: Wild, kind: str) -> None:
    bundle = wild.data(PROMPT, f"codec.kind={kind}").bundle
    codec, ids = bundle.codec, bundle.catalog.item_ids.tolist()
    items = bundle.sequences.rows(bundle.sequences.of_user("u3"))[0]
    parts = row_parts(codec, items, 3, False, ids)
    assert [part.what for part in parts] == [TEXT, *(ids[n] for n in items[:3]), TEXT, *(ids[n] for n in items[3:])]
    assert [part.loss for part in parts] == [False, False, True, True, False, *[True] * (len(items) - 3)]
    row = training_rows(codec, Ragged.of([items]), np.array([3]), False)
    assert np.concatenate([part.tokens for part in parts]).tolist() == [*row.prompt.flat, *row.tokens.flat]
    assert sum(len(part.tokens) for part in parts if part.loss) == row.decision.sum()
    read = np.concatenate([part.tokens for part in prompt_parts(codec, items, ids)])
    assert read.tolist() == codec.encode_prompt(items).tolist()


def test_it_prints_the_text_the_tokens_and_the_loss(wild: Wild, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path / "chat", [f"Title {n}" for n in range(24)])
    config = wild.config(PROMPT, "codec.kind=title", f"codec.tokenizer={tokenizer}", "codec.format=chat")
    prepare_data(config)
    said = io.StringIO()
    prompt_stage(config, "u3", Console(file=said, width=120))
    text = said.getvalue()
    assert "1 test prompts; the last one, " in text
    assert "<bos><|start|>system\nBe short.<|stop|>\n<|start|>user\nHad:\nTitle" in text
    assert "Next:\n<|stop|>\n<|start|>assistant\nTitle" in text  # of the fine-tuning row
    assert "a list of 3 items follows, which hits with 'i" in text
    row = text.partition("as sft reads them")[2]
    shown = [line.split() for line in row.splitlines() if line.startswith(" i")]
    assert [len(words) > 1 and words[1] == "yes" for words in shown] == [False, *[True] * (len(shown) - 1)]
    assert len(shown) > 3


def test_a_user_who_is_not_there_is_one_line(wild: Wild) -> None:
    config = wild.config()
    with pytest.raises(UserError, match="no prepared data there"):
        prompt_stage(config, "u3", Console(quiet=True))
    prepare_data(config)
    with pytest.raises(
        UserError, match=r"--user nobody: the prepared data in .* have no prompt and no sequence of this"
    ):
        prompt_stage(config, "nobody", Console(quiet=True))
