"""Which node this is: from our own variables, from Slurm's, from a file of hosts."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.nodes.membership import Membership, membership, read_hosts, slurm_hosts
from blade_dist.nodes.raycluster import RayOptions, start_command
from blade_dist.nodes.ssh import remote_command
from blade_dist.nodes.survey import compare, node_facts
from blade_dist.nodes.versions import versions


def test_alone_without_any_variable() -> None:
    assert membership({}) == Membership(0, 1, "127.0.0.1")


def test_our_own_variables_come_before_slurms() -> None:
    slurm = {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_NODEID": "0"}
    assert membership({**slurm, "HEAD_ADDR": "h", "NODE_RANK": "2", "NODES": "3"}) == Membership(2, 3, "h")
    assert membership(slurm) == Membership(0, 2, "a1")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ["login"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("a[1,3-4]-x,b2", ["a1-x", "a3-x", "a4-x", "b2"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_slurm_node_lists(text: str, hosts: list[str]) -> None:
    assert slurm_hosts(text) == hosts


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HEAD_ADDR": "h"}, "NODE_RANK: not set"),
        ({"HEAD_ADDR": "h", "NODE_RANK": "0"}, "NODES: not set"),
        ({"HEAD_ADDR": "h", "NODE_RANK": "x", "NODES": "2"}, "'x' is no number"),
        ({"HEAD_ADDR": "h", "NODE_RANK": "2", "NODES": "2"}, "none of the ranks 0 to 1"),
        ({"SLURM_JOB_NODELIST": "a[1-2]"}, "srun"),
        ({"SLURM_JOB_NODELIST": "a[1-"}, "no list of nodes"),
        ({"SLURM_JOB_NODELIST": "a[1-x]"}, "no number or range"),
    ],
)
def test_a_place_that_is_only_half_given_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        membership(environ)


def test_a_file_of_hosts(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two nodes\nhead\n\nother # the second\n")
    assert read_hosts(file) == ["head", "other"]


@pytest.mark.parametrize(
    ("text", "words"), [("a b\n", ":1: one host"), ("a\na\n", ":2: a is there twice"), ("#\n", "no host")]
)
def test_a_bad_file_of_hosts_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_hosts(file)


def test_the_head_shows_its_dashboard_to_itself_alone() -> None:
    command = start_command("10.0.0.1", None, RayOptions(6379, 8265, 4, None, "/t"))
    assert command[0].endswith("/ray")
    assert {"--head", "--block", "--dashboard-host=127.0.0.1", "--num-cpus=4", "--temp-dir=/t"} <= set(command)
    other = start_command("10.0.0.2", "10.0.0.1", RayOptions(6379, 8265, None, 8, "/t"))
    assert {"--address=10.0.0.1:6379", "--num-gpus=8"} <= set(other)
    assert "--head" not in other


def test_no_token_is_on_a_command_line() -> None:
    remote = remote_command(Path("/opt/a b"), "head", 1, 2, ["train", "my config.yaml"])
    assert shlex.split(remote.split(" && ")[0]) == ["cd", "/opt/a b"]
    assert "read -r RAY_AUTH_TOKEN" in remote
    assert remote.endswith("exec launch/multi_node.sh train 'my config.yaml'")


def test_nodes_that_differ_are_named(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    facts = node_facts(mark)
    compare("10.0.0.2", versions(), facts, tmp_path)
    other = {**facts, "versions": {**facts["versions"], "ray": "1.0"}}
    with pytest.raises(UserError, match=r"node 10\.0\.0\.2: ray 1\.0, but"):
        compare("10.0.0.2", versions(), other, tmp_path)
    with pytest.raises(UserError, match=r"run\.dir: node 10\.0\.0\.2 does not see"):
        compare("10.0.0.2", versions(), node_facts(tmp_path / "absent"), tmp_path)
    assert list(tmp_path.iterdir()) == [mark]
