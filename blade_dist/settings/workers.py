"""Who does the work, and how: rollouts, learners, weights, steps, Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blade_dist.settings.section import Fraction, NonNegative, Positive, Rate, Section


class RolloutSettings(Section):
    engines: Positive = 1
    """vLLM engines."""
    tensor_parallel: Positive = 1
    """GPUs per engine."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """G: lists per prompt and step."""
    k: Positive | None = None
    """Items of a list in training, reference lists included; default ``lists.k``. Items that no part of the reward
    looks at cost time and add noise to the gradient: 5 is right where the reward is ndcg@5."""
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
    """N of the Best-of-N that is distilled: read by the default of ``kl_coef`` and by ``posterior.ties: exact``."""
    kl_coef: Annotated[float, Field(ge=0)] | None = None
    """Weight of the KL to the reference; default ``1 / (bon_n - 1)``. Not read by ``target: bond``."""
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
    validation_prompts: NonNegative = 0
    """Validation prompts, drawn with ``run.seed``, whose greedy lists are scored at every checkpoint; the checkpoint
    with the best mean reward becomes the policy. 0: the last one does."""
    patience: Positive | None = None
    """Checkpoints in a row without a better validation reward after which it stops; none: it never stops early."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept; an older one goes only after a newer one is whole."""
    max_failures: NonNegative = 2
    """How often the learners may be restarted from the last checkpoint."""


class RaySettings(Section):
    address: str | None = None
    """An existing cluster (``auto``); none: ``RAY_ADDRESS``, or else a local one for this command."""
