"""A learner group under Ray Train: started by the driver, its steps handed on meanwhile, its policy published."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from blade_dist.cluster.placement import Role
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.files import read_json, whole_folder
from blade_dist.tracking.listener import StepListener

POLL_S = 1.0
"""Seconds between two reads of the tracker's new rows."""


def check_ranks(workers: int, stage: Path) -> None:
    """Whether ``workers`` learners can go on from the checkpoints, if any, in the stage's folder.

    Optimizer partitions and the states of random numbers are saved rank by rank, so that no other number can.

    Raises:
        UserError: they are of another number.
    """
    for saved in stage.glob("learners/checkpoint_*/progress.json"):
        there = (read_json(saved) or {}).get("ranks")
        if there not in (None, workers):
            raise UserError(
                f"learner.workers: the checkpoints in {stage} are of {there} learners, and this run has {workers}; set "
                f"learner.workers={there} to go on from them, or delete {stage} to begin anew"
            )


def fit(
    loop: Callable[[Any], None],
    job: Any,
    config: Config,
    folder: Path,
    roles: list[Role],
    checkpoints: CheckpointConfig,
    listener: StepListener,
) -> Result:
    """Runs ``loop(job)`` on every rank, resuming from ``folder`` where it holds an unfinished run.

    Args:
        loop: what a rank runs.
        job: what it is given; has a ``tracker``.
        config: the settings.
        folder: where Ray Train keeps state and checkpoints.
        roles: one per rank, of a placement.
        checkpoints: how many, and which, are kept.
        listener: is shown the tracker's rows while the learners run.

    Raises:
        Exception: what a rank raised, after ``train.max_failures`` restarts.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    gpus = bool(roles[0].gpus)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        _run_rank,
        train_loop_config={"work": ray.put((loop, job))},  # the controller need not import what the ranks do
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=len(roles),
            use_gpu=gpus,
            resources_per_worker=roles[0].bundle,
            label_selector=[role.selector for role in roles],
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent.absolute()),
            checkpoint_config=checkpoints,
            failure_config=FailureConfig(max_failures=config.train.max_failures, controller_failure_limit=1),
            worker_runtime_env={"env_vars": _environment(config, gpus)},
        ),
    )
    stop = threading.Event()
    reader = threading.Thread(target=_pass_on, args=(job.tracker, listener, stop), daemon=True)
    reader.start()
    try:
        return trainer.fit()
    finally:
        stop.set()
        reader.join()


def publish(result: Result, checkpoints: CheckpointConfig, policy: Path) -> None:
    """Copies the policy in the best checkpoint, or in the last one where none is scored, to the folder ``policy``.

    Raises:
        RuntimeError: the learners left no checkpoint.
    """
    score, order = checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order
    chosen = result.checkpoint if score is None else result.get_best_checkpoint(score, order or "max")
    if chosen is None:
        raise RuntimeError(f"{policy.parent}: the learners left no checkpoint")
    with chosen.as_directory() as folder, whole_folder(policy) as target:
        shutil.copytree(Path(folder) / "policy", target, dirs_exist_ok=True)


def _run_rank(given: dict[str, Any]) -> None:
    loop, job = ray.get(given["work"])
    loop(job)


def _environment(config: Config, gpus: bool) -> dict[str, str]:
    """Of the learners' processes."""
    threads = str(config.learner.cpus_per_worker)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}
    # on a CPU: huge pages for PyTorch's tensors, as those of logits are new in every step and fault page by page
    device = {} if gpus else {"DS_ACCELERATOR": "cpu", "THP_MEM_ALLOC_ENABLE": "1"}
    return {"OMP_NUM_THREADS": threads, **quiet, **device}


def _pass_on(tracker: Any, listener: StepListener, stop: threading.Event) -> None:
    """Hands the tracker's rows on as they come, those that came up to the ``stop`` included."""
    shown = -1
    with listener:
        while True:
            last_look = stop.wait(POLL_S)
            for step, row in ray.get(tracker.rows_after.remote(shown)):
                listener.update(step, row)
                shown = step
            if last_look:
                return
