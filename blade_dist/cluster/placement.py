"""Which role runs on which node: one plan, computed before anything starts. Pure, but for the look at the cluster.

Ray could place the roles one by one, but sees no whole: it would put learners where the last engine was to be, and then
wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import ray
from rich.table import Table

from blade_dist.errors import UserError
from blade_dist.settings import Config

ENGINE_SHARE, LEARNER_SHARE = 0.51, 0.49
"""Of a GPU that an engine and a learner share. Not halves: with these, two engines can't land on one GPU, nor two
learners beside an engine, wherever Ray puts them within a node."""

NODE_LABEL = "ray.io/node-id"
"""Ray's label of a node."""

NAMED = 3
"""Nodes that a message names."""


@dataclass(frozen=True)
class Node:
    """What a node has in all, taken or not."""

    id: str
    address: str
    cpus: float
    gpus: int = 0


@dataclass(frozen=True)
class Demand:
    """What is to be placed."""

    engines: int = 0
    tensor_parallel: int = 1
    cpus_per_engine: int = 1
    workers: int = 0
    cpus_per_worker: int = 1
    colocate: bool | None = None
    """Whether engine and learner share GPUs; None: only where there are too few for both."""


@dataclass(frozen=True)
class Role:
    """An engine or a learner on its node."""

    kind: Literal["engine", "learner"]
    node: Node
    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for it."""
        return {"CPU": float(self.cpus), **({"GPU": self.gpus} if self.gpus else {})}

    @property
    def selector(self) -> dict[str, str]:
        """Keeps it on its node."""
        return {NODE_LABEL: self.node.id}


@dataclass(frozen=True)
class Placement:
    """The plan."""

    engines: list[Role]
    learners: list[Role]
    colocated: bool
    """Whether engines and learners share GPUs in pairs."""

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes that have a role."""
        return {role.node.id for role in self.engines + self.learners}

    @property
    def on_gpus(self) -> bool:
        """Whether roles run on GPUs."""
        return any(role.gpus for role in self.engines + self.learners)


@dataclass
class _Free:
    """What is left of a node."""

    node: Node
    cpus: float
    gpus: float


@dataclass
class _Taking:
    """Takes roles of one kind from nodes in a fixed order, without looking at a full node again."""

    free: Sequence[_Free]
    at: int = field(default=0)

    def take(self, kind: Literal["engine", "learner"], cpus: float, gpus: float) -> Role | None:
        while self.at < len(self.free):
            left = self.free[self.at]
            if left.cpus >= cpus and left.gpus >= gpus:
                left.cpus -= cpus
                left.gpus -= gpus
                return Role(kind, left.node, cpus, gpus)
            self.at += 1
        return None


def demand(config: Config, engines: bool = True, learners: bool = True) -> Demand:
    """What a stage of ``config`` needs."""
    rollout, learner = config.rollout, config.learner
    return Demand(
        engines=rollout.engines * engines,
        tensor_parallel=rollout.tensor_parallel,
        cpus_per_engine=rollout.cpus_per_engine,
        workers=learner.workers * learners,
        cpus_per_worker=learner.cpus_per_worker,
        colocate=config.colocate,
    )


def cluster_nodes() -> list[Node]:
    """The living nodes of the connected cluster, the head first."""
    nodes = []
    for info in ray.nodes():
        if info["Alive"]:
            has = info["Resources"]
            node = Node(info["NodeID"], info["NodeManagerAddress"], has.get("CPU", 0.0), int(has.get("GPU", 0)))
            nodes.append(("node:__internal_head__" not in has, node.address, node))
    return [node for *_, node in sorted(nodes, key=lambda entry: entry[:2])]


def place_here(config: Config, engines: bool = True, learners: bool = True) -> Placement:
    """The plan of a stage on the connected cluster.

    Raises:
        UserError: as :func:`place`.
    """
    return place(cluster_nodes(), demand(config, engines, learners))


def place(nodes: Sequence[Node], wanted: Demand) -> Placement:
    """Engines from the last node back, then learners from the first node on, so that they meet as late as possible.

    On a cluster with GPUs every engine has ``tensor_parallel`` of one node and every learner one; colocated, a
    learner and an engine share one.

    Raises:
        UserError: they do not fit; it says what there is and what would.
    """
    gpus = any(node.gpus for node in nodes)
    if not (wanted.engines and wanted.workers):
        wanted = replace(wanted, colocate=False)  # nobody to share with
    if not gpus:
        return _apart(nodes, wanted, 0, 0) or _refuse(nodes, wanted, gpus=False)
    apart = None if wanted.colocate else _apart(nodes, wanted, wanted.tensor_parallel, 1)
    if apart is not None:
        return apart
    pairs = wanted.engines == wanted.workers and wanted.tensor_parallel == 1
    if wanted.colocate and not pairs:
        raise UserError(
            f"colocate: {wanted.engines} engine(s) of {wanted.tensor_parallel} GPU(s) and {wanted.workers} learner(s) "
            "make no pairs; set rollout.engines = learner.workers and rollout.tensor_parallel = 1"
        )
    together = _together(nodes, wanted) if pairs and wanted.colocate is not False else None
    return together or _refuse(nodes, wanted, gpus=True)


def place_copies(nodes: Sequence[Node], wanted: Demand, most: int) -> list[Placement]:
    """As many placements of the same demand as fit beside each other, ``most`` at most.

    Copies that share GPUs between engines and learners share no node: on one node Ray would be free to pair an engine
    of one copy with a learner of another.

    Raises:
        UserError: as :func:`place`, where not even one fits.
    """
    first = place(nodes, wanted)
    copies = [first]
    for number in range(2, most + 1):
        many = replace(
            wanted, engines=number * wanted.engines, workers=number * wanted.workers, colocate=first.colocated
        )
        try:
            whole = place(nodes, many)
        except UserError:
            break
        copies = [
            Placement(
                whole.engines[at * wanted.engines : (at + 1) * wanted.engines],
                whole.learners[at * wanted.workers : (at + 1) * wanted.workers],
                whole.colocated,
            )
            for at in range(number)
        ]
    return _on_separate_nodes(copies) if first.colocated else copies


def _on_separate_nodes(copies: Sequence[Placement]) -> list[Placement]:
    """Those that share no node with an earlier one."""
    kept: list[Placement] = []
    taken: set[str] = set()
    for copy in copies:
        used = {role.node.id for role in copy.engines + copy.learners}
        if not used & taken:
            kept.append(copy)
            taken |= used
    return kept


def _apart(nodes: Sequence[Node], wanted: Demand, engine_gpus: float, learner_gpus: float) -> Placement | None:
    free = [_Free(node, node.cpus, node.gpus) for node in nodes]
    first, last = _Taking(free), _Taking(free[::-1])
    engines = [last.take("engine", wanted.cpus_per_engine, engine_gpus) for _ in range(wanted.engines)]
    learners = [first.take("learner", wanted.cpus_per_worker, learner_gpus) for _ in range(wanted.workers)]
    return _whole(engines, learners, colocated=False)


def _together(nodes: Sequence[Node], wanted: Demand) -> Placement | None:
    """Pairs, as many per node as it has GPUs (and cores)."""
    taking = _Taking([_Free(node, node.cpus, node.gpus) for node in nodes])
    cpus = wanted.cpus_per_engine + wanted.cpus_per_worker
    pairs = [taking.take("engine", cpus, 1) for _ in range(wanted.engines)]
    engines = [p and Role("engine", p.node, wanted.cpus_per_engine, ENGINE_SHARE) for p in pairs]
    learners = [p and Role("learner", p.node, wanted.cpus_per_worker, LEARNER_SHARE) for p in pairs]
    return _whole(engines, learners, colocated=True)


def _whole(engines: list[Role | None], learners: list[Role | None], colocated: bool) -> Placement | None:
    """None where a role has no node."""
    placed = Placement([role for role in engines if role], [role for role in learners if role], colocated)
    return placed if len(placed.engines + placed.learners) == len(engines + learners) else None


def _refuse(nodes: Sequence[Node], wanted: Demand, gpus: bool) -> Placement:
    unit, name = ("GPU", "gpus") if gpus else ("core", "cpus")
    per_engine = wanted.tensor_parallel if gpus else wanted.cpus_per_engine
    per_worker = 1 if gpus else wanted.cpus_per_worker
    need = wanted.engines * per_engine + wanted.workers * per_worker
    have = ", ".join(f"{node.address} {getattr(node, name):g}" for node in nodes[:NAMED]) or "no node"
    have += f" and {len(nodes) - NAMED} nodes more" if len(nodes) > NAMED else ""
    cores = wanted.engines * wanted.cpus_per_engine + wanted.workers * wanted.cpus_per_worker
    also = f" and {cores:g} cores (there are {sum(node.cpus for node in nodes):g})" if gpus else ""
    fix = (
        "set colocate to true, with rollout.engines = learner.workers," if gpus and not wanted.colocate else "add nodes"
    )
    raise UserError(
        f"rollout.engines, learner.workers: {wanted.engines} engine(s) of {per_engine:g} {unit}(s) and "
        f"{wanted.workers} learner(s) of {per_worker:g} need {need:g} {unit}s{also}; "
        f"the cluster has {have}: {fix} or set fewer"
    )


def placement_table(placement: Placement, nodes: Sequence[Node]) -> Table:
    """Nodes and what runs on each."""
    table = Table("node", "cores", "GPUs", "engines", "learners", title="placement")
    for node in nodes:
        engines = [role for role in placement.engines if role.node == node]
        learners = [role for role in placement.learners if role.node == node]
        shared = " (shared)" if placement.colocated and engines else ""
        table.add_row(
            node.address,
            f"{node.cpus:g}",
            f"{node.gpus}{shared}",
            _amount(engines),
            _amount(learners),
            end_section=False,
        )
    return table


def _amount(roles: Sequence[Role]) -> str:
    if not roles:
        return "-"
    gpus = f", {roles[0].gpus:g} GPU" if roles[0].gpus else ""
    return f"{len(roles)} of {roles[0].cpus:g} cores{gpus}"
