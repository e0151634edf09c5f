"""Estimates of what each role takes. Pure; rough on purpose, and rather too much than too little."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS = 1.5e9
"""Bytes of a process that has torch and vLLM or DeepSpeed loaded; on a GPU, of its CUDA context and libraries."""

ENGINE_TOKENS = 8192
"""Tokens of an engine's widest forward on a GPU."""

ACTIVATIONS = 16
"""Numbers per token, layer and unit of ``hidden`` that a forward leaves for its backward."""

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """Of a model."""

    parameters: int
    hidden: int
    layers: int
    vocab: int


@dataclass(frozen=True)
class Need:
    """Bytes of one engine and of one learner."""

    engine: float
    """In a node's memory, where it runs on cores."""
    engine_gpu: float
    """On each of its GPUs, beside the KV cache."""
    learner: float
    """In a node's memory, or on its GPU."""
    copy: float
    """In a node's memory, beside that: what a learner copies of itself while a checkpoint is written."""
    checkpoint: float
    """On disk."""


def parameters(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool) -> int:
    """Number of parameters of a Llama."""
    attention = 2 * hidden * hidden + 2 * hidden * (hidden // heads) * kv_heads
    return layers * (attention + 3 * hidden * ffn + 2 * hidden) + vocab * hidden * (1 if tied else 2) + hidden


def need(
    shape: Shape,
    dtype: str,
    zero_stage: int,
    workers: int,
    tokens: int,
    kv_cache: float,
    lora_rank: int | None = None,
    tensor_parallel: int = 1,
    recomputes: bool = False,
    loads_reference: bool = True,
) -> Need:
    """What one engine and one learner take, in bytes.

    A learner holds weights, gradients, a float32 copy and two Adam moments, each divided by the ranks from the ZeRO
    stage on that shards it; the reference's weights whole where it is loaded; and about 16 activations of ``hidden``
    per layer and token (with gradient checkpointing one per layer, and 16 of the layer that is computed again). Its
    copy for a checkpoint is of its part of the float32 numbers and, on rank 0, of the whole weights.

    Args:
        shape: of the model.
        dtype: of weights.
        zero_stage: 0 to 3.
        workers: learner ranks.
        tokens: of one micro-batch.
        kv_cache: bytes, of an engine on cores.
        lora_rank: of the adapters, where only they are trained.
        tensor_parallel: GPUs of an engine, each with its part of the weights.
        recomputes: whether the learner checkpoints gradients.
        loads_reference: whether the learner holds the reference too.
    """
    size = BYTES[dtype]
    share = [1 / workers if zero_stage >= stage else 1.0 for stage in (3, 2, 1)]
    master = 0 if dtype == "float32" else 4
    # an adapter of two matrices on each of seven linear layers, the widest about four times as wide as the model
    trained = shape.parameters if lora_rank is None else 26 * lora_rank * shape.hidden * shape.layers
    states = shape.parameters * size * share[0] + trained * (size * share[1] + (master + 8) * share[2])
    per_token = ACTIVATIONS + shape.layers if recomputes else ACTIVATIONS * shape.layers
    activations = per_token * tokens * shape.hidden * size
    # vLLM's CPU backend keeps a packed copy of every matrix, and ours the plain one, into which pushes are written
    engine = PROCESS + 2 * size * shape.parameters + kv_cache
    # without a backward only one layer's activations live at a time
    forward = ACTIVATIONS * ENGINE_TOKENS * shape.hidden * size
    engine_gpu = PROCESS + size * shape.parameters / tensor_parallel + forward
    reference = size * shape.parameters if loads_reference else 0
    learner = PROCESS + states + reference + activations
    copy = size * shape.parameters + trained * 12 / workers
    return Need(engine, engine_gpu, learner, copy, shape.parameters * size + trained * (size + master + 8))
