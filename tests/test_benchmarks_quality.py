"""The quality table: its numbers by hand, its parts against plain code, and the whole command on a small log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from rich.console import Console
from scipy import stats

from blade_dist.batches import MISS, Prompts, Ragged
from blade_dist.data.bundle import DataBundle
from blade_dist.data.prompts import PromptTable, write_prompts
from blade_dist.evaluation.baselines import cooccurrence_lists
from blade_dist.evaluation.bootstrap import mean_interval
from blade_dist.evaluation.table import per_user_rows
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import BuildSettings, Config
from tests.test_rewards_metrics import make_catalog

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def prompts_of(users: list[str], histories: list[list[int]], targets: list[list[int]]) -> Prompts:
    return Prompts(np.arange(len(users)), np.array(users, dtype=object), Ragged.of(histories), Ragged.of(targets))


@pytest.fixture
def small(tmp_path: Path) -> DataBundle:
    """40 users of a catalog of 12 items, a prompt each in every split; there is no codec."""
    tables, rng = {}, np.random.default_rng(0)
    for name in ("train", "validation", "test"):
        orders = [rng.permutation(12) for _ in range(40)]
        users = pa.array([f"u{number}" for number in range(40)])
        rows = (users, Ragged.of([order[:3] for order in orders]), Ragged.of([order[3:6] for order in orders]))
        write_prompts(tmp_path / f"{name}.arrow", [rows])
        tables[name] = PromptTable.load(tmp_path / f"{name}.arrow")
    return DataBundle(make_catalog(), cast(Any, None), **tables, card={})


class TestIntervals:
    def test_a_mean_is_that_of_the_package(self) -> None:
        from intervals import Users

        rng = np.random.default_rng(0)
        users, values = rng.integers(0, 40, 150), rng.normal(size=150)
        own, theirs = Users(users, 500, seed=3).mean(values), mean_interval(values, users, 500, seed=3)
        assert own.as_dict() == pytest.approx(theirs.as_dict())

    def test_rows_outside_a_slice_are_not_counted(self) -> None:
        from intervals import Users

        rng = np.random.default_rng(0)
        users, values = np.repeat(np.arange(30), 4), rng.normal(size=120)
        outside = np.arange(120) % 4 == 0
        own = Users(users, 300).mean(np.where(outside, np.nan, values))
        assert own.as_dict() == pytest.approx(mean_interval(values[~outside], users[~outside], 300, 0).as_dict())

    def test_a_ratio_matches_scipy(self) -> None:
        from intervals import Users

        rng = np.random.default_rng(1)
        a, b = rng.gamma(2, 1.2, 300), rng.gamma(2, 1, 300)
        own = Users(np.arange(300), 8000).ratio(a, b)

        def ratio(x: np.ndarray, y: np.ndarray) -> float:
            return float(np.mean(x) / np.mean(y) - 1)

        peer = stats.bootstrap(
            (a, b), ratio, paired=True, vectorized=False, n_resamples=8000, method="percentile", rng=2
        )
        low, high = peer.confidence_interval
        assert own.mean == pytest.approx(a.mean() / b.mean() - 1)
        np.testing.assert_allclose([own.low, own.high], [low, high], atol=0.01)

    def test_the_windows_and_seeds_of_a_user_stay_together(self) -> None:
        """Copies of the same rows add nothing to what is known."""
        from intervals import Users

        values = np.random.default_rng(0).normal(size=50)
        once, often = Users(np.arange(50), 500), Users(np.tile(np.arange(50), 6), 500)
        assert once.mean(values).as_dict() == pytest.approx(often.mean(np.tile(values, 6)).as_dict())

    @pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
    def test_p_values_are_near_the_t_tests(self, shift: float) -> None:
        from intervals import Users

        difference = np.random.default_rng(5).normal(size=200)
        difference += shift - difference.mean()
        own = Users(np.arange(200)).p_value(difference)
        assert own == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.02)
        assert own > 0

    def test_holm_by_hand(self) -> None:
        from intervals import holm

        assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
        assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
        assert holm({}) == {}


class TestSlices:
    def test_items_before_are_what_the_log_has_left(self) -> None:
        from slices import items_before, trained_items

        test = prompts_of(["u", "u", "v"], [[0], [0], [0]], [[1, 2], [3, 4], [5]])
        before = items_before(test, {"u": 10, "v": 4})
        assert before.tolist() == [6, 8, 3]
        validation = prompts_of(["u"], [[0]], [[7, 8]])
        assert trained_items(test, before, validation).tolist() == [4, 4, 3]

    def test_a_session_ends_with_the_first_long_gap(self) -> None:
        from slices import SESSION_S, same_session

        test = prompts_of(["u", "v"], [[9, 0], [0]], [[1, 2, 3], [1]])
        times = {("u", 0): 0, ("u", 1): SESSION_S - 1, ("u", 2): 2 * SESSION_S - 1, ("u", 3): 2 * SESSION_S}
        times |= {("v", 0): 0, ("v", 1): SESSION_S - 1}
        assert same_session(test, times).tolist() == [True, False, False, True]

    def test_a_slice_counts_its_own_targets(self) -> None:
        from slices import keep, slice_scores

        targets = Ragged.of([[1, 2], [3], [4]])
        kept = keep(targets, np.array([False, True, False, True]))
        assert [kept[row].tolist() for row in range(3)] == [[2], [], [4]]
        items = np.array([[1, 2, 0], [3, 0, 1], [4, 0, 1]], np.int32)
        lists = Lists(np.pad(items, ((0, 0), (0, 2)), constant_values=MISS), targets, targets, make_catalog())
        np.testing.assert_allclose(slice_scores(lists, kept), [1 / np.log2(3), np.nan, 1])

    def test_every_target_is_in_one_slice_of_each_pair(self, small: DataBundle) -> None:
        from slices import Log, make_slices

        test = small.test.rows(np.arange(len(small.test)))
        times = {
            (user, int(item)): 1000 * place
            for row, user in enumerate(test.user)
            for place, item in enumerate([*test.history[row], *test.targets[row]])
        }
        found = make_slices(small, Log(times, dict.fromkeys(test.user, 14)))
        whole = len(test.targets.flat)
        for one, other in (("head items", "tail items"), ("short history", "long history"), ("same session", "later")):
            assert len(found[one].flat) + len(found[other].flat) == whole
        assert 0 < len(found["tail items"].flat) < whole
        assert len(found["cold"].flat) == whole  # 14 items each, of which 6 are held out
        assert len(found["same session"].flat) == whole  # 1000 s apart


class TestSasRec:
    def test_windows_predict_every_item_but_the_first_once(self) -> None:
        from sasrec import cut_windows

        sequence = np.arange(23, dtype=np.int32)
        for seed in range(20):
            windows = cut_windows(sequence, 5, np.random.default_rng(seed))
            assert np.concatenate([window[1:] for window in windows]).tolist() == list(range(1, 23))
            assert all(2 <= len(window) <= 6 for window in windows)

    def test_sequences_come_back_from_the_prompts(self) -> None:
        from sasrec import training_sequences

        train = prompts_of(["v", "v", "u"], [[0, 1], [0, 1, 2], [5]], [[2, 3], [3, 4], [6, 7]])
        found = training_sequences(train)
        assert [found[row].tolist() for row in range(2)] == [[5, 6, 7], [0, 1, 2, 3, 4]]

    def test_it_learns_who_follows_whom(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sasrec

        monkeypatch.setattr(sasrec, "RATES", (1e-2,))
        monkeypatch.setattr(sasrec, "EPOCHS", 30)
        catalog = make_catalog()
        starts = np.random.default_rng(0).integers(0, 12, 200)
        walks = [(start + 5 * np.arange(6)) % 12 for start in starts]  # 5 and 12 share no divisor: item + 5 follows
        validation = prompts_of(
            [str(n) for n in range(12)], [[n] for n in range(12)], [[(n + 5) % 12] for n in range(12)]
        )
        build = BuildSettings(hidden_size=32, layers=1, heads=1, kv_heads=1, ffn_size=32)
        fitted = [sasrec.fit((catalog, Ragged.of(walks), validation), build, 4, 3, 3, seed=1) for _ in range(2)]
        lists = fitted[0].lists(validation, 3, True)
        assert (lists[:, 0] == (np.arange(12) + 5) % 12).all()
        assert fitted[0].validation == 1
        assert not (lists == np.arange(12)[:, None]).any()
        assert (lists == fitted[1].lists(validation, 3, True)).all()

    def test_a_position_sees_nothing_later(self) -> None:
        from sasrec import SasRec

        torch.manual_seed(0)
        model = SasRec(9, 6, BuildSettings(hidden_size=32, layers=2, heads=1, kv_heads=1, ffn_size=32)).eval()
        rows = torch.tensor([[1, 2, 3, 4, 5, 6]])
        changed = torch.tensor([[1, 2, 3, 8, 9, 9]])
        torch.testing.assert_close(model(rows)[:, :3], model(changed)[:, :3])
        assert not torch.allclose(model(rows)[:, 3], model(changed)[:, 3])


class TestBlind:
    def test_what_is_held_out_is_left_out(self) -> None:
        from blind import choice

        assert choice({"ndcg@5": 1.0, "ild@5": 0.3, "my.module:margin": 1.0, "mgu@5": -0.5}) == {
            "ild@5": 0.3,
            "mgu@5": -0.5,
        }
        assert choice({"ndcg@5": 1.0}) == {"blind:cooccurrence": 1.0}

    def test_cooccurrence_likes_its_own_list_best(
        self, tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import blind

        monkeypatch.setenv(blind.FOLDER, str(tiny_config.run.dir))
        train, test = (table.rows(np.arange(len(table))) for table in (tiny_data.train, tiny_data.test))
        best = cooccurrence_lists(tiny_data.catalog, train, test, 3, True)
        rng = np.random.default_rng(0)
        other = np.stack(
            [rng.permutation(np.setdiff1d(np.arange(len(tiny_data.catalog)), h))[:3] for h in test.history]
        )

        def score(items: np.ndarray) -> np.ndarray:
            return blind.cooccurrence(Lists(items.astype(np.int32), test.targets, test.history, tiny_data.catalog))

        whole = score(best)
        assert (whole >= score(other) - 1e-9).all()
        assert (whole > score(best[:, ::-1].copy()) - 1e-9).all()
        assert (score(np.full_like(best, MISS)) == 0).all()
        monkeypatch.setattr(blind, "CHUNK", 7)
        np.testing.assert_array_equal(score(best), whole)


class TestTable:
    @pytest.fixture
    def joined(self, small: DataBundle, tmp_path: Path) -> object:
        """Two seeds; BLADE's greedy lists begin with the first target, some of the others do."""
        from joined import Joined

        test = small.test.rows(np.arange(len(small.test)))
        known = {"ndcg@5": 1.0, "ild@5": 0.0}
        reward = Composite(known, small.catalog, 5)
        joined = Joined(small, {"all": test.targets})
        for seed in range(2):
            rng = np.random.default_rng(seed)
            free = [np.setdiff1d(np.arange(12), row) for row in test.targets]
            tables = []
            for policy, hits in (("sft", 0.3), ("static", 0.3), ("blade", 1.0)):
                for decode in ("greedy", "sampled"):
                    items = np.stack([rng.permutation(row)[:5] for row in free]).astype(np.int32)
                    first = np.array([row[0] for row in test.targets])
                    items[:, 0] = np.where(
                        rng.random(len(items)) < (hits if decode == "greedy" else 0.3), first, items[:, 0]
                    )
                    lists = Lists(items, test.targets, test.history, small.catalog, test.user)
                    tables.append(per_user_rows(policy, decode, test, lists, reward, reward))
            path = tmp_path / f"{seed}.parquet"
            pq.write_table(pa.concat_tables(tables), path)
            joined.add(path, seed)
        return joined

    def test_rows_of_all_seeds_lie_in_one_file(self, joined: object, small: DataBundle, tmp_path: Path) -> None:
        joined.save(tmp_path / "rows.parquet")
        rows = pd.read_parquet(tmp_path / "rows.parquet")
        assert len(rows) == 2 * 3 * 2 * len(small.test)
        assert {"seed", "policy", "decode", "user", "prompt", "items", "reward", "ndcg@5", "ndcg@5, all"} <= set(rows)
        means = rows.groupby(["seed", "policy", "decode"])["reward"].mean()
        for row in joined.by_seed():
            assert row["reward"] == pytest.approx(means[row["seed"], row["policy"], row["decode"]])

    def test_what_is_clearly_better_is_marked(self, joined: object) -> None:
        import compare
        from render import marks

        numbers = compare.Numbers(joined)
        rows = numbers.comparisons(["static", "blade"], ["ndcg@5"])
        tested = [row for row in rows if "p" in row]
        assert [(row["policy"], row["against"]) for row in tested] == [
            ("static", "sft"),
            ("blade", "sft"),
            ("blade", "static"),
        ]
        assert all(row["p_holm"] >= row["p"] for row in tested)
        assert marks(rows, "blade", "ndcg@5") == "*†"
        assert compare.verdict(rows, "blade", "ndcg@5") == "greedy lists are better"
        greedy = joined.rows("blade", "greedy")["ndcg@5"] - joined.rows("sft", "greedy")["ndcg@5"]
        assert compare.headline(numbers, rows)["blade_vs_sft"]["mean"] == pytest.approx(greedy.mean())

    def test_a_policy_that_lacks_a_seed_is_refused(self, joined: object, tmp_path: Path) -> None:
        from compare import Numbers

        joined.save(tmp_path / "rows.parquet")
        rows = pd.read_parquet(tmp_path / "rows.parquet").query("seed == 0 and policy == 'blade'")
        rows.drop(columns=["seed", "ndcg@5, all"]).to_parquet(tmp_path / "one.parquet")
        joined.add(tmp_path / "one.parquet", 0, {"blade": "half"})
        with pytest.raises(ValueError, match="half, greedy"):
            Numbers(joined).table()

    def test_a_gain_of_samples_alone_is_sharpening(self) -> None:
        from compare import verdict

        def row(decode: str, low: float) -> dict:
            return {"policy": "p", "against": "sft", "decode": decode, "column": "c", "low": low}

        assert verdict([row("greedy", -0.1), row("sampled", 0.1)], "p", "c") == "sharpened only"
        assert verdict([row("greedy", 0.1), row("sampled", 0.1)], "p", "c") == "greedy lists are better"
        assert verdict([row("greedy", -0.1), row("sampled", -0.1)], "p", "c") == "no gain"

    def test_samples_are_counted(self) -> None:
        from render import samples

        assert [samples("sft best of 16 (oracle)", "sampled", 4), samples("sft", "beam", 4)] == ["16", "4"]
        assert [samples("blade", "greedy", 4), samples("popularity", "greedy", 4)] == ["1", ""]


class TestCells:
    def test_a_prior_is_shared_where_nothing_it_depends_on_differs(self) -> None:
        from cells import TARGETS, Cell, sensitivity_cells

        assert all(not Cell(0, name, 1e-3, changes).of_prior for name, changes in TARGETS.items())
        cells = sensitivity_cells(0, 1e-3, {"prior.size": 32, "posterior.tau": 0.3}.get)
        own = {name for name, values in cells.items() if any(cell.of_prior for cell in values.values())}
        assert own == {"prior.size"}
        assert [value for value, cell in cells["prior.size"].items() if not cell.of_prior] == ["32"]
        assert cells["posterior.tau"]["0.3"] == cells["prior.size"]["32"] == Cell(0, "blade", 1e-3, TARGETS["blade"])

    def test_every_cell_has_a_folder_of_its_own(self) -> None:
        from cells import PARETO_TARGETS, TARGETS, Cell, pareto_cells, sensitivity_cells

        cells = [Cell(0, name, lr, changes) for name, changes in TARGETS.items() for lr in (1e-3, 2e-3)]
        cells += pareto_cells(0, dict.fromkeys(PARETO_TARGETS, 1e-3))
        cells += [cell for values in sensitivity_cells(0, 1e-3, {}.get).values() for cell in values.values()]
        assert len({cell.folder for cell in cells}) == len(cells)
        assert all(set(cell.folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for cell in cells)


class TestRunner:
    @pytest.fixture
    def runner(self, tmp_path: Path) -> Any:
        from runner import Runner

        (tmp_path / "preset.yaml").write_text(yaml.safe_dump(PRESET))
        return Runner(tmp_path / "runs", tmp_path / "preset.yaml", tmp_path, Console(quiet=True))

    def test_work_is_done_once(self, runner: Any, tmp_path: Path) -> None:
        done: list[str] = []
        for _ in range(2):
            runner.once(tmp_path / "runs" / "a", {"run.seed": 0}, "train", lambda: done.append("train"))
        runner.once(tmp_path / "runs" / "a", {"run.seed": 0}, "evaluate", lambda: done.append("evaluate"))
        assert done == ["train", "evaluate"]
        assert runner.seconds()["a"].keys() == {"train", "evaluate"}

    def test_failed_work_is_tried_again_and_its_time_counts(self, runner: Any, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "a"

        def fails() -> None:
            sleep(0.2)
            raise SystemExit

        with suppress(SystemExit):
            runner.once(run, {}, "train", fails)
        runner.once(run, {}, "train", lambda: None)
        assert 0.2 < runner.seconds()["a"]["train"] < 2

    def test_a_folder_of_other_settings_is_refused(self, runner: Any, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "a"
        runner.once(run, {"learner.lr": 1e-3}, "train", lambda: None)
        with pytest.raises(SystemExit, match="delete it or choose another --folder"):
            runner.once(run, {"learner.lr": 2e-3}, "train", lambda: None)

    def test_the_preset_says_what_it_has(self, runner: Any) -> None:
        assert runner.preset_value("prior.size") == 4
        assert runner.preset_value("posterior.tau") == 0.3


def test_pictures_are_small(tmp_path: Path) -> None:
    from pictures import draw_curves, draw_pareto, draw_search, draw_sensitivity, smooth

    one = {"mean": 0.2, "low": 0.1, "high": 0.3}
    rng = np.random.default_rng(0)
    curves = {name: rng.random(300).tolist() for name in ("reward", "informative_groups")}
    draw_curves([{"name": name, "curves": curves} for name in "abcdefg" for _ in range(3)], tmp_path / "1.png")
    draw_search({"blind": {1: one, 4: one}, "oracle": {1: one, 4: one}}, {"blade": one}, tmp_path / "2.png")
    draw_pareto({name: {"blade": [(one, one)] * 4} for name in ("ild@5", "mgu@5")}, tmp_path / "3.png")
    draw_sensitivity({"posterior.tau": {"0.3": one, "auto": one}, "prior.size": {"8": one}}, tmp_path / "4.png")
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 4
    assert all(5_000 < size < 100_000 for size in sizes)
    np.testing.assert_allclose(smooth([1.0] * 19 + [3.0] * 41)[[0, 18, 19, 59]], [1, 1, 5 / 3, 3])


PRESET = {
    "data": {"source": "movielens", "k_core": 2, "max_history": 8, "targets": 5, "windows": 3},
    "codec": {"kind": "semantic_id", "levels": 1, "codes": 64, "prompt": "{history}"},
    "model": {"build": {"hidden_size": 32, "layers": 1, "heads": 1, "kv_heads": 1, "ffn_size": 32, "context": 32}},
    "sft": {"epochs": 2, "batch_size": 32},
    "prior": {"size": 4},
    "rollout": {"group_size": 4, "max_num_seqs": 64},
    "train": {"steps": 2, "prompts": 16, "prompts_per_step": 8, "checkpoint_every": 1, "validation_prompts": 10},
    "evaluate": {"metrics": ["ndcg@5", "ild@5", "mgu@5"], "beam_width": 2},
    "tracking": {"tensorboard": False},
}


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    """60 users and 30 movies; a movie is mostly followed by the same other one."""
    folder, rng = tmp_path / "log", np.random.default_rng(0)
    folder.mkdir()
    rows = ["userId,movieId,rating,timestamp"]
    for user in range(60):
        order = (rng.integers(30) + 7 * np.arange(24)) % 30
        late = rng.random(24) < 0.2
        order[late] = rng.permutation(order[late])
        rows += [f"{user},{movie},4.0,{86_400 * user + 900 * place}" for place, movie in enumerate(order)]
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    movies = [f'{movie},"Film {movie}, the (2001)",{"Drama|War" if movie % 3 else "Comedy"}' for movie in range(30)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    return folder


def quality(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "quality.py"), "--folder", str(folder), *options]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for each other take minutes on a busy machine
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=alone)


@pytest.mark.skipif("BLADE_BENCHMARKS" not in os.environ, reason="takes minutes; BLADE_BENCHMARKS=1 runs it")
def test_the_whole_command_resumes_and_says_what_it_found(movielens: Path, tmp_path: Path) -> None:
    """One seed, two targets, two steps, one learning rate: every stage is real."""
    preset, out, runs = tmp_path / "tiny.yaml", tmp_path / "out.json", tmp_path / "runs"
    preset.write_text(yaml.safe_dump(PRESET))
    options = ["--data", str(movielens), "--preset", str(preset), "--seeds", "1", "--rate", "0.002", "--json", str(out)]
    options += ["--target", "static", "--target", "blade"]
    done = quality(runs, *options)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    first = json.loads(out.read_text())
    assert first["held_out_ndcg5"].keys() == {"blade_vs_static", "blade_vs_sft"}
    assert first["held_out_ndcg5"]["blade_vs_sft"].keys() == {"mean", "low", "high"}
    policies = {"popularity", "co-occurrence", "sft", "SASRec", "static", "blade"}
    searches = {f"sft best of {n}{mark}" for n in (2, 4, 8, 16) for mark in ("", " (oracle)")}
    assert set(first["tables"]["greedy"]) == set(first["tables"]["beam"]) == policies
    assert set(first["tables"]["sampled"]) == policies | searches
    assert {"ndcg@5", "coverage", "gini", "miss", "ndcg@5, head items"} <= first["tables"]["greedy"]["blade"].keys()
    assert [cell["name"] for cell in first["cells"]] == ["static", "blade"]
    assert all({"train", "evaluate"} <= cell["seconds"].keys() for cell in first["cells"])
    assert first["seconds"]["seed0/reference"].keys() == {"sft", "prior", "evaluate"}
    rows = pd.read_parquet(out.with_suffix(".parquet"))
    assert len(rows) == (3 * len(policies) + len(searches)) * rows["prompt"].nunique()
    assert {path.name for path in tmp_path.glob("*.png")} == {"out-curves.png", "out-search.png"}
    began = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    again = quality(runs, *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == began
    assert {k: v for k, v in json.loads(out.read_text()).items() if k != "when"} == {
        k: v for k, v in first.items() if k != "when"
    }
    preset.write_text(yaml.safe_dump(PRESET | {"prior": {"size": 8}}))
    other = quality(runs, *options)
    assert other.returncode != 0
    assert "made with another preset" in other.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere"], "no ratings.csv"),
        (["--data", "{log}", "--target", "nothing"], "nothing: unknown"),
        (["--data", "{log}", "--preset", "{preset}"], "validation_prompts is 0"),
        (["--data", "{log}", "--preset", "nowhere.yaml"], "No such file"),
    ],
)
def test_bad_input_is_said_before_anything_runs(options: list[str], said: str, movielens: Path, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(PRESET | {"train": {"validation_prompts": 0}}))
    done = quality(tmp_path / "runs", *(option.format(log=movielens, preset=preset) for option in options))
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()
