"""The program behind ``launch/multi_node.sh``."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from blade_dist.errors import UserError
from blade_dist.nodes.membership import Membership, membership, read_hosts
from blade_dist.nodes.node import Job, run_node
from blade_dist.nodes.processes import Stopped, stopping_on_signals
from blade_dist.nodes.raycluster import RayOptions, start_command
from blade_dist.nodes.ssh import remote_command, run_hosts, ssh_command, stop_at_end_of_input

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def main(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="A blade-dist command, for example: run CONFIG.")
    ],
    hosts: Annotated[
        Path | None, typer.Option(help="File of hosts, one per line, the head first: starts itself on each by ssh.")
    ] = None,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port of the Ray head.")] = 6379,
    dashboard_port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Port of Ray's dashboard, on the head's loopback.")
    ] = 8265,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that the nodes may take to join.")] = 120.0,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="Cores of this node; else all of them.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of this node; else all of them.")] = None,
    temp_dir: Annotated[str | None, typer.Option(help="Ray's folder for logs and sockets; else /tmp/ray.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Prints what would be done, and does nothing.")] = False,
) -> None:
    """Runs a blade-dist command over many nodes: call it on every node, or once with --hosts.

    Each node is identified by HEAD_ADDR, NODE_RANK (0 is the head) and NODES, or by Slurm's variables (srun, one task
    per node); without either it is alone. RAY_AUTH_TOKEN must be the same on all nodes. The command runs on the head,
    every node ends with its exit status, and nothing is left running.

    Examples:

      launch/multi_node.sh run launch/configs/quickstart.yaml

      HEAD_ADDR=10.0.0.1 NODE_RANK=1 NODES=2 launch/multi_node.sh train my.yaml

      srun --ntasks-per-node=1 launch/multi_node.sh train my.yaml

      launch/multi_node.sh --hosts hosts.txt train my.yaml
    """
    options = RayOptions(port, dashboard_port, num_cpus, num_gpus, temp_dir)
    blade_dist = (str(Path(sys.executable).with_name("blade-dist")), *command)
    if hosts is not None:
        arguments = _without_hosts(sys.argv[1:])
        if dry_run:
            names = read_hosts(hosts)
            for rank, host in enumerate(names):
                typer.echo(shlex.join(ssh_command(host, remote_command(ROOT, names[0], rank, len(names), arguments))))
            return
        with stopping_on_signals():
            status = run_hosts(ROOT, read_hosts(hosts), arguments, _token() or secrets.token_hex(32))
        raise typer.Exit(status)
    member = membership(os.environ)
    job = Job(member, options, wait, blade_dist)
    if dry_run:
        _show(job)
        return
    if member.nodes > 1 and _token() is None:
        raise UserError(
            "RAY_AUTH_TOKEN: not set; all nodes share one token, for example from: openssl rand -hex 32 "
            "(or a file of it, named by RAY_AUTH_TOKEN_PATH)"
        )
    if member.nodes == 1 and _token() is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with stopping_on_signals():
        if os.environ.get("STOP_AT_EOF"):
            stop_at_end_of_input()
        status = run_node(job)
    raise typer.Exit(status)


def _token() -> str | None:
    """The token that is set up here, looked up in the same order as Ray does."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if path.is_file():
        return path.read_text().strip() or None
    return None


def _without_hosts(arguments: list[str]) -> list[str]:
    """The same arguments for one host."""
    kept = list(arguments)
    for number, argument in enumerate(kept):
        if argument == "--hosts":
            return kept[:number] + kept[number + 2 :]
        if argument.startswith("--hosts="):
            return kept[:number] + kept[number + 1 :]
    return kept


def _show(job: Job) -> None:
    member: Membership = job.member
    typer.echo(f"# node {member.rank} of {member.nodes}; the head is {member.head}")
    here = member.head if member.is_head else "ADDRESS-OF-THIS-NODE"
    typer.echo(shlex.join(start_command(here, None if member.is_head else member.head, job.options)))
    if member.is_head:
        typer.echo(f"# once {member.nodes} node(s) are there, within {job.wait_s:.0f} s:")
        typer.echo(f"RAY_ADDRESS={member.head}:{job.options.port} {shlex.join(job.command)}")


def start() -> None:
    """Exit status 2 and one line for a :class:`UserError`; 128 + the signal's number where one ended it."""
    logging.basicConfig(level=logging.INFO, format="multi_node: %(message)s", stream=sys.stderr)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(context_settings={"allow_interspersed_args": False})(main)
    try:
        app(prog_name="launch/multi_node.sh")
    except UserError as error:
        typer.echo(f"multi_node: error: {error}", err=True)
        sys.exit(2)
    except Stopped as stopped:
        typer.echo(f"multi_node: stopped by {stopped}; nothing is left running", err=True)
        sys.exit(128 + stopped.number)


if __name__ == "__main__":
    start()
