"""Estimates of what each role takes. Pure; rough on purpose, and rather too much than too little."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS = 1.5e9
"""Bytes of a process that has torch and vLLM or DeepSpeed loaded."""

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
    learner: float
    checkpoint: float
    """On disk."""


def parameters(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool) -> int:
    """Number of parameters of a Llama."""
    attention = 2 * hidden * hidden + 2 * hidden * (hidden // heads) * kv_heads
    return layers * (attention + 3 * hidden * ffn + 2 * hidden) + vocab * hidden * (1 if tied else 2) + hidden


def need(
    shape: Shape, dtype: str, zero_stage: int, workers: int, tokens: int, kv_cache: float, lora_rank: int | None = None
) -> Need:
    """What one engine and one learner take.

    A learner holds weights, gradients, a float32 copy and two Adam moments, each divided by the ranks from the ZeRO
    stage on that shards it; the reference's weights whole; and about 16 activations of ``hidden`` per layer and token.

    Args:
        shape: of the model.
        dtype: of weights.
        zero_stage: 0 to 3.
        workers: learner ranks.
        tokens: of one micro-batch.
        kv_cache: bytes.
        lora_rank: of the adapters, where only they are trained; the reference is the policy without them.
    """
    size = BYTES[dtype]
    share = [1 / workers if zero_stage >= stage else 1.0 for stage in (3, 2, 1)]
    master = 0 if dtype == "float32" else 4
    # an adapter of two matrices on each of seven linear layers, the widest about four times as wide as the model
    trained = shape.parameters if lora_rank is None else 26 * lora_rank * shape.hidden * shape.layers
    states = shape.parameters * size * share[0] + trained * (size * share[1] + (master + 8) * share[2])
    activations = 16 * tokens * shape.hidden * shape.layers * size
    engine = PROCESS + 2 * size * shape.parameters + kv_cache
    reference = size * shape.parameters if lora_rank is None else 0
    learner = PROCESS + states + reference + activations
    return Need(engine, learner, shape.parameters * size + trained * (size + master + 8))
