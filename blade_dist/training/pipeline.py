"""generate -> score -> estimate, for each step over the whole batch; each rank takes its share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.data.seeds import prompts_of_step
from blade_dist.posterior.targets.bond import LISTS
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rollouts.pool import EnginePool, NobodyServesError
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.tracking.parting import FRESH, FRESH_ERROR
from blade_dist.training.chain import AnchorLists, Chain, learn_batch, shards, step_numbers
from blade_dist.training.prompter import Prompter

VALIDATION = "validation"
"""Name of the mean reward of held-out prompts; those of its parts begin with it."""

PUSH: Literal["push"] = "push"
"""Instead of an answer: no engine holds the weights any more, and those that start in their place wait for a push."""

FRESH_LISTS = 4
"""Lists that are sampled for each held-out prompt: enough to compare means, and few beside those of the steps."""

REFRESHED_AT_ONCE = 256
"""Prompts whose reference lists are written in one request."""


@dataclass(frozen=True)
class HeldOut:
    """Validation prompts, and who scores their lists."""

    rows: NDArray[np.int64]
    """Of the validation table."""
    scorer: RewardHandle


@dataclass(frozen=True)
class Roles:
    """Who works for the pipeline."""

    pool: EnginePool
    """Running engines."""
    scorer: RewardHandle
    """Of training prompts."""
    estimator: Any
    """Handle of the estimator actor."""
    held_out: HeldOut | None
    """None where nothing is validated."""


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
        run: Path,
    ) -> None:
        """Opens the training table.

        Args:
            config: the settings.
            rows: training prompts that may be used.
            run: the run's folder.
        """
        paths = RunPaths(run)
        self._config = config
        self._rows = rows
        how = (Codec.load(paths.codec), config.run.seed, config.lists.exclude_history)
        self._prompter = Prompter(PromptTable.load(paths.data / "train.arrow"), *how)
        self._validation = Prompter(PromptTable.load(paths.data / "validation.arrow"), *how)
        self._begun_with: Roles | None = None
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

    @property
    def _roles(self) -> Roles:
        if self._begun_with is None:
            raise RuntimeError("the pipeline was started again, and no attempt of the learners has begun with it")
        return self._begun_with

    def begin(self, saved_attempt: int, roles: Roles) -> int:
        """A new attempt of the learners: forgets the chains of earlier ones; returns the attempt's number.

        Chains that are under way end unread; the estimator refuses them once it is restored for the new attempt.
        """
        with self._lock:
            self._begun_with = roles
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

    def take(self, attempt: int, step: int, rank: int) -> tuple[Any, dict[str, float]] | Literal["push"] | None:
        """Rank ``rank``'s share of the step, and numbers of the whole; None, to every rank, where the run was stopped
        before it; :data:`PUSH`, to every rank, where no engine holds the weights: push them again, then take again.

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
                self._finished = {step: self._work.submit(self._finish, attempt, step, self._begun[step])}
            finished = self._finished[step]
        try:
            taken = finished.result()
        except NobodyServesError:
            # a rank that comes later finds nobody either: the push needs all ranks
            self._forget(step, finished)
            return PUSH
        return taken.shares[rank], taken.numbers

    def write_anchor(self, attempt: int, step: int) -> bool:
        """Lists for the step's prompts by the weights that were pushed last, the anchor's; returns once written.

        False where no engine holds the weights: push them again, then try again.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        try:
            written = self._roles.pool.settled(self._roles.pool.submit(self._request(step, LISTS, "anchor"))).answers
        except NobodyServesError:
            return False
        lists = Rollouts.concat(ray.get(written))
        with self._lock:
            self._check(attempt, step)
            self._anchors = {step: AnchorLists(lists, self._roles.scorer.score(*written))}
        return True

    def validate(self) -> dict[str, float] | Literal["push"]:
        """Mean reward, and mean of its parts, of the weights pushed last, decoded as they are served, with what
        :meth:`sample_fresh` gives; or nothing.

        :data:`PUSH` where no engine holds the weights: push them again, then try again.
        """
        if (held_out := self._roles.held_out) is None:
            return {}
        request = self._validation.request(held_out.rows, 1, 0.0, "validation")
        evaluate = self._config.evaluate
        try:
            lists = self._roles.pool.decode(request, evaluate.decode, evaluate.beams)
        except NobodyServesError:
            return PUSH
        if (fresh := self.sample_fresh()) == PUSH:
            return PUSH
        rewards = held_out.scorer.wait(held_out.scorer.score(lists))
        parts = {f"{VALIDATION}/{name}": float(values.mean()) for name, values in rewards.parts.items()}
        return {VALIDATION: float(rewards.total.mean())} | parts | fresh

    def sample_fresh(self) -> dict[str, float] | Literal["push"]:
        """Mean reward of lists that the weights pushed last sample for held-out prompts, as for training ones, and its
        standard error; or nothing.

        :data:`PUSH` as in :meth:`validate`.
        """
        if (held_out := self._roles.held_out) is None:
            return {}
        request = self._validation.request(held_out.rows, FRESH_LISTS, self._config.rollout.temperature, "fresh")
        try:
            lists = self._roles.pool.generate(request)
        except NobodyServesError:
            return PUSH
        rewards = held_out.scorer.wait(held_out.scorer.score(lists))
        of_prompts = rewards.total.mean(axis=1)
        error = of_prompts.std() / np.sqrt(max(1, len(of_prompts) - 1))
        return {FRESH: float(of_prompts.mean()), FRESH_ERROR: float(error)}

    def _start(self, attempt: int, step: int) -> Chain:
        """generate -> score; only a refresh of the prior, where it is due, is waited for."""
        self._check(attempt, step)
        every = self._config.refresh_every
        if every is not None and step and step % every == 0:
            for earlier in sorted(known for known in list(self._begun) if known < step):
                self._estimate(attempt, earlier, self._begun[earlier].result())  # by the prior as it was
            self._refresh(attempt, step, every)
        request = self._request(step, self._config.rollout.group_size, "step")
        rollouts = self._roles.pool.submit(request)
        rewards = self._roles.scorer.score(*rollouts.answers)
        return Chain(request, rollouts, rewards, self._anchors[step] if self._config.target == "bond" else None)

    def _estimate(self, attempt: int, step: int, chain: Chain) -> None:
        """Waits for the lists, then has them judged: step after step, also where an engine was lost meanwhile."""
        if chain.estimates is not None:
            return
        settled = self._roles.pool.settled(chain.rollouts)
        if settled is not chain.rollouts:
            chain.rollouts, chain.rewards = settled, self._roles.scorer.score(*settled.answers)
        judged_by = None if chain.anchor is None else chain.anchor.rewards
        chain.estimates = self._roles.estimator.estimate.remote(attempt, step, chain.rewards, judged_by)

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
            rewards = self._roles.scorer.wait(self._roles.scorer.score(self._roles.pool.generate(request)))
            totals.append(rewards.total)
        ray.get(self._roles.estimator.refresh.remote(attempt, step, prompts, np.concatenate(totals)))

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

    def _forget(self, step: int, finished: Future[Taken]) -> None:
        """The step is finished anew; it is begun anew, too, where that failed."""
        with self._lock:
            if self._finished.get(step) is finished:
                del self._finished[step]
                for begun, chain in list(self._begun.items()):
                    if chain.done() and chain.exception() is not None:
                        del self._begun[begun]

    def _finish(self, attempt: int, step: int, begun: Future[Chain]) -> Taken:
        """Waits for the chain and joins it; its numbers, and how long each phase took or was waited for."""
        chain = begun.result()
        self._estimate(attempt, step, chain)
        rollouts = Rollouts.concat(ray.get(chain.rollouts.answers))
        clock = [time.perf_counter()]
        rewards = self._roles.scorer.wait(chain.rewards)
        clock.append(time.perf_counter())
        estimates: Estimates = ray.get(chain.estimates)
        clock.append(time.perf_counter())
        score, estimate = np.diff(clock).tolist()
        seconds = {"generate": float(rollouts.seconds.max()), "score": score, "estimate": estimate}
        numbers = step_numbers(rollouts, rewards, estimates, seconds)
        if chain.anchor is not None:
            numbers["anchor_reward"] = float(self._roles.scorer.wait(chain.anchor.rewards).total.mean())
        batch = learn_batch(chain.request, rollouts, estimates, chain.anchor)
        return Taken([ray.put(share) for share in shards(batch, self._config.learner.workers)], numbers)


Pipeline: Any = ray.remote(concurrency_groups={"life": 1})(StepPipeline)
"""Where one has died, Ray starts another, of no attempt: the learners fail, and begin their next one with it."""
