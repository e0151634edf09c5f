"""The pipeline between real Ray objects: engines, scorer and estimator are doubles that answer at once, or when let."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import ray

from blade_dist.batches import Estimates, LearnBatch, Ragged, Rewards, Rollouts
from blade_dist.data.bundle import DataBundle
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rollouts.asked import Asked, Part
from blade_dist.rollouts.health import Life
from blade_dist.rollouts.pool import EnginePool, NobodyServesError
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config, RolloutSettings
from blade_dist.training.pipeline import PUSH, HeldOut, Roles, StepPipeline

PROMPTS, GROUP, K, PARTS = 10, 4, 3, 3
WAIT_S = 20


def written(request: RolloutRequest) -> Rollouts:
    """Lists that are a function of the request's seeds."""
    prompts, group = len(request), request.group_size
    rng = np.random.default_rng(request.seed.astype(np.uint64))
    tokens = Ragged.of([rng.integers(2, 30, rng.integers(2, 6)) for _ in range(prompts * group)])
    return Rollouts(
        prompt=request.prompt,
        items=rng.integers(0, 9, (prompts, group, K), dtype=np.int32),
        tokens=tokens,
        logprobs=rng.normal(size=len(tokens.flat)).astype(np.float32),
        decision=rng.random(len(tokens.flat)) < 0.5,
        version=np.ones((prompts, 2), np.int64),
        invalid=np.zeros((prompts, group), np.int32),
        duplicate=np.zeros((prompts, group), np.int32),
        seconds=np.ones(1),
    )


def judged(lists: Rollouts) -> Rewards:
    total = lists.items.sum(axis=2).astype(np.float64)
    return Rewards(lists.prompt, total, {"sum": total}, lists.digests())


class Engines(EnginePool):
    """Writes a request in several parts; one for a refresh waits until it may."""

    def __init__(self) -> None:
        super().__init__(None, RolloutSettings(request_timeout_s=WAIT_S))
        self.refreshing, self.may_refresh = threading.Event(), threading.Event()
        self.may_refresh.set()
        self.requests: list[RolloutRequest] = []

    def submit(self, request: RolloutRequest) -> Asked:
        self.requests.append(request)
        rows = np.array_split(np.arange(len(request)), PARTS)
        parts = [Part(own, Life(0, 1), ray.put(written(request.take(own)))) for own in rows]
        return Asked(request, "generate", (), parts)

    def generate(self, request: RolloutRequest) -> Rollouts:
        self.refreshing.set()
        assert self.may_refresh.wait(WAIT_S)
        return written(request)


def remote(function: Callable[..., Any]) -> SimpleNamespace:
    """As an actor's method: values for references, and a reference for the answer."""

    def call(*arguments: Any) -> Any:
        return ray.put(function(*(ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in arguments)))

    return SimpleNamespace(remote=call)


def score(_: object, *lists: Rollouts) -> Rewards:
    return judged(Rollouts.concat(lists))


def estimate(attempt: int, step: int, rewards: Rewards, judged_by: Rewards | None) -> Estimates:
    advantage = (rewards.total - rewards.total.mean(axis=1, keepdims=True)).astype(np.float32)
    imitated = None if judged_by is None else judged_by.total.argmax(axis=1)
    return Estimates(rewards.prompt, rewards.total, advantage, np.ones(len(advantage), bool), {}, imitated)


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def make(tiny_config: Config, tiny_data: DataBundle, engines: Engines) -> Callable[..., StepPipeline]:
    def pipeline(workers: int = 1, **changed: Any) -> StepPipeline:
        train = tiny_config.train.model_copy(update={"prompts_per_step": PROMPTS, "steps": 4})
        learner = tiny_config.learner.model_copy(update={"workers": workers})
        config = tiny_config.model_copy(update={"train": train, "learner": learner, **changed})
        scorer = RewardHandle(SimpleNamespace(score=remote(score)))
        estimator = SimpleNamespace(estimate=remote(estimate), refresh=remote(print))
        roles = Roles(engines, scorer, estimator, None)
        made = StepPipeline(config, np.arange(20), config.run.dir)
        made.begin = partial(made.begin, roles=roles)  # type: ignore[method-assign]
        return made

    return pipeline


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many parts each join of lists had."""
    joins: list[int] = []
    plain = Rollouts.concat.__func__  # type: ignore[attr-defined]

    def concat(cls: type[Rollouts], parts: list[Rollouts]) -> Rollouts:
        joins.append(len(parts))
        return cast(Rollouts, plain(cls, parts))

    with monkeypatch.context() as patch:
        patch.setattr(Rollouts, "concat", classmethod(concat))
        yield joins


def taken(pipeline: StepPipeline, attempt: int, step: int, ranks: int) -> list[LearnBatch]:
    """All ranks take the step at once."""
    with ThreadPoolExecutor(ranks) as pool:
        answers = list(pool.map(lambda rank: pipeline.take(attempt, step, rank), range(ranks)))
    return [ray.get(answer[0]) for answer in answers if isinstance(answer, tuple)]


@pytest.mark.parametrize("ranks", [1, 32])
def test_a_step_is_joined_once_however_many_ranks_take_it(
    make: Callable[..., StepPipeline], monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    pipeline = make(workers=ranks)
    attempt = pipeline.begin(0)
    with counted(monkeypatch) as joins:
        taken(pipeline, attempt, 0, ranks)
    assert joins == [PARTS, PARTS]  # by the double of the scorer, and by the pipeline


def test_one_that_was_started_again_answers_no_earlier_attempt(tiny_config: Config, tiny_data: DataBundle) -> None:
    again = StepPipeline(tiny_config, np.arange(20), tiny_config.run.dir)
    with pytest.raises(RuntimeError, match="attempt 1 takes step 3, but attempt 0 is running"):
        again.take(1, 3, 0)
    with pytest.raises(RuntimeError, match="the pipeline was started again"):
        again.validate()


def test_fresh_prompts_are_sampled_as_those_of_a_step(
    make: Callable[..., StepPipeline], engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, scorer = make(), RewardHandle(SimpleNamespace(score=remote(score)))
    asked: list[RolloutRequest] = []

    def generate(request: RolloutRequest) -> Rollouts:
        asked.append(request)
        return written(request)

    monkeypatch.setattr(engines, "generate", generate)
    pipeline.begin(0)
    assert pipeline.sample_fresh() == {}  # nothing is held out
    rows = np.arange(1, 9, 2)
    pipeline.begin(0, roles=Roles(engines, scorer, None, HeldOut(rows, scorer)))
    found = pipeline.sample_fresh()
    assert (asked[0].prompt.tolist(), asked[0].temperature) == (rows.tolist(), 1.0)
    means = judged(written(asked[0])).total.mean(axis=1)
    assert found == {
        "fresh_reward": pytest.approx(means.mean()),
        "fresh_error": pytest.approx(means.std(ddof=1) / np.sqrt(len(rows))),
    }
    validated = pipeline.validate()
    assert asked[1].temperature == 0.0
    assert validated == found | {
        name: pytest.approx(judged(written(asked[1])).total.mean()) for name in ("validation", "validation/sum")
    }


@pytest.mark.parametrize("target", ["blade", "bond"])
def test_the_shares_are_the_whole_batch(make: Callable[..., StepPipeline], engines: Engines, target: str) -> None:
    pipeline = make(workers=3, target=target)
    attempt = pipeline.begin(0)
    if target == "bond":
        pipeline.write_anchor(attempt, 0)
    shares = taken(pipeline, attempt, 0, 3)
    request = engines.requests[-1]
    assert (len(engines.requests), request.group_size) == (2 if target == "bond" else 1, GROUP)
    assert [len(share.prompt_tokens) for share in shares] == [4, 3, 3]
    lists = Rollouts.concat([written(request.take(own)) for own in np.array_split(np.arange(PROMPTS), PARTS)])
    assert Rollouts.concat([share.rollouts for share in shares]).digests().tolist() == lists.digests().tolist()
    assert [t.tolist() for share in shares for t in share.prompt_tokens] == [t.tolist() for t in request.tokens]
    advantage = estimate(attempt, 0, judged(lists), None).advantage
    np.testing.assert_array_equal(np.concatenate([share.estimates.advantage for share in shares]), advantage)
    assert {share.decision_tokens for share in shares} == {int(lists.decision.sum())}
    if target == "bond":
        imitated = [share.imitated.prompt for share in shares if share.imitated is not None]
        assert np.concatenate(imitated).tolist() == request.prompt.tolist()


def test_nobody_waits_for_a_refresh_but_the_ranks_that_need_it(
    make: Callable[..., StepPipeline], tiny_config: Config, engines: Engines
) -> None:
    pipeline = make(workers=2, prior=tiny_config.prior.model_copy(update={"refresh_every": 1}))
    attempt = pipeline.begin(0)
    taken(pipeline, attempt, 0, 2)
    engines.may_refresh.clear()
    with ThreadPoolExecutor(4) as pool:
        ranks = [pool.submit(pipeline.take, attempt, 1, rank) for rank in range(2)]
        assert engines.refreshing.wait(WAIT_S)
        try:
            pool.submit(pipeline.stop).result(WAIT_S)
            assert pool.submit(pipeline.stopped).result(WAIT_S) is False
            assert not any(rank.done() for rank in ranks)
        finally:
            engines.may_refresh.set()
        assert all(rank.result(WAIT_S) is not None for rank in ranks)  # the step was begun before the stop
    assert pipeline.take(attempt, 2, 0) is None
    assert pipeline.stopped()


def test_a_new_attempt_does_not_wait_for_an_old_one_s_refresh(
    make: Callable[..., StepPipeline], tiny_config: Config, engines: Engines
) -> None:
    pipeline = make(prior=tiny_config.prior.model_copy(update={"refresh_every": 1}))
    old = pipeline.begin(0)
    engines.may_refresh.clear()
    with ThreadPoolExecutor(4) as pool:
        dead = pool.submit(pipeline.take, old, 1, 0)
        assert engines.refreshing.wait(WAIT_S)
        try:
            new = pool.submit(pipeline.begin, old).result(WAIT_S)
            assert pool.submit(pipeline.take, new, 0, 0).result(WAIT_S) is not None
        finally:
            engines.may_refresh.set()
        with pytest.raises(BaseException, match=r"attempt 1 takes step 1, but attempt 2 is running|^$"):
            dead.result(WAIT_S)


def test_what_fails_fails_for_every_rank(make: Callable[..., StepPipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(workers=2)
    attempt = pipeline.begin(0)

    def broken(*_: Any) -> Asked:
        raise RuntimeError("no engine is left")

    monkeypatch.setattr(Engines, "submit", broken)
    for rank in range(2):
        with pytest.raises(RuntimeError, match="no engine is left"):
            pipeline.take(attempt, 0, rank)


@pytest.mark.parametrize("where", ["submit", "settled"])
def test_where_nobody_serves_every_rank_is_asked_for_a_push_and_the_step_is_made_again(
    make: Callable[..., StepPipeline], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    plain = make(workers=2)
    want = taken(plain, plain.begin(0), 0, 2)
    pipeline = make(workers=2)
    attempt = pipeline.begin(0)

    def nobody(*_: Any) -> Asked:
        raise NobodyServesError

    with monkeypatch.context() as patch:
        patch.setattr(Engines, where, nobody)
        assert [pipeline.take(attempt, 0, rank) for rank in (0, 1)] == [PUSH, PUSH]
    shares = taken(pipeline, attempt, 0, 2)
    for share, wanted in zip(shares, want, strict=True):
        assert share.rollouts.digests().tolist() == wanted.rollouts.digests().tolist()
        np.testing.assert_array_equal(share.estimates.advantage, wanted.estimates.advantage)
