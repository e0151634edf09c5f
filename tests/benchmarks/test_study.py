"""The synthetic study: its truth is how the log was generated, its ratios are by hand."""

from __future__ import annotations

import json
import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks.quality import DATA_FOLDER
from benchmarks.quality import ground_truth as truth
from benchmarks.quality import synthetic as synthetic_study
from benchmarks.quality.ground_truth import expected_dcg, load_truth
from benchmarks.quality.proxy_fidelity import proxy_fidelity, rank_correlation
from benchmarks.quality.regimes import TRUE_NDCG
from benchmarks.quality.runner import Runner
from benchmarks.quality.synthetic import against_search, summary, tau_summary
from blade_dist.batches import MISS
from blade_dist.data import synthetic
from blade_dist.data.bundle import DataBundle
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.store.files import write_json


def test_the_truth_is_how_the_log_was_generated(tiny_config: Config, tiny_data: DataBundle) -> None:
    catalog = tiny_data.catalog
    truth = load_truth(tiny_config.run.dir, catalog)
    user = next(iter(truth.tastes))
    chances = np.tile(truth.attraction @ truth.tastes[user], (40_000, 1))
    follow = [np.argsort(-row)[: len(synthetic.SUCCESSORS)] for row in truth.successors]
    walks = synthetic._walks(
        np.random.default_rng(0), chances, np.full(len(chances), 2), np.array(follow), truth.strength
    )
    first = np.bincount(walks[:, 0]).argmax()
    second = walks[walks[:, 0] == first, 1]
    seen = np.bincount(second, minlength=len(catalog)) / len(second)
    expected = truth.next_item(user, np.array([first], np.int32))
    assert expected.sum() == pytest.approx(1)
    assert expected[first] == 0
    assert np.abs(seen - expected).sum() / 2 < 3 * np.sqrt(len(catalog) / len(second))


def test_expected_ndcg_is_one_for_the_likeliest_items(
    tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_FOLDER, str(tiny_config.run.dir))
    prompts = tiny_data.test.rows(np.arange(3))
    known = truth.load_truth(tiny_config.run.dir, tiny_data.catalog)
    gains = [known.next_item(user, prompts.history[row]) for row, user in enumerate(prompts.user)]
    best = np.stack([np.argsort(-gain, kind="stable")[:3] for gain in gains]).astype(np.int32)
    half = np.where(np.arange(3) == 0, best, MISS).astype(np.int32)

    def score(items: np.ndarray) -> np.ndarray:
        lists = Lists(items, prompts.targets, prompts.history, tiny_data.catalog, prompts.user)
        return truth.expected_ndcg(lists)

    np.testing.assert_allclose(score(best), 1)
    top = np.stack([np.sort(gain)[::-1][:3] for gain in gains])
    np.testing.assert_allclose(score(half), top[:, 0] / (top / np.log2([2, 3, 4])).sum(axis=1))
    assert (score(best[:, ::-1].copy()) <= 1).all()


def test_expected_gain_by_hand() -> None:
    found = expected_dcg(np.array([[0.5, 0.3, 0.2]] * 2), np.array([[1, 0], [2, MISS]], np.int32))
    np.testing.assert_allclose(found, [0.3 + 0.5 / np.log2(3), 0.2])


def test_ratios_by_hand() -> None:
    def cell(target: str, reward: float, informative: float) -> dict:
        return {"target": target, "reward": reward, "informative_groups": informative, "kl": 0.0}

    cells = [cell("blade", 0.9, 0.5), cell("blade", 0.7, 0.3), cell("static", 0.4, 0.0), cell("static", 0.6, 0.0)]
    cells += [cell("grpo", 1, 1), cell("best_of_n_sft", 1, 1)]
    whole = summary(cells, floor=0.1)
    assert whole["reward_ratio_blade_static"] == pytest.approx(1.6)
    assert whole["informative_ratio"] == pytest.approx(4)
    taus = [{"tau": tau, "reward": reward} for tau, reward in ((0.1, 0.8), (0.3, 1.0), ("auto", 0.99))]
    assert tau_summary(taus) == pytest.approx({"tau_spread": 0.2, "auto_tau_gap": 0.01})


def test_no_history_and_used_up_successors_leave_taste_alone(tiny_config: Config, tiny_data: DataBundle) -> None:
    truth = load_truth(tiny_config.run.dir, tiny_data.catalog)
    user = next(iter(truth.tastes))
    nothing = truth.next_item(user, np.zeros(0, np.int32))
    taste = truth.attraction @ truth.tastes[user]
    np.testing.assert_allclose(nothing, taste / taste.sum())
    last = 0
    followers = np.flatnonzero(truth.successors[last])
    used = truth.next_item(user, np.array([*followers, last], np.int32))
    assert used[followers].sum() == 0
    assert used.sum() == pytest.approx(1)


def test_two_levels_and_outliers(tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_FOLDER, str(tiny_config.run.dir))
    prompts = tiny_data.test.rows(np.arange(3))
    known = truth.load_truth(tiny_config.run.dir, tiny_data.catalog)
    gains = [known.next_item(user, prompts.history[row]) for row, user in enumerate(prompts.user)]
    order = np.stack([np.argsort(-gain, kind="stable") for gain in gains]).astype(np.int32)

    def lists(items: np.ndarray, rows: np.ndarray) -> Lists:
        history, targets = prompts.history.take(rows), prompts.targets.take(rows)
        return Lists(items, targets, history, tiny_data.catalog, prompts.user[rows])

    np.testing.assert_array_equal(truth.likeliest_is_in(lists(order[:, :3], np.arange(3))), 1)
    np.testing.assert_array_equal(truth.likeliest_is_in(lists(order[:, 1:4], np.arange(3))), 0)
    found = truth.outliers(lists(order[np.zeros(4000, int), :3], np.zeros(4000, np.int64)))
    assert set(np.unique(found)) == {-truth.OUTLIER_SIZE, 0.0, truth.OUTLIER_SIZE}
    assert (found != 0).mean() == pytest.approx(truth.OUTLIERS, rel=0.3)


def test_static_loses_sight_of_lists_beyond_its_references() -> None:
    rows = proxy_fidelity(np.random.default_rng(0).random((4, 2048)), bon_n=100)
    first, last = rows[0], rows[-1]
    assert first["above"] == pytest.approx(1 / 33, rel=0.3)
    assert last["above"] > 0.8
    assert last["informative, static"] < 0.7 < 0.999 < last["informative, blade"]
    assert last["order, static"] < 0.6 < 0.99 < last["order, blade"]
    assert all(row["order, grpo"] > 0.99 for row in rows)


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, (6, 9)).astype(float), rng.random((6, 9))
    a[5] = 1.0
    expected = [spearmanr(x, y).statistic for x, y in zip(a[:5], b[:5], strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), [*expected, 0])


def test_one_list_against_a_search_by_hand() -> None:
    def rows(policy: str, decode: str, values: list[float]) -> pd.DataFrame:
        users = {"user": ["a", "a", "b"], "prompt": [0, 1, 2]}
        return pd.DataFrame(users | {"policy": policy, "decode": decode, "mgu@5": values})

    parts = [rows("blade", "list", [0.1, 0.2, 0.3]), rows("sft best of 16", "sampled", [0.2, 0.2, 0.5])]
    parts += [rows("sft", "list", [0.4, 0.4, 0.4]), rows("blade", "sampled", [9.0, 9.0, 9.0])]
    found = against_search(pd.concat(parts), "mgu@5")
    assert found["mean"] == pytest.approx(-0.1)
    assert (found["low"], found["high"]) == pytest.approx((-0.2, -0.05))
    assert (found["blade"], found["best_of_16"], found["sft_greedy"]) == pytest.approx((0.2, 0.3, 0.4))
    assert found["less_is_better"] is True


SMALL = {
    "data": {
        "source": "synthetic",
        "targets": 3,
        "max_history": 6,
        "windows": 2,
        "k_core": 2,
        "synthetic": {"users": 120, "items": 40, "groups": 4, "interactions": 20},
    },
    "lists": {"k": 3, "exclude_history": "shown"},
    "codec": {"kind": "semantic_id", "levels": 1, "codes": 64, "prompt": "{history}"},
    "model": {"build": {"hidden_size": 32, "layers": 1, "heads": 1, "kv_heads": 1, "ffn_size": 32, "context": 48}},
    "sft": {"epochs": 1, "batch_size": 64},
    "reward": {"weights": {TRUE_NDCG: 1.0}},
    "prior": {"size": 4},
    "rollout": {"group_size": 4, "max_num_seqs": 64},
    "train": {"steps": 2, "prompts": 8, "prompts_per_step": 8, "checkpoint_every": 2},
    "evaluate": {"metrics": ["ndcg@3"], "best_of": [16]},
    "tracking": {"tensorboard": False},
}


def small_study(folder: Path) -> None:
    """A process of its own: Ray's processes inherit the variable that names the data."""
    preset = folder / "small.yaml"
    preset.write_text(yaml.safe_dump(SMALL))
    synthetic_study.RATES, synthetic_study.TRUE_LISTS = (1e-3,), 8
    synthetic_study.SEARCHES = {"expected_ndcg": {"train.prompts": 16, "reward.weights": {TRUE_NDCG: 1.0}}}
    runner = Runner(folder / "runs", preset, Console(quiet=True))
    study = synthetic_study.SyntheticStudy(runner)
    with runner.start():
        trials = {target: study.tuned(target) for target in ("static", "blade")}
        result = {"trials": trials, "searched": study.searched("expected_ndcg", 1e-3), "known": study.supervised(0)}
    write_json(folder / "result.json", result | {"seconds": runner.seconds()})


@pytest.mark.skipif("BLADE_BENCHMARKS" not in os.environ, reason="takes minutes; BLADE_BENCHMARKS=1 runs it")
def test_the_study_runs_on_a_small_catalog(tmp_path: Path) -> None:
    """Every stage is real; the reward that knows the truth is imported by Ray's processes by its name."""
    process = get_context("spawn").Process(target=small_study, args=(tmp_path,))
    process.start()
    process.join(900)
    assert process.exitcode == 0
    result = json.loads((tmp_path / "result.json").read_text())
    (blade,) = result["trials"]["blade"]
    assert (blade["regime"], blade["target"], blade["lr"], blade["tau"]) == ("main", "blade", 1e-3, 0.3)
    assert 0 < blade["true_reward"] < 1
    assert blade["true_reward"] == pytest.approx(blade["reward"])
    assert blade["last_tau"] == pytest.approx(0.3)
    assert {"mean", "low", "high", "best_of_16", "sft_greedy", "users"} <= result["searched"].keys()
    assert len(result["known"]) == 5
    # one catalog and one reference for all; the search has prompts, and so a prior, of its own
    stages = [stage for seconds in result["seconds"].values() for stage in seconds]
    assert sorted(stages) == sorted(["data", "sft", "evaluate", *["train"] * 3, *["prior"] * 3])
