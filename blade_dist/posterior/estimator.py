"""The central estimator: proxy rewards and advantages of every group, and the evidence that is carried on. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rewards
from blade_dist.posterior.advantage import informative
from blade_dist.posterior.belief import believe
from blade_dist.posterior.beta import Array, BetaSettings, Evidence
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.prior import Prior
from blade_dist.posterior.renewed import Renewals
from blade_dist.posterior.strength import GRID, MEMORY, seen, with_likeliest
from blade_dist.posterior.targets import TARGETS

CARRIED_VALUES = 64
"""Past rewards kept per prompt, the newest ones."""

WINDOW = 16
"""Steps, up to the newest, whose answers are kept for retries and whose evidence can be taken back."""

CHUNK = 1024
"""Prompts that are computed at once: what they need stays in the processor's cache."""

LOOKED_AT = 64
"""Prompts of a step whose belief is reported: enough for means, and cheap."""

NUMBERS = b"numbers"
"""Key of likelihoods and multipliers in the state's metadata."""

NO_CONSTRAINTS = Constraints.of({}, {}, lr=0.0)

_STATE = pa.schema(
    [
        ("prompt", pa.int64()),
        ("values", pa.list_(pa.float64(), CARRIED_VALUES)),
        ("weights", pa.list_(pa.float64(), CARRIED_VALUES)),
    ]
)


@dataclass
class _Answered:
    """What was answered in a step, so that a retry gets the same and counts nothing twice."""

    prompt: NDArray[np.int64]
    digest: NDArray[np.uint64]
    estimates: Estimates
    before: list[tuple[NDArray[np.int64], Evidence]]
    """Rows of the prior, and the evidence that they had before the step."""
    likelihood: Array | None
    """Of the prior's strengths, before the step; None where the strength is set."""
    multipliers: Array
    """Before the step."""

    def find(self, prompt: NDArray[np.int64], digest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Number of the answer to each question, -1 where there is none."""
        given = {key: row for row, key in enumerate(zip(self.prompt.tolist(), self.digest.tolist(), strict=True))}
        asked = zip(prompt.tolist(), digest.tolist(), strict=True)
        return np.array([given.get(key, -1) for key in asked], dtype=np.int64)


class Estimator:
    """Holds the prior and every prompt's carried evidence. One call per step; see :meth:`estimate`."""

    def __init__(
        self,
        prior: Prior,
        settings: BetaSettings,
        target: str,
        scale: Literal["std", "none"],
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
        self._scale = scale
        self._carry = carry if self._target.uses_evidence else 0.0
        self._evidence = self._nothing()
        self._likelihood = np.zeros(len(GRID)) if auto else None
        self._constraints = constraints
        self._multipliers = constraints.start()
        self._renewals = Renewals(prior.rewards.shape[1]) if renews else None
        self._attempt = -1
        self._steps: dict[int, _Answered] = {}

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
            RuntimeError: a later attempt has begun, or the step's answers are forgotten (:data:`WINDOW`): what comes
                so late must not count.
        """
        self._check(attempt, step)
        answered = self._steps.get(step)
        if answered is None:
            return self._answer(step, rewards, np.arange(len(rewards.prompt)), anchor)
        known = answered.find(rewards.prompt, rewards.digests)
        if (known < 0).any():
            self._answer(step, rewards, np.flatnonzero(known < 0), anchor)
            answered = self._steps[step]
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
        self._check(attempt, step)
        if self._renewals is None:
            raise RuntimeError(f"step {step} renews reference rewards, but they were to stay")
        self._renewals.add(step, self._prior.where(prompts), rewards)

    def state(self, step: int) -> bytes:
        """Everything as it was before ``step`` was estimated, as Arrow IPC.

        A stream of carried evidence, with likelihoods and multipliers; then one of renewed rewards, if there are any.
        """
        values, weights = self._evidence.values.copy(), self._evidence.weights.copy()
        for _, answered in sorted(((s, a) for s, a in self._steps.items() if s >= step), key=lambda pair: -pair[0]):
            for rows, before in reversed(answered.before):
                values[rows], weights[rows] = before.values, before.weights
        kept = np.flatnonzero(weights.any(axis=1))
        flat = [
            pa.FixedSizeListArray.from_arrays(pa.array(a[kept].reshape(-1)), CARRIED_VALUES) for a in (values, weights)
        ]
        sink = pa.BufferOutputStream()
        first = next((self._steps[answered] for answered in sorted(self._steps) if answered >= step), None)
        likelihood = self._likelihood if first is None else first.likelihood
        multipliers = self._multipliers if first is None else first.multipliers
        kept_too = {"likelihood": None if likelihood is None else likelihood.tolist()}
        schema = _STATE.with_metadata({NUMBERS: json.dumps(kept_too | {"multipliers": multipliers.tolist()})})
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.table([pa.array(self._prior.prompts[kept]), *flat], schema=schema))
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
        if attempt < self._attempt:
            raise RuntimeError(f"attempt {attempt} restores the estimator, but a later one has begun")
        self._attempt, self._steps = attempt, {}
        self._evidence = self._nothing()
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
        rows = self._prior.where(table["prompt"].to_numpy())
        for name, target in (("values", self._evidence.values), ("weights", self._evidence.weights)):
            target[rows] = table[name].combine_chunks().flatten().to_numpy().reshape(-1, CARRIED_VALUES)

    def _nothing(self) -> Evidence:
        """Without ``carry`` there is never any; with it, 1 KiB per prompt of the prior."""
        shape = (len(self._prior.prompts) if self._carry else 0, CARRIED_VALUES)
        return Evidence(np.zeros(shape), np.zeros(shape))

    def _check(self, attempt: int, step: int) -> None:
        if attempt > self._attempt:
            self._attempt, self._steps = attempt, {}
        if attempt < self._attempt:
            raise RuntimeError(f"attempt {attempt} asks for estimates of step {step}, but a later one has begun")
        newest = max([step, *self._steps])
        if step <= newest - WINDOW:
            raise RuntimeError(f"estimates of step {step} were asked for after step {newest}")
        self._steps = {kept: answered for kept, answered in self._steps.items() if kept > newest - WINDOW}

    def _answer(self, step: int, rewards: Rewards, asked: NDArray[np.int64], anchor: Rewards | None) -> Estimates:
        """Estimates of the rows ``asked``, which are noted."""
        prompt = rewards.prompt[asked]
        rows = self._prior.where(prompt)
        earlier, likelihood, multipliers = self._steps.get(step), self._likelihood, self._multipliers
        weighed = multipliers if earlier is None else earlier.multipliers
        parts = {name: rewards.parts[name][asked] for name in self._constraints.names}
        total = rewards.total[asked] + self._constraints.added(weighed, parts)
        anchored = None if anchor is None else (anchor.total + self._constraints.added(weighed, anchor.parts))[asked]
        if likelihood is not None:
            fading = MEMORY if earlier is None else 1.0
            reference, pooled = self._reference(rows, weighed), self._pooled(weighed)
            self._likelihood = seen(fading * likelihood, total, reference, self._settings, pooled)
        fresh = self._estimates(prompt, rows, total, weighed, anchored)
        if earlier is None:
            self._multipliers = self._constraints.updated(multipliers, parts)
        noted = _Answered(prompt, rewards.digests[asked], fresh, self._remember(rows, total), likelihood, multipliers)
        if earlier is not None:
            noted = _Answered(
                np.concatenate([earlier.prompt, noted.prompt]),
                np.concatenate([earlier.digest, noted.digest]),
                Estimates.concat([earlier.estimates, noted.estimates]),
                earlier.before + noted.before,
                earlier.likelihood,
                earlier.multipliers,
            )
        self._steps[step] = noted
        return fresh

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

    def _estimates(
        self, prompt: NDArray[np.int64], rows: NDArray[np.int64], total: Array, multipliers: Array, anchor: Array | None
    ) -> Estimates:
        proxy, advantage = np.empty(total.shape), np.empty(total.shape, dtype=np.float32)
        differ = np.empty(len(total), dtype=bool)
        settings, pooled = self._settings, self._pooled(multipliers)
        if self._likelihood is not None:
            settings = with_likeliest(settings, self._likelihood, total.shape[1])
        for start in range(0, len(total), CHUNK):
            part = slice(start, start + CHUNK)
            reference = self._reference(rows[part], multipliers) if anchor is None else anchor[part]
            found = self._target.proxy(total[part], reference, settings, self._carried(rows[part]), pooled)
            proxy[part], advantage[part] = found, self._target.advantage(found, self._scale)
            differ[part] = informative(found)
        looked = slice(0, LOOKED_AT)
        numbers = dict(zip(self._constraints.columns, multipliers, strict=True))
        belief: dict[str, Array] = {}
        if self._target.uses_evidence:
            numbers |= {"posterior/tau": settings.tau, "posterior/strength": settings.strength}
            reference, carried = self._reference(rows[looked], multipliers), self._carried(rows[looked])
            belief = believe(total[looked], reference, settings, carried, pooled)
        report = {name: np.full(len(rows), value) for name, value in numbers.items()}
        if self._renewals is not None:
            report["prior_refreshed"] = self._renewals.newest.covers(rows).astype(np.float64)
        report |= {f"posterior/{name}": _padded(values, len(rows)) for name, values in belief.items()}
        imitated = None if anchor is None else anchor.argmax(axis=1)
        return Estimates(prompt, proxy, advantage, differ, report, imitated)

    def _carried(self, rows: NDArray[np.int64]) -> Evidence | None:
        if not self._carry:
            return None
        return Evidence(self._evidence.values[rows], self._evidence.weights[rows])

    def _remember(
        self, rows: NDArray[np.int64], rewards: NDArray[np.float64]
    ) -> list[tuple[NDArray[np.int64], Evidence]]:
        """The group's rewards return at the next visit with weight ``carry`` each, older ones with its powers."""
        before = self._carried(rows)
        if before is None:
            return []
        ones = np.ones_like(rewards)
        values, weights = self._evidence.values, self._evidence.weights
        values[rows] = np.concatenate([rewards, before.values], axis=1)[:, :CARRIED_VALUES]
        weights[rows] = self._carry * np.concatenate([ones, before.weights], axis=1)[:, :CARRIED_VALUES]
        return [(rows, before)]


def _padded(values: Array, rows: int) -> Array:
    """``values`` for the first rows, not a number for the rest of ``rows``."""
    padded = np.full((rows, *values.shape[1:]), np.nan)
    padded[: len(values)] = values
    return padded
