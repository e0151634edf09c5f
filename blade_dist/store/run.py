"""Where a run keeps what it made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FEATURES = "item_features.npy"
"""File in the data folder, see :attr:`RunPaths.features`."""
LOG = "log.txt"
"""File in the run's folder: what Ray, DeepSpeed, Transformers, vLLM and all workers print."""
EARLIER = "earlier"
"""Folder in the data folder, see :attr:`RunPaths.earlier`."""


@dataclass(frozen=True)
class RunPaths:
    """Folders and files below ``run.dir``."""

    root: Path

    @property
    def data(self) -> Path:
        """What the data stage wrote: card, prompts, sequences, catalog, codec, trie."""
        return self.root / "data"

    @property
    def catalog(self) -> Path:
        return self.data / "catalog"

    @property
    def codec(self) -> Path:
        return self.data / "codec"

    @property
    def trie(self) -> Path:
        """The trie of legal lists."""
        return self.data / "trie"

    @property
    def sequences(self) -> Path:
        """What fine-tuning reads: every user's training part."""
        return self.data / "sequences.arrow"

    @property
    def features(self) -> Path:
        """What is known of each item, a row each; only where an item is one token."""
        return self.data / FEATURES

    @property
    def earlier(self) -> Path:
        """Catalog and codec of the earlier run that this one's items are written as; only with ``codec.grown_from``."""
        return self.data / EARLIER

    def grown(self, weights: str) -> Path:
        """A policy of the earlier run, by the digest of its weights, with this run's items."""
        return self.root / "grown" / weights

    @property
    def sft(self) -> Path:
        """Stage folder; the checkpoint is in ``sft/policy``."""
        return self.root / "sft"

    @property
    def reference(self) -> Path:
        """The SFT checkpoint: reference policy and start of the alignment."""
        return self.sft / "policy"

    @property
    def prior(self) -> Path:
        """The rewards of the reference lists."""
        return self.root / "prior.arrow"

    def ranker(self, split: str) -> Path:
        """The ranker's best items of a split's prompts; only where a metric reads them."""
        return self.root / "ranker" / f"{split}.arrow"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def incidents(self) -> Path:
        """What is kept of processes that were lost, and of functions of the user's that failed."""
        return self.root / "incidents"

    def target(self, target: str) -> Path:
        """Stage folder of the alignment to ``target``; the aligned checkpoint is in ``<target>/policy``."""
        return self.root / target

    def policy(self, target: str) -> Path:
        return self.target(target) / "policy"
