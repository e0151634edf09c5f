"""Do the nodes of a cluster go together? The same versions everywhere, and one storage."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from blade_dist.errors import UserError
from blade_dist.nodes.versions import versions

DEADLINE_S = 60.0


def check_nodes(run: Path) -> None:
    """Looks at every other node of the connected cluster before any actor starts; returns at once where there is none.

    Nodes that differ would fail later and elsewhere: by an object that another version cannot read, or by a checkpoint
    of which each node has written its part to another disk.

    Args:
        run: the run's folder, which every node must see.

    Raises:
        UserError: a node has other versions, or another storage, or does not answer; it names the node.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [info for info in ray.nodes() if info["Alive"] and info["NodeID"] != here]
    if not others:
        return
    run = run.absolute()
    run.mkdir(parents=True, exist_ok=True)
    mark = run / f".nodes-{uuid.uuid4().hex}"
    mark.touch()
    look = ray.remote(num_cpus=0, max_retries=0)(node_facts)
    try:
        answers = {
            info["NodeManagerAddress"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(info["NodeID"], soft=False)
            ).remote(mark)
            for info in others
        }
        here_versions = versions()
        for address, answer in answers.items():
            compare(address, here_versions, _answer(address, answer), run)
    finally:
        mark.unlink(missing_ok=True)


def node_facts(mark: Path) -> dict[str, Any]:
    """What a node says of itself: its versions, and whether it sees ``mark`` and may rename beside it."""
    facts: dict[str, Any] = {"versions": versions(), "sees": mark.is_file(), "writes": ""}
    if facts["sees"]:
        trial = mark.with_name(f"{mark.name}-{os.getpid()}")
        try:
            trial.touch()
            trial.rename(trial.with_suffix(".moved")).unlink()  # a rename is what makes our files whole
        except OSError as error:
            facts["writes"] = str(error)
    return facts


def compare(address: str, here: Mapping[str, str], facts: Mapping[str, Any], run: Path) -> None:
    """Refuses a node that differs from this one.

    Args:
        address: of the node.
        here: this node's :func:`versions`.
        facts: the node's :func:`node_facts`.
        run: the run's folder.

    Raises:
        UserError: it names the node and what is wrong there.
    """
    for package in sorted(here.keys() | facts["versions"].keys()):
        theirs, ours = facts["versions"].get(package, "none"), here.get(package, "none")
        if theirs != ours:
            raise UserError(f"node {address}: {package} {theirs}, but {ours} on the head; install the same on both")
    if not facts["sees"]:
        raise UserError(f"run.dir: node {address} does not see {run}; it must be on storage that all nodes share")
    if facts["writes"]:
        raise UserError(f"run.dir: node {address} can't write to {run}: {facts['writes']}")


def _answer(address: str, answer: Any) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = ray.get(answer, timeout=DEADLINE_S)
    except ray.exceptions.GetTimeoutError:
        raise UserError(f"node {address}: no answer within {DEADLINE_S:.0f} s") from None
    except ray.exceptions.RayError as error:
        raise UserError(f"node {address}: {str(error).strip().splitlines()[-1][:200]}") from None
    return facts
