"""The ranker's tables: when they are made, and what the policy's own hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from rich.console import Console

from blade_dist.batches import Ranked
from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.learners.policy import load_model
from blade_dist.rewards.ranker import RankerTable
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.actors import engines
from blade_dist.stages.opened import OpenedRun, check_metrics, make_composite, open_run
from blade_dist.stages.prior import build_prior
from blade_dist.stages.ranker_tables import ranked_by, scorer_of
from blade_dist.store.run import RunPaths
from blade_dist.training.prompter import Prompter
from tests.helpers.runs import random_policy

ROWS = np.arange(0, 40, 2)


def settings(folder: Path, *changes: str) -> Config:
    given = [f"run.dir={folder}", "lists.k=3", "reward.weights={expected_ndcg@3: 1.0}", "train.validation_prompts=0"]
    return load_config(None, [*given, "evaluate.metrics=[hr@3]", "reward.ranker_top=4", *changes])


def opened(config: Config, data: DataBundle, weights: str = "w") -> OpenedRun:
    policy: Any = SimpleNamespace(weights=weights)
    composite = make_composite(config, data, config.reward.scored)
    return OpenedRun(config, data, RunPaths(config.run.dir), policy, composite, np.arange(len(data.train)))


def made(run: OpenedRun, rows: np.ndarray = ROWS) -> str:
    """What is said."""
    console = Console(record=True, width=300)

    def candidates(prompts: np.ndarray, size: int) -> Ranked:
        items = np.tile(np.arange(size, dtype=np.int32), (len(prompts), 1))
        return Ranked(items, np.full(items.shape, np.log(0.2)))

    ranked_by(run, "train", rows, console, candidates)
    return console.export_text().strip()


def test_a_table_is_made_once_and_anew_when_something_changed(small: DataBundle, tmp_path: Path) -> None:
    run = opened(settings(tmp_path), small)
    path = run.paths.ranker("train")
    first = f"ranker: {path} has the 4 likeliest items of 20 train prompts, 80% of the probability on average"
    assert made(run) == first
    assert made(run, ROWS[3:7]) == ""
    assert made(run, np.arange(40)) == first.replace("20 train", "40 train")  # a prompt was missing
    anew = ", made anew (reward.ranker_top: 4 there, 5 now)"
    wider = opened(settings(tmp_path, "reward.ranker_top=5"), small)
    assert made(wider).endswith(f"100% of the probability on average{anew}")
    other = opened(settings(tmp_path, "reward.ranker_top=5"), small, weights="v")
    assert made(other).endswith("made anew (the fine-tuned model: w there, v now)")
    assert RankerTable.load(path).ranked.items.shape == (20, 5)


def test_the_prior_depends_on_the_ranker_where_the_reward_reads_it(small: DataBundle, tmp_path: Path) -> None:
    def stamp(*changes: str) -> dict[str, Any]:
        return opened(settings(tmp_path, *changes), small).prior_stamp

    assert stamp()["reward.ranker"] == "policy"
    assert stamp() != stamp("reward.ranker_top=7")
    blind = ("reward.weights={hr@3: 1.0}", "evaluate.metrics=[expected_recall@3]")
    assert stamp(*blind) == stamp(*blind, "reward.ranker_top=7")


def test_a_file_is_read_for_every_split_that_needs_it(small: DataBundle, tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(40)]
    columns = {
        "user": users,
        "items": [["i0", "i1", "i2", "i3", "i4"]] * 40,
        "probabilities": [[0.3, 0.2, 0.1, 0.1, 0.1]] * 40,
    }
    file = tmp_path / "scores.parquet"
    pq.write_table(pa.table(columns), file)
    config = settings(tmp_path / "run", f"reward.ranker={file}")
    check_metrics(config, small)
    run = opened(config, small)
    assert "4 likeliest items of 20 train prompts" in made(run)
    table = RankerTable.load(run.paths.ranker("train"))
    seen = small.train.rows(ROWS).seen
    for row, items in enumerate(table.ranked.items.tolist()):
        kept = [item for item in range(5) if item not in seen[row]]
        assert items == (kept + [-1] * 4)[:4]
    pq.write_table(pa.table({name: values[:-1] for name, values in columns.items()}), file)
    with pytest.raises(UserError, match=r"1 of 40 train prompts lack a row, the first is prompt 39, of user 'u39'"):
        check_metrics(config, small)
    assert "made anew (the file of reward.ranker: " in made(opened(config, small), ROWS[:5])


def test_a_policy_of_titles_is_told_how_many_to_search_for(small: DataBundle, tmp_path: Path) -> None:
    titles: Any = SimpleNamespace(item_blocks=SimpleNamespace(lengths=np.array([1, 3])))
    data = DataBundle(**{**vars(small), "codec": titles})
    config = settings(tmp_path)
    check_metrics(config, data)
    unset = config.model_copy(update={"reward": config.reward.model_copy(update={"ranker_top": None})})
    with pytest.raises(UserError, match=r"^reward\.ranker: items have several tokens, .* set reward\.ranker_top"):
        check_metrics(unset, data)


@pytest.mark.slow
def test_the_policy_s_own_ranking_has_one(semantic_run: tuple[Config, DataBundle], tmp_path: Path) -> None:
    """Its table holds its probabilities, the prior is rewarded by them, and its ranking can't be better."""
    config, data = semantic_run
    values = config.model_dump()
    values["run"]["dir"] = tmp_path
    values["reward"].update(weights={"expected_ndcg@3": 1.0}, ranker_top=12)
    values["evaluate"].update(metrics=["ndcg@3"])
    values["train"].update(prompts=12, validation_prompts=0)
    config = Config.model_validate(values)
    paths = RunPaths(tmp_path)
    paths.data.symlink_to(semantic_run[0].run.dir / "data")
    random_policy(config, data, paths.reference, tied=True)
    run, console = open_run(config), Console(record=True, width=200)
    request = Prompter(data.train, data.codec, 0, True).request(run.rows, 1, 1.0, "test")
    roles = place_here(config, learners=False).engines

    with (
        engines(config, paths, paths.reference, roles) as pool,
        scorer_of(run, pool, "train", run.rows, console) as reward,
    ):
        prior = build_prior(run, pool, reward, console)
        ranking = ray.get(reward.score(pool.rank(request)))
    assert (ranking.total == 1).all()
    assert ((prior.rewards >= 0) & (prior.rewards <= 1)).all()
    assert len(np.unique(prior.rewards)) > len(run.rows)  # dense: not the few levels of a hit
    table = RankerTable.load(paths.ranker("train"))
    assert "likeliest items of 12 train prompts" in console.export_text()
    prompts = data.train.rows(run.rows[:1])
    free = np.setdiff1d(np.arange(len(data.catalog)), prompts.seen.flat)
    tokens = data.codec.item_blocks.flat[free].astype(np.int64)
    model = load_model(paths.reference, config.model).eval()
    with torch.no_grad():
        prompt = torch.from_numpy(data.codec.encode_prompts(prompts.history)[0][None].astype(np.int64))
        expected = model(input_ids=prompt).logits[0, -1][torch.from_numpy(tokens)].log_softmax(0).numpy()
    best = np.argsort(-expected)[:12]
    found = table.of(run.rows[:1])
    np.testing.assert_array_equal(found.items[0], free[best])
    np.testing.assert_allclose(found.scores[0], expected[best], atol=1e-4)
