"""The learner on a GPU: speed against its limits, and where its time is spent (lines 3 and 6 of gpu.py)."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.learner import Work, make_sequences, make_step, turn_about
from benchmarks.measure import peak_flops, useful_flops
from benchmarks.peer import beside_peer
from benchmarks.workload import LLAMA_1B
from blade_dist.learners.packing import PromptLists
from blade_dist.settings import ModelSettings

WORK = Work(prompts=32, prompt_tokens=300, group=16, k=13, items=10_000, vocab=LLAMA_1B.vocab)
"""Lists of 40 tokens."""
MODEL = ModelSettings.model_validate(
    {
        "dtype": LLAMA_1B.dtype,
        "build": {
            "hidden_size": LLAMA_1B.hidden,
            "layers": LLAMA_1B.layers,
            "heads": LLAMA_1B.heads,
            "kv_heads": LLAMA_1B.kv_heads,
            "ffn_size": LLAMA_1B.ffn,
            "context": 1024,
        },
    }
)
REPEATS = 3
SHARED_BUDGETS, UNPACKED_BUDGETS = (8192, 16_384, 32_768), (8192, 16_384)
"""Tokens per micro-batch that are tried; the fastest counts."""
LARGEST = 5
"""Operators that a profile names."""


def learner_speed(console: Console, peer: bool) -> dict[str, Any]:
    """Lists/s, token/s and MFU of forward, backward and optimizer step, with and without what makes it fast."""
    legal = make_sequences(WORK)
    dense = replace(legal, legal=None)
    cases = {
        "shared prefix, legal tokens": (legal, True),
        "shared prefix, whole vocabulary": (dense, True),
        "unpacked, legal tokens": (legal, False),
        "unpacked, whole vocabulary": (dense, False),
    }
    measured: dict[str, Any] = {}
    for name, (sequences, shared) in cases.items():
        budgets = SHARED_BUDGETS if shared else UNPACKED_BUDGETS
        speeds = {budget: _speed(sequences, budget, shared) for budget in budgets}
        fits = {budget: speed for budget, speed in speeds.items() if speed is not None}
        best = max(fits, key=lambda budget: fits[budget]["lists_per_second"])
        measured[name] = fits[best] | {"tokens_per_microbatch": best, "tried": speeds}
        console.print(name, measured[name])
    result = {"cases": measured, "goals": {"mfu": 0.4, "ratio_vs_trl": 5}, **workload()}
    ours = measured["shared prefix, legal tokens"]["lists_per_second"]
    return beside_peer(result, ours, replace(LLAMA_1B, prompts=WORK.prompts), steps=3) if peer else result


def learner_profile(_: Console, peer: bool) -> dict[str, Any]:
    """The operators that take most of a learner step, and the share of the roofline that each reaches."""
    step = make_step(make_sequences(WORK), WORK.vocab, LLAMA_1B.microbatch_tokens, True, MODEL)
    step()
    copy = copy_speed(2**30)
    with profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], record_shapes=True, with_flops=True
    ) as trace:
        seconds = step()
    # operators as the CPU launched them, with the device time of their kernels; with the kernels it would count twice
    every = trace.key_averages(group_by_input_shape=True)
    events = [event for event in every if event.device_type == DeviceType.CPU]
    events.sort(key=lambda event: event.self_device_time_total, reverse=True)
    total = sum(event.self_device_time_total for event in events) / 1e6
    rows = [_row(event, total, copy) for event in events[:LARGEST]]
    times = {"step_seconds": seconds, "device_seconds": total, "copy_bytes_per_second": copy}
    return times | {"largest": rows, **workload()}


def workload() -> dict[str, Any]:
    """What both lines are run with."""
    return {"workload": asdict(WORK) | {"model": MODEL.model_dump(exclude={"path"})}}


def copy_speed(size: int, repeats: int = 10) -> float:
    """Bytes per second of copies from device memory to device memory."""
    source, target = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    target.copy_(source)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        target.copy_(source)
    torch.cuda.synchronize()
    return repeats * size / (time.perf_counter() - began)


def _speed(sequences: PromptLists, budget: int, shared: bool) -> dict[str, float] | None:
    """None where it does not fit into the memory."""
    gc.collect()  # the last one's model: its head refers to itself
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step = make_step(sequences, WORK.vocab, budget, shared, MODEL)
        step()
        seconds = turn_about({"step": step}, REPEATS)["step"]
        return _numbers(seconds, sequences, whole_head=sequences.legal is None)
    except torch.cuda.OutOfMemoryError:
        return None


def _numbers(seconds: float, sequences: PromptLists, whole_head: bool) -> dict[str, float]:
    build = MODEL.build
    head_width = build.hidden_size // build.heads
    attention = 2 * build.hidden_size**2 + 2 * build.hidden_size * head_width * build.kv_heads
    layers = build.layers * (attention + 3 * build.hidden_size * build.ffn_size)
    prompt, lists = (rows.lengths.astype(np.int64) for rows in (sequences.prompt, sequences.tokens))
    tokens = int(prompt.sum() + lists.sum())
    pairs = int((prompt * (prompt + 1) // 2).sum() + (lists * (prompt[sequences.owner] + (lists + 1) // 2)).sum())
    head = build.hidden_size * WORK.vocab if whole_head else 0
    flops = useful_flops(layers, tokens, pairs, build.layers, build.hidden_size, int(lists.sum()), head)
    peak = peak_flops()
    return {
        "seconds": seconds,
        "lists_per_second": len(lists) / seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": flops / seconds / peak if peak else float("nan"),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _row(event: Any, total: float, copy: float) -> dict[str, Any]:
    """Share of time, and of the roofline: by FLOPs where the profiler counts them, else by bytes in and out."""
    seconds = event.self_device_time_total / 1e6
    numbers = [int(np.prod(shape)) for shape in event.input_shapes if shape]
    moved = 2 * event.count * (sum(numbers) + max(numbers, default=0))
    peak = peak_flops()
    by_flops = event.flops / seconds / peak if event.flops and peak else None
    return {
        "operator": event.key,
        "shapes": str(event.input_shapes),
        "calls": event.count,
        "seconds": seconds,
        "share": seconds / total,
        "of_peak_flops": by_flops,
        "of_copy_speed": None if by_flops else moved / seconds / (2 * copy),
    }
