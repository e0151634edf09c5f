"""Baselines, intervals and the table."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from scipy import stats

from blade_dist.batches import MISS, Ragged
from blade_dist.evaluation.baselines import cooccurrence_lists, popularity_lists
from blade_dist.evaluation.bootstrap import Interval, mean_interval, paired_bootstrap
from blade_dist.evaluation.corpus import corpus_metrics
from blade_dist.evaluation.per_user import differences, intervals, per_user_rows, render, render_means, summarise
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from tests.helpers.catalogs import ITEMS, made_prompts, make_catalog


def test_popularity_is_the_same_for_all_but_the_history() -> None:
    prompts = made_prompts([[2], [5]], [[1], [1]], seen=[[0, 2], [5]])
    assert popularity_lists(make_catalog(), prompts, 3, exclude_history=True).tolist() == [[1, 3, 4], [0, 1, 2]]
    assert popularity_lists(make_catalog(), prompts, 3, exclude_history=False).tolist() == [[0, 1, 2]] * 2
    shown = popularity_lists(make_catalog(), prompts, 3, exclude_history="shown")
    assert shown.tolist() == [[0, 1, 3], [0, 1, 2]]


def test_cooccurrence_by_hand() -> None:
    sequences = Ragged.of([[1, 2, 3], [1, 2], [4, 5]])
    found = cooccurrence_lists(make_catalog(), sequences, made_prompts([[1], [4]], [[2], [5]]), 2, exclude_history=True)
    # with 1: item 2 in both users 2 / sqrt(2 * 2) = 1, item 3 in one 1 / sqrt(2) = 0.71
    assert found[0].tolist() == [2, 3]
    assert found[1, 0] == 5


def test_interval_matches_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 300)
    interval = mean_interval(values, np.arange(300), 4000, seed=1)
    peer = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert interval.mean == values.mean()
    np.testing.assert_allclose([interval.low, interval.high], [peer.low, peer.high], rtol=0.01)


def test_users_are_resampled_whole() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=40), 25)
    together = mean_interval(values, np.repeat(np.arange(40), 25), 2000, seed=0)
    apart = mean_interval(values, np.arange(1000), 2000, seed=0)
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_pairing_removes_what_users_share() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    interval = paired_bootstrap(base + 0.1, base, np.arange(200), 500, seed=0)
    np.testing.assert_allclose([interval.mean, interval.low, interval.high], 0.1)


def test_corpus_metrics_by_hand() -> None:
    catalog = make_catalog()
    everything = np.arange(ITEMS, dtype=np.int32).reshape(4, 3)
    same = Lists(everything, Ragged.of([[0]] * 4), Ragged.of(list(everything)), catalog)
    found = corpus_metrics(same)
    np.testing.assert_allclose(
        [found[n] for n in ("coverage", "gini", "entropy", "corpus_mgu", "miss")], [1, 0, 1, 0, 0], atol=1e-12
    )
    one = np.array([[3, MISS, MISS]], np.int32)
    lonely = corpus_metrics(Lists(one, Ragged.of([[0]]), Ragged.of([[3]]), catalog))
    np.testing.assert_allclose(lonely["coverage"], 1 / ITEMS)
    np.testing.assert_allclose(lonely["gini"], 1 - 1 / ITEMS)
    np.testing.assert_allclose(lonely["miss"], 2 / 3)


def test_the_table_is_recomputed_from_its_rows() -> None:
    catalog = make_catalog()
    prompts = made_prompts([[1], [2], [3]], [[4], [5], [6]])
    reward = Composite({"hr@2": 1.0, "ild@2": 0.5}, catalog, 2)
    lists = {
        (name, "list"): Lists(np.array(items, np.int32), prompts.targets, prompts.history, catalog)
        for name, items in (("a", [[4, 7], [5, 8], [0, 1]]), ("b", [[4, 7], [0, 1], [0, 1]]))
    }
    rows = pa.concat_tables(
        per_user_rows(name, d, prompts, batch, reward, reward) for (name, d), batch in lists.items()
    )
    assert rows.column_names[:6] == ["user", "prompt", "policy", "decode", "items", "reward"]
    summary = summarise(rows, lists, "list")
    np.testing.assert_allclose(summary["a"]["hr@2"], 2 / 3)
    np.testing.assert_allclose(summary["b"]["hr@2"], 1 / 3)
    difference = differences(rows, "list", "a", "b", 300, seed=0)["hr@2"]
    np.testing.assert_allclose(difference["mean"], 1 / 3)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    (table,) = render("list", intervals(rows, "list", 100, 0), {}, 80)
    assert table.row_count == 3


@pytest.mark.parametrize("width", [40, 80, 160])
def test_policies_that_have_no_room_beside_the_others_stand_below(width: int) -> None:
    of = {f"policy {n}": {"ndcg@5": Interval(0.5, 0.25, 0.75), "mgu@5": Interval(-0.1, -0.2, 0.0)} for n in range(7)}
    printed = io.StringIO()
    for table in render("means", of, {}, width):
        Console(file=printed, width=width).print(table)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert re.findall(r"policy [0-9]", printed.getvalue()) == list(of)
    assert printed.getvalue().count("[-0.200, 0.000]") == 7
    assert sum("means" in line for line in lines) == 1


@pytest.mark.parametrize("width", [40, 80, 160])
def test_metrics_that_have_no_room_beside_the_others_stand_below(width: int) -> None:
    metrics = {f"metric{n}@5": [n + 0.25, n + 0.75] for n in range(8)}
    keys = {
        "user": ["a", "b"],
        "prompt": [0, 1],
        "policy": ["sft mmr 0.3"] * 2,
        "decode": ["rank"] * 2,
        "items": [[], []],
    }
    printed = io.StringIO()
    for table in render_means(pa.table({**keys, **metrics}), "rank", ["sft mmr 0.3"], {}, width, "re-ranked"):
        Console(file=printed, width=width).print(table)
    assert max(map(len, printed.getvalue().splitlines())) <= width
    assert re.findall(r"metric[0-9]@5", printed.getvalue()) == list(metrics)
    assert re.findall(r"[0-9]\.5000", printed.getvalue()) == [f"{n}.5000" for n in range(8)]
