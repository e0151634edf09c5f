"""A grown vocabulary: every token has one place, and tokens of lists come before those of histories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.layout import TOKENIZER, Layout
from blade_dist.errors import UserError
from tests.helpers.catalogs import made_codec


@given(st.integers(1, 20), st.integers(1, 10), st.integers(0, 10), st.booleans())
def test_every_token_has_one_place(words: int, known: int, new: int, shown: bool) -> None:
    layout = Layout(words + known, known, new, shown)
    before = np.arange(words + known * (1 + shown), dtype=np.int32)
    parts = [layout.moved(before), layout.listed, *([layout.in_history] if shown else [])]
    assert sorted(np.concatenate(parts).tolist()) == list(range(layout.size))
    assert layout.moved(before[: words + known]).tolist() == before[: words + known].tolist()
    if shown:
        assert (
            layout.moved(before).tolist()[words + known :] == list(range(layout.size))[-new - known : layout.size - new]
        )


def test_a_codec_and_its_tokenizer_grow_alike(tmp_path: Path) -> None:
    codec = made_codec([(3,), (4,)], None, 1)
    codec = replace(codec, shown_tokens=Ragged.of([[5], [6]]))
    names = ["<pad>", "<eos>", "<sep>", "<a_0>", "<a_1>", "<shown_0>", "<shown_1>"]
    tokens = [{"id": number, "content": name, "special": number < 3} for number, name in enumerate(names)]
    (tmp_path / TOKENIZER).write_text(json.dumps({"added_tokens": tokens, "model": {"vocab": {"ä": 0}}}))
    layout = Layout(5, 2, 2, True)
    layout.grow_tokenizer(tmp_path)
    grown = json.loads((tmp_path / TOKENIZER).read_text())
    made = {token["content"]: token["id"] for token in grown["added_tokens"]}
    assert list(made) == [*names[:5], "<a_2>", "<a_3>", "<shown_0>", "<shown_1>", "<shown_2>", "<shown_3>"]
    assert list(made.values()) == list(range(layout.size))
    after = layout.codec(codec, tmp_path)
    assert after.item_tokens.flat.tolist() == [made[f"<a_{item}>"] for item in range(4)]
    assert after.shown_tokens is not None
    assert after.shown_tokens.flat.tolist() == [made[f"<shown_{item}>"] for item in range(4)]
    assert grown["model"]["vocab"] == {"ä": 0}
    with pytest.raises(UserError, match="it has no tokenizer"):
        layout.grow_tokenizer(tmp_path / "nowhere")
