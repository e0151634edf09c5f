"""The whole stack on a GPU: quickstart, push, rollouts, whole steps, adapters (lines 1, 2, 4, 5 and 7 of gpu.py)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.generated_run import make_config, prepare
from benchmarks.gpu_learner import copy_speed
from benchmarks.measure import Peaks, gpu_memory, numbers
from benchmarks.peer import beside_peer
from benchmarks.throughput import measure
from benchmarks.trie import Workload as TrieWorkload
from benchmarks.trie import make_codec, measure_generation
from benchmarks.workload import LLAMA_1B, Workload
from blade_dist.cluster.placement import place_here
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.learners.policy import load_model
from blade_dist.rollouts.pool import RunningPool
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.context import context_length
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths
from blade_dist.weights.gather import source
from blade_dist.weights.push import WeightPusher

QUICKSTART = Path(__file__).parent.parent / "launch" / "configs" / "quickstart.yaml"


def quickstart(console: Console, peer: bool) -> dict[str, Any]:
    """The quickstart in bfloat16, engine and learner on one GPU: its summary, and the most memory in use."""
    with tempfile.TemporaryDirectory() as name, Peaks(gpu_memory) as gpu:
        run = Path(name) / "run"
        settings = [
            f"run.dir={run}",
            "model.dtype=bfloat16",
            "colocate=true",
            "learner.zero_stage=1",
            "weights.tolerance=1",  # the gap is what is to be measured
        ]
        options = [part for setting in settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "blade_dist", "run", str(QUICKSTART), *options]
        if status := subprocess.run(command, check=False).returncode:
            raise SystemExit(f"the quickstart ended with {status}")
        summary = read_json(run / "summary.json") or {}
        rows = pq.read_table(RunPaths(run).target("blade") / "metrics.parquet").to_pylist()
    gaps = [row["logprob_gap"] for row in rows]
    return {
        "settings": settings,
        "logprob_gap": {"median": statistics.median(gaps), "max": max(gaps)},
        "rollout_gap_max": max(row["rollout_gap"] for row in rows),
        "peak_gpu_mib": int(gpu.largest["gpu"]),
        "summary": summary,
    }


def push(_: Console, peer: bool, repeats: int = 10) -> dict[str, Any]:
    """A full push by CUDA IPC from this process to an engine on the same GPU, beside a copy on the device."""
    with _prepared(LLAMA_1B, steps=1) as config:
        paths = RunPaths(config.run.dir)
        with ray_runtime(config):
            spec = EngineSpec.of(config, paths.reference, paths, context_length(paths.reference))
            with RunningPool(config, spec, place_here(config, learners=False).engines) as pool:
                model = load_model(paths.reference, config.model).cuda()
                buckets = source(model, config.weights.bucket_mb)
                pusher = WeightPusher(pool.engines, "ipc", buckets, rank=0, barrier=lambda: None)
                reports = [pusher.push((0, number)) for number in range(2 + repeats)][2:]
                limit = copy_speed(2**30)
                pusher.close()
    seconds, size = statistics.median(report.seconds for report in reports), reports[0].bytes
    return {
        "bytes": size,
        "seconds": seconds,
        "gb_per_second": size / seconds / 1e9,
        "limit_seconds": size / limit,
        "limit_gb_per_second": limit / 1e9,
        "ratio_to_limit": seconds * limit / size,
        "parts": {name: statistics.median(report.parts[name] for report in reports) for name in reports[0].parts},
        "to_beat": {"TRL, NCCL, 0.6B": "0.18 s", "NeMo-RL, resharding, 4B": "0.21-0.34 s"},
    }


def rollouts(_: Console, peer: bool) -> dict[str, Any]:
    """Tokens/s of one engine, unconstrained and constrained, by the size of the catalog."""
    model = make_config(LLAMA_1B, Path("unused"), 1).model.model_dump(exclude={"path"})
    work = TrieWorkload(
        item_tokens=4, vocab=LLAMA_1B.vocab, prompts=64, group=16, k=8, prompt_tokens=300, repeats=5, model=model
    )
    results = {}
    for count in (10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as name:
            results[str(count)] = measure_generation(make_codec(count, work), work, Path(name) / "run")
    return {"by_items": results, "goal": {"generation_ratio": 0.9}, "workload": vars(work)}


def whole_step(console: Console, peer: bool, work: Workload = LLAMA_1B, steps: int = 4) -> dict[str, Any]:
    """A step on-policy with the engine asleep while the learner steps, and one behind with both resident; TRL's."""
    results: dict[str, Any] = {}
    for staleness in (0, 1):
        with Peaks(gpu_memory) as gpu:
            results[f"max_staleness {staleness}"] = measure(replace(work, max_staleness=staleness), steps, 2, console)
        results[f"max_staleness {staleness}"]["peak_gpu_mib"] = int(gpu.largest["gpu"])
    result = {"workload": asdict(work), "goal": {"overhead": 0.05}, **results}
    return beside_peer(result, results["max_staleness 0"]["lists_per_second"], work, steps) if peer else result


def adapters(console: Console, peer: bool, steps: int = 4) -> dict[str, Any]:
    """Full fine-tuning and LoRA: both train, push and export; what each push moves."""
    results, work = {}, replace(LLAMA_1B, prompts=64)
    for name, changed in (("full", work), ("lora", replace(work, lora_rank=16))):
        with _prepared(changed, steps) as config, Peaks(gpu_memory) as gpu:
            align_stage(open_run(config), console)
            paths = RunPaths(config.run.dir)
            policy, out = paths.policy(config.target), config.run.dir / "export"
            export_stage(config, policy, out, console)
            rows = pq.read_table(paths.target(config.target) / "metrics.parquet").to_pylist()
            for row in rows:
                row["group"] = work.group
            results[name] = {
                **numbers(rows, 1, _parameters(out, config), work.prompt_tokens),
                "push_bytes": rows[-1]["push_bytes"],
                "kl_last": rows[-1]["kl"],
                "moved": _moved(paths.reference, out, config),
                "files": {
                    str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*.safetensors"))
                },
            }
        results[name]["peak_gpu_mib"] = int(gpu.largest["gpu"])
    return {"workload": asdict(work), **results}


@contextmanager
def _prepared(work: Workload, steps: int) -> Iterator[Config]:
    """Settings of a run whose data and reference are made, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        config = make_config(work, Path(name) / "run", steps)
        prepare(config, work)
        yield config


def _parameters(checkpoint: Path, config: Config) -> int:
    return sum(parameter.numel() for parameter in load_model(checkpoint, config.model).parameters())


def _moved(before: Path, after: Path, config: Config) -> dict[str, float]:
    """Largest change of a weight, and the share of parameters of which something changed."""
    old = load_model(before, config.model).state_dict()
    changes = [
        float((value.float() - old[name].float()).abs().max())
        for name, value in load_model(after, config.model).state_dict().items()
    ]
    return {"largest": max(changes), "share": sum(change > 0 for change in changes) / len(changes)}
