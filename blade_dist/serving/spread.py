"""The parts of a file of histories on several engines, by Ray Data. A thin shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray

from blade_dist.rollouts.environment import environment
from blade_dist.serving.opened import EngineOptions, open_export
from blade_dist.serving.parts import Job, PartWriter
from blade_dist.serving.start import start_recommender


class PartActor:
    """An engine that writes a part after another; where it dies, Ray Data gives its part to another one."""

    def __init__(self, served: Path, options: EngineOptions, job: Job) -> None:
        self._writer = PartWriter(start_recommender(open_export(served), options), job)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        return {"lists": np.array([self._writer.write(int(number)) for number in batch["item"]])}


def write_spread(
    served: Path, options: EngineOptions, engines: int, threads: int, gpu: bool, job: Job, missing: Sequence[int]
) -> Iterator[int]:
    """Writes parts on the connected cluster, all of whose nodes see the same files; lists of each, as it is done.

    Args:
        served: folder of the export.
        options: of each engine.
        engines: how many.
        threads: cores of each.
        gpu: whether they run on GPUs.
        job: what is written.
        missing: numbers of the parts.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    remote: dict[str, Any] = {"num_gpus": options.tensor_parallel} if gpu else {}
    variables = environment(threads, gpu, constrained=True)
    done = ray.data.from_items(list(missing), override_num_blocks=len(missing)).map_batches(
        PartActor,
        fn_constructor_args=(served, options, job),
        batch_size=1,
        concurrency=min(engines, len(missing)),
        num_cpus=threads,
        runtime_env={"env_vars": {**variables, "HF_HUB_OFFLINE": "1"}},
        **remote,
    )
    for row in done.iter_rows():
        yield int(row["lists"])
