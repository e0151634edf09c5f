"""Floors and ceilings around an alignment: what is refused when, what is locked, what is said at the end."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import blade_dist.stages.align as stage
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.constraints import oracles, show_limits
from blade_dist.stages.opened import OpenedRun, check_metrics, make_composite
from blade_dist.store.files import read_json
from blade_dist.store.policy import PolicyStamp
from blade_dist.store.run import RunPaths

LISTS = np.array([0.1, 0.2, 0.6])
"""What a constrained metric is in the reference lists of every prompt, but the first."""
FIRST = np.array([0.1, 0.2, 0.9])


def loads(folder: Path, *limits: str) -> Config:
    return load_config(None, [f"run.dir={folder / 'run'}", "lists.k=3", "evaluate.metrics=[hr@3]", *limits])


def opened(config: Config, data: DataBundle) -> OpenedRun:
    """A run on the data, of a reference that nobody made."""
    reference = PolicyStamp("sft", 0, "codec", "weights")
    composite = make_composite(config, data, config.reward.scored)
    return OpenedRun(config, data, RunPaths(config.run.dir), reference, composite, np.arange(len(data.train)))


def own_metric(lists: Any) -> np.ndarray:
    return lists.hits.mean(axis=1)


def test_metrics_that_look_at_held_out_items_are_oracles(small: DataBundle, tmp_path: Path) -> None:
    own = f"{__name__}:own_metric"
    limits = (f"reward.at_least={{ndcg@3: 0, ild@3: 0, '{own}': 0}}", "reward.at_most={mgu@3: 1, mrr@2: 1}")
    config = loads(tmp_path, "reward.weights={hr@3: 1}", *limits)
    assert oracles(opened(config, small)) == {"ndcg@3", "mrr@2", own}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.at_least={ndgc@3: 0.1}", "reward.at_least 'ndgc@3': unknown metric; did you mean ndcg@3?"),
        ("reward.at_most={mgu@4: 0.1}", "reward.at_most 'mgu@4': write mgu@N with N from 1 to lists.k = 3"),
        ("reward.weights={ndgc@3: 0.1}", "reward.weights 'ndgc@3': unknown metric"),
    ],
)
def test_a_typo_is_reported_where_it_stands(small: DataBundle, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_metrics(loads(tmp_path, "reward.weights={hr@3: 1}", setting), small)
    assert message in str(error.value)


def nothing(*_: Any) -> Any:
    return nullcontext(MagicMock())


class Run:
    """The stage without engines and learners: what they would leave is written at once."""

    def __init__(self, folder: Path, data: DataBundle, patch: pytest.MonkeyPatch, has_prior: bool) -> None:
        self.folder, self.data, self.started = folder, data, False
        self.paths = RunPaths(folder / "run")
        self._has_prior = has_prior
        patch.setattr(stage, "ray", SimpleNamespace(get=lambda answers: answers))
        patch.setattr(stage, "ray_runtime", nothing)
        patch.setattr(stage, "scorer_of", nothing)
        patch.setattr(stage, "engines", self._engines)
        patch.setattr(stage, "placement_table", lambda *_: "")
        patch.setattr(stage, "cluster_nodes", list)
        patch.setattr(stage, "build_prior", self._build)
        patch.setattr(stage, "_fit", self._learn)
        patch.setattr(stage, "publish", nothing)

    def align(self, *limits: str) -> str:
        """What is said on the console."""
        run = opened(loads(self.folder, "reward.weights={hr@3: 1}", *limits), self.data)
        if self._has_prior:
            self._write_prior(run)
        console = Console(record=True, width=300)
        stage.align_stage(run, console, MagicMock(colocated=False))
        return console.export_text()

    def _write_prior(self, run: OpenedRun) -> None:
        writer = PriorWriter(self.paths.prior, run.prior_stamp)
        values = np.tile(LISTS, (len(run.rows), 1))
        values[0] = FIRST
        writer.add(run.rows, values, dict.fromkeys(run.config.reward.constrained, values))
        writer.finish()

    def _engines(self, *_: Any) -> Any:
        self.started = True
        return nullcontext(MagicMock())

    def _build(self, run: OpenedRun, *_: Any) -> Prior:
        self._write_prior(run)
        return Prior.load(self.paths.prior, run.prior_stamp)

    def _learn(self, run: OpenedRun, *_: Any) -> object:
        constrained = run.config.reward.constrained
        row = {f"reward/{name}": 0.3 for name in constrained}
        rows = [
            {"step": at, "reward": 0.5, **row, **{f"multiplier/{name}": 0.25 for name in constrained}} for at in (0, 1)
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.paths.target("blade") / "metrics.parquet")
        return object()


@pytest.mark.parametrize("has_prior", [True, False])
def test_a_floor_out_of_reach_locks_nothing(
    small: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_prior: bool
) -> None:
    run = Run(tmp_path, small, monkeypatch, has_prior)
    with pytest.raises(UserError, match=r"^reward\.at_least\.ndcg@3: 0\.7 is out of reach: .* have 0\.6075 on average"):
        run.align("reward.at_least={ndcg@3: 0.7}")
    assert run.started is not has_prior
    assert not run.paths.target("blade").exists()
    said = run.align("reward.at_least={ndcg@3: 0.2}")
    assert (
        "train: reward.at_least.ndcg@3: 0.2 is kept: 0.3 on average in the last tenth of the steps, multiplier 0.25\n"
        in said
    )
    assert (read_json(run.paths.target("blade") / "stage.json") or {})["done"]


def test_the_prior_is_opened_once(small: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened_files, load = Run(tmp_path, small, monkeypatch, has_prior=True), [], Prior.load

    def counted(path: Path, stamp: dict[str, Any]) -> Prior:
        opened_files.append(path)
        return load(path, stamp)

    monkeypatch.setattr(Prior, "load", counted)
    run.align("reward.at_least={ndcg@3: 0.2}")
    assert opened_files == [run.paths.prior]


def test_a_floor_above_a_prompt_s_own_lists_is_a_warning(
    small: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, small, monkeypatch, has_prior=True)
    said = run.align("reward.at_least={ild@3: 0.7}")
    assert "train: warning: reward.at_least.ild@3: 0.7 may be out of reach: the best of 3 reference lists" in said
    assert "train: warning: reward.at_least.ild@3: 0.7 is missed: 0.3 on average" in said
    assert "more train.steps, a higher reward.multiplier_lr or an easier limit may help" in said


def test_each_limit_of_a_metric_has_a_line_of_late_steps(tmp_path: Path) -> None:
    config = loads(tmp_path, "reward.at_least={ild@3: 0.2}", "reward.at_most={ild@3: 0.4}")
    columns = ("reward/ild@3", "multiplier/at_least/ild@3", "multiplier/at_most/ild@3")
    rows = [dict(zip(columns, values, strict=True)) for values in [(0.0, 3, 0)] * 18 + [(0.4, 1, 0.5), (0.6, 0, 2)]]
    console = Console(record=True, width=300)
    show_limits(config.reward, rows, console)
    floor, ceiling = console.export_text().splitlines()
    assert floor == (
        "train: reward.at_least.ild@3: 0.2 is kept: 0.5 on average in the last tenth of the steps, multiplier 0"
    )
    assert ceiling.startswith("train: warning: reward.at_most.ild@3: 0.4 is missed: 0.5 on average")
    assert "multiplier 2; more train.steps" in ceiling
