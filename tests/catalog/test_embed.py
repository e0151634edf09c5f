"""Sentence embeddings of items, by a small encoder that is made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.embed import embed_items
from blade_dist.catalog.tokenizer import train_tokenizer
from blade_dist.errors import UserError


def test_an_item_s_embedding_is_the_mean_over_its_tokens_alone(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    titles = ["red wine", "a long title of many words that others lack", "tea"]
    catalog = Catalog.build(list("abc"), titles, [["drinks"], ["books", "old"], []], np.ones(3, np.int64))
    tokenizer = train_tokenizer(titles, 300)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=200, **sizes)).eval()
    encoder.save_pretrained(tmp_path)
    embedded = embed_items(catalog, tmp_path)
    texts = ["red wine. drinks", "a long title of many words that others lack. books, old", "tea. "]
    for row, text in zip(embedded, texts, strict=True):
        with torch.inference_mode():
            mean = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_folder_without_an_encoder_says_so(tmp_path: Path) -> None:
    catalog = Catalog.build(["a"], ["tea"], [[]], np.ones(1, np.int64))
    with pytest.raises(UserError, match=r"codec\.embedder: .*none: no such folder"):
        embed_items(catalog, tmp_path / "none")
    with pytest.raises(UserError, match=r"codec\.embedder: .* can't be read"):
        embed_items(catalog, tmp_path)
