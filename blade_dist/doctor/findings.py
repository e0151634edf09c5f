"""What a look at a machine says, line by line, each with its mend. Pure."""

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
    found: str
    mend: str = ""


def good(what: str, found: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what, found)


def together(versions: Mapping[str, str], requirements: Mapping[str, list[str]]) -> list[Finding]:
    """Whether installed packages satisfy what the stack's packages ask of each other.

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
                mend = f"install {needed.name}{needed.specifier}, or all of it anew: launch/install.sh"
                found = f"{package} {versions[package]} wants {needed.name}{needed.specifier}, found {there}"
                wrong.append(Finding(Level.FAIL, "versions", found, mend))
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    return wrong or [good("versions", shown)]


def space(what: str, free: float, needed: float, mend: str) -> Finding:
    """Free against needed bytes: short is fail, less than half as much again is warn."""
    found = f"{decimal(int(free))} free, about {decimal(int(needed))} needed"
    level = Level.FAIL if free < needed else Level.WARN if free < 1.5 * needed else Level.OK
    return Finding(level, what, found, "" if level is Level.OK else mend)


def shared_memory(total: float) -> Finding:
    """``/dev/shm``."""
    found = decimal(int(total))
    if total >= SHARED_MEMORY:
        return good("shared memory", found)
    return Finding(
        Level.WARN, "shared memory", found, f"give /dev/shm {SHARED_MEMORY / GB:.0f} GB (docker run --shm-size=2g)"
    )


def token(mode: str | None, there: bool) -> Finding:
    """Ray's token authentication."""
    if mode == "token" and there:
        return good("token", "Ray asks for one, and this shell has one")
    if mode == "token":
        return Finding(Level.WARN, "token", "Ray asks for one; this shell has none", "set RAY_AUTH_TOKEN")
    return Finding(
        Level.WARN, "token", "Ray asks for none", "export RAY_AUTH_MODE=token, or use the scripts in launch/"
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
    found = []
    for address, rate in bandwidths.items():
        if isinstance(rate, str):
            mend = "open all ports between the nodes (they belong on one private network)"
            found.append(Finding(Level.FAIL, f"network {address}", rate, mend))
        else:
            found.append(good(f"network {address}", f"all-reduce at {rate / GB:.2f} GB/s"))
    return found


def gpus(names: Sequence[Mapping[str, Any]]) -> Finding:
    """The GPUs of this machine."""
    if not names:
        return good("GPUs", "none: vLLM and DeepSpeed run on the cores")
    free = ", ".join(f"{gpu['name']} ({decimal(gpu['free'])} of {decimal(gpu['total'])} free)" for gpu in names)
    busy = any(gpu["free"] < 0.9 * gpu["total"] for gpu in names)
    mend = "another process holds GPU memory: nvidia-smi shows which" if busy else ""
    return Finding(Level.WARN if busy else Level.OK, "GPUs", free, mend)
