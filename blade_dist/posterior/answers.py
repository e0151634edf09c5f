"""What was answered in the newest steps: a retry gets the same answer and adds no evidence twice. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Estimates
from blade_dist.posterior.beta import Array
from blade_dist.posterior.carried import Visit

WINDOW = 16
"""Steps, up to the newest, whose answers are kept for retries and whose evidence can be taken back."""


@dataclass(frozen=True)
class Before:
    """What the estimator knew before a step."""

    visits: list[Visit]
    """The evidence that the step's prompts carried, one entry for each request that brought new rollouts."""
    likelihood: Array | None
    """Of the prior's strengths; None where the strength is set."""
    multipliers: Array
    """``[C]`` of the constraints."""


@dataclass(frozen=True)
class Answer:
    """The estimates of one step."""

    prompt: NDArray[np.int64]
    """``[B]``."""
    digest: NDArray[np.uint64]
    """``[B]`` of the groups' rollouts."""
    estimates: Estimates
    before: Before

    def find(self, prompt: NDArray[np.int64], digest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of the estimates of each given group, -1 where these rollouts were not answered yet."""
        rows = {key: row for row, key in enumerate(zip(self.prompt.tolist(), self.digest.tolist(), strict=True))}
        given = zip(prompt.tolist(), digest.tolist(), strict=True)
        return np.array([rows.get(key, -1) for key in given], dtype=np.int64)

    def joined(self, later: Answer) -> Answer:
        """With the answers to further rollouts of the same step; what was known before the step is this one's."""
        return Answer(
            np.concatenate([self.prompt, later.prompt]),
            np.concatenate([self.digest, later.digest]),
            Estimates.concat([self.estimates, later.estimates]),
            Before(self.before.visits + later.before.visits, self.before.likelihood, self.before.multipliers),
        )


class Answers:
    """The answers of the newest attempt, for its :data:`WINDOW` newest steps.

    An attempt is one life of the learners. When a later one begins, chains of the earlier one may still be under way:
    their requests are refused, as their evidence must not count.
    """

    def __init__(self) -> None:
        """Begins without any."""
        self._attempt = -1
        self._steps: dict[int, Answer] = {}

    def begin(self, attempt: int) -> None:
        """Forgets all answers.

        Raises:
            RuntimeError: a later attempt has begun.
        """
        if attempt < self._attempt:
            raise RuntimeError(f"attempt {attempt} restores the estimator, but a later one has begun")
        self._attempt, self._steps = attempt, {}

    def admit(self, attempt: int, step: int) -> None:
        """Before every request: a later attempt than before forgets all answers; one that is too late is refused.

        Raises:
            RuntimeError: a later attempt has begun, or the step's answers are forgotten.
        """
        if attempt > self._attempt:
            self._attempt, self._steps = attempt, {}
        if attempt < self._attempt:
            raise RuntimeError(f"attempt {attempt} requests estimates of step {step}, but a later one has begun")
        newest = max([step, *self._steps])
        if step <= newest - WINDOW:
            raise RuntimeError(f"estimates of step {step} were requested after step {newest}")
        self._steps = {kept: answer for kept, answer in self._steps.items() if kept > newest - WINDOW}

    def of(self, step: int) -> Answer | None:
        """All that was answered about a step; None where nothing was."""
        return self._steps.get(step)

    def add(self, step: int, answer: Answer) -> Answer:
        """Keeps an answer; all that was answered about the step by now."""
        earlier = self._steps.get(step)
        self._steps[step] = answer if earlier is None else earlier.joined(answer)
        return self._steps[step]

    def since(self, step: int) -> list[Answer]:
        """Those about ``step`` and later steps, in the order of steps."""
        return [self._steps[answered] for answered in sorted(self._steps) if answered >= step]
