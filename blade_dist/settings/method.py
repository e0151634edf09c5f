"""The method: reward, prior, posterior, advantage."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from blade_dist.settings.section import Fraction, Name, NonNegative, Positive, Rate, Section, local


def _ranker(given: object) -> object:
    """One message for both kinds of values."""
    if isinstance(given, str | Path):
        return given if given == "policy" else local(given)
    raise ValueError(f"reward.ranker: write policy, or the path of a Parquet file; got {given!r}")


class RewardSettings(Section):
    weights: dict[str, float] = {"ndcg@5": 1.0}
    """The composite: metric name (``ndcg@5``, ``ild@5``, ``mgu@5``, ...) or ``package.module:function`` to its weight.
    Metrics where less is better (``mgu``, ``dgu``, ``calibration``, ``excess``) take a negative weight. ``mgu/name@5``
    and ``dgu/name@5`` measure against a distribution of that name instead of the user's own history. ``boost/name@5``
    is the mean of a boost of that name; ``excess/2@5`` the share of positions beyond 2 items of one of their groups."""
    normalise: bool = False
    """Whether each metric is divided by its spread among the reference's lists for a prompt before it is weighted, so
    that equal weights mean equal influence. Turn it on where metrics of different scale are mixed. Measured once, on
    256 training prompts (of as many users, where there are so many), when the prior is made, and kept with it. A metric
    that is only constrained is not divided."""
    distributions: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = {}
    """Wanted shares of the positions, by name: group to share, sum 1; of the catalog's groups, or of ``head`` and
    ``tail`` (by popularity). ``*`` is all items in none of the groups that are named, those without a group among them.
    Several stakeholders (providers, categories, the long tail) take several."""
    boosts: dict[str, dict[Name, float]] = {}
    """Wishes for what is shown, by name: item id, or ``group:NAME``, to weight (negative: rather not). Soft, as opposed
    to ``lists.exclude`` and ``lists.at_most``, which no list breaks."""
    ranker: Annotated[Literal["policy"] | Path, BeforeValidator(_ranker)] = "policy"
    """Whose distribution over the next item ``expected_ndcg@5`` and ``expected_recall@5`` read. policy: the fine-tuned
    model's own after the history, one forward pass for each prompt. Or a Parquet file of yours, of a better ranker say:
    a row for each ``user`` (or for each ``split`` and ``prompt``, its row number there), with lists of ``items`` (ids)
    and of their ``probabilities``."""
    ranker_top: Positive | None = None
    """The likeliest items of that distribution that are kept for each prompt, ``lists.k`` at least; any other item
    counts as impossible. None is 100, where the ranker is a file or an item is one token. A policy whose items have
    several tokens searches for them, which extends as many beginnings at every token: set it to a few times ``lists.k``
    to have it."""
    at_least: dict[str, float] = {}
    """Floors: metric to the mean that the sampled lists must have; the loop raises its weight until they do. Set one
    where you know which value is enough rather than which weight leads there. Refused where no reference list reaches
    it or, of metrics that read held-out items, each prompt's best do not on average; not beside
    ``train.validation_prompts`` or ``prior.refresh_every``."""
    at_most: dict[str, float] = {}
    """Ceilings: metric to the mean that the sampled lists may have at most, for metrics where less is better. Set one
    where you know which value is low enough. Refused where it is out of reach, as for ``at_least``."""
    multiplier_lr: Rate = 0.5
    """How fast the weights of missed floors and ceilings rise, per step and unit that is missed. Raise it where a limit
    is still missed at the end, lower it where its metric swings around the limit."""
    timeout_s: Rate = 600.0
    """How long the lists of a step may take to score before the process that does it is ended and another one tries;
    at the start the functions of yours are tried on two lists, which may take as long. One that waits for something
    slow may need more."""

    @property
    def constrained(self) -> list[str]:
        """Metrics with a floor or a ceiling."""
        return [*self.at_least, *self.at_most]

    @property
    def directed(self) -> dict[str, float]:
        """Metrics of which the settings say which way is better, by the sign: ``weights``, floors and ceilings."""
        return {**dict.fromkeys(self.at_most, -1.0), **dict.fromkeys(self.at_least, 1.0)} | {
            name: weight for name, weight in self.weights.items() if weight
        }

    @property
    def scored(self) -> dict[str, float]:
        """``weights``, and 0 for metrics that are only constrained."""
        return {**dict.fromkeys(self.constrained, 0.0), **self.weights}


class PriorSettings(Section):
    size: Annotated[int, Field(ge=2)] = 32
    """M: reference lists per training prompt, written once. More of them make F finer at the top, which ``target:
    static`` gains most from, and take longer to write."""
    prompts: Positive | None = None
    """Training prompts that get ``size`` reference lists, drawn with ``run.seed``; the others are cold. Set it where
    writing them for all takes too long. None is all of them."""
    cold_size: NonNegative = 0
    """Reference lists of a cold prompt, fewer than ``size``; the pooled distribution of all prompts' lists stands for
    those that it lacks. A few of them tell easy prompts from hard ones."""
    refresh_every: Positive | None = None
    """Steps after which the policy writes the reference lists of the coming steps' prompts anew, ``size`` each; the
    file of the reference's own stays as it is. For long runs that leave the reference far behind; it adds ``size``
    lists to the ``rollout.group_size`` that are written for a prompt of a step. Read by targets blade and static. None:
    the reference stays."""

    @model_validator(mode="after")
    def _cold(self) -> PriorSettings:
        if self.cold_size and self.prompts is None:
            raise ValueError("prior.cold_size: without prior.prompts no prompt is cold; set it, or leave this out")
        if self.cold_size >= self.size:
            raise ValueError(
                f"prior.cold_size: cold prompts have fewer lists than prior.size = {self.size}; got {self.cold_size}"
            )
        return self


def _tau(given: object) -> float | str:
    """One message for both kinds of values; YAML reads 1e-2 as text."""
    with suppress(ValueError):
        number = float(given) if isinstance(given, int | float | str) and not isinstance(given, bool) else math.nan
        if 0 <= number < 1:
            return number
    if given == "auto":
        return "auto"
    raise ValueError(f"posterior.tau: write a number that is at least 0 and less than 1, or auto; got {given!r}")


class PosteriorSettings(Section):
    tau: Annotated[float | Literal["auto"], BeforeValidator(_tau)] = 0.3
    """The evidence's share of the posterior mean; 0 is the static baseline. Raise it where groups lie above all of
    their reference lists, lower it where ``rollout.group_size`` is so small that a group says little. auto: estimated
    from the groups at every step, with the prior's strength."""
    strength: Rate | None = None
    """m, the prior's pseudo-count; default ``prior.size``. At a given ``tau`` it says how much ``smoothing`` counts, so
    it rarely needs a change. ``tau: auto`` estimates it, and reads this only until it has seen a prompt with reference
    lists."""
    smoothing: Rate = 0.5
    """s, added to both sides of the Beta (1/2 is Jeffreys). A larger one raises the proxy rewards of the worst lists,
    so that they differ less from the others'. Raise it where one bad list decides a group's advantages."""
    ties: Literal["le", "mid", "lt", "exact"] = "le"
    """How lists of equal reward count in F: le all, mid half, lt none. exact: Best-of-N's own density ratio where there
    are ties (N is ``learner.bon_n``). It matters where many lists of a prompt are equal in reward (``blade-dist prior``
    says how many): try exact there."""
    proxy: Literal["log_mean", "mean_log"] = "log_mean"
    """The proxy reward: log_mean is log E[F], mean_log is E[log F], by the digamma function (not with ``exact``).
    mean_log lowers uncertain values further, most of all those of the worst lists. The two have not been compared in
    the results: keep the default unless you study this."""
    carry: Fraction = 0.0
    """How much of a prompt's earlier evidence returns at its next visit, of its 64 newest rewards; not beside
    ``reward.at_least``, ``reward.at_most`` or ``prior.refresh_every``. Raise it where groups are small and prompts are
    visited often; what returns was written by an older policy."""

    @model_validator(mode="after")
    def _closed_form(self) -> PosteriorSettings:
        if self.ties == "exact" and self.proxy == "mean_log":
            raise ValueError(
                "posterior.proxy: mean_log has no closed form with posterior.ties = exact; write log_mean, or take "
                "posterior.ties = le, mid or lt"
            )
        return self


class AdvantageSettings(Section):
    scale: Literal["std", "none"] = "std"
    """std divides by the group's standard deviation, as GRPO does, so that every group has the same weight. none does
    not, so that groups whose proxy rewards differ more have more weight: take it where small differences are noise. Not
    read by ``target: bond`` and ``target: best_of_n_sft``."""


class BondSettings(Section):
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The backward KL's share of the objective; the rest is imitation of the better one of the anchor's two lists.
    Lower it where the policy loses variety."""
    eta: Annotated[float, Field(gt=0, le=1)] = 0.02
    """How far the anchor moves towards the policy after each step. Larger: N of the Best-of-N grows faster, and the run
    is less steady."""
    gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a further KL to the anchor; with ``beta`` it stands in for ``learner.kl_coef``. Raise it where the
    policy runs away from the anchor."""
