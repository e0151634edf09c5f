"""Full parameters of a (possibly ZeRO-3 sharded) model, a bucket at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Bucket = list[tuple[str, torch.Tensor]]
"""Hugging Face name and full tensor of each parameter."""


def parameter_buckets(model: Any, bucket_bytes: int) -> Iterator[Bucket]:
    """Yields every parameter of ``model`` once, whole, in buckets of about ``bucket_bytes``.

    Under ZeRO-3 gathering is collective: all ranks iterate in step, and a bucket's tensors live only until the next
    one is asked for. A tied head is sent once, under the embedding's name.
    """
    for names, parameters in _cut(model, bucket_bytes):
        with _gathered(parameters):
            yield [(name, parameter.detach()) for name, parameter in zip(names, parameters, strict=True)]


def full_state(model: Any, bucket_bytes: int, keep: bool) -> dict[str, torch.Tensor]:
    """All parameters on the CPU, by name, where ``keep`` (rank 0); elsewhere only takes part in the gathering."""
    state = {}
    for bucket in parameter_buckets(model, bucket_bytes):
        if keep:
            state.update({name: tensor.to("cpu", copy=True) for name, tensor in bucket})
    return state


def source(model: Any, bucket_mb: int) -> Callable[[], Iterator[Bucket]]:
    """A function that starts a fresh pass over the parameters."""
    return lambda: parameter_buckets(model, bucket_mb * 2**20)


def _cut(model: Any, bucket_bytes: int) -> Iterator[tuple[list[str], list[Any]]]:
    names: list[str] = []
    parameters: list[Any] = []
    size = 0
    for name, parameter in model.named_parameters():
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
