"""Full parameters of a (possibly ZeRO-3 sharded, possibly adapted) model, a bucket at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Bucket = list[tuple[str, torch.Tensor]]
"""Hugging Face name and full tensor of each parameter."""

ADAPTER = ".default"
"""PEFT's name of a model's only adapter, inside the names of its parameters."""


def parameter_buckets(model: Any, bucket_bytes: int) -> Iterator[Bucket]:
    """Yields every parameter of ``model`` that is trained once, whole, in buckets of about ``bucket_bytes``.

    Under ZeRO-3 gathering is collective: all ranks iterate in step, and a bucket's tensors live only until the next
    one is requested. (vLLM's own trainer-side source cannot gather shards.) A tied head is sent once, under the
    embedding's name. Where adapters are trained they are all that there is, under PEFT's names
    (``<layer>.lora_A.weight``).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return _buckets([(name.replace(ADAPTER, ""), parameter) for name, parameter in named], bucket_bytes)


def trained_state(model: Any, bucket_bytes: int, keep: bool) -> dict[str, torch.Tensor]:
    """What is trained, on the CPU, where ``keep`` (rank 0); elsewhere only takes part in the gathering."""
    return _collect(parameter_buckets(model, bucket_bytes), keep)


def full_state(model: Any, bucket_bytes: int, keep: bool) -> dict[str, torch.Tensor]:
    """All parameters on the CPU, by Hugging Face name; adapters, and the parts of an embedding, as what they add up to.

    Where ``keep`` (rank 0); elsewhere only takes part in the gathering.
    """
    state = _collect(_buckets(list(model.named_parameters()), bucket_bytes), keep)
    if keep:
        for layer, module in model.named_modules():
            if hasattr(module, "lora_A"):
                _merge(state, layer, next(iter(module.scaling.values())))
            if hasattr(module, "sum_of"):
                module.sum_of(state, layer)
    return state


def _merge(state: dict[str, torch.Tensor], layer: str, scale: float) -> None:
    """``W + scale * B A`` in place of ``W``, ``A`` and ``B`` (computed in float32)."""
    down, up = (state.pop(f"{layer}.{side}{ADAPTER}.weight").float() for side in ("lora_A", "lora_B"))
    for name in [name for name in state if name.startswith(f"{layer}.base_layer.")]:
        base = state.pop(name)
        merged = (base.float() + scale * up @ down).to(base.dtype) if name.endswith(".weight") else base
        state[name.replace(".base_layer.", ".")] = merged


def _collect(buckets: Iterator[Bucket], keep: bool) -> dict[str, torch.Tensor]:
    state = {}
    for bucket in buckets:
        if keep:  # a copy: outside the gather a shard's owner has an empty tensor again
            state.update({name: tensor.to("cpu", copy=True) for name, tensor in bucket})
    return state


def _buckets(named: list[tuple[str, Any]], bucket_bytes: int) -> Iterator[Bucket]:
    for names, parameters in _cut(named, bucket_bytes):
        with _gathered(parameters):
            yield [(name, parameter.detach()) for name, parameter in zip(names, parameters, strict=True)]


def source(model: Any, bucket_mb: int) -> Callable[[], Iterator[Bucket]]:
    """A function that starts a new pass over the parameters, in buckets of ``bucket_mb`` MiB."""
    return lambda: parameter_buckets(model, bucket_mb * 2**20)


def _cut(named: list[tuple[str, Any]], bucket_bytes: int) -> Iterator[tuple[list[str], list[Any]]]:
    names: list[str] = []
    parameters: list[Any] = []
    size = 0
    for name, parameter in named:
        # under ZeRO-3 `numel()` is 0 outside a gather; `ds_numel` is the whole parameter's
        numbers = getattr(parameter, "ds_numel", parameter.numel())
        if names and size + numbers * parameter.element_size() > bucket_bytes:
            yield names, parameters
            names, parameters, size = [], [], 0
        names.append(name)
        parameters.append(parameter)
        size += numbers * parameter.element_size()
    if names:
        yield names, parameters


def _gathered(parameters: list[Any]) -> AbstractContextManager[Any]:
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
