"""A learner group under Ray Train: started by the driver, its steps handed on meanwhile, its policy published."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from blade_dist.cluster.lost import lost_nodes
from blade_dist.cluster.placement import Role
from blade_dist.cluster.signals import Stopped, first_signal_asks
from blade_dist.errors import DivergedError, FullDiskError, UserError, origin
from blade_dist.settings import Config
from blade_dist.stages.resume import find_start, layout_of
from blade_dist.store.checkpoints import saved_step
from blade_dist.store.files import whole_folder
from blade_dist.store.whole import damage
from blade_dist.tracking.listener import StepListener
from blade_dist.training.collective import ENGINES, MODEL
from blade_dist.training.failures import Failures

_LOG = logging.getLogger(__name__)
SILENCE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
"""Of Ray Train, whose default is ten minutes."""
LOADING = ("", MODEL, ENGINES)
"""What learners are at that have no step to finish."""
POLL_S = 1.0
"""Seconds between two reads of the tracker's new rows."""


def fit(
    loop: Callable[[Any], None],
    job: Any,
    config: Config,
    folder: Path,
    roles: list[Role],
    checkpoints: CheckpointConfig,
    listener: StepListener,
    ask_to_end: Callable[[], object],
    beside: Sequence[Role] = (),
) -> Result:
    """Runs ``loop(job)`` on every rank, resuming from ``folder`` where it holds an unfinished run.

    Where it fails it is run again from the last checkpoint, ``train.max_failures`` times without a new step between.

    Args:
        loop: what a rank runs.
        job: what it is given; has a ``tracker``.
        config: the settings.
        folder: where Ray Train keeps state and checkpoints.
        roles: one per rank, of a placement.
        checkpoints: how many, and which, are kept.
        listener: is shown the tracker's rows while the learners run.
        ask_to_end: makes the learners save and end after the step that they are at; called at a first signal.
        beside: other roles without which the learners get nowhere.

    Raises:
        UserError: the disk is full, or a rank raised one: it would do so again.
        DivergedError: a number of the training is not finite.
        Stopped: the learners were asked to end, or a second signal came.
        Exception: what a rank raised once too often, or the loss of a node.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    work = ray.put((loop, job))  # the controller need not import what the ranks do
    failures, shown = Failures(config.train.max_failures), -1
    nodes = {role.node.id for role in (*roles, *beside)}

    def check(doing: str | None) -> None:
        """``doing``: what the learners are at, as long as they have not made a step."""
        lost = lost_nodes(nodes)
        if heard.number is not None and (lost or doing in LOADING):  # they would load all before they looked
            raise Stopped(heard.number, _kept(folder))
        if lost:  # Ray would wait for it, for ever
            raise RuntimeError(f"node {', '.join(lost)} was lost")

    with first_signal_asks(ask_to_end) as heard, listener, _silence_of_ranks(config.ray.silence_s):
        while True:
            running: Future[Result] = Future()
            run = _trainer(work, config, folder, roles, checkpoints).fit
            # in the main thread Ray Train would take Ctrl-C for itself, also for what comes later, and end with code 0
            threading.Thread(target=_settle, args=(running, run), daemon=True).start()
            shown = _pass_on(job.tracker, listener, running, shown, check)
            if (error := running.exception()) is None:
                break
            _refuse(error, folder.parent)
            check(None)
            if not failures.another(shown):
                raise error
            lines = find_start(folder.parent, layout_of(config.learner), checkpoints).lines
            _LOG.warning("the learners start again from step %d", saved_step(folder))
            for line in lines:
                _LOG.warning("%s", line)
    if heard.number is not None:
        raise Stopped(heard.number, _kept(folder))
    return running.result()


def _kept(folder: Path) -> str:
    return f"{folder.parent} is saved after step {saved_step(folder)}"


def _trainer(
    work: ray.ObjectRef, config: Config, folder: Path, roles: list[Role], checkpoints: CheckpointConfig
) -> TorchTrainer:
    """Ray Train around ``work``, a reference to a loop and its job. Restarts are :func:`fit`'s: it knows of steps."""
    gpus = bool(roles[0].gpus)
    return TorchTrainer(
        _run_rank,
        train_loop_config={"work": work},
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
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
            worker_runtime_env={"env_vars": _environment(config, gpus)},
        ),
    )


@contextmanager
def _silence_of_ranks(seconds: float) -> Iterator[None]:
    """Inside, Ray Train is told how long a rank may give no sign of life; it hands the variable on itself."""
    before = os.environ.get(SILENCE)
    os.environ[SILENCE] = str(seconds)
    try:
        yield
    finally:
        del os.environ[SILENCE]
        if before is not None:
            os.environ[SILENCE] = before


def _refuse(error: BaseException, stage: Path) -> None:
    """Raises what another start would not help against; a full disk and a number that is not finite name the stage."""
    cause = origin(error)
    if isinstance(cause, DivergedError | FullDiskError):
        raise type(cause)(f"{stage}: {cause}") from error
    if isinstance(cause, UserError):
        raise error


def publish(result: Result, checkpoints: CheckpointConfig, policy: Path) -> None:
    """Copies the policy in the best checkpoint, or in the last one where none is scored, to the folder ``policy``.

    Raises:
        UserError: that checkpoint was damaged meanwhile.
        RuntimeError: the learners left no checkpoint.
    """
    score, order = checkpoints.checkpoint_score_attribute, checkpoints.checkpoint_score_order
    chosen = result.checkpoint if score is None else result.get_best_checkpoint(score, order or "max")
    if chosen is None:
        raise RuntimeError(f"{policy.parent}: the learners left no checkpoint")
    with chosen.as_directory() as folder, whole_folder(policy) as target:
        if (what := damage(Path(folder))) is not None:
            raise UserError(f"{folder}: {what}; run the same command again, and it takes the best of the others")
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


def _settle(future: Future[Result], call: Callable[[], Result]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _pass_on(
    tracker: Any, listener: StepListener, running: Future[Result], shown: int, check: Callable[[str | None], None]
) -> int:
    """Hands the tracker's rows of steps after ``shown`` on until the learners have ended; the last that was shown.

    Until they make a row of their own (the first look shows those of earlier sittings), says what they are at.
    ``check`` is told that too, or None, and may raise what ends the wait.
    """
    looks, waits = 0, True
    while True:
        ended = bool(wait([running], timeout=POLL_S).done)
        for step, row in ray.get(tracker.rows_after.remote(shown)):
            listener.update(step, row)
            shown, waits = step, looks == 0
        looks += 1
        if ended:
            return shown
        doing = ray.get(tracker.doing.remote()) if waits else None
        check(doing)
        if doing is not None:
            listener.waiting(doing)
