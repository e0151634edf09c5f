"""The central estimator: proxy rewards and advantages of every group, and the evidence that is carried on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rewards
from blade_dist.posterior.advantage import group_advantage, informative
from blade_dist.posterior.beta import BetaSettings, Evidence, proxy_reward
from blade_dist.posterior.prior import Prior

Target = Literal["blade", "static", "grpo"]
CARRIED_VALUES = 64
"""Past rewards kept per prompt, the newest ones."""

_STATE = pa.schema([("prompt", pa.int64()), ("values", pa.list_(pa.float64())), ("weights", pa.list_(pa.float64()))])


@dataclass
class _Answers:
    """What was answered in the running step, so that a retry gets the same and counts nothing twice."""

    key: tuple[int, int] = (-1, -1)
    given: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float32]]] = field(default_factory=dict)


class Estimator:
    """Holds the prior and every prompt's carried evidence. One call per step; see :meth:`estimate`."""

    def __init__(
        self, prior: Prior, settings: BetaSettings, target: Target, scale: Literal["std", "none"], carry: float
    ) -> None:
        self._prior = prior
        self._settings = settings if target == "blade" else _static(settings)
        self._target = target
        self._scale = scale
        self._carry = carry if target == "blade" else 0.0
        self._evidence: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._answers = _Answers()

    def estimate(self, attempt: int, step: int, rewards: Rewards) -> Estimates:
        """Proxy rewards and advantages of the step's groups.

        Idempotent per (attempt, step, prompt, digest): a retry with the same rollouts gets the same answer and adds
        no evidence; other rollouts, or a later attempt, get a fresh one.

        Args:
            attempt: of the learners.
            step: counted from 0.
            rewards: the groups' rewards, ``[B, G]``, and digests of their rollouts.
        """
        if self._answers.key != (attempt, step):
            self._answers = _Answers((attempt, step))
        keys = [(int(prompt), int(digest)) for prompt, digest in zip(rewards.prompt, rewards.digests, strict=True)]
        new = np.array([row for row, key in enumerate(keys) if key not in self._answers.given], dtype=np.int64)
        if len(new):
            proxy = self._proxy(rewards.prompt[new], rewards.total[new])
            advantage = group_advantage(proxy, self._scale)
            for row, r, a in zip(new, proxy, advantage, strict=True):
                self._answers.given[keys[row]] = (r, a)
                self._remember(int(rewards.prompt[row]), rewards.total[row])
        proxy = np.stack([self._answers.given[key][0] for key in keys])
        advantage = np.stack([self._answers.given[key][1] for key in keys])
        return Estimates(rewards.prompt, proxy, advantage, informative(proxy))

    def state(self) -> bytes:
        """The carried evidence, as Arrow IPC."""
        prompts = sorted(self._evidence)
        columns = [prompts, *([self._evidence[p][i] for p in prompts] for i in (0, 1))]
        table = pa.table([pa.array(c, type=f.type) for c, f in zip(columns, _STATE, strict=True)], schema=_STATE)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _STATE) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    def restore(self, state: bytes | None) -> None:
        """Back to a saved state (None: to the beginning); what was answered since is forgotten."""
        self._answers = _Answers()
        self._evidence = {}
        if state is None:
            return
        table = pa.ipc.open_stream(state).read_all()
        for prompt, values, weights in zip(*(table[name].to_pylist() for name in _STATE.names), strict=True):
            self._evidence[prompt] = (np.array(values), np.array(weights))

    def _proxy(self, prompts: NDArray[np.int64], rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._target == "grpo":
            return rewards
        return proxy_reward(rewards, self._prior.rows(prompts), self._settings, self._carried(prompts))

    def _carried(self, prompts: NDArray[np.int64]) -> Evidence | None:
        if not self._carry or not self._evidence:
            return None
        values = np.zeros((len(prompts), CARRIED_VALUES))
        weights = np.zeros((len(prompts), CARRIED_VALUES))
        for row, prompt in enumerate(prompts):
            if (kept := self._evidence.get(int(prompt))) is not None:
                values[row, : len(kept[0])], weights[row, : len(kept[1])] = kept
        return Evidence(values, weights)

    def _remember(self, prompt: int, rewards: NDArray[np.float64]) -> None:
        """The group's rewards return at the next visit with weight ``carry`` each, older ones with its powers."""
        if not self._carry:
            return
        values, weights = self._evidence.get(prompt, (np.zeros(0), np.zeros(0)))
        values = np.concatenate([rewards, values])[:CARRIED_VALUES]
        weights = np.concatenate([np.ones(len(rewards)), weights])[:CARRIED_VALUES] * self._carry
        self._evidence[prompt] = (values, weights)


def _static(settings: BetaSettings) -> BetaSettings:
    """tau = 0: the prior alone."""
    return BetaSettings(**{**vars(settings), "tau": 0.0})
