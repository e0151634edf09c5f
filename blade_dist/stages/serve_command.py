"""The options of ``blade-dist serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from blade_dist.cluster.signals import Stopped
from blade_dist.errors import UserError
from blade_dist.stages.loudness import loudness
from blade_dist.tracking.say import say


def serve(
    served: Annotated[Path, typer.Argument(help="Folder that export wrote.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Engines; with --max-replicas the fewest.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Most engines, under load.", show_default="--replicas")
    ] = None,
    max_ongoing: Annotated[int, typer.Option(min=1, help="Requests that an engine has at once.")] = 64,
    max_queued: Annotated[int, typer.Option(min=1, help="Requests that wait; further ones get status 429.")] = 256,
    max_lists: Annotated[int, typer.Option(min=1, help="Lists that one request may ask for.")] = 64,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Size of a request in KiB, else status 413.")] = 1024,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds to an answer, else status 504.")] = 30.0,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs of an engine.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores of an engine.", show_default="shared out")] = None,
    kv_cache_gb: Annotated[int, typer.Option(min=1, help="KV cache of an engine in GiB on a CPU.")] = 1,
) -> None:
    """Serve an export's lists over HTTP, by Ray Serve, until Ctrl-C. RAY_ADDRESS names a cluster to do it on.

    The token that requests must bring is the environment variable BLADE_SERVE_TOKEN; on a loopback address there need
    be none.

    Example: blade-dist serve served --port 8000

    Example: BLADE_SERVE_TOKEN=$(openssl rand -hex 32) blade-dist serve served --host 0.0.0.0 --replicas 2
    """
    if max_replicas is not None and max_replicas < replicas:
        raise UserError(f"--max-replicas {max_replicas}: fewer than --replicas {replicas}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is not a folder must not become a download
    from blade_dist.serving.door import Limits
    from blade_dist.serving.engines import Replicas
    from blade_dist.serving.opened import EngineOptions
    from blade_dist.stages.serve import Address, serve_stage

    engines = Replicas(
        EngineOptions(tensor_parallel, kv_cache_gb=kv_cache_gb),
        least=replicas,
        most=max_replicas or replicas,
        max_ongoing=max_ongoing,
        max_queued=max_queued,
    )
    limits = Limits(max_body_kb * 1024, max_lists, deadline)
    console = loudness().console()
    try:
        serve_stage(served, Address(host, port), engines, threads, limits, console)
    except (Stopped, KeyboardInterrupt) as stopped:
        say(console, "serve: stopped")
        raise typer.Exit(getattr(stopped, "exit_code", 130)) from None
