"""A real engine under business rules: its lists keep them, its log-probs are the learner's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from blade_dist.batches import MISS
from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle
from blade_dist.rollouts.pool import RunningPool
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config
from blade_dist.store.context import context_length
from blade_dist.store.run import RunPaths
from tests.helpers.engines import Setup
from tests.helpers.runs import random_policy


@pytest.fixture(scope="module")
def ruled(tiny_config: Config, tiny_data: DataBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """At most one item of a group, and two items that nobody may be shown."""
    rules = {"at_most": {"*": 1}, "exclude": tiny_data.catalog.item_ids[[3, 8]].tolist()}
    config = tiny_config.model_copy(update={"lists": tiny_config.lists.model_copy(update=rules)})
    model = random_policy(config, tiny_data, tmp_path_factory.mktemp("policy") / "model", tied=True, seed=3)
    spec = EngineSpec.of(config, model, RunPaths(config.run.dir), context_length(model))
    with RunningPool(config, spec, place_here(config, learners=False).engines) as pool:
        yield Setup(config, tiny_data, model, pool)


@pytest.mark.parametrize("search", ["sampled", "beam"])
def test_lists_keep_the_rules_and_their_logprobs_are_the_learners(ruled: Setup, search: str) -> None:
    request = ruled.request(prompts=24, group=6 if search == "sampled" else 1, temperature=1.0)
    rollouts = ruled.pool.generate(request) if search == "sampled" else ruled.pool.beam_search(request, 4)
    groups, size = ruled.data.catalog.groups, ruled.config.lists.k
    ranked = ruled.pool.rank(request).items
    for row, lists in enumerate(np.concatenate([rollouts.items, ranked], axis=1)):
        for items in lists.tolist():
            written = [item for item in items if item != MISS]
            shown = np.concatenate([groups[item] for item in written])
            assert len(np.unique(shown)) == len(shown)
            assert not {3, 8, *request.excluded[row].tolist()} & set(written)
            # groups may be full before the list is: it ends there
            assert len(written) == size or len(np.unique(shown)) >= size
    np.testing.assert_allclose(rollouts.logprobs, ruled.learner_logprobs(request, rollouts), atol=1e-4)
    assert 0 < rollouts.decision.mean() < 1
