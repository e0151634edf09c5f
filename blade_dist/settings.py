"""Settings: one typed tree. Every field is documented on the line below it; unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _tau(given: object) -> float | str:
    """One message for both kinds of values."""
    if given == "auto" or (isinstance(given, int | float) and 0 <= given < 1):
        return "auto" if given == "auto" else float(given)
    raise ValueError(f"posterior.tau: write a number that is at least 0 and less than 1, or auto; got {given!r}")


class Section(BaseModel):
    """A branch of the tree: immutable, no unknown keys, documented fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class RunSettings(Section):
    dir: Path = Path("runs/default")
    """Folder of every result; each stage writes its own folder below it and skips what is already whole."""
    seed: NonNegative = 0
    """Seed of everything: data, initialisation, sampling, bootstrap."""
    compare: list[Literal["static", "grpo", "best_of_n_sft"]] = []
    """Targets that ``blade-dist run`` also trains, on the same seed and budget, for its table."""


class SyntheticSettings(Section):
    users: Positive = 2000
    """Users."""
    items: Positive = 200
    """Items."""
    groups: Positive = 8
    """Item groups (genres, providers)."""
    interactions: Positive = 30
    """Mean interactions of a user."""
    popularity_skew: Annotated[float, Field(ge=0)] = 0.8
    """Exponent of the Zipf law of item popularity; 0 is uniform."""
    taste_concentration: Rate = 0.3
    """Dirichlet concentration of a user's taste over groups; small is a narrow taste."""
    sequence_strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of interactions that follow from the one before (an item's successors) rather than from taste."""


class ColumnSettings(Section):
    user: str = "user"
    """Log: user id."""
    item: str = "item"
    """Log and items: item id."""
    time: str = "time"
    """Log: timestamp (a number, larger is later)."""
    rating: str | None = None
    """Log: rating, where there is one."""
    title: str = "title"
    """Items: title."""
    groups: str | None = None
    """Items: groups, joined by ``data.group_separator``, or a list column in Parquet."""
    embedding: str | None = None
    """Items: a list-of-floats column in Parquet, used by ``semantic_id``."""


class DataSettings(Section):
    source: Literal["synthetic", "movielens", "amazon", "table"] = "synthetic"
    """Format of the raw log: a generated one, MovieLens, Amazon Reviews 2023, or any CSV / Parquet with ``columns``."""
    path: Path | None = None
    """movielens: the folder; amazon: the reviews ``.jsonl[.gz]``; table: the log (CSV or Parquet file or folder)."""
    items: Path | None = None
    """amazon: the meta ``.jsonl[.gz]``; table: the items (CSV or Parquet)."""
    columns: ColumnSettings = ColumnSettings()
    """table: which column is which."""
    group_separator: str = "|"
    """table: what joins an item's groups in a text column."""
    min_rating: float | None = None
    """Interactions rated lower are dropped."""
    k_core: NonNegative = 5
    """Users and items with fewer interactions are dropped, until none is left to drop."""
    split: Literal["leave_last", "global_time"] = "leave_last"
    """leave_last: each user's last ``targets`` are test, those before validation. global_time: two points in time."""
    validation_fraction: Fraction = 0.1
    """global_time: share of interactions between the two points."""
    test_fraction: Fraction = 0.1
    """global_time: share of interactions after the second point."""
    targets: Positive = 5
    """Held-out items per prompt."""
    min_history: Positive = 3
    """Prompts with a shorter history are not made."""
    max_history: Positive = 20
    """Older items are cut from the prompt."""
    windows: NonNegative = 10
    """Training prompts per user, the latest ones; 0 is every prefix."""
    partition_rows: Positive = 5_000_000
    """Rows that one pass holds in memory; a larger log is partitioned by user."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """The generated catalog and log."""


class CodecSettings(Section):
    kind: Literal["title", "semantic_id"] = "title"
    """How a list is written: item titles, or a few new code tokens per item."""
    tokenizer: Path | None = None
    """A Hugging Face tokenizer folder; none: ``model.path``'s, or else a BPE trained on the catalog's titles."""
    vocab_size: Positive = 2048
    """Size of the trained BPE, special tokens included."""
    prompt: str = "{history}\n"
    """Text of a prompt; ``{history}`` stands for the items. Shown around it: instructions for a pretrained model."""
    levels: Positive = 3
    """semantic_id: residual k-means levels; a last code that tells equal items apart is added where needed."""
    codes: Positive = 32
    """semantic_id: codes per level."""


class ListSettings(Section):
    k: Positive = 5
    """Items per list."""
    exclude_history: bool = True
    """An item of the user's history is not legal in a list (with ``constrain: none`` it counts as a repeated one)."""
    constrain: Literal["catalog", "none"] = "catalog"
    """catalog: only lists of K different items can be written, and log-probs are over what is legal; none: free text,
    matched to the catalog afterwards."""


class BuildSettings(Section):
    hidden_size: Positive = 128
    """Width."""
    layers: Positive = 2
    """Decoder layers."""
    heads: Positive = 4
    """Attention heads."""
    kv_heads: Positive = 2
    """Key / value heads."""
    ffn_size: Positive = 384
    """Width of the feed-forward block."""
    context: Positive = 512
    """Longest sequence."""
    tied: bool = True
    """Whether the output head is the input embedding."""

    @model_validator(mode="after")
    def _serveable(self) -> BuildSettings:
        if self.hidden_size % (32 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"model.build: hidden_size / heads must be a multiple of 32 (vLLM's attention kernels) and heads a "
                f"multiple of kv_heads; got {self.hidden_size} / {self.heads}, kv_heads {self.kv_heads}"
            )
        return self


class ModelSettings(Section):
    path: Path | None = None
    """Base checkpoint: a Hugging Face folder. None: a small Llama is built from ``build``."""
    build: BuildSettings = BuildSettings()
    """The small Llama."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's forward, the rollouts and the checkpoint."""
    trust_remote_code: bool = False
    """Whether code inside a checkpoint may run."""


class SftSettings(Section):
    epochs: Positive = 20
    """Passes over the training prompts at most."""
    batch_size: Positive = 64
    """Sequences per step, over all ranks."""
    lr: Rate = 2e-3
    """Peak learning rate."""
    warmup: Fraction = 0.05
    """Share of the steps that warm up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay."""
    patience: Positive = 3
    """Validations without a better loss before it stops; the best checkpoint is kept."""
    validations_per_epoch: Positive = 1
    """How often the validation loss is taken."""
    max_seconds: Rate | None = None
    """Stops at the next validation after this time."""


class PriorSettings(Section):
    size: Annotated[int, Field(ge=2)] = 32
    """M: reference lists per training prompt."""
    prompts: Positive | None = None
    """Training prompts that get reference lists, drawn with ``run.seed``; the others are cold and share the pooled
    distribution of these. None is all of them."""


class RolloutSettings(Section):
    engines: Positive = 1
    """vLLM engines."""
    tensor_parallel: Positive = 1
    """GPUs per engine."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """G: lists per prompt and step."""
    max_staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Steps that generation may run ahead of the newest weights, while the learners learn; 0 is strictly on-policy."""
    temperature: Rate = 1.0
    """T of every training sample; the learner divides by the same."""
    max_num_seqs: Positive = 256
    """Sequences an engine decodes at once."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """GPU only: share of the device that vLLM may take."""
    kv_cache_gb: Positive = 1
    """CPU only: size of the KV cache."""
    cpus_per_engine: Positive = 1
    """CPU cores reserved (and threads used) by an engine."""
    start_timeout_s: Rate = 60.0
    """How long the engines may wait for a place in the cluster."""
    request_timeout_s: Rate = 600.0
    """How long one call to an engine may take before the engine is replaced."""


class RewardSettings(Section):
    weights: dict[str, float] = {"ndcg@5": 1.0}
    """The composite: metric name (``ndcg@5``, ``ild@5``, ``mgu@5``, ...) or ``package.module:function`` to its weight.
    Metrics where less is better (``mgu``, ``dgu``, ``calibration``) take a negative weight. ``mgu/name@5`` and
    ``dgu/name@5`` measure against a distribution of that name instead of the user's own history."""
    normalise: bool = False
    """Whether each metric is divided by its spread among the reference's lists for a prompt before it is weighed, so
    that equal weights mean an equal say. Measured once, when the prior is made, and kept with it."""
    distributions: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = {}
    """Wanted shares of the positions, by name: group to share, sum 1; of the catalog's groups, or of ``head`` and
    ``tail`` (by popularity). Several stakeholders (providers, categories, the long tail) take several."""
    at_least: dict[str, float] = {}
    """Floors: metric to the mean that the sampled lists must have; the loop weighs it up until they do."""
    at_most: dict[str, float] = {}
    """Ceilings, likewise, for metrics where less is better."""
    multiplier_lr: Rate = 0.5
    """How fast the weights of missed floors and ceilings rise, per step and unit that is missed."""

    @property
    def constrained(self) -> list[str]:
        """Metrics with a floor or a ceiling."""
        return [*self.at_least, *self.at_most]

    @property
    def scored(self) -> dict[str, float]:
        """``weights``, and 0 for metrics that are only constrained."""
        return {**dict.fromkeys(self.constrained, 0.0), **self.weights}


class PosteriorSettings(Section):
    tau: Annotated[float | Literal["auto"], BeforeValidator(_tau)] = 0.3
    """The evidence's share of the posterior mean; 0 is the static baseline. auto: read off the groups at every step,
    with the prior's strength."""
    strength: Rate | None = None
    """m, the prior's pseudo-count; default ``prior.size``. Not read with ``tau: auto``, which estimates it."""
    smoothing: Rate = 0.5
    """s, added to both sides of the Beta (1/2 is Jeffreys)."""
    ties: Literal["le", "mid", "lt", "exact"] = "le"
    """How equal rewards count: all, half, none, or Best-of-N's exact density ratio."""
    proxy: Literal["log_mean", "mean_log"] = "log_mean"
    """R = log E[F], or E[log F]."""
    carry: Fraction = 0.0
    """How much of a prompt's earlier evidence returns at its next visit."""


class AdvantageSettings(Section):
    scale: Literal["std", "none"] = "std"
    """std divides by the group's standard deviation (GRPO); none does not."""


class LoraSettings(Section):
    rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Of every adapter; one that vLLM serves."""
    alpha: Positive = 32
    """An adapter's part is scaled by ``alpha / rank``."""
    modules: Annotated[list[str], Field(min_length=1)] = [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    """Linear layers that get an adapter, by the last part of their names."""


class LearnerSettings(Section):
    workers: Positive = 1
    """Ranks."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""
    lr: Rate = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Of the learning rate, down to 0 at the last step."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's betas."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the global gradient; 0 turns clipping off."""
    clip_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """epsilon of the clipped importance ratio; it binds only where ``epochs`` is above 1."""
    truncation: Rate = 2.0
    """C: largest weight of a stale sample (truncated importance sampling)."""
    epochs: Positive = 1
    """Optimizer steps per batch of rollouts."""
    bon_n: Annotated[int, Field(ge=2)] = 16
    """N of the Best-of-N that is distilled."""
    kl_coef: Annotated[float, Field(ge=0)] | None = None
    """Weight of the KL to the reference; default ``1 / (bon_n - 1)``."""
    tokens_per_microbatch: Positive = 16384
    """Padded tokens of one forward; more are accumulated."""
    shared_prefix: bool = True
    """Computes a prompt once for all its lists; where a model can't (the log says so), each list computes it anew."""
    lora: LoraSettings | None = None
    """Trains low-rank adapters on the reference (``{}`` with the defaults): only they are pushed, and the reference
    needs no memory of its own. None trains every weight."""
    gradient_checkpointing: bool = False
    """Trades compute for memory."""
    cpus_per_worker: Positive = 1
    """CPU cores reserved (and threads used) by a rank."""


class WeightSettings(Section):
    transport: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    """How weights reach the engines; auto: gloo on CPU, ipc where learner and engine share a GPU, else nccl."""
    bucket_mb: Positive = 1024
    """Largest piece that is gathered and sent at once."""
    probe_prompts: Positive = 2
    """Prompts of the log-prob probe after each push; every parameter has a part in each answer."""
    tolerance: Rate | None = None
    """Largest log-prob gap; default 1e-4 in float32, 0.1 in bfloat16 (to be measured: see the GPU results)."""


class TrainSettings(Section):
    steps: Positive = 100
    """Steps."""
    prompts: Positive | None = None
    """Training prompts that the prior and the alignment use, drawn with ``run.seed``; none is all of them."""
    prompts_per_step: Positive = 64
    """B: prompts per step, over all ranks."""
    checkpoint_every: Positive = 20
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept; an older one goes only after a newer one is whole."""
    max_failures: NonNegative = 2
    """How often the learners may be restarted from the last checkpoint."""


class EvaluateSettings(Section):
    metrics: list[str] = ["ndcg@5", "recall@5", "hr@5", "mrr@5", "ild@5", "mgu@5", "dgu@5"]
    """Columns of the table, besides the reward."""
    beam_width: Annotated[int, Field(ge=0, le=20)] = 0
    """Lists that beam search keeps per prompt; 0: lists are only decoded greedily and sampled."""
    max_prompts: Positive | None = None
    """Test prompts, drawn with ``run.seed``; none is all of them."""
    bootstrap: Positive = 2000
    """Resamples of the paired bootstrap over users."""


class TrackingSettings(Section):
    tensorboard: bool = True
    """Whether every step's numbers also go to TensorBoard."""


class RaySettings(Section):
    address: str | None = None
    """An existing cluster (``auto``); none: ``RAY_ADDRESS``, or else a local one for this command."""


class Config(Section):
    """The whole tree."""

    target: Literal["blade", "static", "grpo", "best_of_n_sft"] = "blade"
    """What the policy is aligned to; everything else is the same code."""
    colocate: bool | None = None
    """GPU only: whether engines and learners share GPUs in pairs; none: only where there are too few for both."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    codec: CodecSettings = CodecSettings()
    lists: ListSettings = ListSettings()
    model: ModelSettings = ModelSettings()
    sft: SftSettings = SftSettings()
    prior: PriorSettings = PriorSettings()
    rollout: RolloutSettings = RolloutSettings()
    reward: RewardSettings = RewardSettings()
    posterior: PosteriorSettings = PosteriorSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    learner: LearnerSettings = LearnerSettings()
    weights: WeightSettings = WeightSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if not self.reward.weights or not any(self.reward.weights.values()):
            raise ValueError("reward.weights: every weight is 0; give at least one metric a weight")
        if self.posterior.carry and self.reward.constrained:
            raise ValueError("posterior.carry: earlier evidence has no place beside reward.at_least or reward.at_most")
        if self.evaluate.beam_width and self.lists.constrain == "none":
            raise ValueError("evaluate.beam_width: beam search needs lists.constrain = catalog")
        if "{history}" not in self.codec.prompt:
            raise ValueError("codec.prompt: the text has no {history}")
        if self.data.targets < self.lists.k:
            raise ValueError(
                f"data.targets: {self.data.targets} held-out items per prompt cannot teach lists of lists.k = "
                f"{self.lists.k} items; raise data.targets or lower lists.k"
            )
        if self.data.source in ("movielens", "amazon", "table") and self.data.path is None:
            raise ValueError(f"data.path: needed where data.source is {self.data.source}")
        if self.data.source in ("amazon", "table") and self.data.items is None:
            raise ValueError(f"data.items: needed where data.source is {self.data.source}")
        return self

    @property
    def kl_coef(self) -> float:
        """Weight of the KL to the reference: ``learner.kl_coef``, or ``1 / (bon_n - 1)``."""
        given = self.learner.kl_coef
        return 1.0 / (self.learner.bon_n - 1) if given is None else given

    @property
    def prior_strength(self) -> float:
        """m: ``posterior.strength``, or M."""
        return float(self.posterior.strength or self.prior.size)

    @property
    def logprob_tolerance(self) -> float:
        """Largest log-prob gap after a push."""
        return self.weights.tolerance or (1e-4 if self.model.dtype == "float32" else 0.1)
