"""Who does the work, and how: rollouts, learners, weights, steps, Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from blade_dist.settings.section import Fraction, NonNegative, Positive, Rate, Section


class RolloutSettings(Section):
    engines: Positive = 1
    """vLLM engines. More of them write a step's lists faster; with ``colocate`` as many as ``learner.workers``."""
    tensor_parallel: Positive = 1
    """GPUs per engine. Raise it only where the model and its KV cache do not fit on one: more engines are faster than
    wider ones."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """G: lists per prompt and step, which are the step's evidence. Small groups make both the evidence and the
    advantage noisy; generation takes time in proportion."""
    k: Positive | None = None
    """Items of a list in training, reference lists included; default ``lists.k``. Items that no part of the reward
    looks at cost time and add noise to the gradient: 5 is right where the reward is ndcg@5."""
    max_staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Steps that generation may run ahead of the newest weights, while the learners learn; 0 is strictly on-policy. 1
    is faster where engines and learners have GPUs of their own."""
    temperature: Rate = 1.0
    """T of every training sample; the learner divides by the same. Raise it where the lists of a group are too much
    alike."""
    max_num_seqs: Positive = 256
    """Sequences an engine decodes at once. Raise it while the GPU's KV cache has room, lower it where vLLM preempts."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """GPU only: share of the device that vLLM may take. About 0.85 where an engine has the GPU to itself; below one
    half where it shares it with a learner."""
    kv_cache_gb: Positive = 1
    """CPU only: size of the KV cache in GiB at most; a small model takes what its sequences fill. Raise it where vLLM
    says that the longest sequence does not fit."""
    cpus_per_engine: Positive = 1
    """CPU cores reserved (and threads used) by an engine. On CPU it sets the speed; on GPUs a few are enough."""
    start_timeout_s: Rate = 60.0
    """How long, in seconds, the engines may wait for a place in the cluster. Raise it where nodes join late or the
    cluster scales up first."""
    ready_timeout_s: Rate = 1800.0
    """How long, in seconds, an engine that has its place may load the model before it answers. Raise it where weights
    come over a slow network."""
    request_timeout_s: Rate = 600.0
    """How long, in seconds, an engine may be silent while it owes an answer to a request for lists; then it is killed,
    others take its prompts, and the engine is replaced. Set it well above what an engine's share of a step takes."""
    push_timeout_s: Rate = 600.0
    """The same for one piece of new weights, and for what an engine does before the first and after the last. Set it
    well above what a whole push takes (``seconds/push``)."""
    sleep_timeout_s: Rate = 300.0
    """The same for an engine that gives GPU memory back or takes it again (``colocate``)."""


class LoraSettings(Section):
    rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Rank of every adapter, one of those that vLLM serves. Raise it where the reward stalls: a larger one can change
    the policy more, and takes longer to push."""
    alpha: Positive = 32
    """An adapter's part is scaled by ``alpha / rank``. Raising it acts like a higher learning rate."""
    modules: Annotated[list[str], Field(min_length=1)] = [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    """Linear layers that get an adapter, by the last part of their names. Change it for architectures that name theirs
    differently."""


class LearnerSettings(Section):
    workers: Positive = 1
    """Ranks, one per GPU (or per ``cpus_per_worker`` cores). Each learns its share of ``train.prompts_per_step``, so
    that more of them make a step faster. An unfinished training may go on with another number."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage: 1 shards the optimizer's state over the ranks, 2 the gradients too, 3 the weights too.
    Raise it where a rank runs out of memory; 3 makes every push gather the weights. An unfinished training may go on
    with another one."""
    lr: Rate | None = None
    """Peak learning rate. None: 1e-3 for a model that is built from nothing; with ``model.path`` 1e-6, or 1e-5 where
    adapters are trained (``lora``)."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up: linear and cosine reach 0 at the last step, constant stays. Take
    constant to compare runs of different length step by step."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up. Some 20 help a large model, whose first AdamW steps are the least certain."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decay. The KL already holds the policy near the reference, so that 0 is usual."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's betas: how slowly the means of gradient and squared gradient move. Lower the second (0.95) where single
    batches make the loss jump."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the global gradient; 0 turns clipping off. Lower it where single batches make the loss jump."""
    clip_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """epsilon of the clipped importance ratio; it binds only where ``epochs`` is above 1. Smaller keeps the policy
    closer to the one that began the step."""
    truncation: Rate = 2.0
    """C: largest weight of a stale sample (truncated importance sampling). It matters with ``rollout.max_staleness``
    above 0; smaller means less variance and more bias."""
    epochs: Positive = 1
    """Optimizer steps per batch of rollouts. More of them use lists that are slow to generate more than once, at the
    price of being off-policy."""
    bon_n: Annotated[int, Field(ge=2)] = 16
    """N of the Best-of-N that is distilled: read by the default of ``kl_coef`` and by ``posterior.ties: exact``. A
    larger N lets the policy go further from the reference for its reward."""
    kl_coef: Annotated[float, Field(ge=0)] | None = None
    """Weight of the KL to the reference; default ``1 / (bon_n - 1)``. Raise it where other qualities of the lists
    suffer, lower it where the reward stalls near the reference. Not read by ``target: bond``."""
    tokens_per_microbatch: Positive = 16384
    """Padded tokens of one forward; more are accumulated. Lower it where a rank runs out of memory, raise it where it
    has room; the gradient stays the same."""
    shared_prefix: bool = True
    """Computes a prompt once for all its lists; where a model can't (the log says so), each list computes it anew. Turn
    it off only to look for a fault."""
    lora: LoraSettings | None = None
    """Trains low-rank adapters on the reference (``{}`` with the defaults): only they are pushed, and the reference
    needs no memory of its own. ``sft`` trains such adapters of a base checkpoint too, and merges them, unless the
    prepared data brought new tokens. None trains every weight."""
    gradient_checkpointing: bool = False
    """Trades compute for memory: activations are computed again in the backward pass. Turn it on where even a small
    ``tokens_per_microbatch`` does not fit."""
    cpus_per_worker: Positive = 1
    """CPU cores reserved (and threads used) by a rank. On CPU it sets the speed; on GPUs a few are enough."""


class WeightSettings(Section):
    transport: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    """How weights reach the engines; auto: gloo on CPU, ipc where learner and engine share a GPU, else nccl. Name one
    only to override that choice."""
    bucket_mb: Positive = 1024
    """Largest piece of the weights that is gathered and sent at once, in MiB. Lower it where a push runs out of
    memory."""
    probe_prompts: Positive = 2
    """Prompts of the log-prob probe after each push; every parameter has a part in each answer. More of them find rarer
    faults and take longer."""
    tolerance: Rate | None = None
    """Largest log-prob gap between learner and engine after a push; beyond it the learners fail. Default 1e-4 in
    float32 and 0.1 in bfloat16, which is not yet measured. Raise it only where the error says that the gap is
    rounding."""


PromptsFrom = Literal["train", "held_out", "all"]
"""``train.prompts_from``."""


class TrainSettings(Section):
    steps: Positive = 100
    """Steps of the alignment. Together with ``prompts_per_step`` it is the budget: so many prompts are visited."""
    prompts_from: PromptsFrom = "train"
    """Where the alignment's prompts come from. train: places of what is fine-tuned on, whose next items the model may
    have learnt by heart. held_out: the last item of each user's training part is kept from fine-tuning, and is what
    the user's one prompt asks for. all: both. Take held_out where the reward rises on training prompts and not on fresh
    ones (``validation_prompts``). The data and all that follows depend on it."""
    prompts: Positive | None = None
    """Training prompts that the prior and the alignment use, drawn with ``run.seed``; none is all of them. On a large
    log take about as many as the run visits, ``steps`` x ``prompts_per_step``, so that no reference lists are written
    in vain."""
    prompts_per_step: Positive = 64
    """B: prompts per step, over all ranks. More of them make the gradient steadier and each step longer."""
    checkpoint_every: Positive = 20
    """Steps between checkpoints. When a rank dies, those since the last whole one are lost, and a checkpoint is written
    while the next steps are taken. Larger ones save time and disk writes."""
    validation_prompts: NonNegative = 0
    """Validation prompts, drawn with ``run.seed``, decoded as ``evaluate.decode`` says and scored at every checkpoint;
    the one with the best mean reward becomes the policy. Four lists are sampled for each of them too, to see whether
    fresh prompts gain what training prompts do. 0: the last checkpoint becomes the policy. Some hundreds show a policy
    that becomes worse."""
    patience: Positive | None = None
    """Checkpoints in a row without a better validation reward after which the training stops; needs
    ``validation_prompts``. Set it where the reward stops rising long before the last step. None: it never stops
    early."""
    max_seconds: Rate | None = None
    """Seconds after which a command ends as after SIGTERM: it saves the step of ``sft`` or ``train`` that it is at, and
    its exit code is 143; the same command goes on from there. Set it where a scheduler takes the machine away. None:
    there is no limit."""
    checkpoint_before: Rate = 300.0
    """In a Slurm job that says in ``SLURM_JOB_END_TIME`` when its time limit ends it: so many seconds before that the
    same happens, in short jobs in their last tenth. Raise it where a step and its checkpoint take longer."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept; an older one is deleted only after a newer one is whole. Raise it to look back at how the
    policy changed."""
    max_failures: NonNegative = 2
    """How often in a row, without a new step between, the learners may be started again from the last checkpoint. Raise
    it on machines that may be taken away; 0 stops at the first fault."""

    max_skipped: NonNegative = 3
    """Steps in a row of ``sft`` or ``train`` that are left out, as their loss or gradient is not finite; one more ends
    the command. The weights stay as they were, and ``skipped_steps`` of the step log counts them all. 0 ends it at the
    first one."""


def _without_secrets(address: str) -> str:
    if "@" in address:
        raise ValueError("ray.address: credentials would be kept with the settings; give the token as RAY_AUTH_TOKEN")
    return address


class RaySettings(Section):
    address: Annotated[str, AfterValidator(_without_secrets)] | None = None
    """Address of a running Ray cluster that the command joins; ``auto`` is the one on this machine. None:
    ``RAY_ADDRESS`` where it is set, or else the command starts Ray here and stops it at its end."""
    silence_s: Rate = 120.0
    """How long a learner, rewards, estimator, pipeline and step log may each give no sign of life before the process is
    ended and another one takes its place. Raise it on a machine where everything stalls for minutes."""
    wait_for_node_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    """When a node of the cluster dies, how long the command waits until its engines and learners fit on the others, or
    one comes in its place. Then it goes on from its last checkpoint. 0: it ends, with what to do."""
