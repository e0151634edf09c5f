"""Sentence embeddings of items, by an encoder in a local folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError

BATCH = 64


def embed_items(catalog: Catalog, folder: Path) -> NDArray[np.float32]:
    """float32 ``[I, D]`` of unit length: the mean over the tokens of each item's title and groups of the encoder's last
    hidden states.

    Raises:
        UserError: no Hugging Face encoder with its tokenizer in the folder.
    """
    import torch  # takes seconds; most catalogs need none of it
    from transformers import AutoModel, AutoTokenizer

    if not folder.is_dir():
        raise UserError(f"codec.embedder: {folder}: no such folder; give a Hugging Face folder of a sentence encoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        encoder = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"codec.embedder: {folder} can't be read: {' '.join(str(error).split())}") from None
    texts = [
        ". ".join([catalog.titles[item], ", ".join(catalog.group_names[group] for group in catalog.groups[item])])
        for item in range(len(catalog))
    ]
    limit = getattr(encoder.config, "max_position_embeddings", None)
    embedded = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float32)
    # texts of like length are encoded together, so that little is padded
    order = np.argsort([len(text) for text in texts], kind="stable")
    for rows in np.array_split(order, -(-len(texts) // BATCH)):
        given = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = encoder(**given).last_hidden_state
        weight = given["attention_mask"][:, :, None].to(hidden.dtype)
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        embedded[rows] = torch.nn.functional.normalize(mean, dim=1).float().numpy()
    return embedded
