"""What the quality table is made of, against plain code: segments, the next-item model, the choice at inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.quality import DATA_FOLDER, best_of_n, sasrec
from benchmarks.quality.best_of_n import choice
from benchmarks.quality.compare import holm
from benchmarks.quality.sasrec import SasRec, cut_windows
from benchmarks.quality.segments import (
    SESSION_S,
    Log,
    items_before,
    keep,
    make_segments,
    same_session,
    segment_scores,
    trained_items,
)
from blade_dist.batches import MISS, Prompts, Ragged
from blade_dist.data.bundle import DataBundle
from blade_dist.evaluation.baselines import cooccurrence_lists
from blade_dist.rewards.lists import Lists
from blade_dist.settings import BuildSettings, Config, ListSettings
from tests.helpers.catalogs import made_prompts, make_catalog


def prompts_of(users: list[str], histories: list[list[int]], targets: list[list[int]]) -> Prompts:
    return made_prompts(histories, targets, users)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


class TestSegments:
    def test_items_before_are_what_the_log_has_left(self) -> None:
        test = prompts_of(["u", "u", "v"], [[0], [0], [0]], [[1, 2], [3, 4], [5]])
        before = items_before(test, {"u": 10, "v": 4})
        assert before.tolist() == [6, 8, 3]
        validation = prompts_of(["u"], [[0]], [[7, 8]])
        assert trained_items(test, before, validation).tolist() == [4, 4, 3]

    def test_a_session_ends_with_the_first_long_gap(self) -> None:
        test = prompts_of(["u", "v"], [[9, 0], [0]], [[1, 2, 3], [1]])
        times = {("u", 0): 0, ("u", 1): SESSION_S - 1, ("u", 2): 2 * SESSION_S - 1, ("u", 3): 2 * SESSION_S}
        times |= {("v", 0): 0, ("v", 1): SESSION_S - 1}
        assert same_session(test, times).tolist() == [True, False, False, True]

    def test_a_segment_counts_its_own_targets(self) -> None:
        targets = Ragged.of([[1, 2], [3], [4]])
        kept = keep(targets, np.array([False, True, False, True]))
        assert [kept[row].tolist() for row in range(3)] == [[2], [], [4]]
        items = np.array([[1, 2, 0], [3, 0, 1], [4, 0, 1]], np.int32)
        lists = Lists(np.pad(items, ((0, 0), (0, 2)), constant_values=MISS), targets, targets, make_catalog())
        np.testing.assert_allclose(segment_scores(lists, kept), [1 / np.log2(3), np.nan, 1])

    def test_every_target_is_in_one_segment_of_each_pair(self, small: DataBundle) -> None:
        test = small.test.rows(np.arange(len(small.test)))
        times = {
            (user, int(item)): 1000 * place
            for row, user in enumerate(test.user)
            for place, item in enumerate([*test.history[row], *test.targets[row]])
        }
        found = make_segments(small, Log(times, dict.fromkeys(test.user, 14)))
        whole = len(test.targets.flat)
        for one, other in (("head items", "tail items"), ("short history", "long history"), ("same session", "later")):
            assert len(found[one].flat) + len(found[other].flat) == whole
        assert 0 < len(found["tail items"].flat) < whole
        assert len(found["cold: under 30 training items"].flat) == whole  # 14 items each, of which 6 are held out
        assert len(found["same session"].flat) == whole  # 1000 s apart


class TestSasRec:
    def test_windows_predict_every_item_but_the_first_once(self) -> None:
        sequence = np.arange(23, dtype=np.int32)
        for seed in range(20):
            windows = cut_windows(sequence, 5, np.random.default_rng(seed))
            assert np.concatenate([window[1:] for window in windows]).tolist() == list(range(1, 23))
            assert all(2 <= len(window) <= 6 for window in windows)

    def test_it_learns_who_follows_whom(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sasrec, "EPOCHS", 60)
        catalog = make_catalog()
        starts = np.random.default_rng(0).integers(0, 12, 200)
        walks = [(start + 5 * np.arange(6)) % 12 for start in starts]  # 5 and 12 share no divisor: item + 5 follows
        validation = prompts_of(
            [str(n) for n in range(12)], [[n] for n in range(12)], [[(n + 5) % 12] for n in range(12)]
        )
        build = BuildSettings(hidden_size=32, layers=1, heads=1, kv_heads=1, ffn_size=32)
        fitted = [
            sasrec.fit((catalog, Ragged.of(walks), validation), build, 4, ListSettings(k=3), 3, 1, [(1e-2, 0.3)])
            for _ in range(2)
        ]
        lists = fitted[0].lists(validation, 3, True)
        assert (lists[:, 0] == (np.arange(12) + 5) % 12).all()
        assert fitted[0].validation == 1
        assert not (lists == np.arange(12)[:, None]).any()
        assert (lists == fitted[1].lists(validation, 3, True)).all()
        pool = fitted[0].ranked(validation, 12, True)  # all items, of which one is the history
        assert (pool.items[:, :3] == lists).all()
        assert (np.diff(pool.scores[:, :11], axis=1) <= 0).all()
        for own, items in enumerate(pool.items.tolist()):
            assert items[-1] == MISS
            assert {own, *items[:-1]} == set(range(12))

    def test_a_position_sees_nothing_later(self) -> None:
        torch.manual_seed(0)
        model = SasRec(9, 6, BuildSettings(hidden_size=32, layers=2, heads=1, kv_heads=1, ffn_size=32), 0.3).eval()
        rows = torch.tensor([[1, 2, 3, 4, 5, 6]])
        changed = torch.tensor([[1, 2, 3, 8, 9, 9]])
        torch.testing.assert_close(model(rows)[:, :3], model(changed)[:, :3])
        assert not torch.allclose(model(rows)[:, 3], model(changed)[:, 3])


class TestBestOfN:
    def test_what_is_held_out_is_left_out(self) -> None:
        assert choice({"ndcg@5": 1.0, "ild@5": 0.3, "my.module:margin": 1.0, "mgu@5": -0.5}) == {
            "ild@5": 0.3,
            "mgu@5": -0.5,
        }
        assert choice({"ndcg@5": 1.0}) == {"benchmarks.quality.best_of_n:cooccurrence": 1.0}

    def test_cooccurrence_likes_its_own_list_best(
        self, tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(DATA_FOLDER, str(tiny_config.run.dir))
        test = tiny_data.test.rows(np.arange(len(tiny_data.test)))
        sequences = tiny_data.sequences.rows(np.arange(len(tiny_data.sequences)))
        best = cooccurrence_lists(tiny_data.catalog, sequences, test, 3, True)
        rng = np.random.default_rng(0)
        other = np.stack([rng.permutation(np.setdiff1d(np.arange(len(tiny_data.catalog)), h))[:3] for h in test.seen])

        def score(items: np.ndarray) -> np.ndarray:
            return best_of_n.cooccurrence(Lists(items.astype(np.int32), test.targets, test.history, tiny_data.catalog))

        whole = score(best)
        assert (whole >= score(other) - 1e-9).all()
        assert (whole > score(best[:, ::-1].copy()) - 1e-9).all()
        assert (score(np.full_like(best, MISS)) == 0).all()
        monkeypatch.setattr(best_of_n, "CHUNK", 7)
        np.testing.assert_array_equal(score(best), whole)
