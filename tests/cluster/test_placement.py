"""One plan for every shape of cluster, or one line that says what is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blade_dist.cluster.placement import Demand, Node, Placement, demand, place, placement_table
from blade_dist.errors import UserError
from blade_dist.settings.load import load_config
from tests.helpers.paths import CONFIGS


def cluster(*gpus: int, cpus: float = 64) -> list[Node]:
    return [Node(f"id{number}", f"10.0.0.{number}", cpus, count) for number, count in enumerate(gpus, start=1)]


def by_node(placement: Placement, kind: str) -> list[str]:
    roles = placement.engines if kind == "engine" else placement.learners
    return [role.node.address for role in roles]


def test_on_cores_alone_learners_come_first_and_engines_last() -> None:
    placement = place(cluster(0, 0, cpus=2), Demand(engines=1, workers=1))
    assert (by_node(placement, "learner"), by_node(placement, "engine")) == (["10.0.0.1"], ["10.0.0.2"])
    assert not placement.on_gpus
    assert placement.learners[0].bundle == {"CPU": 1.0}


def test_one_gpu_is_shared() -> None:
    placement = place(cluster(1), Demand(engines=1, workers=1))
    assert placement.colocated
    assert placement.engines[0].gpus + placement.learners[0].gpus == 1


@pytest.mark.parametrize(("engines", "workers"), [(0, 1), (1, 0)])
def test_a_stage_of_one_kind_shares_with_nobody(engines: int, workers: int) -> None:
    placement = place(cluster(1), Demand(engines=engines, workers=workers, colocate=True))
    assert not placement.colocated
    assert [role.gpus for role in placement.engines + placement.learners] == [1]


def test_eight_gpus_are_divided() -> None:
    placement = place(cluster(8), Demand(engines=2, tensor_parallel=2, workers=4))
    assert not placement.colocated
    assert [role.gpus for role in placement.engines] == [2, 2]
    assert [role.gpus for role in placement.learners] == [1] * 4


def test_two_nodes_of_eight_keep_the_roles_apart() -> None:
    placement = place(cluster(8, 8), Demand(engines=8, workers=8))
    assert set(by_node(placement, "learner")) == {"10.0.0.1"}
    assert set(by_node(placement, "engine")) == {"10.0.0.2"}


def test_sixteen_nodes_colocated_in_pairs() -> None:
    placement = place(cluster(*[8] * 16), Demand(engines=128, workers=128, colocate=True))
    engines, learners = Counter(by_node(placement, "engine")), Counter(by_node(placement, "learner"))
    assert engines == learners
    assert set(engines.values()) == {8}


def test_mixed_nodes_give_an_engine_all_of_its_gpus_on_one() -> None:
    placement = place(cluster(4, 1, 2, 0), Demand(engines=2, tensor_parallel=2, workers=3))
    assert by_node(placement, "engine") == ["10.0.0.3", "10.0.0.1"]
    assert by_node(placement, "learner") == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    ("nodes", "wanted", "words"),
    [
        (cluster(1), Demand(engines=2, workers=2), ("need 4 GPUs", "10.0.0.1 1", "colocate")),
        (cluster(8), Demand(engines=4, tensor_parallel=2, workers=8), ("need 16 GPUs", "10.0.0.1 8")),
        (cluster(1, 1), Demand(engines=1, tensor_parallel=2), ("1 engine(s) of 2 GPU(s)", "10.0.0.2 1")),
        (cluster(0, cpus=1), Demand(engines=1, workers=1), ("need 2 cores", "10.0.0.1 1")),
        (cluster(8, cpus=2), Demand(engines=4, workers=4), ("8 cores (there are 2)",)),
        ([], Demand(engines=1), ("no node",)),
        (cluster(8), Demand(engines=2, workers=4, colocate=True), ("make no pairs", "rollout.engines")),
        (cluster(2), Demand(engines=2, workers=2, colocate=False), ("need 4 GPUs",)),
    ],
)
def test_too_little_is_said_in_one_line(nodes: list[Node], wanted: Demand, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        place(nodes, wanted)
    assert all(word in str(error.value) for word in words), str(error.value)


@given(
    gpus=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    cpus=st.integers(1, 16),
    engines=st.integers(0, 6),
    workers=st.integers(0, 6),
    tensor_parallel=st.integers(1, 4),
    colocate=st.sampled_from([None, True, False]),
)
def test_no_node_is_given_more_than_it_has(
    gpus: list[int], cpus: int, engines: int, workers: int, tensor_parallel: int, colocate: bool | None
) -> None:
    nodes = cluster(*gpus, cpus=cpus)
    try:
        placement = place(nodes, Demand(engines, tensor_parallel, 2, workers, 1, colocate))
    except UserError:
        return
    assert (len(placement.engines), len(placement.learners)) == (engines, workers)
    roles = placement.engines + placement.learners
    for node in nodes:
        assert sum(role.gpus for role in roles if role.node == node) <= node.gpus + 1e-9  # 0.51 + 0.49, four times
        assert sum(role.cpus for role in roles if role.node == node) <= node.cpus


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("llama-*.yaml")), ids=lambda path: path.stem)
def test_a_config_for_gpus_fits_the_cluster_that_it_names(path: Path) -> None:
    config = load_config(path, [])
    nodes = cluster(*[8] * (4 if "four" in path.stem else 1))
    placement = place(nodes, demand(config))
    roles = placement.engines + placement.learners
    assert sum(role.gpus for role in roles) == 8 * len(nodes)
    assert placement.colocated == bool(config.colocate)


def test_the_table_names_every_node() -> None:
    nodes = cluster(1, 0)
    console = Console(width=100, record=True, quiet=False)
    console.print(placement_table(place(nodes, Demand(engines=1, workers=1)), nodes))
    shown = console.export_text()
    assert "1 (shared)" in shown
    assert all(node.address in shown for node in nodes)
