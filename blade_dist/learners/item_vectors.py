"""Item vectors while a model is fine-tuned: what a history shows, and what a list is written with.

What is saved is an embedding and a head like any other.
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


class ItemVectors(nn.Module):
    """The input embedding of a model whose items have one token in a history and another one in a list.

    An item has one vector, ``E + F P``: a free part ``E``, its features ``F``, and a projection ``P`` that all items
    share, so that an item with few interactions moves along with those of similar titles and groups. Its token in a
    history is read as this vector, and its token in a list is written by it (the head's row). All tokens in a list are
    read as one vector, *start*: whatever a list holds, the model learns to go on from the history as it does for the
    first item. Only an alignment gives these tokens vectors of their own.

        token            is read as            is written by
        <eos>            E[<eos>]              E[<eos>]
        item in a list   start                 E[item] + F[item] P
        item shown       E[item] + F[item] P   nothing: no list holds it
    """

    reads: Tensor
    features: Tensor | None

    def __init__(self, model: Any, listed: NDArray[np.int64], shown: NDArray[np.int64]) -> None:
        """Takes the vectors of a model with random weights; without features yet.

        Args:
            model: a Hugging Face causal LM.
            listed: ``[I]`` each item's token in a list.
            shown: ``[I]`` its token in a history; these are the last of the vocabulary.
        """
        super().__init__()
        weight = model.get_input_embeddings().weight.detach()
        self.num_embeddings = len(weight)
        """V."""
        self.written = len(weight) - len(shown)
        """W: tokens that a list may hold are 0 to W - 1."""
        self.free = nn.Parameter(weight[: self.written + 1].clone())
        """``[W + 1, H]``: E, and last *start*."""
        reads = torch.arange(len(weight))
        reads[torch.from_numpy(listed)] = self.written
        reads[torch.from_numpy(shown)] = torch.from_numpy(listed)
        self.register_buffer("reads", reads, persistent=False)
        self.register_buffer("features", None, persistent=False)
        self._listed = torch.from_numpy(listed)

    def add_features(self, features: NDArray[np.float32]) -> None:
        """F, float32 ``[I, D]``, and a random P, unless all items look the same."""
        scaled = torch.from_numpy(principal_components(features, DIMENSIONS))
        if not scaled.shape[1]:
            return
        self.features = torch.zeros((len(self.free), scaled.shape[1]), dtype=self.free.dtype)
        self.features[self._listed] = scaled.to(self.free.dtype)
        self.projection = nn.Linear(scaled.shape[1], self.free.shape[1], bias=False, dtype=self.free.dtype)
        # both parts of an item's vector begin with the same spread: its features have a variance of 1 per dimension
        std = float(self.free.detach().float().std()) / scaled.shape[1] ** 0.5
        nn.init.normal_(self.projection.weight, std=std)

    @property
    def vectors(self) -> Tensor:
        """``[W + 1, H]``: of what may be written, and *start*."""
        return self.free if self.features is None else self.free + self.projection(self.features)

    def forward(self, ids: Tensor) -> Tensor:
        """As :class:`torch.nn.Embedding` does."""
        return functional.embedding(self.reads[ids], self.vectors)

    def sum_of(self, state: dict[str, Tensor], name: str) -> None:
        """In ``state``, by name: one embedding and one head in place of the parts of this module, which is ``name``."""
        vectors = state.pop(f"{name}.free")
        if self.features is not None:
            projection = state.pop(f"{name}.projection.weight")
            vectors = (vectors.float() + self.features.cpu().float() @ projection.float().t()).to(vectors.dtype)
        head = torch.zeros((self.num_embeddings, vectors.shape[1]), dtype=vectors.dtype)
        head[: self.written] = vectors[: self.written]
        state[f"{name}.weight"] = vectors[self.reads.cpu()]
        state["lm_head.weight"] = head


class WrittenHead(nn.Module):
    """The head over the W tokens that a list may hold, whose rows are :class:`ItemVectors`; it has no weight itself."""

    bias = None

    def __init__(self, vectors: ItemVectors) -> None:
        super().__init__()
        self._of = [vectors]  # in a list, so that it is no submodule of two modules

    @property
    def weight(self) -> Tensor:
        """``[W, H]``"""
        vectors = self._of[0]
        return vectors.vectors[: vectors.written]


def add_item_vectors(model: Any, listed: NDArray[np.int64], shown: NDArray[np.int64]) -> ItemVectors:
    """Makes the embedding and the head of a built model, which shares them, :class:`ItemVectors`; returns these.

    Its config says from then on that they are two, as they are in what is saved.
    """
    vectors = ItemVectors(model, listed, shown)
    model.set_input_embeddings(vectors)
    model.set_output_embeddings(WrittenHead(vectors))
    model.config.tie_word_embeddings = False
    return vectors


def principal_components(features: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """float32 ``[I, min(D, most)]``: centred, rotated to the principal components, each scaled to a variance of 1.

    Components with next to no variance are left out: scaling would make noise of them as large as the rest.
    """
    centred = np.asarray(features, np.float64) - features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-6 * max(float(values.max()), 1e-12))[::-1][:most]
    return (centred @ vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
