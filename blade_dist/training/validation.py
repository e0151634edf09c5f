"""How good the fine-tuned policy's lists for validation prompts are, as they will be served."""

from __future__ import annotations

import numpy as np
import torch

from blade_dist.batches import Prompts
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality, load_trie
from blade_dist.data.prompts import PromptTable
from blade_dist.learners.zero import DeepSpeedLearner
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import ndcg
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.training.decode import write_lists

NORMAL_95 = 1.96
"""Standard errors on each side of a mean."""


class Validation:
    """NDCG@K of the learner's own lists."""

    def __init__(self, prompts: Prompts, catalog: Catalog, codec: Codec, legality: Legality, config: Config) -> None:
        self._prompts, self._catalog, self._codec, self._legality = prompts, catalog, codec, legality
        self._decode, self._exclude = config.evaluate.decode, config.lists.exclude_history
        self._width = config.evaluate.beams

    @classmethod
    def load(cls, config: Config, paths: RunPaths, codec: Codec) -> Validation:
        """``sft_validation_prompts`` of the split, drawn with the run's seed, or all."""
        table = PromptTable.load(paths.data / "validation.arrow")
        size = min(config.sft_validation_prompts, len(table))
        rows = np.sort(np.random.default_rng(config.run.seed).choice(len(table), size, replace=False))
        # Without the rules of `lists`, and legal even where lists may be free text: such settings may change after the
        # fine-tuning, and which checkpoint knows the users best does not hang on them.
        legality = Legality(load_trie(codec, paths.trie), config.lists.k, codec.end)
        return cls(table.rows(rows), Catalog.load(paths.catalog), codec, legality, config)

    def ndcg(self, learner: DeepSpeedLearner) -> tuple[float, float]:
        """Mean over all prompts, which the ranks share (collective); half of its 95 % interval, as of a normal mean."""
        share = self._prompts.take(np.arange(learner.rank, len(self._prompts), learner.world_size))
        items = write_lists(
            learner,
            self._codec.encode_prompts(share.history),
            share.excluded(self._exclude),
            self._legality,
            self._decode,
            self._width,
        )
        values = ndcg(Lists(items, share.targets, share.history, self._catalog, share.user), self._legality.k)
        own = [float(values.sum()), float(len(values)), float(np.square(values).sum())]
        total, count, squares = learner.sum_over_ranks(torch.tensor(own, dtype=torch.float64)).tolist()
        mean = total / count
        return mean, NORMAL_95 * float(np.sqrt(max(0.0, squares / count - mean**2) / count))
