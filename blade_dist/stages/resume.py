"""Where a training goes on: its newest whole checkpoint, which Ray Train is told of before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig

from blade_dist.errors import UserError
from blade_dist.settings import LearnerSettings
from blade_dist.store.checkpoints import LEARNERS, Checkpoint, Layout, remove_unfinished, take_whole
from blade_dist.store.files import write_json

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints in its folder: it reads those alone, and refuses to start where one is gone."""


@dataclass(frozen=True)
class Start:
    """Where a training begins."""

    step: int
    """Steps that are done."""
    lines: list[str]
    """What there is to say: a line for each checkpoint that can't be used, and one where the layout is another."""


def layout_of(learner: LearnerSettings) -> Layout:
    """Of a run with these settings."""
    return Layout(learner.workers, learner.zero_stage)


def find_start(stage: Path, layout: Layout, kept: CheckpointConfig) -> Start:
    """Makes the stage's checkpoints such that Ray Train goes on from the newest whole one.

    What dead writers left is removed, damaged checkpoints are moved aside, and Ray Train's list is written anew from
    what is there: it overwrites the list in place, so that a full disk or a lost machine leaves half of it.

    Args:
        stage: the stage's folder; it need not be there.
        layout: of this run.
        kept: how Ray Train orders checkpoints.

    Raises:
        UserError: the checkpoints are of an earlier version, which saved the optimizer in another form.
    """
    parent = stage / LEARNERS
    if not parent.is_dir():
        return Start(0, [])
    remove_unfinished(parent)
    whole, lines = take_whole(parent)
    if any(checkpoint.layout is None for checkpoint in whole):
        raise UserError(
            f"{stage}: the checkpoints there are of an earlier version of blade-dist: finish the training with that "
            "one, or delete the folder to begin anew"
        )
    if whole and whole[-1].layout != layout:
        lines.append(
            f"the layout changed from {whole[-1].layout} to {layout}: these go on from step {whole[-1].step} with the "
            "same weights and optimizer"
        )
    if whole:
        write_json(parent / SNAPSHOT, snapshot(whole, kept))
    else:
        (parent / SNAPSHOT).unlink(missing_ok=True)
        if lines:
            lines.append(f"no whole checkpoint is left in {parent}: the training begins anew")
    return Start(whole[-1].step if whole else 0, lines)


def snapshot(whole: list[Checkpoint], kept: CheckpointConfig) -> dict[str, Any]:
    """What Ray Train writes when these checkpoints (by step, at least one) are reported to it one after the other."""

    def order(index: int) -> tuple[bool, float]:
        """As Ray Train's: the best one last, later ones after equal ones; a score that is missing is minus infinity."""
        score = whole[index].numbers.get(kept.checkpoint_score_attribute or "", -math.inf)
        score *= -1 if kept.checkpoint_score_order == "min" else 1
        return (False, -math.inf) if math.isnan(score) else (True, score)

    states = [{"version": 0, "checkpoint_dir_name": one.folder.name, "metrics": one.numbers} for one in whole]
    ordered = sorted(range(len(whole)), key=order)
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": [states[index] for index in ordered],
        "checkpoint_report_indices": ordered,
        "latest_checkpoint_result": states[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(whole),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
