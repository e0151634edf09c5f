"""generate -> score -> estimate, for each step over the whole batch; each rank takes its share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.artifacts import RunPaths
from blade_dist.batches import Estimates, LearnBatch, Prompts, Ragged, Rewards, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.seeds import prompts_of_step, stable_seed
from blade_dist.settings import Config


@dataclass(frozen=True)
class Step:
    """A finished step's batch, whole."""

    prompt_tokens: Ragged
    history: Ragged
    rollouts: Rollouts
    estimates: Estimates
    numbers: dict[str, float]
    """What is reported: means over the batch, and seconds of each phase."""

    def shard(self, rank: int, world: int) -> LearnBatch:
        """Rank ``rank``'s contiguous share of the prompts."""
        rows = np.array_split(np.arange(len(self.prompt_tokens)), world)[rank]
        estimates = self.estimates
        return LearnBatch(
            prompt_tokens=self.prompt_tokens.take(rows),
            history=self.history.take(rows),
            rollouts=self.rollouts.take(rows),
            estimates=Estimates(
                estimates.prompt[rows], estimates.proxy[rows], estimates.advantage[rows], estimates.informative[rows]
            ),
            decision_tokens=int(self.rollouts.decision.sum()),
        )


class Prompter:
    """Makes rollout requests for rows of a prompt table."""

    def __init__(self, table: PromptTable, codec: Codec, seed: int) -> None:
        self._table = table
        self._codec = codec
        self._seed = seed

    def request(self, rows: NDArray[np.int64], group_size: int, temperature: float, purpose: object) -> RolloutRequest:
        """``group_size`` lists for each row; the seeds depend on the run, the purpose (a step, say) and the prompt."""
        prompts: Prompts = self._table.rows(rows)
        return RolloutRequest(
            prompt=prompts.index,
            tokens=self._codec.encode_prompts(prompts.history),
            history=prompts.history,
            seed=np.array([stable_seed(self._seed, purpose, row) for row in prompts.index], dtype=np.int64),
            group_size=group_size,
            temperature=temperature,
        )


class StepPipeline:
    """Runs each step's chain once, whichever rank asks first, and hands every rank its shard."""

    def __init__(
        self, config: Config, rows: NDArray[np.int64], pool: EnginePool, scorer: Any, estimator: Any, run: Path
    ) -> None:
        """Opens the training table.

        Args:
            config: the settings.
            rows: training prompts that may be used.
            pool: running engines.
            scorer: handle of the reward actor.
            estimator: handle of the estimator actor.
            run: the run's folder.
        """
        paths = RunPaths(run)
        self._config = config
        self._rows = rows
        self._pool = pool
        self._scorer = scorer
        self._estimator = estimator
        table = PromptTable.load(paths.data / "train.arrow")
        self._prompter = Prompter(table, Codec.load(paths.codec), config.run.seed)
        self._lock = threading.Lock()
        self._attempt = 0
        self._steps: dict[tuple[int, int], Future[Step]] = {}

    def begin(self, saved_attempt: int) -> int:
        """A new attempt of the learners: forgets the chains of earlier ones; returns the attempt's number."""
        with self._lock:
            self._attempt = max(self._attempt, saved_attempt) + 1
            self._steps.clear()
            return self._attempt

    def take(self, attempt: int, step: int, rank: int, world: int) -> tuple[LearnBatch, dict[str, float]]:
        """This rank's share of the step, and the step's numbers.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        with self._lock:
            if attempt != self._attempt:
                raise RuntimeError(f"attempt {attempt} asks for step {step}, but attempt {self._attempt} is running")
            self._steps = {key: value for key, value in self._steps.items() if key[1] >= step}
            future = self._steps.get((attempt, step))
            mine = future is None
            if future is None:
                future = self._steps[attempt, step] = Future()
        if mine:
            try:
                future.set_result(self._run(attempt, step))
            except BaseException as error:
                future.set_exception(error)
        whole = future.result()
        return whole.shard(rank, world), whole.numbers

    def _run(self, attempt: int, step: int) -> Step:
        config = self._config
        chosen = prompts_of_step(config.run.seed, step, len(self._rows), config.train.prompts_per_step)
        request = self._prompter.request(
            self._rows[chosen], config.rollout.group_size, config.rollout.temperature, ("step", step)
        )
        clock = [time.perf_counter()]
        rollouts = self._pool.generate(request)
        clock.append(time.perf_counter())
        rewards: Rewards = ray.get(self._scorer.score.remote(rollouts))
        clock.append(time.perf_counter())
        estimates = ray.get(self._estimator.estimate.remote(attempt, step, rewards, rollouts.digests()))
        clock.append(time.perf_counter())
        seconds = dict(zip(("generate", "score", "estimate"), np.diff(clock).tolist(), strict=True))
        return Step(
            request.tokens, request.history, rollouts, estimates, _numbers(rollouts, rewards, estimates, seconds)
        )


def _numbers(rollouts: Rollouts, rewards: Rewards, estimates: Estimates, seconds: dict[str, float]) -> dict[str, float]:
    positions = rollouts.items.size
    return {
        "reward": float(rewards.total.mean()),
        **{f"reward/{name}": float(values.mean()) for name, values in rewards.parts.items()},
        "informative_groups": float(estimates.informative.mean()),
        "invalid": float(rollouts.invalid.sum() / positions),
        "duplicate": float(rollouts.duplicate.sum() / positions),
        "list_tokens": float(rollouts.tokens.lengths.mean()),
        "decisions": float(rollouts.decision.mean()),
        "lists": float(rewards.total.size),
        **{f"seconds/{name}": float(value) for name, value in seconds.items()},
    }


Pipeline: Any = ray.remote(StepPipeline)
