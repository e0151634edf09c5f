"""Which prompts say how much each metric differs, and whose spread is measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blade_dist.batches import Rewards
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages import prior as stage
from blade_dist.stages.opened import OpenedRun
from blade_dist.stages.prior import build_prior, pilot_prompts
from blade_dist.store.run import RunPaths


def test_users_whose_prompts_stand_together_are_drawn_once_each() -> None:
    users = np.repeat(np.arange(300), 40)
    rows = np.arange(len(users)) * 2
    drawn = pilot_prompts(7, rows, users)
    assert len(drawn) == stage.PILOT == 256
    assert len(np.unique(users[drawn // 2])) == 256
    assert drawn.tolist() == sorted(set(drawn) & set(rows))
    np.testing.assert_array_equal(drawn, pilot_prompts(7, rows, users))
    assert set(drawn) != set(pilot_prompts(8, rows, users))
    assert 0.4 < (drawn // 2 % 40).mean() / 40 < 0.6  # anywhere among a user's prompts


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 40))
def test_users_have_prompts_as_equally_as_can_be(users: list[int], size: int) -> None:
    numbers = np.array(users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "PILOT", size)
        drawn = pilot_prompts(0, np.arange(len(numbers)), numbers)
    assert len(np.unique(drawn)) == len(drawn) == min(size, len(numbers))
    taken, there = (np.bincount(found, minlength=10) for found in (numbers[drawn], numbers))
    more_to_take = there > taken
    assert not more_to_take.any() or taken[more_to_take].min() >= taken.max() - 1


class Reward:
    """Scores rows: each metric is a function of row and list number."""

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.scored: list[np.ndarray] = []
        self.scales: dict[str, float] = {}
        self._metrics = metrics

    def rescaled(self, scales: dict[str, float]) -> Reward:
        self.scales = dict(scales)
        return self

    def score(self, rows: np.ndarray) -> Rewards:
        self.scored.append(rows)
        parts = {name: metric(rows[:, None], np.arange(4)) for name, metric in self._metrics.items()}
        return Rewards(rows, parts["ndcg@3"], parts, np.zeros(len(rows), np.uint64))

    def wait(self, scores: Rewards) -> Rewards:
        return scores


def metric_of_a_few_users(row: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The same in all lists of the first rows."""
    return np.where(row < 20, 0.0, number * 1.0)


def metric_without_spread(row: np.ndarray, number: np.ndarray) -> np.ndarray:
    return row + 0.0 * number


@pytest.fixture
def build(small: DataBundle, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds a prior with everything remote replaced; an engine's lists are the rows themselves."""
    monkeypatch.setattr(stage, "PILOT", 12)
    prompter = SimpleNamespace(request=lambda rows, *_: rows)
    monkeypatch.setattr(stage, "Prompter", lambda *_: prompter)

    def run(config: Config, reward: Reward) -> Prior:
        paths = RunPaths(config.run.dir)
        known: Any = SimpleNamespace(weights="w", fingerprint=lambda: "f", depends_on=dict)
        opened = OpenedRun(config, small, paths, known, known, np.arange(len(small.train)))
        pool: Any = SimpleNamespace(generate=lambda rows: rows)
        return build_prior(opened, pool, reward, Console(quiet=True))

    return run


def config_of(tmp_path: Any, weights: str) -> Config:
    settings = [f"run.dir={tmp_path}", "lists.k=3", "prior.size=4", "train.validation_prompts=0"]
    return load_config(None, [*settings, f"reward={{normalise: true, at_least: {{mrr@3: 0.1}}, weights: {weights}}}"])


def test_scales_are_of_the_drawn_prompts_and_of_the_metrics_with_a_weight(tmp_path: Any, build: Any) -> None:
    config = config_of(tmp_path, "{ndcg@3: 1.0, hr@3: 0.0}")
    reward = Reward({"ndcg@3": metric_of_a_few_users, "hr@3": metric_without_spread, "mrr@3": metric_without_spread})
    prior = build(config, reward)
    pilot = reward.scored[0]
    np.testing.assert_array_equal(pilot, pilot_prompts(config.run.seed, np.arange(40), np.arange(40)))
    assert pilot.max() >= 20
    expected = np.sqrt((pilot >= 20).mean() * np.var(np.arange(4)))
    assert prior.scales == reward.scales == {"ndcg@3": pytest.approx(expected)}


def test_a_weighed_metric_without_spread_stops(tmp_path: Any, build: Any) -> None:
    reward = Reward(dict.fromkeys(("ndcg@3", "mrr@3"), metric_without_spread))
    with pytest.raises(
        UserError, match=r"reward\.normalise: ndcg@3 is the same in all 4 reference lists of each of 12"
    ):
        build(config_of(tmp_path, "{ndcg@3: 1.0}"), reward)
