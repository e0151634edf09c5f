"""How fast the whole trainer is, role by role, and how fast a peer is on the same work."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

if not __package__:  # run as a file, whose folder Python puts on the path in place of the working directory
    sys.path[0] = str(Path(__file__).parents[1])

import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks.generated_run import make_config, prepare
from benchmarks.measure import Peaks, numbers, role_memory
from benchmarks.peer import measure_peer
from benchmarks.report import show, write_result
from benchmarks.workload import PRESETS, Workload
from blade_dist.errors import UserError
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.run import RunPaths

SWEEPS = {"group": (4, 8, 16, 32), "prompt_tokens": (100, 250, 500), "items": (1_000, 10_000, 100_000)}
"""Values of each sweep."""

Preset = StrEnum("Preset", {name: name for name in PRESETS})
Sweep = StrEnum("Sweep", {name: name for name in SWEEPS})
Peer = StrEnum("Peer", {"trl": "trl"})
Constrain = StrEnum("Constrain", {"catalog": "catalog", "none": "none"})


def measure(work: Workload, steps: int, warmup: int, console: Console) -> dict[str, Any]:
    """A real run of the trainer, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        config = make_config(work, Path(name) / "run", warmup + steps)
        parameters = prepare(config, work)
        with Peaks(role_memory, interval_s=1.0) as memory:
            align_stage(open_run(config), console)
        paths = RunPaths(config.run.dir)
        rows = pq.read_table(paths.target(config.target) / "metrics.parquet").to_pylist()
    for row in rows:
        row["group"] = work.group
    measured = numbers(rows, warmup, parameters, work.prompt_tokens)
    return measured | {"peak_memory_mib": memory.largest}


def plot(name: str, results: dict[int, dict[str, Any]], path: Path) -> None:
    """Lists per second over the swept value."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    axes.plot(list(results), [measured["lists_per_second"] for measured in results.values()], marker="o")
    axes.set(xlabel=name, ylabel="lists per second", xscale="log", ylim=(0, None))
    figure.savefig(path)


def main(
    preset: Annotated[Preset, typer.Option(help="Workload to start from.")] = Preset("recsys-cpu"),
    hidden: Annotated[int | None, typer.Option(help="Model: width; a multiple of 32 per head.")] = None,
    layers: Annotated[int | None, typer.Option(help="Model: layers.")] = None,
    heads: Annotated[int | None, typer.Option(help="Model: attention heads.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Model: key / value heads.")] = None,
    ffn: Annotated[int | None, typer.Option(help="Model: width of the feed-forward block.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Model: vocabulary.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts per step.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens per prompt, about.")] = None,
    group: Annotated[int | None, typer.Option(help="G: lists per prompt.")] = None,
    k: Annotated[int | None, typer.Option(help="K: items per list, of three tokens each.")] = None,
    items: Annotated[int | None, typer.Option(help="Items of the catalog.")] = None,
    zero_stage: Annotated[int | None, typer.Option(help="DeepSpeed ZeRO stage.")] = None,
    engines: Annotated[int | None, typer.Option(help="vLLM engines.")] = None,
    learners: Annotated[int | None, typer.Option(help="Learner ranks.")] = None,
    max_staleness: Annotated[int | None, typer.Option(help="Steps that generation may run ahead.")] = None,
    constrain: Annotated[Constrain | None, typer.Option(help="Legal lists, or free text.")] = None,
    shared_prefix: Annotated[bool | None, typer.Option(help="Whether a prompt is computed once for its lists.")] = None,
    microbatch_tokens: Annotated[int | None, typer.Option(help="Tokens of one forward.")] = None,
    steps: Annotated[int, typer.Option(help="Measured steps; medians count.")] = 8,
    warmup: Annotated[int, typer.Option(help="Steps before them.")] = 4,
    peer: Annotated[Peer | None, typer.Option(help="Trainer to compare with.")] = None,
    sweep: Annotated[Sweep | None, typer.Option(help="One run per value; with --json also a plot beside it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Runs the real trainer on a generated catalog and says where the time is spent.

    Examples:

      python -m benchmarks.throughput --preset recsys-cpu --peer trl --json out.json

      python -m benchmarks.throughput --max-staleness 1 --engines 2

      python -m benchmarks.throughput --sweep group --json curve.json
    """
    given = {field.name: locals()[field.name] for field in fields(Workload) if field.name in locals()}
    work = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
    console = Console()
    _check(work)
    results: dict[str, Any]
    if sweep is not None:
        curve = {value: measure(replace(work, **{sweep: value}), steps, warmup, console) for value in SWEEPS[sweep]}
        results = {"sweep": sweep, "curve": curve}
        for value, measured in curve.items():
            console.print(f"{sweep} {value}: {measured['lists_per_second']:.1f} lists/s")
        if json is not None:
            plot(sweep, curve, json.with_suffix(".png"))
    else:
        results = measure(work, steps, warmup, console)
        show(preset, results)
        if work.shared_prefix:
            alone = measure(replace(work, shared_prefix=False), max(2, steps // 4), 1, console)
            results["unpacked_learn_seconds"] = alone["seconds"]["learn"]
            results["shared_prefix_speedup"] = alone["seconds"]["learn"] / results["seconds"]["learn"]
            console.print(f"learner with a shared prefix: {results['shared_prefix_speedup']:.2f} x the unpacked one")
    if peer is not None and sweep is None:
        results["trl"] = measure_peer(work, max(2, steps // 3))
        results["ratio_vs_trl"] = results["lists_per_second"] / results["trl"]["lists_per_second"]
        console.print(
            f"TRL {results['trl']['version']}: {results['trl']['lists_per_second']:.1f} lists/s at its fastest "
            f"micro-batch ({results['trl']['microbatch']}); ratio {results['ratio_vs_trl']:.1f}"
        )
    write_result(json, "throughput", asdict(work) | {"preset": preset, "steps": steps}, results)


def _check(work: Workload) -> None:
    import torch

    if work.dtype == "bfloat16" and not torch.cuda.is_available():
        raise typer.BadParameter("this preset needs a GPU, and there is none here; recsys-cpu needs none")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(str(error))
