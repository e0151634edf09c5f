"""The quality table of pooled rows, its verdicts, its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality import compare
from benchmarks.quality.compare import Numbers, verdict
from benchmarks.quality.movielens import pair_of
from benchmarks.quality.pictures import draw_curves, draw_pareto, draw_search, draw_sensitivity, smooth
from benchmarks.quality.pooled import PooledRows
from benchmarks.tables import movielens as quality_tables
from benchmarks.tables.aligned import aligned
from benchmarks.tables.pages import filled
from blade_dist.data.bundle import DataBundle
from blade_dist.evaluation.per_user import per_user_rows
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("file", ["docs/results.md"])
def test_tables_are_what_the_results_say(file: str) -> None:
    text = (ROOT / file).read_text()
    assert filled(text) == text, f"run: python -m benchmarks.tables {file}"


class TestTable:
    @pytest.fixture
    def pooled(self, small: DataBundle, tmp_path: Path) -> object:
        """Two seeds; BLADE's greedy lists begin with the first target, some of the others' do."""
        test = small.test.rows(np.arange(len(small.test)))
        known = {"ndcg@5": 1.0, "ild@5": 0.0}
        reward = Composite(known, small.catalog, 5)
        pooled = PooledRows(small, {"all": test.targets})
        for seed in range(2):
            rng = np.random.default_rng(seed)
            free = [np.setdiff1d(np.arange(12), row) for row in test.targets]
            tables = []
            for policy, hits in (("sft", 0.3), ("static", 0.3), ("blade", 1.0), ("grpo", 0.3)):
                for decode in ("list", "sampled"):
                    items = np.stack([rng.permutation(row)[:5] for row in free]).astype(np.int32)
                    first = np.array([row[0] for row in test.targets])
                    items[:, 0] = np.where(
                        rng.random(len(items)) < (hits if decode == "list" else 0.3), first, items[:, 0]
                    )
                    lists = Lists(items, test.targets, test.history, small.catalog, test.user)
                    tables.append(per_user_rows(policy, decode, test, lists, reward, reward))
            path = tmp_path / f"{seed}.parquet"
            pq.write_table(pa.concat_tables(tables), path)
            pooled.add(path, seed)
        return pooled

    def test_each_seed_has_its_rows_in_a_file(self, pooled: object, small: DataBundle, tmp_path: Path) -> None:
        pooled.save(tmp_path / "rows.parquet")
        files = sorted(tmp_path.glob("rows-seed*.parquet"))
        assert [set(pd.read_parquet(file)["seed"]) for file in files] == [{0}, {1}]
        rows = pd.concat(map(pd.read_parquet, files))
        assert len(rows) == 2 * 4 * 2 * len(small.test)
        assert {"seed", "policy", "decode", "user", "prompt", "items", "reward", "ndcg@5", "ndcg@5, all"} <= set(rows)
        means = rows.groupby(["seed", "policy", "decode"])["reward"].mean()
        for decode, policies in pooled.by_seed("reward").items():
            for policy, seeds in policies.items():
                assert list(seeds.values()) == pytest.approx([means[int(seed), policy, decode] for seed in seeds])

    def test_what_is_clearly_better_is_significant(self, pooled: object) -> None:
        numbers = compare.Numbers(pooled)
        rows = numbers.comparisons(["blade", "static", "grpo"], ["ndcg@5"])
        tested = [row for row in rows if "p" in row]
        pairs = ["blade sft", "blade static", "static sft", "grpo sft", "grpo static", "grpo blade"]
        assert [f"{row['policy']} {row['against']}" for row in tested] == pairs
        assert all(row["p_holm"] >= row["p"] for row in tested)
        significant = {f"{row['policy']} {row['against']}" for row in tested if row["significant"]}
        assert significant == {"blade sft", "blade static", "grpo blade"}
        assert compare.verdict(rows, "blade", "ndcg@5") == "greedy lists are better"
        greedy = pooled.rows("blade", "list")["ndcg@5"] - pooled.rows("sft", "list")["ndcg@5"]
        headline = compare.headline(numbers, rows)["blade_vs_sft"]
        assert headline["mean"] == pytest.approx(greedy.mean())
        whole = pooled.rows("blade", "list")["ndcg@5"].mean() / pooled.rows("sft", "list")["ndcg@5"].mean()
        assert headline["relative"]["mean"] == pytest.approx(whole - 1)

    def test_a_trade_is_reached_with_enough_of_the_metric_at_no_loss(
        self, pooled: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        numbers = compare.Numbers(pooled)
        relative = numbers.ratio("blade", "sft", "ild@5")["mean"]
        for asked, reached in ((relative / 2, True), (relative * 2, False), (-relative, False)):
            monkeypatch.setitem(compare.ASKED, "ild@5", asked)
            trade = numbers.trade("blade", "ild@5", {"static": "static"})
            assert trade["reached"] is reached
            assert trade["relative_to_sft"]["mean"] == relative
        difference = pooled.rows("blade", "list")["ild@5"] - pooled.rows("static", "list")["ild@5"]
        assert trade["against"]["static"]["ild@5"]["mean"] == pytest.approx(difference.mean())
        cost = pooled.rows("blade", "list")["ndcg@5"] - pooled.rows("sft", "list")["ndcg@5"]
        assert trade["ndcg@5_minus_sft"]["mean"] == pytest.approx(cost.mean())

    def test_the_readme_s_tables_are_read_off_the_result(self, pooled: object) -> None:
        numbers = compare.Numbers(pooled)
        compared = numbers.comparisons(["static", "blade"], ["ndcg@5"])
        trade = numbers.trade("blade", "ild@5", {"static": "static"})
        result = {"tables": numbers.table(), "comparisons": compared, "pareto": {"trades": [trade]}}
        result["prompts"] = pooled.prompts()
        head, *rows = quality_tables.policies(result)
        assert head == ["list", "ndcg@5", "ild@5", "coverage", "gini ↓", "invalid or repeated ↓"]
        assert [row[0] for row in rows] == ["SFT", "static (tau = 0)", "BLADE", "GRPO (raw reward)"]
        mean = pooled.rows("blade", "list")["ndcg@5"].mean()
        assert rows[2][1].startswith(f"{mean:.4f} [")
        assert quality_tables.decodes(result)[0] == ["ndcg@5", "list", "sampled"]
        gained = {row[0]: row for row in quality_tables.gains(result)[1:]}
        assert gained["BLADE"][3] == ""  # no beam search
        assert gained["BLADE"][5] == "greedy lists are better"
        assert gained["static (tau = 0)"][6:] == ["", ""]
        assert quality_tables.slices(result)[:2] == [["greedy NDCG@5", "all"], ["prompts", "40"]]
        heads, traded = quality_tables.trades(result)
        assert (traded[:2], heads[-1]) == (["blade", "ild@5"], "metric, minus static (tau = 0)")
        other = pooled.rows("static", "list")["ild@5"].mean()
        assert traded[-1].startswith(f"{pooled.rows('blade', 'list')['ild@5'].mean() - other:+.4f} [")

    def test_static_and_blade_are_read_beside_each_other_for_every_prior(self, pooled: object) -> None:
        names = {"static": "static", "blade": "blade"}
        known = [("static", 0.2), ("static", 0.4), ("blade", 0.6), ("blade", 0.8)]
        summaries = [{"name": name, "informative_groups": of} for name, of in known]
        row = {"lists": 8, **pair_of(names, compare.Numbers(pooled), summaries)}
        head, line = quality_tables.references({"references": {"rows": [row]}})
        assert len(head) == len(line)
        static, blade, sft = (pooled.rows(name, "list")["ndcg@5"].mean() for name in ("static", "blade", "sft"))
        expected = (f"{static - sft:+.4f} [", f"{blade - sft:+.4f} [", f"{blade - static:+.4f} [")
        assert all(cell.startswith(begin) for cell, begin in zip(line[1:4], expected, strict=True))
        assert line[4].startswith(f"{blade / static - 1:+.0%} [")
        assert line[5:] == ["0.30", "0.70"]

    def test_a_changed_setting_is_read_beside_the_preset_s(self, pooled: object) -> None:
        numbers = compare.Numbers(pooled)
        read = {"informative_groups": 0.5, "validation": 0.25}
        of = {"1": numbers.table()["list"]["blade"]["ndcg@5"] | {"minus_preset": None, **read}}
        difference = numbers.minus("static", "blade", "ndcg@5")
        of["2"] = numbers.table()["list"]["static"]["ndcg@5"] | {"minus_preset": difference, **read}
        result = {"sensitivity": {"ndcg@5": {"prior.size": of}}}
        head, own, other = quality_tables.sensitivity(result)
        assert head[0] == "BLADE"
        assert own[2:] == ["", "0.50", "0.2500"]
        means = {policy: pooled.rows(policy, "list")["ndcg@5"].mean() for policy in ("static", "blade")}
        assert other[0] == "`prior.size: 2`"
        assert other[1].startswith(f"{means['static']:.4f} [")
        assert other[2].startswith(f"{means['static'] - means['blade']:+.4f} [")

    def test_a_policy_that_lacks_a_seed_is_refused(self, pooled: object, tmp_path: Path) -> None:
        pooled.save(tmp_path / "rows.parquet")
        rows = pd.read_parquet(tmp_path / "rows-seed0.parquet").query("policy == 'blade'")
        rows.drop(columns=["seed", "ndcg@5, all"]).to_parquet(tmp_path / "one.parquet")
        pooled.add(tmp_path / "one.parquet", 0, {"blade": "half"})
        with pytest.raises(ValueError, match="half, list"):
            Numbers(pooled).table()

    def test_a_gain_of_samples_alone_is_no_gain_of_lists(self) -> None:
        def said(greedy: float, significant: bool, sampled_low: float) -> str:
            key = {"policy": "p", "against": "sft", "column": "c"}
            rows = [
                {**key, "decode": "list", "mean": greedy, "significant": significant},
                {**key, "decode": "sampled", "low": sampled_low},
            ]
            return verdict(rows, "p", "c")

        assert said(0.1, False, 0.1) == "better samples alone"
        assert said(0.1, True, 0.1) == "greedy lists are better"
        assert said(-0.1, True, 0.1) == "greedy lists are worse"
        assert said(0.1, False, -0.1) == "no gain shown"


def test_pictures_are_small(tmp_path: Path) -> None:
    one = {"mean": 0.2, "low": 0.1, "high": 0.3}
    rng = np.random.default_rng(0)
    curves = {name: rng.random(300).tolist() for name in ("reward", "informative_groups")}
    draw_curves({name: [curves] * 3 for name in "abcdefg"}, tmp_path / "1.png")
    draw_search({"blind": {1: one, 4: one}, "oracle": {1: one, 4: one}}, {"blade": one}, tmp_path / "2.png")
    draw_pareto({name: {"blade": [(one, one)] * 4} for name in ("ild@5", "mgu@5")}, tmp_path / "3.png")
    draw_sensitivity({"posterior.tau": {"0.3": one, "auto": one}, "prior.size": {"8": one}}, tmp_path / "4.png")
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 4
    assert all(1_000 < size < 100_000 for size in sizes)
    np.testing.assert_allclose(smooth([1.0] * 19 + [3.0] * 41)[[0, 18, 19, 59]], [1, 1, 5 / 3, 3])


def test_an_alignment_stands_beside_what_re_ranks_the_fine_tuned_model() -> None:
    def row(mean: float) -> dict[str, dict[str, float]]:
        one = {"mean": mean, "low": mean, "high": mean}
        return {"reward": one, "hr@10": one, "ndcg@10": one, "ild@10": one}

    policies = {"sft": 0.1, "static": 0.3, "blade": 0.5}
    tables = {
        "list": {name: row(mean + 0.1) for name, mean in policies.items()},
        "rank": {name: row(mean) for name, mean in policies.items()} | {"sft mmr 0.1": row(0.45), "EASE": row(9.0)},
    }
    head, *lines = aligned({"tables": tables})
    assert head == ["method", "reward", "hr@10", "ndcg@10", "ild@10"]
    assert [line[0] for line in lines] == [
        *("SFT, `rank`", "SFT, `list`", "static (tau = 0), `rank`", "static (tau = 0), `list`"),
        *("sft mmr 0.1", "BLADE, `rank`", "BLADE, `list`"),
    ]
    assert lines[0][1] == "0.1000 [0.1000, 0.1000]"
