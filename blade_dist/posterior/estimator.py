"""The central estimator: judges every group by its prompt's reference lists and by what it remembers of earlier steps.

What it remembers: the evidence that prompts carry on (``carried.py``), the likelihoods of ``tau: auto``
(``strength.py``), the constraints' multipliers (``constraint.py``), renewed reference lists (``renewed.py``), and its
answers in the newest steps (``answers.py``). The mathematics is in ``estimate.py``; ``actor.py`` makes an actor of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rewards
from blade_dist.posterior.advantage import Scale
from blade_dist.posterior.answers import Answer, Answers, Before
from blade_dist.posterior.beta import Array, BetaSettings
from blade_dist.posterior.carried import Carried
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.estimate import belief_report, estimate
from blade_dist.posterior.prior import Prior
from blade_dist.posterior.renewed import Renewals
from blade_dist.posterior.strength import GRID, MEMORY, updated_likelihood, with_likeliest
from blade_dist.posterior.targets import TARGETS
from blade_dist.posterior.targets.target import Groups

CHUNK = 1024
"""Prompts that are computed at once: what they need stays in the processor's cache."""

LOOKED_AT = 64
"""Prompts of a step whose belief is reported: enough for means, and cheap."""

NUMBERS = b"numbers"
"""Key of likelihoods and multipliers in the state's metadata."""

NO_CONSTRAINTS = Constraints.of({}, {}, lr=0.0)


class Estimator:
    """Estimates of every step's groups, see :meth:`estimate`; one for the whole run."""

    def __init__(
        self,
        prior: Prior,
        settings: BetaSettings,
        target: str,
        scale: Scale,
        carry: float,
        auto: bool = False,
        constraints: Constraints = NO_CONSTRAINTS,
        renews: bool = False,
    ) -> None:
        """Begins without evidence.

        Args:
            prior: the reference's rewards.
            settings: of the posterior.
            target: a name in :data:`~blade_dist.posterior.targets.TARGETS`.
            scale: of the advantage.
            carry: how much of a prompt's evidence returns at its next visit, in [0, 1).
            auto: whether tau and the strength are estimated from the groups, see :mod:`~blade_dist.posterior.strength`.
            constraints: floors and ceilings, whose multipliers are part of the reward.
            renews: whether reference rewards may be renewed, see :meth:`refresh`.
        """
        self._prior = prior
        self._settings = settings
        self._target = TARGETS[target]
        self._scale: Scale = scale
        self._carried = Carried(len(prior.prompts), carry if self._target.uses_evidence else 0.0)
        self._likelihood = np.zeros(len(GRID)) if auto else None
        self._constraints = constraints
        self._multipliers = constraints.start()
        self._renewals = Renewals(prior.rewards.shape[1]) if renews else None
        self._answers = Answers()

    def estimate(self, attempt: int, step: int, rewards: Rewards, anchor: Rewards | None = None) -> Estimates:
        """Proxy rewards and advantages of the step's groups.

        Idempotent per (attempt, step, prompt, digest): a retry with the same rollouts gets the same answer and adds
        no evidence; other rollouts, or a later attempt, get a fresh one.

        Args:
            attempt: of the learners.
            step: counted from 0.
            rewards: the groups' rewards, ``[B, G]``, and digests of their rollouts.
            anchor: of lists by the anchor for the same prompts, ``[B, A]``, which stand in for the prior's; None
                without an anchor.

        Raises:
            RuntimeError: a later attempt has begun, or the step's answers are forgotten
                (:data:`~blade_dist.posterior.answers.WINDOW`): what comes so late must not count.
            UserError: a prompt is not in the prior.
        """
        self._answers.admit(attempt, step)
        answered = self._answers.of(step)
        if answered is None:
            return self._answer(step, rewards, np.arange(len(rewards.prompt)), anchor).estimates
        known = answered.find(rewards.prompt, rewards.digests)
        if (known < 0).any():
            answered = self._answer(step, rewards, np.flatnonzero(known < 0), anchor)
            known = answered.find(rewards.prompt, rewards.digests)
        return answered.estimates.take(known)

    def refresh(self, attempt: int, step: int, prompts: NDArray[np.int64], rewards: Array) -> None:
        """From ``step`` on, the prompts are judged by these rewards instead of the prior's (or earlier ones).

        Idempotent: a step's first call counts. The prior itself, and the pooled distribution that cold prompts share,
        stay as they are.

        Args:
            attempt: of the learners.
            step: whose policy wrote the lists.
            prompts: ``[R]``, each once; they need not be warm.
            rewards: ``[R, M]``, in any order.

        Raises:
            RuntimeError: a later attempt has begun, or the estimator was made without ``renews``.
            UserError: a prompt is not in the prior.
        """
        self._answers.admit(attempt, step)
        if self._renewals is None:
            raise RuntimeError(f"step {step} renews reference rewards, but they were to stay")
        self._renewals.add(step, self._prior.where(prompts), rewards)

    def state(self, step: int) -> bytes:
        """Everything as it was before ``step`` was estimated, as Arrow IPC.

        The loop may have estimated later steps by the time that a checkpoint is written: these are taken back here.
        A stream of carried evidence, with likelihoods and multipliers; then one of renewed rewards, if there are any.
        """
        later = [answer.before for answer in self._answers.since(step)]
        first = later[0] if later else Before([], self._likelihood, self._multipliers)
        likelihood = None if first.likelihood is None else first.likelihood.tolist()
        numbers = json.dumps({"likelihood": likelihood, "multipliers": first.multipliers.tolist()})
        table = self._carried.table(self._prior.prompts, [visit for before in later for visit in before.visits])
        table = table.replace_schema_metadata({NUMBERS: numbers})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        if self._renewals is not None:
            self._renewals.write(sink, step, self._prior.prompts)
        return sink.getvalue().to_pybytes()

    def restore(self, state: bytes | None, attempt: int) -> None:
        """Back to a saved state (None: to the beginning), for an attempt that begins.

        Whatever was answered since is forgotten, and earlier attempts get no more answers, whether they ever got one
        or not: a chain that is still under way must not add evidence to the restored state.

        Args:
            state: of :meth:`state`.
            attempt: of the learners, the newest.

        Raises:
            RuntimeError: a later attempt has begun.
        """
        self._answers.begin(attempt)
        self._carried.forget()
        self._multipliers = self._constraints.start()
        if self._renewals is not None:
            self._renewals.forget()
        if self._likelihood is not None:
            self._likelihood = np.zeros(len(GRID))
        if state is None:
            return
        streams = pa.BufferReader(state)
        table = pa.ipc.open_stream(streams).read_all()
        if self._renewals is not None:
            self._renewals.read(streams, self._prior.where)
        numbers = json.loads(table.schema.metadata[NUMBERS])
        self._multipliers = np.array(numbers["multipliers"], dtype=np.float64)
        if self._likelihood is not None:
            self._likelihood = np.array(numbers["likelihood"])
        self._carried.load(table, self._prior.where(table["prompt"].to_numpy()))

    def _answer(self, step: int, rewards: Rewards, new: NDArray[np.int64], anchor: Rewards | None) -> Answer:
        """Answers the rows ``new``, and takes their groups in as evidence; all that was answered about the step."""
        prompt = rewards.prompt[new]
        rows = self._prior.where(prompt)
        earlier, likelihood, multipliers = self._answers.of(step), self._likelihood, self._multipliers
        # one step, one reward: rollouts that come later get the weights of those before them, and move no multiplier
        weights = multipliers if earlier is None else earlier.before.multipliers
        parts = {name: rewards.parts[name][new] for name in self._constraints.names}
        total = rewards.total[new] + self._constraints.added(weights, parts)
        anchor_total = None if anchor is None else (anchor.total + self._constraints.added(weights, anchor.parts))[new]
        if likelihood is not None:
            fading = MEMORY if earlier is None else 1.0  # once per step
            reference, pooled = self._reference(rows, weights), self._pooled(weights)
            self._likelihood = updated_likelihood(fading * likelihood, total, reference, self._settings, pooled)
        estimates = self._estimates(prompt, rows, total, weights, anchor_total)
        if earlier is None:
            self._multipliers = self._constraints.updated(multipliers, parts)
        before = Before(self._carried.visit(rows, total), likelihood, multipliers)
        return self._answers.add(step, Answer(prompt, rewards.digests[new], estimates, before))

    def _estimates(
        self, prompt: NDArray[np.int64], rows: NDArray[np.int64], total: Array, multipliers: Array, anchor: Array | None
    ) -> Estimates:
        settings, pooled = self._settings, self._pooled(multipliers)
        if self._likelihood is not None:
            settings = with_likeliest(settings, self._likelihood, total.shape[1])

        def groups(part: slice) -> Groups:
            reference = self._reference(rows[part], multipliers) if anchor is None else anchor[part]
            return Groups(total[part], reference, settings, self._carried.of(rows[part]), pooled)

        def chunks() -> Iterator[Groups]:
            for start in range(0, len(total), CHUNK):
                yield groups(slice(start, start + CHUNK))

        shape = (len(total), total.shape[1])
        proxy, advantage, differ = estimate(chunks(), shape, self._target, self._scale)
        numbers = dict(zip(self._constraints.columns, multipliers, strict=True))
        belief: dict[str, Array] = {}
        if self._target.uses_evidence:
            numbers |= {"posterior/tau": settings.tau, "posterior/strength": settings.strength}
            belief = belief_report(groups(slice(0, LOOKED_AT)), len(rows))
        report = {name: np.full(len(rows), value) for name, value in numbers.items()}
        if self._renewals is not None:
            report["prior_refreshed"] = self._renewals.newest.covers(rows).astype(np.float64)
        imitated = None if anchor is None else anchor.argmax(axis=1)
        return Estimates(prompt, proxy, advantage, differ, report | belief, imitated)

    def _reference(self, rows: NDArray[np.int64], multipliers: Array) -> Array:
        """``[B, M]`` rewards of the reference's lists, under the multipliers."""
        rewards: Array = self._prior.rewards[rows]
        if self._renewals is not None:
            rewards = self._renewals.newest.over(rows, rewards)
        if not self._constraints.names:
            return rewards
        return rewards + self._constraints.added(multipliers, {n: p[rows] for n, p in self._prior.parts.items()})

    def _pooled(self, multipliers: Array) -> Array | None:
        """The same of the lists that stand for all prompts', ascending; None where no prompt is cold."""
        if (pool := self._prior.pool) is None:
            return None
        parts = {name: self._prior.parts[name].flat[pool] for name in self._constraints.names}
        return np.sort(self._prior.rewards.flat[pool] + self._constraints.added(multipliers, parts))
