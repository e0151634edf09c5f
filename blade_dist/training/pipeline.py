"""generate -> score -> estimate, for each step over the whole batch; each rank takes its share."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.batches import Estimates, LearnBatch, Rewards, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.data.seeds import prompts_of_step
from blade_dist.posterior.belief import miscalibration
from blade_dist.posterior.targets.bond import LISTS
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.training.prompter import Prompter

VALIDATION = "validation"
"""Name of the mean reward of held-out prompts; those of its parts begin with it."""

REFRESHED_AT_ONCE = 256
"""Prompts whose reference lists are written in one request."""

PIT = "posterior/pit"
"""The one number of a belief that is a histogram."""


@dataclass(frozen=True)
class HeldOut:
    """Validation prompts, and who scores their lists."""

    rows: NDArray[np.int64]
    """Of the validation table."""
    scorer: Any
    """Handle of a reward actor."""


@dataclass(frozen=True)
class Scored:
    """Lists that were asked for, and what they are worth: references."""

    rollouts: list[Any]
    """An engine's share each."""
    rewards: Any


@dataclass(frozen=True)
class Step:
    """A step's batch in the object store: whoever holds this can read it, without another copy."""

    prompts: Any
    """Reference to the :class:`RolloutRequest`."""
    groups: Scored
    """Its lists."""
    estimates: Any
    anchor: Scored | None
    """Lists of the same prompts by the anchor; None without one."""

    def shard(self, rank: int, world: int) -> LearnBatch:
        """Rank ``rank``'s contiguous share of the prompts; waits for the step."""
        request, estimates, *parts = ray.get([self.prompts, self.estimates, *self.groups.rollouts])
        rollouts = Rollouts.concat(parts)
        imitated = (
            None if self.anchor is None else Rollouts.concat(ray.get(self.anchor.rollouts)).pick(estimates.imitated)
        )
        rows = np.array_split(np.arange(len(request)), world)[rank]
        return LearnBatch(
            prompt_tokens=request.tokens.take(rows),
            excluded=request.excluded.take(rows),
            rollouts=rollouts.take(rows),
            estimates=estimates.take(rows),
            decision_tokens=int(rollouts.decision.sum()),
            imitated=None if imitated is None else imitated.take(rows),
        )


class StepPipeline:
    """Starts each step's chain of references once, and hands it to every rank.

    ``max_staleness`` steps may be under way beyond the one that the learners take. An engine answers in the order in
    which it was asked, and a push is a question like any other, so that step ``t`` is written by the weights after step
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
        self._steps: dict[int, Step] = {}
        self._anchors: dict[int, Scored] = {}
        self._last = config.train.steps - 1
        self._cut = False

    def begin(self, saved_attempt: int) -> int:
        """A new attempt of the learners: forgets the chains of earlier ones; returns the attempt's number.

        Chains that are under way end unread; the estimator refuses them once it is restored for the new attempt.
        """
        with self._lock:
            self._attempt = max(self._attempt, saved_attempt) + 1
            self._steps.clear()
            self._anchors.clear()
            return self._attempt

    def stop(self) -> None:
        """No step is begun from now on: the learners end with the one that they are at."""
        with self._lock:
            self._last = max(self._steps, default=-1)

    def stopped(self) -> bool:
        """Whether a step that the learners asked for was not begun."""
        return self._cut

    def take(self, attempt: int, step: int) -> tuple[Step, dict[str, float]] | None:
        """The step's batch, finished, and its numbers; None, to every rank, where the run was stopped before it.

        The weights after ``step`` steps must have been pushed.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        with self._lock:
            self._check(attempt, step)
            if step > self._last:
                self._cut = True
                return None
            for old in [known for known in self._steps if known < step]:
                del self._steps[old]
            for ahead in range(step, min(step + self._config.rollout.max_staleness, self._last) + 1):
                if ahead not in self._steps:
                    self._steps[ahead] = self._start(attempt, ahead)
            chain = self._steps[step]
        return chain, self._finish(chain)

    def write_anchor(self, attempt: int, step: int) -> None:
        """Lists for the step's prompts by the weights that were pushed last, the anchor's; returns once written.

        Raises:
            RuntimeError: a newer attempt has begun.
        """
        lists = self._pool.submit(self._request(step, LISTS, "anchor"))
        self._pool.collect(lists)
        with self._lock:
            self._check(attempt, step)
            self._anchors = {step: Scored(lists, self._scorer.score.remote(*lists))}

    def validate(self) -> dict[str, float]:
        """Mean reward, and mean of its parts, of the weights that were pushed last, decoded greedily; or nothing."""
        if self._held_out is None:
            return {}
        request = self._validation.request(self._held_out.rows, 1, 0.0, "validation")
        rewards: Rewards = ray.get(self._held_out.scorer.score.remote(self._pool.generate(request)))
        return {VALIDATION: float(rewards.total.mean())} | {
            f"{VALIDATION}/{name}": float(values.mean()) for name, values in rewards.parts.items()
        }

    def _start(self, attempt: int, step: int) -> Step:
        """generate -> score -> estimate; only a refresh of the prior, where it is due, is waited for."""
        every = self._config.refresh_every
        if every is not None and step and step % every == 0:
            self._refresh(attempt, step, every)
        request = self._request(step, self._config.rollout.group_size, "step")
        rollouts = self._pool.submit(request)
        groups = Scored(rollouts, self._scorer.score.remote(*rollouts))
        anchor = self._anchors[step] if self._config.target == "bond" else None
        judged_by = None if anchor is None else anchor.rewards
        estimates = self._estimator.estimate.remote(attempt, step, groups.rewards, judged_by)
        return Step(ray.put(request), groups, estimates, anchor)

    def _refresh(self, attempt: int, step: int, steps: int) -> None:
        """Lists by the newest weights become the reference of the prompts of the coming ``steps`` steps."""
        config = self._config
        coming = [self._prompts(ahead) for ahead in range(step, min(step + steps, config.train.steps))]
        prompts = np.unique(np.concatenate(coming))
        totals = []
        for start in range(0, len(prompts), REFRESHED_AT_ONCE):
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
            raise RuntimeError(f"attempt {attempt} asks for step {step}, but attempt {self._attempt} is running")

    def _finish(self, chain: Step) -> dict[str, float]:
        """Waits for the chain; the step's means, and how long each phase took or was waited for."""
        rollouts = self._pool.collect(chain.groups.rollouts)
        clock = [time.perf_counter()]
        rewards: Rewards = ray.get(chain.groups.rewards)
        clock.append(time.perf_counter())
        estimates: Estimates = ray.get(chain.estimates)
        clock.append(time.perf_counter())
        score, estimate = np.diff(clock).tolist()
        seconds = {"generate": float(rollouts.seconds.max()), "score": score, "estimate": estimate}
        numbers = _numbers(rollouts, rewards, estimates, seconds)
        if chain.anchor is None:
            return numbers
        return numbers | {"anchor_reward": float(ray.get(chain.anchor.rewards).total.mean())}


def _numbers(rollouts: Rollouts, rewards: Rewards, estimates: Estimates, seconds: dict[str, float]) -> dict[str, float]:
    positions = rollouts.items.size
    return {
        "reward": float(rewards.total.mean()),
        **{f"reward/{name}": float(values.mean()) for name, values in rewards.parts.items()},
        "informative_groups": float(estimates.informative.mean()),
        **_reported(estimates.report),
        "invalid": float(rollouts.invalid.sum() / positions),
        "duplicate": float(rollouts.duplicate.sum() / positions),
        "list_tokens": float(rollouts.tokens.lengths.mean()),
        "decisions": float(rollouts.decision.mean()),
        "lists": float(rewards.total.size),
        **{f"seconds/{name}": float(value) for name, value in seconds.items()},
    }


def _reported(report: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over the prompts that were looked at; the histogram of the PIT with its distance from the uniform one."""
    means = {name: float(np.nanmean(values)) for name, values in report.items() if name != PIT}
    if PIT not in report:
        return means
    histogram = np.nanmean(report[PIT], axis=0)
    shares = {f"{PIT}_{number}": float(share) for number, share in enumerate(histogram)}
    return {**means, "posterior/miscalibration": miscalibration(histogram), **shares}


Pipeline: Any = ray.remote(StepPipeline)
