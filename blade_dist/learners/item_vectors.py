"""Item vectors that start from what items are: a free vector plus a projection of the item's features, while training.

With few interactions per item a free vector stays near where it began. A projection that all items share moves an item
along with those of similar titles and groups. What is saved is the sum, an embedding like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

DIMENSIONS = 128
"""Of the features, at most: their principal components."""


class FeatureEmbedding(nn.Module):
    """``E + F P``: the model's embedding ``E`` ``[V, H]``, features ``F`` ``[V, D]``, a projection ``P`` ``[D, H]``."""

    features: Tensor

    def __init__(self, free: nn.Embedding, features: Tensor) -> None:
        super().__init__()
        self.free = free
        self.projection = nn.Linear(features.shape[1], free.embedding_dim, bias=False, dtype=free.weight.dtype)
        # both parts of an item's vector begin with the same spread: its features have a variance of 1 per dimension
        std = float(free.weight.detach().float().std()) / features.shape[1] ** 0.5
        nn.init.normal_(self.projection.weight, std=std)
        self.register_buffer("features", features.to(free.weight.dtype), persistent=False)

    @property
    def num_embeddings(self) -> int:
        """V."""
        return self.free.num_embeddings

    @property
    def weight(self) -> Tensor:
        """``[V, H]``"""
        return self.free.weight + self.projection(self.features)

    def forward(self, ids: Tensor) -> Tensor:
        """As :class:`torch.nn.Embedding` does."""
        return functional.embedding(ids, self.weight, self.free.padding_idx)

    def sum_of(self, state: dict[str, Tensor], name: str) -> None:
        """In ``state``, by name: one weight ``name`` instead of the parts of this module, which has that name."""
        free, projection = state.pop(f"{name}.free.weight"), state.pop(f"{name}.projection.weight")
        total = free.float() + self.features.cpu().float() @ projection.float().t()
        state[f"{name}.weight"] = total.to(free.dtype)


def add_features(model: Any, features: NDArray[np.float32], tokens: NDArray[np.int64]) -> None:
    """Makes the model's embedding a :class:`FeatureEmbedding`, unless all items look the same; a tied head follows.

    Args:
        model: a Hugging Face causal LM.
        features: ``[I, D]``.
        tokens: ``[I]`` the one token of each item.
    """
    free = model.get_input_embeddings()
    scaled = principal_components(features, DIMENSIONS)
    if not scaled.shape[1]:
        return
    of_tokens = torch.zeros((free.num_embeddings, scaled.shape[1]))
    of_tokens[torch.from_numpy(tokens)] = torch.from_numpy(scaled)
    model.set_input_embeddings(FeatureEmbedding(free, of_tokens))


def principal_components(features: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """float32 ``[I, min(D, most)]``: centred, rotated to the principal components, each scaled to a variance of 1.

    Components with next to no variance are left out: scaling would make noise of them as large as the rest.
    """
    centred = np.asarray(features, np.float64) - features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-6 * max(float(values.max()), 1e-12))[::-1][:most]
    return (centred @ vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
