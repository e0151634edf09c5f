"""The whole tree of settings, and what must hold between its branches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from blade_dist.settings.inputs import CodecSettings, DataSettings, ListSettings, ModelSettings, SftSettings
from blade_dist.settings.method import AdvantageSettings, BondSettings, PosteriorSettings, PriorSettings, RewardSettings
from blade_dist.settings.reports import EvaluateSettings, TrackingSettings, WarnSettings
from blade_dist.settings.section import LocalPath, NonNegative, Place, Section
from blade_dist.settings.workers import LearnerSettings, RaySettings, RolloutSettings, TrainSettings, WeightSettings


class RunSettings(Section):
    dir: LocalPath = Path("runs/default")
    """Folder of every result; each stage writes its own folder below it and skips what is already whole. Take another
    one for other data or another codec."""
    copy_to: Place | None = None
    """Where a copy of ``run.dir`` is kept: a URI (s3://bucket/folder, gs://, abfs://, hdfs://) or a path. Whole
    checkpoints and finished stages are copied there in the background; where ``run.dir`` lacks them, as on another
    machine, they are fetched from there. Set it where the machine may vanish. Credentials belong in the environment."""
    seed: NonNegative = 0
    """Seed of everything: data, initialisation, sampling, bootstrap. Repeat a run under several before you trust a
    small difference."""
    compare: list[Literal["static", "bond", "grpo", "best_of_n_sft"]] = []
    """Targets that ``blade-dist run`` also trains, on the same seed and budget, for its table. Each takes as long as
    the first."""


class Config(Section):
    """The whole tree."""

    target: Literal["blade", "static", "bond", "grpo", "best_of_n_sft"] = "blade"
    """What the policy is aligned to; everything else is the same code. blade is the method, the others are baselines:
    set one to compare with, or let ``run.compare`` train several."""
    colocate: bool | None = None
    """GPU only: whether engines and learners share GPUs in pairs. None: only where there are too few GPUs for both. Set
    it to true to use half as many GPUs; engines and learners then take turns."""
    run: RunSettings = RunSettings()
    """Where results go, and what a whole run holds."""
    data: DataSettings = DataSettings()
    """From a raw log to prompts."""
    codec: CodecSettings = CodecSettings()
    """How lists and prompts are written as tokens."""
    lists: ListSettings = ListSettings()
    """Which lists are legal."""
    model: ModelSettings = ModelSettings()
    """The base checkpoint."""
    sft: SftSettings = SftSettings()
    """Fine-tuning of the base to the reference policy."""
    prior: PriorSettings = PriorSettings()
    """The reference's lists, from which the belief starts."""
    rollout: RolloutSettings = RolloutSettings()
    """vLLM engines and the lists that they sample."""
    reward: RewardSettings = RewardSettings()
    """What a list is worth."""
    posterior: PosteriorSettings = PosteriorSettings()
    """The belief of each prompt's F(r); targets blade and static read it."""
    advantage: AdvantageSettings = AdvantageSettings()
    """From proxy rewards to advantages."""
    bond: BondSettings = BondSettings()
    """``target: bond`` only (J-BOND)."""
    learner: LearnerSettings = LearnerSettings()
    """The DeepSpeed ranks and their objective."""
    weights: WeightSettings = WeightSettings()
    """The push of new weights to the engines."""
    train: TrainSettings = TrainSettings()
    """Steps, checkpoints and validation of the alignment."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """What the report of held-out prompts holds."""
    tracking: TrackingSettings = TrackingSettings()
    """Where the steps' numbers go."""
    warn: WarnSettings = WarnSettings()
    """Numbers of the steps that are said to be bad, while the run goes on."""
    ray: RaySettings = RaySettings()
    """The cluster."""

    @model_validator(mode="after")
    def _rewarded(self) -> Config:
        if not self.reward.weights or not any(self.reward.weights.values()):
            raise ValueError("reward.weights: every weight is 0; give at least one metric a weight")
        if self.evaluate.select_by and not any(self.evaluate.select_by.values()):
            raise ValueError(
                "evaluate.select_by: every weight is 0; give at least one metric a weight, or leave it out"
            )
        for name, floor in self.reward.at_least.items():
            if (ceiling := self.reward.at_most.get(name, floor)) < floor:
                raise ValueError(
                    f"reward.at_least.{name}: the floor {floor:g} is above the ceiling reward.at_most.{name} = "
                    f"{ceiling:g}; lower the one or raise the other"
                )
        return self

    @model_validator(mode="after")
    def _named(self) -> Config:
        for kind, given, bases in (
            ("boosts", self.reward.boosts, ("boost",)),
            ("distributions", self.reward.distributions, ("mgu", "dgu")),
        ):
            for name in given:
                if not any(
                    metric.startswith(tuple(f"{base}/{name}@" for base in bases)) for metric in self.all_metrics
                ):
                    raise ValueError(
                        f"reward.{kind}.{name}: no metric uses it; give {bases[0]}/{name}@{self.lists.k} a weight "
                        "in reward.weights, or leave it out"
                    )
        return self

    @model_validator(mode="after")
    def _by_ranker(self) -> Config:
        if self.reward.ranker_top is not None and self.reward.ranker_top < self.lists.k:
            raise ValueError(
                f"reward.ranker_top: {self.reward.ranker_top} items; give lists.k = {self.lists.k} at least"
            )
        if not any(metric.startswith("expected_") for metric in self.all_metrics):
            if self.reward.ranker != "policy":
                raise ValueError(
                    f"reward.ranker: no metric reads it; give expected_ndcg@{self.lists.k} a weight in reward.weights, "
                    "or leave it out"
                )
        elif self.reward.ranker == "policy" and self.lists.constrain == "none":
            raise ValueError("reward.ranker: policy needs lists.constrain = catalog; or give the path of a file")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.posterior.carry and self.reward.constrained:
            raise ValueError(
                "posterior.carry: earlier evidence has no place beside reward.at_least or reward.at_most; leave one "
                "of the two out"
            )
        if self.train.patience and not self.train.validation_prompts:
            raise ValueError("train.patience: needs train.validation_prompts, whose reward it watches")
        if self.train.validation_prompts and self.reward.constrained:
            raise ValueError(
                "train.validation_prompts: the best reward alone would be kept, whether reward.at_least and at_most "
                "hold or not; leave one of the two out"
            )
        if self.evaluate.beam_width and self.lists.constrain == "none":
            raise ValueError("evaluate.beam_width: beam search needs lists.constrain = catalog")
        if self.evaluate.decode != "list" and self.lists.constrain == "none":
            raise ValueError(f"evaluate.decode: {self.evaluate.decode} needs lists.constrain = catalog")
        if "{history}" not in self.codec.prompt:
            raise ValueError("codec.prompt: the text has no {history}; write it where the user's items are to stand")
        return self

    @model_validator(mode="after")
    def _readable(self) -> Config:
        for name, filters in (("k_core", self.data.k_core), ("min_rating", self.data.min_rating)):
            if self.data.splits is not None and filters:
                raise ValueError(
                    f"data.{name}: {filters:g} would drop what data.splits asks for, whose rows are kept as they are; "
                    f"leave data.{name} out"
                )
        if self.data.source in ("movielens", "amazon", "table") and self.data.path is None:
            raise ValueError(
                f"data.path: required where data.source is {self.data.source}; give the folder or file of the log"
            )
        if self.data.source in ("amazon", "table") and self.data.items is None:
            raise ValueError(
                f"data.items: required where data.source is {self.data.source}; give the file of the items"
            )
        return self

    @model_validator(mode="after")
    def _cut(self) -> Config:
        k = self.rollout.k
        if k is None:
            return self
        if k > self.lists.k:
            raise ValueError(f"rollout.k: {k} items in training, and lists.k = {self.lists.k}; at most that many")
        for name in self.reward.scored:
            cut = name.rpartition("@")[2]
            if cut.isdecimal() and int(cut) > k:
                raise ValueError(f"rollout.k: the reward's {name} looks at more than {k} items; give it at least {cut}")
        return self

    @model_validator(mode="after")
    def _anchored(self) -> Config:
        if "bond" not in (self.target, *self.run.compare):
            return self
        if self.rollout.max_staleness:
            raise ValueError(
                "rollout.max_staleness: target bond needs 0, as its anchor writes lists for the very next step"
            )
        if self.learner.lora is not None:
            raise ValueError("learner.lora: target bond averages all weights into its anchor; leave learner.lora out")
        return self

    @model_validator(mode="after")
    def _refreshed(self) -> Config:
        if self.prior.refresh_every is None:
            return self
        if self.rollout.max_staleness:
            raise ValueError("prior.refresh_every: needs rollout.max_staleness = 0, so that the newest policy writes")
        if self.posterior.carry:
            raise ValueError(
                "prior.refresh_every: evidence that posterior.carry brings back is older than the new reference lists; "
                "leave one of the two out"
            )
        if self.reward.constrained:
            raise ValueError(
                "prior.refresh_every: multipliers of reward.at_least and at_most weigh the first reference's lists; "
                "leave one of the two out"
            )
        return self

    @property
    def all_metrics(self) -> list[str]:
        """Names of the reward's metrics, of those that are reported, and of those that searches choose by."""
        return [*self.reward.scored, *self.evaluate.metrics, *self.evaluate.select_by]

    @property
    def in_training(self) -> Config:
        """These settings with lists of the length that they have in training, ``rollout.k``."""
        lists = self.lists.model_copy(update={"k": self.rollout.k or self.lists.k})
        return self.model_copy(update={"lists": lists})

    @property
    def sft_lr(self) -> float:
        """``sft.lr``, or what suits the base checkpoint."""
        return self.sft.lr or self._rate(built=3e-3, pretrained=1e-5)

    @property
    def sft_epochs(self) -> int:
        """``sft.epochs``, or what suits the base checkpoint."""
        return self.sft.epochs or (20 if self.model.path is None else 2)

    @property
    def learner_lr(self) -> float:
        """``learner.lr``, or what suits the base checkpoint."""
        return self.learner.lr or self._rate(built=1e-3, pretrained=1e-6)

    def _rate(self, built: float, pretrained: float) -> float:
        """Adapters take about ten times the rate of whole weights (Schulman et al., "LoRA Without Regret", 2025)."""
        return built if self.model.path is None else pretrained * (1 if self.learner.lora is None else 10)

    @property
    def sft_dropout(self) -> float:
        """``sft.dropout``, or what suits the base checkpoint."""
        if self.sft.dropout is not None:
            return self.sft.dropout
        return 0.3 if self.model.path is None else 0.0

    @property
    def sft_validation_prompts(self) -> int:
        """``sft.validation_prompts``, or what the base checkpoint can write in a fair time."""
        return self.sft.validation_prompts or (2000 if self.model.path is None else 200)

    @property
    def refresh_every(self) -> int | None:
        """Steps between two renewals of the reference lists; None where they stay, or where the target reads none."""
        return self.prior.refresh_every if self.target in ("blade", "static") else None

    @property
    def kl_coef(self) -> float:
        """Weight of the KL to the reference: ``learner.kl_coef``, or ``1 / (bon_n - 1)``.

        With ``target: bond`` (where the anchor is the reference) ``bond.beta + bond.gamma``.
        """
        if self.target == "bond":
            return self.bond.beta + self.bond.gamma
        given = self.learner.kl_coef
        # advantages are of log F, not of (N - 1) log F: the N - 1 of Best-of-N's objective divides the KL instead
        return 1.0 / (self.learner.bon_n - 1) if given is None else given

    @property
    def loads_reference(self) -> bool:
        """Whether learners hold the reference beside the policy.

        Not with adapters, as the policy without them is the reference; nor where the KL to it has no weight, but for
        J-BOND's anchor, which starts as the reference.
        """
        return self.learner.lora is None and (self.kl_coef != 0 or self.target == "bond")

    @property
    def own_share(self) -> float:
        """Share of the objective that the policy's own lists have; lists that it is to imitate have the rest."""
        return self.bond.beta if self.target == "bond" else 1.0

    @property
    def prior_strength(self) -> float:
        """m: ``posterior.strength``, or M."""
        return float(self.posterior.strength or self.prior.size)

    @property
    def warn_limits(self) -> dict[str, float]:
        """Of the warnings that are on, by name: lengths where lists are free text, and a gap of log-probs itself."""
        given = self.warn.model_dump(exclude={"window"}, exclude_none=True)
        if self.lists.constrain != "none":
            given.pop("length", None)
        if "logprob_gap" in given:
            given["logprob_gap"] *= self.logprob_tolerance
        return given

    @property
    def logprob_tolerance(self) -> float:
        """Largest log-prob gap after a push."""
        return self.weights.tolerance or (1e-4 if self.model.dtype == "float32" else 0.1)
