"""What the numbers of the steps warn of, long before a run has failed: one table of rules. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

COLUMN = "warning/"
"""How the columns of the step log begin that say at which steps a rule was broken."""


@dataclass
class Trend:
    """Of one column: its mean over a window, now and before."""

    window: int
    recent: list[float] = field(default_factory=list)
    first: float | None = None
    """Mean of the first whole window; None before its end."""
    best: float = float("-inf")
    """Largest mean of a whole window."""

    @property
    def now(self) -> float:
        return sum(self.recent) / len(self.recent)

    def see(self, value: float) -> None:
        """The next step's."""
        self.recent = [*self.recent, value][-self.window :]
        if len(self.recent) == self.window:
            self.first = self.now if self.first is None else self.first
            self.best = max(self.best, self.now)


@dataclass(frozen=True)
class Rule:
    """When a column's trend is bad, by a limit, and what to say of it."""

    column: str
    broken: Callable[[Trend, float], bool]
    words: str
    """Knows ``now``, ``first`` and ``best``."""


def _changed(trend: Trend, factor: float) -> bool:
    assert trend.first is not None
    return not trend.first / factor <= trend.now <= trend.first * factor


RULES = {
    "logprob_gap": Rule(
        "logprob_gap",
        lambda trend, limit: trend.now > limit,
        "logprob_gap is {now:.2g}: learners and engines drift apart; beyond weights.tolerance the run ends",
    ),
    "kl": Rule(
        "kl",
        lambda trend, limit: trend.now > limit,
        "kl is {now:.3g} nats per token: the policy has left the fine-tuned model; raise learner.kl_coef or lower "
        "learner.lr where its lists are worse than the reward says",
    ),
    "length": Rule(
        "list_tokens",
        _changed,
        "lists have {now:.3g} tokens, and had {first:.3g} at first: with free text the reward may be gamed by length",
    ),
    "reward": Rule(
        "reward",
        lambda trend, limit: trend.now < trend.best - limit * abs(trend.best),
        "reward is {now:.3g}, and has been {best:.3g}: the policy collapses; lower learner.lr, and take the best "
        "checkpoint by train.validation_prompts",
    ),
    "miscalibration": Rule(
        "posterior/miscalibration",
        lambda trend, limit: trend.now > limit,
        "posterior/miscalibration is {now:.2g} of at most 1: rewards no longer fall where the estimator believes; try "
        "posterior.tau = auto, or prior.refresh_every",
    ),
}
"""By the name of the setting in ``warn`` that has the limit."""


class Alarms:
    """Is shown the rows of the step log one after the other."""

    def __init__(self, limits: Mapping[str, float], window: int) -> None:
        """``limits``: by name of a rule, of those that are looked at; ``window``: steps of a mean."""
        self._limits, self._window = limits, window
        self._trends: dict[str, Trend] = defaultdict(lambda: Trend(window))
        self._said: set[str] = set()

    def see(self, row: Mapping[str, float | None]) -> dict[str, str]:
        """What is wrong at this step: the sentence of each rule that is broken, by the rule's name.

        A rule says nothing before a whole window of steps has its column.
        """
        said = {}
        for name, limit in self._limits.items():
            rule, trend = RULES[name], self._trends[name]
            if (value := row.get(rule.column)) is None:
                continue
            trend.see(value)
            if trend.first is not None and rule.broken(trend, limit):
                words = rule.words.format(now=trend.now, first=trend.first, best=trend.best)
                said[name] = f"{words} (mean of {self._window} steps, warn.{name} = {limit:g})"
        return said

    def new(self, row: Mapping[str, float | None]) -> list[str]:
        """As :meth:`see`, the sentences of rules that were never broken before."""
        said = {name: words for name, words in self.see(row).items() if name not in self._said}
        self._said.update(said)
        return list(said.values())
