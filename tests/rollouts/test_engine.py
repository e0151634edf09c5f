"""Legal lists from the real engine: sampled, greedy and many at once, with exact log-probs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from blade_dist.batches import MISS, Ragged, Rollouts
from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle
from blade_dist.learners.policy import load_model
from blade_dist.rollouts.pool import RunningPool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.rollouts.spec import CPU_BLOCK, EngineSpec, engine_environment
from blade_dist.settings import Config
from blade_dist.store.context import context_length
from blade_dist.store.run import RunPaths
from tests.helpers.engines import Setup
from tests.helpers.runs import random_policy


@pytest.fixture(scope="module", params=["title", "semantic_id"])
def setup(
    request: pytest.FixtureRequest,
    tiny_config: Config,
    tiny_data: DataBundle,
    semantic_run: tuple[Config, DataBundle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Setup]:
    config, data = (tiny_config, tiny_data) if request.param == "title" else semantic_run
    model = random_policy(config, data, tmp_path_factory.mktemp("policy") / "model", tied=True, seed=3)
    spec = EngineSpec.of(config, model, RunPaths(config.run.dir), context_length(model))
    with RunningPool(config, spec, place_here(config, learners=False).engines) as pool:
        yield Setup(config, data, model, pool)


def check_legal(setup: Setup, request: RolloutRequest, rollouts: Rollouts) -> None:
    assert rollouts.invalid.sum() == 0
    assert rollouts.duplicate.sum() == 0
    assert (rollouts.items != MISS).all()
    for row in range(len(request)):
        history = set(setup.data.train.rows(request.prompt[[row]]).seen[0].tolist())
        for items in rollouts.items[row]:
            assert len(set(items.tolist())) == setup.config.lists.k
            assert not history & set(items.tolist())


def test_every_list_is_legal_and_its_logprobs_are_the_learners(setup: Setup) -> None:
    request = setup.request(prompts=40, group=8, temperature=0.8)  # 320 lists over 64 places: they come, go and move
    rollouts = setup.pool.generate(request)
    check_legal(setup, request, rollouts)
    np.testing.assert_allclose(rollouts.logprobs, setup.learner_logprobs(request, rollouts), atol=1e-4)
    assert (rollouts.logprobs[~rollouts.decision] == 0).all()
    if setup.data.codec.separator is None:  # a token for each item: no other is written, and every one is chosen
        assert (rollouts.tokens.lengths == setup.config.lists.k).all()
        assert rollouts.decision.all()
    else:
        assert 0 < rollouts.decision.mean() < 1
    assert len(np.unique(rollouts.items.reshape(-1))) > len(setup.data.catalog) / 2


def test_lists_may_be_cut_off(setup: Setup) -> None:
    request = replace(setup.request(prompts=5, group=2, temperature=1.0), max_tokens=2)
    rollouts = setup.pool.generate(request)
    assert (rollouts.tokens.lengths == 2).all()
    np.testing.assert_allclose(rollouts.logprobs, setup.learner_logprobs(request, rollouts), atol=1e-4)


def test_greedy_lists_are_the_best_legal_tokens(setup: Setup) -> None:
    request = setup.request(prompts=6, group=1, temperature=0.0)
    rollouts = setup.pool.generate(replace(request, group_size=1))
    check_legal(setup, request, rollouts)
    again = setup.pool.generate(request)
    np.testing.assert_array_equal(rollouts.items, again.items)
    best = greedy_by_hand(setup, request)
    assert [rollouts.tokens[row].tolist() for row in range(6)] == best


def greedy_by_hand(setup: Setup, request: RolloutRequest) -> list[list[int]]:
    """One list after another with transformers, the mask put on by hand."""
    from blade_dist.rollouts.constrain import LegalMask

    assert setup.legality is not None
    network = load_model(setup.model, setup.config.model)
    mask = LegalMask(setup.legality, "cpu")
    written = []
    for row in range(len(request)):
        writers = setup.legality.writers(1)
        slot = np.array([0])
        writers.start(slot, request.excluded.take(np.array([row])))
        tokens: list[int] = []
        while writers.count(slot)[0] < setup.config.lists.k:
            ids = torch.tensor([[*request.tokens[row].tolist(), *tokens]])
            with torch.no_grad():
                logits = network(input_ids=ids).logits[0, -1]
            allowed = mask.allowed(writers.legal(slot), len(logits))[0]
            tokens.append(int(logits.masked_fill(~allowed, -torch.inf).argmax()))
            writers.write(slot, np.array(tokens[-1:]))
        written.append(tokens if setup.data.codec.separator is None else [*tokens, setup.data.codec.end])
    return written


def test_beam_search_finds_likelier_lists(setup: Setup) -> None:
    request = setup.request(prompts=6, group=1, temperature=1.0)
    greedy = setup.pool.generate(replace(request, temperature=0.0))
    narrow, wide = (setup.pool.beam_search(request, width) for width in (1, 16))
    np.testing.assert_array_equal(narrow.tokens.flat, greedy.tokens.flat)
    check_legal(setup, request, wide)
    np.testing.assert_allclose(wide.logprobs, setup.learner_logprobs(request, wide), atol=1e-4)

    def scores(rollouts: Rollouts) -> np.ndarray:
        return np.add.reduceat(rollouts.logprobs, rollouts.tokens.offsets[:-1])

    assert scores(wide).mean() > scores(narrow).mean() + 0.01  # a beam may lose the best list of one prompt, not of all


def test_the_best_first_items_are_those_of_the_models_own_logits(setup: Setup) -> None:
    request = setup.request(prompts=6, group=1, temperature=1.0)
    before = setup.pool.generated()
    lists = setup.pool.rank(request)
    ranked = lists.items[:, 0]
    assert ranked.shape == (6, setup.config.lists.k)
    assert lists.tokens.flat.tolist() == setup.data.codec.encode_lists(Ragged.of(list(ranked))).flat.tolist()
    codec = setup.data.codec
    if codec.separator is None:
        assert setup.pool.generated() - before == 6  # one forward pass each
    pool = setup.pool.candidates(request, 10)
    assert (np.diff(pool.scores, axis=1) <= 0).all()
    network = load_model(setup.model, setup.config.model)
    for row, items in enumerate(ranked.tolist()):
        free = np.setdiff1d(np.arange(len(setup.data.catalog)), request.excluded[row])
        assert len({*items}) == len(items)
        assert {*items} <= {*free.tolist()}
        assert len({*pool.items[row].tolist()} & {*free.tolist()}) == 10
        if codec.separator is None:
            with torch.no_grad():
                logits = network(input_ids=torch.from_numpy(request.tokens[row][None].astype(np.int64))).logits[0, -1]
            scores = logits.numpy()[codec.item_tokens.flat[free]]
            order = free[np.argsort(-scores, kind="stable")].tolist()
            assert (items, pool.items[row].tolist()) == (order[: len(items)], order[:10])
            best = np.log(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
            np.testing.assert_allclose(pool.scores[row], np.sort(best)[::-1][:10], atol=1e-4)


def test_a_prompt_beyond_the_context_is_named(setup: Setup) -> None:
    request = setup.request(prompts=2, group=1, temperature=1.0)
    longer = replace(request, tokens=Ragged.of([request.tokens[0], np.tile(request.tokens[1], 30)]))
    with pytest.raises(ray.exceptions.RayTaskError, match=r"prompt 1: its \d+ tokens and the \d+ of the longest list"):
        setup.pool.generate(longer)


PREEMPTED = """
import functools, os, pickle, sys
spec, environment, request, out = pickle.load(open(sys.argv[1], "rb"))
os.environ.update(environment)
import vllm
from vllm.v1.core.sched.scheduler import Scheduler
preempt, times = Scheduler._preempt_request, []
Scheduler._preempt_request = lambda *given, **more: (times.append(1), preempt(*given, **more))[1]
vllm.LLM = functools.partial(vllm.LLM, num_gpu_blocks_override=14)
from blade_dist.rollouts.engine import Engine
rollouts = Engine(spec).generate(request)
pickle.dump((len(times), rollouts), open(out, "wb"))
"""


def test_preempted_lists_go_on_where_they_were(setup: Setup, tmp_path: Path) -> None:
    request = setup.request(prompts=12, group=4, temperature=1.0)
    # of a length that fills a block of the cache, so that lists of three tokens need another one
    filled = Ragged.of([np.tile(request.tokens[row], 5)[: CPU_BLOCK - 1] for row in range(12)])
    request = replace(request, tokens=filled)
    spec = EngineSpec.of(setup.config, setup.model, RunPaths(setup.config.run.dir), 64)
    given = (spec, engine_environment(setup.config, gpu=False), request, str(tmp_path / "out"))
    (tmp_path / "in").write_bytes(pickle.dumps(given))
    done = subprocess.run(
        [sys.executable, "-c", PREEMPTED, str(tmp_path / "in")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    preempted, rollouts = pickle.loads((tmp_path / "out").read_bytes())  # noqa: S301 - made by this test
    assert preempted > 0
    check_legal(setup, request, rollouts)
    np.testing.assert_allclose(rollouts.logprobs, setup.learner_logprobs(request, rollouts), atol=1e-4)
