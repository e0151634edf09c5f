"""The composite, a user's own functions, and what is said when they fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from blade_dist.batches import Prompts, Ragged, Rollouts
from blade_dist.errors import UserError
from blade_dist.rewards.composite import Composite, spreads
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.scorer import Scorer
from tests.helpers.catalogs import make_catalog


def first_item(lists: Lists) -> np.ndarray:
    return lists.items[:, 0] / len(lists.catalog)


def wrong_shape(lists: Lists) -> np.ndarray:
    return np.zeros((len(lists), 2))


def not_a_number(lists: Lists) -> np.ndarray:
    return np.full(len(lists), np.nan)


def raises(lists: Lists) -> np.ndarray:
    raise KeyError("price")


def exits(lists: Lists) -> np.ndarray:
    raise SystemExit(3)


def test_the_sum_is_weighted() -> None:
    lists = Lists(np.array([[0, 1, 2]], np.int32), Ragged.of([[0, 5]]), Ragged.of([[3]]), make_catalog())
    own = f"{__name__}:first_item"
    total, parts = Composite({"ndcg@3": 2.0, "mgu@3": -0.5, own: 1.0}, make_catalog(), 3).score(lists)
    assert set(parts) == {"ndcg@3", "mgu@3", own}
    np.testing.assert_allclose(total, 2 * parts["ndcg@3"] - 0.5 * parts["mgu@3"] + parts[own])
    assert parts[own][0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_shape", r"returned shape \(2, 2\) for 2 lists"),
        ("not_a_number", "returned nan for list 0"),
        ("raises", "raised KeyError: 'price'"),
        ("exits", "raised SystemExit: 3"),
    ],
)
def test_a_faulty_function_fails_the_dry_check(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Composite({f"{__name__}:{name}": 1.0}, make_catalog(), 3).check()
    assert f"{__name__}:{name}" in str(error.value)


@pytest.mark.parametrize("path", ["no.such.module:f", f"{__name__}:nothing"])
def test_a_function_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(UserError, match="cannot be imported"):
        Composite({path: 1.0}, make_catalog(), 3)


def test_a_module_that_fails_while_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written_reward.py").write_text("def price(lists) return 1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="half_written_reward:price: cannot be imported: SyntaxError"):
        Composite({"half_written_reward:price": 1.0}, make_catalog(), 3)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_finite(weight: float) -> None:
    with pytest.raises(UserError, match=r"reward.weights hr@2: the weight is (nan|inf); give a finite number"):
        Composite({"hr@2": weight}, make_catalog(), 3)


def test_a_fault_names_the_setting_that_it_stands_in() -> None:
    with pytest.raises(UserError, match=r"^evaluate\.metrics 'ndgc@3': unknown metric; did you mean ndcg@3"):
        Composite({"ndgc@3": 1.0}, make_catalog(), 3, "evaluate.metrics")
    with pytest.raises(UserError, match=r"^evaluate\.metrics .*:raises: raised KeyError"):
        Composite({f"{__name__}:raises": 1.0}, make_catalog(), 3, "evaluate.metrics").check()


def test_faulty_embeddings_fail_the_dry_check() -> None:
    broken = replace(make_catalog(), embeddings=np.full((12, 4), np.nan, np.float32))
    with pytest.raises(UserError, match="ild_embedding@3: returned nan for list 0"):
        Composite({"ild_embedding@3": 1.0}, broken, 3).check()


def test_lists_that_are_worth_the_same_are_ties() -> None:
    """Bit for bit, as the posterior counts rewards that are not above another."""
    catalog = make_catalog()
    orders = np.array(list(permutations([0, 4, 5, 10, 3])), np.int32)
    row = Ragged.of([[1]] * len(orders))
    history = Ragged.of([[1, 3, 5, 6, 8, 9, 11]] * len(orders))
    weights = {"ild@5": 0.3, "mgu@5": -0.5, "dgu@5": -0.1, "novelty@5": 0.7, "entropy@5": 0.2}
    total, parts = Composite(weights, catalog, 5).score(Lists(orders, row, history, catalog))
    assert len(np.unique(total)) == 1
    assert all(len(np.unique(values)) == 1 for values in parts.values())


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_small_differences_are_kept_at_every_scale(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = scale * np.array([1.0, 1 + 1e-10, 1 + 1e-15, -1.0, 0.0])
    monkeypatch.setitem(globals(), "first_item", lambda lists: values[: len(lists)])
    lists = Lists(np.zeros((5, 3), np.int32), Ragged.of([[0]] * 5), Ragged.of([[0]] * 5), make_catalog())
    total, _ = Composite({f"{__name__}:first_item": 1.0}, make_catalog(), 3).score(lists)
    np.testing.assert_allclose(total, values, rtol=1e-11)
    assert total[0] == total[2] < total[1]


def test_fingerprints_follow_the_weights() -> None:
    a, b, c = (Composite(w, make_catalog(), 3).depends_on() for w in ({"hr@3": 1.0}, {"hr@3": 1.0}, {"hr@3": 2.0}))
    assert a == b != c


def test_fingerprints_follow_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Composite({"hr@3": 1.0}, make_catalog(), 3).depends_on()
    monkeypatch.setattr("blade_dist.rewards.composite.DEFINITIONS", 10**6)
    assert Composite({"hr@3": 1.0}, make_catalog(), 3).depends_on() != before


def prompts_of(index: np.ndarray) -> Prompts:
    """Prompts of which each one's only target is the item of its own number."""
    targets = Ragged.of([[int(i)] for i in index])
    return Prompts(index, np.array(["u"] * len(index), dtype=object), targets, targets, targets)


def test_rollouts_are_scored_against_their_own_prompt() -> None:
    items = np.array([[[4, 0], [0, 4]], [[4, 0], [7, 1]]], np.int32)
    empty = np.zeros((2, 2), np.int32)
    rollouts = Rollouts(
        prompt=np.array([4, 7]),
        items=items,
        tokens=Ragged.of([[1]] * 4),
        logprobs=np.zeros(4, np.float32),
        decision=np.ones(4, bool),
        version=np.zeros((2, 2), np.int64),
        invalid=empty,
        duplicate=empty,
        seconds=np.ones(1),
    )
    scorer = Scorer(make_catalog(), prompts_of, Composite({"mrr@2": 1.0}, make_catalog(), 2))
    np.testing.assert_allclose(scorer.score({}, rollouts).total, [[1, 0.5], [0, 1]])


def test_normalised_weights_are_an_equal_say() -> None:
    def wide(values: np.ndarray) -> np.ndarray:
        return 100 * values + np.array([[5.0], [-7.0]])  # a prompt's own level is not a difference between its lists

    narrow = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 3.0]])
    result = spreads({"narrow": narrow, "wide": wide(narrow)})
    assert result["narrow"] == pytest.approx(np.sqrt((2 / 3 + 2) / 2))
    assert result["wide"] == pytest.approx(100 * result["narrow"])


def test_scales_divide_before_the_weights() -> None:
    lists = Lists(np.array([[0, 1, 2]], np.int32), Ragged.of([[0, 5]]), Ragged.of([[3]]), make_catalog())
    composite = Composite({"ndcg@3": 2.0, "mgu@3": -0.5}, make_catalog(), 3)
    composite = composite.rescaled({"ndcg@3": 0.1, "mgu@3": 0.2})
    total, parts = composite.score(lists)
    np.testing.assert_allclose(total, 2 / 0.1 * parts["ndcg@3"] - 0.5 / 0.2 * parts["mgu@3"])


def test_a_metric_without_spread_is_named() -> None:
    with pytest.raises(
        UserError, match=r"reward.normalise: ild@3 is the same in all 4 reference lists of each of 2 prompts"
    ):
        spreads({"hr@3": np.arange(8.0).reshape(2, 4), "ild@3": np.ones((2, 4))})


def test_what_cancels_out_is_a_tie() -> None:
    """0.3 - 3 * 0.1 is -5.6e-17 in float64, and 0 for the posterior."""
    lists = Lists(np.array([[0, 1], [2, 3]], np.int32), Ragged.of([[9]] * 2), Ragged.of([[8]] * 2), make_catalog())
    weights = {f"{__name__}:three_tenths": 1.0, f"{__name__}:a_tenth": -3.0}
    assert Composite(weights, make_catalog(), 2).score(lists)[0].tolist() == [0.0, 0.0]


def three_tenths(lists: Lists) -> np.ndarray:
    return np.full(len(lists), 0.3)


def a_tenth(lists: Lists) -> np.ndarray:
    return np.array([0.1, 0.1])
