"""Numbers of a measured run: from its step log, and from the processes while it runs."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import psutil

ROLES = {"Engine": "engine", "TrainWorker": "learner", "StepPipeline": "pipeline", "Estimator": "estimator"}
"""Part of a Ray process's name, and the role that it has."""

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 FLOP/s of a GPU, by a part of its name."""


def numbers(rows: list[dict[str, float]], warmup: int, parameters: int, prompt_tokens: int) -> dict[str, Any]:
    """Medians over the steps after ``warmup``.

    Args:
        rows: of the step log.
        warmup: steps that are left out.
        parameters: of the model.
        prompt_tokens: mean length of a prompt.
    """
    rows = rows[warmup:]

    def median(name: str) -> float:
        return statistics.median(row[name] for row in rows)

    wall, generate, learn, push = (median(f"seconds/{name}") for name in ("step", "generate", "learn", "push"))
    tokens = median("lists") * median("list_tokens")
    return {
        "lists_per_second": median("lists") / wall,
        "generated_tokens_per_second": tokens / generate,
        "learned_tokens_per_second": tokens / learn,
        "seconds": {
            "step": wall,
            **{name: median(f"seconds/{name}") for name in ("generate", "score", "estimate", "learn", "push")},
        },
        "overhead": statistics.median(overhead(row) for row in rows),
        "idle": {"engine": 1 - min(1.0, generate / wall), "learner": 1 - min(1.0, learn / wall)},
        "push_gb_per_second": median("push_bytes") / push / 1e9,
        "staleness": statistics.fmean(row["staleness"] for row in rows),
        "invalid": max(row["invalid"] for row in rows),
        "duplicate": max(row["duplicate"] for row in rows),
        "logprob_gap": max(row["logprob_gap"] for row in rows),
        "list_tokens": median("list_tokens"),
        "prompt_tokens": prompt_tokens,
        "parameters": parameters,
        "mfu": mfu(parameters, tokens + prompt_tokens * median("lists") / max(1.0, group_of(rows)), learn),
    }


def overhead(row: dict[str, float]) -> float:
    """``(wall - generate - learn - push) / wall`` of a step (the probe is part of the push)."""
    busy = sum(row[f"seconds/{name}"] for name in ("generate", "learn", "push"))
    return (row["seconds/step"] - busy) / row["seconds/step"]


def group_of(rows: list[dict[str, float]]) -> float:
    """Lists per prompt, where the rows say so."""
    return rows[0].get("group", 1.0)


def mfu(parameters: int, tokens: float, seconds: float) -> float | None:
    """``6 * parameters * tokens`` per second over the GPU's peak; None where it has none that is known."""
    peak = peak_flops()
    return None if peak is None else 6 * parameters * tokens / seconds / peak


def useful_flops(
    parameters: int, tokens: int, pairs: int, layers: int, hidden: int, decisions: int, head: int
) -> float:
    """FLOPs of a forward and a backward without what packing, masks and padding add.

    Args:
        parameters: of the layers, embedding and head left out.
        tokens: that are different, a shared prompt counted once.
        pairs: of tokens of which one attends to the other, per layer.
        layers: of the model.
        hidden: width of queries, all heads together.
        decisions: positions whose logits are needed.
        head: parameters of the output head that these logits need.
    """
    return 6.0 * (parameters * tokens + 2 * hidden * layers * pairs + decisions * head)


def peak_flops() -> float | None:
    """Dense bf16 FLOP/s of the first GPU; None where it has none that is known."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_BF16.items() if part in name), None)


def gpu_says(what: str) -> str:
    """One answer of ``nvidia-smi`` about the first GPU (``--help-query-gpu`` names them), without its unit."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Peaks:
    """The largest of each number that is read again and again while the block runs."""

    def __init__(self, read: Callable[[], dict[str, float]], interval_s: float = 0.5) -> None:
        self.largest: dict[str, float] = {}
        self._read, self._interval = read, interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            for name, value in self._read().items():
                self.largest[name] = max(self.largest.get(name, 0.0), value)


def gpu_memory() -> dict[str, float]:
    """``gpu``: memory in use on the first GPU by all processes together, in MiB."""
    return {"gpu": float(gpu_says("memory.used"))}


def role_memory() -> dict[str, float]:
    """Resident memory of each role without what is shared, in MiB."""
    now: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            role = next((role for part, role in ROLES.items() if title.startswith("ray::") and part in title), None)
            if role is not None:
                memory = process.memory_info()
                # the object store is mapped into every process: counted with each, it would count many times
                now[role] = now.get(role, 0.0) + (memory.rss - memory.shared) / 2**20
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return now
