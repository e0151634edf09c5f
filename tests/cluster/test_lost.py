"""What a command does when a node of its cluster is lost."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from blade_dist.cluster import lost
from blade_dist.cluster.lost import after_loss, lost_nodes
from blade_dist.cluster.placement import Demand
from blade_dist.errors import NodeLostError


class Nodes:
    """What Ray says of the nodes; one comes after so many looks."""

    def __init__(self, *cpus: int, comes: int = -1) -> None:
        self.looks, self.comes = 0, comes
        self.there = [self._node(number, cores, True) for number, cores in enumerate(cpus)]
        self.there.append(self._node(9, 64, False))

    def __call__(self) -> list[dict[str, Any]]:
        if self.looks == self.comes:
            self.there.append(self._node(8, 4, True))
        self.looks += 1
        return self.there

    def _node(self, number: int, cpus: int, alive: bool) -> dict[str, Any]:
        has = {"CPU": float(cpus)} | ({"node:__internal_head__": 1.0} if number == 0 else {})
        return {"NodeID": f"id{number}", "NodeManagerAddress": f"10.0.0.{number}", "Resources": has, "Alive": alive}


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "POLL_S", 0.0)


WANTED = Demand(engines=2, workers=2)


def test_nodes_that_were_never_ours_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", Nodes(4, 4))
    assert lost_nodes(["id0", "id1"]) == []
    assert lost_nodes(["id0", "id9"]) == ["10.0.0.9"]


@pytest.mark.parametrize("comes", [-1, 3])
@pytest.mark.usefixtures("no_pause")
def test_it_goes_on_as_soon_as_its_roles_fit(monkeypatch: pytest.MonkeyPatch, comes: int) -> None:
    """On the node that is left, or with one that comes."""
    nodes = Nodes(1 if comes > 0 else 4, comes=comes)
    monkeypatch.setattr(ray, "nodes", nodes)
    error = after_loss(["10.0.0.9"], WANTED, 60.0)
    assert isinstance(error, NodeLostError)
    assert str(error).startswith("node 10.0.0.9 was lost; the same command goes on from its last checkpoint on the")
    assert nodes.looks == max(comes, 0) + 1


@pytest.mark.parametrize(("cpus", "wait_s"), [(1, 0), (1, 0.05), (4, 0)])
@pytest.mark.usefixtures("no_pause")
def test_it_ends_where_they_do_not_fit_in_time_or_where_it_shall_not_wait(
    monkeypatch: pytest.MonkeyPatch, cpus: int, wait_s: float
) -> None:
    monkeypatch.setattr(ray, "nodes", Nodes(cpus))
    error = after_loss(["10.0.0.9"], WANTED, wait_s)
    assert not isinstance(error, NodeLostError)
    assert "node 10.0.0.9 was lost" in str(error)
    assert "the same command goes on from its last checkpoint" in str(error)
    assert ("the cluster has 10.0.0.0 1" in str(error)) == (cpus == 1)
