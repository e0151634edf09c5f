"""What a look at a machine says, line by line, each with its fix. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from packaging.requirements import Requirement
from rich.filesize import decimal

GB = 10**9
SHARED_MEMORY = 2 * GB
"""Ray's object store lives there, and so do batches between processes."""

SOCKET_PATH, RAY_PATH = 107, 65
"""Characters that a socket's path may have, and those that Ray adds to its folder."""

GPU_MARGIN = 1.1
"""A GPU is meant to be filled, other than a node's memory: a tenth to spare is enough."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    what: str
    """What was looked at, for example ``disk``."""
    result: str
    fix: str = ""
    """What to do; empty where nothing is wrong."""


def good(what: str, result: str) -> Finding:
    """A line of which nothing is wrong."""
    return Finding(Level.OK, what, result)


def together(versions: Mapping[str, str], requirements: Mapping[str, list[str]]) -> list[Finding]:
    """Whether installed packages satisfy what the stack's packages require of each other.

    Args:
        versions: installed, by package.
        requirements: of each package, as its metadata has them.
    """
    wrong = []
    for package, lines in requirements.items():
        for line in lines:
            needed = Requirement(line)
            there = versions.get(needed.name)
            if there is None or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            if not needed.specifier.contains(there, prereleases=True):
                fix = f"install {needed.name}{needed.specifier}, or all of it anew: launch/install.sh"
                result = (
                    f"{package} {versions[package]} requires {needed.name}{needed.specifier}, and {there} is installed"
                )
                wrong.append(Finding(Level.FAIL, "versions", result, fix))
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    return wrong or [good("versions", shown)]


def space(what: str, free: float, needed: float, fix: str, margin: float = 1.5, why: str = "") -> Finding:
    """Free against needed bytes: less than needed is fail, less than ``margin`` times as much is warn.

    ``why``: what takes the needed bytes.
    """
    result = f"{decimal(int(free))} free, about {decimal(int(needed))} needed{f': {why}' if why else ''}"
    level = Level.FAIL if free < needed else Level.WARN if free < margin * needed else Level.OK
    return Finding(level, what, result, "" if level is Level.OK else fix)


def shared_memory(total: float) -> Finding:
    """Bytes of ``/dev/shm``."""
    result = decimal(int(total))
    if total >= SHARED_MEMORY:
        return good("shared memory", result)
    return Finding(
        Level.WARN, "shared memory", result, f"give /dev/shm {SHARED_MEMORY / GB:.0f} GB (docker run --shm-size=2g)"
    )


def sockets(setting: str, folder: str) -> Finding:
    """Whether the system can name the sockets that Ray makes below its temporary folder; ``setting``: what names it."""
    room = SOCKET_PATH - RAY_PATH
    if len(folder) <= room:
        return good("temporary folder", f"{folder} ({setting}): short enough for Ray's sockets")
    result = f"{folder} ({setting}) has {len(folder)} characters, {room} at most leave room for Ray's sockets"
    return Finding(Level.FAIL, "temporary folder", result, "set RAY_TMPDIR to a short folder, as RAY_TMPDIR=/tmp")


def token(mode: str | None, there: bool) -> Finding:
    """Ray's token authentication."""
    if mode == "token" and there:
        return good("token", "Ray requires one, and this shell has one")
    if mode == "token":
        return Finding(Level.WARN, "token", "Ray requires one; this shell has none", "set RAY_AUTH_TOKEN")
    return Finding(
        Level.WARN, "token", "Ray requires none", "export RAY_AUTH_MODE=token, or use the scripts in launch/"
    )


def port(number: int, what: str, free: bool) -> Finding:
    """A port that ``launch/multi_node.sh`` would take on this machine."""
    if free:
        return good(f"port {number}", f"free ({what})")
    return Finding(Level.WARN, f"port {number}", f"occupied ({what})", "stop what holds it, or choose another one")


def storage(folder: str, problem: str) -> Finding:
    """Write and rename in the run's folder."""
    if not problem:
        return good("storage", f"{folder}: writes and renames")
    return Finding(Level.FAIL, "storage", problem, "set run.dir to a folder that may be written to")


def network(bandwidths: Mapping[str, float | str]) -> list[Finding]:
    """Bytes per second between the head and each other node, or why it was not reached."""
    lines = []
    for address, rate in bandwidths.items():
        if isinstance(rate, str):
            fix = "open all ports between the nodes (they belong on one private network)"
            lines.append(Finding(Level.FAIL, f"network {address}", rate, fix))
        else:
            lines.append(good(f"network {address}", f"all-reduce at {rate / GB:.2f} GB/s"))
    return lines


def gpus(facts: Sequence[Mapping[str, Any]]) -> Finding:
    """The GPUs of this machine: name, ``total`` and ``free`` bytes of each."""
    if not facts:
        return good("GPUs", "none: vLLM and DeepSpeed run on the cores")
    free = ", ".join(f"{gpu['name']} ({decimal(gpu['free'])} of {decimal(gpu['total'])} free)" for gpu in facts)
    busy = any(gpu["free"] < 0.9 * gpu["total"] for gpu in facts)
    fix = "another process holds GPU memory: nvidia-smi shows which" if busy else ""
    return Finding(Level.WARN if busy else Level.OK, "GPUs", free, fix)


def gpu_memory(
    address: str,
    facts: Sequence[Mapping[str, Any]] | str,
    share: float,
    engine: float | None = None,
    learner: float | None = None,
) -> Finding:
    """Whether the roles that share a GPU of a node fit into it; by the smallest of its GPUs.

    vLLM takes its share of the whole device when it starts, and refuses to where less is free. What weights and one
    forward leave of the share is KV cache. A learner keeps its memory while an engine beside it writes lists (PyTorch's
    allocator gives nothing back), so that the two add up.

    Args:
        address: of the node.
        facts: ``total`` and ``free`` bytes of each of its GPUs, or why they are not known.
        share: of a GPU that vLLM may take (``rollout.gpu_memory_utilization``).
        engine: bytes that an engine needs on the GPU beside its KV cache; None where no engine is on it.
        learner: bytes that a learner needs; None where no learner is on it.
    """
    roles = " and ".join(name for name, need in (("engine", engine), ("learner", learner)) if need is not None)
    what = f"GPU memory {address}, {roles}"
    if isinstance(facts, str) or not facts:
        reason = facts if isinstance(facts, str) else "PyTorch sees no GPU there"
        return Finding(Level.WARN, what, f"not known: {reason}", "look again while the GPUs are idle")
    total, free = (min(gpu[kind] for gpu in facts) for kind in ("total", "free"))
    if engine is not None and engine > share * total:
        result = f"vLLM may take {decimal(int(share * total))} of {decimal(int(total))}, {decimal(int(engine))} needed"
        return Finding(Level.FAIL, what, result, "raise rollout.gpu_memory_utilization or rollout.tensor_parallel")
    fixes = [] if engine is None else ["lower rollout.gpu_memory_utilization"]
    if learner is not None:
        fixes.append("lower learner.tokens_per_microbatch, raise learner.zero_stage or learner.workers")
    needed = (0 if engine is None else share * total) + (learner or 0)
    return space(what, free, needed, ", ".join(fixes), GPU_MARGIN)
