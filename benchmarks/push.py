"""The weight push, beside the loopback copy limit: the same bytes in one gloo broadcast between as many processes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import ray
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.report import write_result
from blade_dist.cluster.placement import place_here
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.learners.policy import build_model
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.store.context import context_length
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths
from blade_dist.weights.gather import source
from blade_dist.weights.gloo import join_group
from blade_dist.weights.push import PushReport, WeightPusher
from blade_dist.weights.rendezvous import CONNECT_TIMEOUT_S, open_store

GOAL = 1.5
"""At most this many times the limit."""

WARM_UP = 2
"""Pushes and copies that are not counted."""

CONTEXT = 128

CORES = {"push": "cpu_seconds", "limit": "limit_cpu_seconds"}

Copy = tuple[float, float]
"""Seconds that a broadcast took, and that it kept cores busy."""

HOST = "127.0.0.1"


@ray.remote
class Copier:
    """One end of the limit: a process that takes part in one gloo broadcast."""

    def __init__(self, rank: int, size: int, numbers: int) -> None:
        torch.set_num_threads(1)
        self._rank, self._size = rank, size
        self._buffer = torch.full((numbers,), float(rank == 0))

    def open(self) -> int:
        """Rank 0: starts the store; returns its port."""
        self._store, port = open_store(HOST, self._size)
        return port

    def join(self, port: int) -> None:
        """Joins the group."""
        if self._rank:
            self._store = torch.distributed.TCPStore(HOST, port, self._size, is_master=False)
        self._group = join_group(self._store, self._rank, self._size, HOST, CONNECT_TIMEOUT_S)

    def copy(self) -> tuple[float, float, float]:
        """One broadcast; its start and end on this machine's monotonic clock, and what it took of cores (seconds)."""
        self._group.barrier().wait()
        started, cpu = time.monotonic(), time.process_time()
        self._group.broadcast(self._buffer, 0).wait()
        return started, time.monotonic(), time.process_time() - cpu


class Limit:
    """As many processes as learner and engines together, and one broadcast between them."""

    def __init__(self, size: int, numbers: int) -> None:
        self._copiers = [Copier.options(num_cpus=0).remote(rank, size, numbers) for rank in range(size)]
        port = ray.get(self._copiers[0].open.remote())
        ray.get([copier.join.remote(port) for copier in self._copiers])

    def seconds(self) -> Copy:
        """From the sender's start until the last one has all bytes; and the time of all processes on cores."""
        spans = ray.get([copier.copy.remote() for copier in self._copiers])
        return max(end for _, end, _ in spans) - spans[0][0], sum(cpu for _, _, cpu in spans)


def settings(folder: Path, engines: int, parameters_m: float, tied: bool) -> Config:
    """A run whose small Llama has about ``parameters_m`` million parameters."""
    width = 256 if parameters_m < 10 else 512
    attention = 3 * width * width
    layers = max(2, round(parameters_m * 1e6 / (4 * attention)))
    ffn = max(32, round((parameters_m * 1e6 / layers - attention) / (3 * width * 32)) * 32)
    return load_config(
        None,
        [
            f"run.dir={folder / 'run'}",
            "data.synthetic={users: 120, items: 40, groups: 4, interactions: 24}",
            "data={k_core: 2, max_history: 8, targets: 3, windows: 3}",
            "lists.k=3",
            f"model.build={{hidden_size: {width}, layers: {layers}, heads: 8, kv_heads: 4, ffn_size: {ffn}}}",
            f"model.build.context={CONTEXT}",
            f"model.build.tied={str(tied).lower()}",
            f"rollout={{engines: {engines}, max_num_seqs: 16}}",
        ],
    )


@contextmanager
def running(config: Config, folder: Path) -> Iterator[tuple[Any, EnginePool]]:
    """A model with random weights, and engines that serve it."""
    prepare_data(config)
    data = load_data(config.run.dir)
    torch.manual_seed(0)
    model = build_model(config.model, data.codec.vocabulary, data.codec.pad, data.codec.end)
    save_policy(
        folder / "policy",
        model,
        model.state_dict(),
        data.codec.tokenizer,
        codec=data.codec.fingerprint(),
        policy="sft",
        step=0,
    )
    spec = EngineSpec.of(config, folder / "policy", RunPaths(config.run.dir), context_length(folder / "policy"))
    with RunningPool(config, spec, place_here(config, learners=False).engines) as pool:
        yield model, pool


def measure(
    config: Config, folder: Path, repeats: int, bucket_mb: int
) -> tuple[list[PushReport], list[tuple[float, float]]]:
    """Pushes and limits in turn, so that both see the same load of the machine."""
    torch.set_num_threads(config.learner.cpus_per_worker)
    with running(config, folder) as (model, pool):
        pusher = WeightPusher(pool.engines, "gloo", source(model, bucket_mb), rank=0, barrier=lambda: None)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        limit = Limit(1 + len(pool.engines), numbers)
        pushes, limits = [], []
        for repeat in range(WARM_UP + repeats):
            report, copied = pusher.push((0, repeat)), limit.seconds()
            if repeat >= WARM_UP:
                pushes.append(report)
                limits.append(copied)
        pusher.close()
    return pushes, limits


def summary(engines: int, pushes: list[PushReport], limits: list[Copy]) -> dict[str, Any]:
    """Medians over the repeats; ``parts`` in seconds, of the slowest engine where an engine spends them."""
    push, limit = (
        statistics.median(report.seconds for report in pushes),
        statistics.median(seconds for seconds, _ in limits),
    )
    size = pushes[0].bytes
    parts = {name: statistics.median(report.parts[name] for report in pushes) for name in pushes[0].parts}
    return {
        "bytes": size,
        "push_seconds": push,
        "limit_seconds": limit,
        "ratio_to_limit": push / limit,
        "goal": GOAL,
        "push_gb_per_s": size / push / 1e9,
        "limit_gb_per_s": size / limit / 1e9,
        "ratio_of_best": min(report.seconds for report in pushes) / min(seconds for seconds, _ in limits),
        "cpu_seconds": parts["cpu"] + engines * parts["engine cpu"],
        "limit_cpu_seconds": statistics.median(cpu for _, cpu in limits),
        "parts": parts,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The result as a table."""
    table = Table(title=f"Weight push, {result['bytes'] / 1e6:.1f} MB")
    for column in ("what", "ms", "GB/s", "x limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    limit = result["limit_seconds"]
    whole = {"push": result["push_seconds"], "limit: one broadcast": limit}
    for name, seconds in [*whole.items(), *((f"  {part}", s) for part, s in result["parts"].items())]:
        rate = f"{result['bytes'] / seconds / 1e9:.2f}" if name in whole else ""
        table.add_row(name, f"{seconds * 1e3:.2f}", rate, f"{seconds / limit:.2f}")
    console.print(table)
    verdict = "reached" if result["ratio_to_limit"] <= GOAL else "missed"
    cores = ", ".join(f"{what} {result[key] * 1e3:.1f} ms" for what, key in CORES.items())
    console.print(f"time on cores, all processes: {cores}; best push / best limit: {result['ratio_of_best']:.2f}")
    console.print(f"goal: at most {GOAL} x the limit; {verdict}: {result['ratio_to_limit']:.2f}")


def main(
    engines: Annotated[int, typer.Option(min=1, help="vLLM engines.")] = 2,
    parameters_m: Annotated[float, typer.Option(min=0.5, help="Parameters, in millions (float32).")] = 2.75,
    repeats: Annotated[int, typer.Option(min=1, help="Pushes that are timed; medians are reported.")] = 20,
    bucket_mb: Annotated[int, typer.Option(min=1, help="weights.bucket_mb: largest piece sent at once.")] = 1024,
    tied: Annotated[bool, typer.Option(help="Whether the output head is the input embedding.")] = True,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Times the weight push to real engines against one gloo broadcast of as many bytes, in turns.

    Examples:

      python -m benchmarks.push

      python -m benchmarks.push --parameters-m 25 --repeats 20 --json push.json
    """
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        config = settings(Path(name), engines, parameters_m, tied)
        with ray_runtime(config):
            pushes, limits = measure(config, Path(name), repeats, bucket_mb)
    result = summary(engines, pushes, limits)
    show(result, console)
    options = {"engines": engines, "parameters_m": parameters_m, "repeats": repeats, "bucket_mb": bucket_mb}
    write_result(json, "push", {**options, "tied": tied, "build": config.model.build.model_dump()}, result)


if __name__ == "__main__":
    typer.run(main)
