"""generate -> score -> estimate, for each step over the whole batch; each rank takes its share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rewards
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.data.seeds import prompts_of_step
from blade_dist.posterior.targets.bond import LISTS
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.training.chain import AnchorLists, Chain, learn_batch, shards, step_numbers
from blade_dist.training.prompter import Prompter

VALIDATION = "validation"
"""Name of the mean reward of held-out prompts; those of its parts begin with it."""

REFRESHED_AT_ONCE = 256
"""Prompts whose reference lists are written in one request."""


@dataclass(frozen=True)
class HeldOut:
    """Validation prompts, and who scores their lists."""

    rows: NDArray[np.int64]
    """Of the validation table."""
    scorer: Any
    """Handle of a reward actor."""


@dataclass(frozen=True)
class Taken:
    """A finished step."""

    shares: list[Any]
    """Reference to each rank's :class:`~blade_dist.batches.LearnBatch`."""
    numbers: dict[str, float]
    """Of the whole batch."""


class StepPipeline:
    """Starts each step's chain of references once, joins what comes of it once, and hands each rank its share.

    ``max_staleness`` steps may be under way beyond the one that the learners take. An engine answers in the order in
    which it was asked, and a push is a request like any other, so that step ``t`` is written by the weights after step
    ``max(0, t - max_staleness)``; with 0 that is strictly sequential. A run that goes on from a checkpoint begins with
    fresher ones.
    """

    def __init__(
        self,
        config: Config,
        rows: NDArray[np.int64],
        pool: EnginePool,
        scorer: Any,
        estimator: Any,
        run: Path,
        held_out: HeldOut | None,
    ) -> None:
        """Opens the training table.

        Args:
            config: the settings.
            rows: training prompts that may be used.
            pool: running engines.
            scorer: handle of the reward actor.
            estimator: handle of the estimator actor.
            run: the run's folder.
            held_out: None where nothing is validated.
        """
        paths = RunPaths(run)
        self._config = config
        self._rows = rows
        self._pool = pool
        self._scorer = scorer
        self._estimator = estimator
        how = (Codec.load(paths.codec), config.run.seed, config.lists.exclude_history)
        self._prompter = Prompter(PromptTable.load(paths.data / "train.arrow"), *how)
        self._validation = Prompter(PromptTable.load(paths.data / "validation.arrow"), *how)
        self._held_out = held_out
        self._lock = threading.Lock()
        self._attempt = 0
        # One thread starts and finishes steps, in order. It never holds the lock, which guards the fields below: what
        # it waits for (a refresh that generates, lists that come) keeps no other call waiting.
        self._work = ThreadPoolExecutor(1)
        self._begun: dict[int, Future[Chain]] = {}
        self._finished: dict[int, Future[Taken]] = {}
        self._anchors: dict[int, AnchorLists] = {}
        self._last = config.train.steps - 1
        self._cut = False

    def begin(self, saved_attempt: int) -> int:
        """A new attempt of the learners: forgets the chains of earlier ones; returns the attempt's number.

        Chains that are under way end unread; the estimator refuses them once it is restored for the new attempt.
        """
        with self._lock:
            self._attempt = max(self._attempt, saved_attempt) + 1
            # a thread of its own for every attempt: the old one may still wait for an engine that died
            self._work.shutdown(wait=False, cancel_futures=True)
            self._work = ThreadPoolExecutor(1)
            self._begun.clear()
            self._finished.clear()
            self._anchors.clear()
            return self._attempt

    def stop(self) -> None:
        """No step is begun from now on: the learners end with the one that they are at."""
        with self._lock:
            self._last = max(self._begun, default=-1)

    def stopped(self) -> bool:
        """Whether the learners wanted a step that was not begun any more."""
        return self._cut

    def take(self, attempt: int, step: int, rank: int) -> tuple[Any, dict[str, float]] | None:
        """Rank ``rank``'s share of the step, and numbers of the whole; None, to every rank, where the run was stopped
        before it.

        The weights after ``step`` steps must have been pushed. Returns once the step is finished. The share is a
        reference to a :class:`~blade_dist.batches.LearnBatch`: a rank fetches its own part of the batch and no more.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        with self._lock:
            self._check(attempt, step)
            if step > self._last:
                self._cut = True
                return None
            for old in [known for known in self._begun if known < step]:
                del self._begun[old]
            for ahead in range(step, min(step + self._config.rollout.max_staleness, self._last) + 1):
                if ahead not in self._begun:
                    self._begun[ahead] = self._work.submit(self._start, attempt, ahead)
            if step not in self._finished:  # the first rank has it joined, the others wait for the same result
                self._finished = {step: self._work.submit(self._finish, self._begun[step])}
            finished = self._finished[step]
        taken = finished.result()
        return taken.shares[rank], taken.numbers

    def write_anchor(self, attempt: int, step: int) -> None:
        """Lists for the step's prompts by the weights that were pushed last, the anchor's; returns once written.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        parts = self._pool.submit(self._request(step, LISTS, "anchor"))
        lists = self._pool.collect(parts)
        with self._lock:
            self._check(attempt, step)
            self._anchors = {step: AnchorLists(lists, self._scorer.score.remote(*parts))}

    def validate(self) -> dict[str, float]:
        """Mean reward, and mean of its parts, of the weights pushed last, decoded as they are served; or nothing."""
        if self._held_out is None:
            return {}
        request = self._validation.request(self._held_out.rows, 1, 0.0, "validation")
        evaluate = self._config.evaluate
        lists = self._pool.decode(request, evaluate.decode, evaluate.beams)
        rewards: Rewards = ray.get(self._held_out.scorer.score.remote(lists))
        return {VALIDATION: float(rewards.total.mean())} | {
            f"{VALIDATION}/{name}": float(values.mean()) for name, values in rewards.parts.items()
        }

    def _start(self, attempt: int, step: int) -> Chain:
        """generate -> score -> estimate; only a refresh of the prior, where it is due, is waited for."""
        self._check(attempt, step)
        every = self._config.refresh_every
        if every is not None and step and step % every == 0:
            self._refresh(attempt, step, every)
        request = self._request(step, self._config.rollout.group_size, "step")
        rollouts = self._pool.submit(request)
        rewards = self._scorer.score.remote(*rollouts)
        anchor = self._anchors[step] if self._config.target == "bond" else None
        judged_by = None if anchor is None else anchor.rewards
        estimates = self._estimator.estimate.remote(attempt, step, rewards, judged_by)
        return Chain(request, rollouts, rewards, estimates, anchor)

    def _refresh(self, attempt: int, step: int, steps: int) -> None:
        """Lists by the newest weights become the reference of the prompts of the coming ``steps`` steps."""
        config = self._config
        coming = [self._prompts(ahead) for ahead in range(step, min(step + steps, config.train.steps))]
        prompts = np.unique(np.concatenate(coming))
        totals = []
        for start in range(0, len(prompts), REFRESHED_AT_ONCE):
            self._check(attempt, step)  # lists for learners that are gone would keep the engines from the new ones
            rows = prompts[start : start + REFRESHED_AT_ONCE]
            request = self._prompter.request(rows, config.prior.size, config.rollout.temperature, ("refresh", step))
            rewards: Rewards = ray.get(self._scorer.score.remote(self._pool.generate(request)))
            totals.append(rewards.total)
        ray.get(self._estimator.refresh.remote(attempt, step, prompts, np.concatenate(totals)))

    def _prompts(self, step: int) -> NDArray[np.int64]:
        """Each once, where one pass over the prompts ends within a step and the next begins: its lists would be the
        same."""
        config = self._config
        chosen = prompts_of_step(config.run.seed, step, len(self._rows), config.train.prompts_per_step)
        rows: NDArray[np.int64] = self._rows[chosen[np.sort(np.unique(chosen, return_index=True)[1])]]
        return rows

    def _request(self, step: int, lists: int, purpose: str) -> RolloutRequest:
        """``lists`` lists for each prompt of the step."""
        temperature = self._config.rollout.temperature
        return self._prompter.request(self._prompts(step), lists, temperature, (purpose, step))

    def _check(self, attempt: int, step: int) -> None:
        if attempt != self._attempt:
            raise RuntimeError(f"attempt {attempt} takes step {step}, but attempt {self._attempt} is running")

    def _finish(self, begun: Future[Chain]) -> Taken:
        """Waits for the chain and joins it; its numbers, and how long each phase took or was waited for."""
        chain = begun.result()
        rollouts = self._pool.collect(chain.rollouts)
        clock = [time.perf_counter()]
        rewards: Rewards = ray.get(chain.rewards)
        clock.append(time.perf_counter())
        estimates: Estimates = ray.get(chain.estimates)
        clock.append(time.perf_counter())
        score, estimate = np.diff(clock).tolist()
        seconds = {"generate": float(rollouts.seconds.max()), "score": score, "estimate": estimate}
        numbers = step_numbers(rollouts, rewards, estimates, seconds)
        if chain.anchor is not None:
            numbers["anchor_reward"] = float(ray.get(chain.anchor.rewards).total.mean())
        batch = learn_batch(chain.request, rollouts, estimates, chain.anchor)
        return Taken([ray.put(share) for share in shards(batch, self._config.learner.workers)], numbers)


Pipeline: Any = ray.remote(StepPipeline)
