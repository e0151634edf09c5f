"""Which node this is, of how many, and where the head is: from the environment that started it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blade_dist.errors import UserError

LOOPBACK = "127.0.0.1"
"""Address of the head where it is alone."""


@dataclass(frozen=True)
class Membership:
    """One node's place in the cluster."""

    rank: int
    """0 is the head."""
    nodes: int
    head: str
    """Name or address of the head, as the others reach it."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.nodes:
            raise UserError(f"NODE_RANK: {self.rank} is none of the ranks 0 to {self.nodes - 1} of {self.nodes} nodes")

    @property
    def is_head(self) -> bool:
        """Whether the command runs here."""
        return self.rank == 0


def membership(environ: Mapping[str, str]) -> Membership:
    """``HEAD_ADDR``, ``NODE_RANK`` and ``NODES`` where they are set, else Slurm's variables, else one node alone.

    Raises:
        UserError: a part of them is missing or no number.
    """
    ours = ("HEAD_ADDR", "NODE_RANK", "NODES")
    if any(environ.get(name) for name in ours):
        if missing := [name for name in ours if not environ.get(name)]:
            raise UserError(f"{missing[0]}: not set; every node needs HEAD_ADDR, NODE_RANK and NODES")
        return Membership(_number(environ, "NODE_RANK"), _number(environ, "NODES"), environ["HEAD_ADDR"])
    if listed := environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST"):
        hosts = slurm_hosts(listed)
        if len(hosts) > 1 and not environ.get("SLURM_NODEID"):
            raise UserError("SLURM_NODEID: not set; start this with srun, one task per node")
        return Membership(_number(environ, "SLURM_NODEID") if len(hosts) > 1 else 0, len(hosts), hosts[0])
    return Membership(0, 1, LOOPBACK)


def slurm_hosts(text: str) -> list[str]:
    """The hosts of a Slurm node list.

    >>> slurm_hosts("a[08-10,12]-ib,login")
    ['a08-ib', 'a09-ib', 'a10-ib', 'a12-ib', 'login']

    Raises:
        UserError: brackets that do not close.
    """
    if not text or set("[]") & set(re.sub(r"\[[^][]*\]", "", text)):
        raise UserError(f"SLURM_JOB_NODELIST: {text!r} is no list of nodes")
    return [host for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text) for host in _expand(part)]


def read_hosts(path: Path) -> list[str]:
    """Hosts of a file, one per line; ``#`` begins a comment. The first is the head.

    Raises:
        UserError: no such file, an empty one, a line of several words, or a host that is there twice.
    """
    if not path.is_file():
        raise UserError(f"--hosts: no file {path}")
    hosts: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.split("#")[0].split()
        if len(words) > 1:
            raise UserError(f"{path}:{number}: one host per line is expected, not {' '.join(words)!r}")
        if words and words[0] in hosts:
            raise UserError(f"{path}:{number}: {words[0]} is there twice")
        hosts += words
    if not hosts:
        raise UserError(f"{path}: no host in it")
    return hosts


def _expand(pattern: str) -> list[str]:
    match = re.search(r"\[([^\]]*)\]", pattern)
    if match is None:
        return [pattern]
    rest = _expand(pattern[match.end() :]) if match.end() < len(pattern) else [""]
    hosts = []
    for span in match[1].split(","):
        first, _, last = span.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise UserError(f"SLURM_JOB_NODELIST: {span!r} is no number or range")
        numbers = range(int(first), int(last or first) + 1)
        hosts += [pattern[: match.start()] + str(number).zfill(len(first)) for number in numbers]
    return [head + tail for head in hosts for tail in rest]


def _number(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdigit():
        raise UserError(f"{name}: {environ[name]!r} is no number")
    return int(environ[name])
