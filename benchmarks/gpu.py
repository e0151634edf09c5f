"""What must be shown on a GPU, line by line; each writes one result file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.pretty import Pretty

from benchmarks.measure import gpu_says
from benchmarks.report import write_result

LINES = {
    1: ("the quickstart, vLLM and the learner on one GPU", "benchmarks.gpu_stack", "quickstart"),
    2: ("weight push by CUDA IPC, against a copy on the device", "benchmarks.gpu_stack", "push"),
    3: ("learner: shared prefix and legal-token head, MFU", "benchmarks.gpu_learner", "learner_speed"),
    4: ("rollouts: constrained against unconstrained", "benchmarks.gpu_stack", "rollouts"),
    5: ("a whole step, on-policy and one step behind", "benchmarks.gpu_stack", "whole_step"),
    6: ("where the learner's time is spent", "benchmarks.gpu_learner", "learner_profile"),
    7: ("LoRA and full fine-tuning: train, push, export", "benchmarks.gpu_stack", "adapters"),
}
"""What each line shows, and the function that does."""
NEEDS_GPU = 3
"""Exit status where there is no GPU."""

EPILOG = "\n\n".join(["Lines:", *(f"{number}: {what}" for number, (what, *_) in LINES.items())])
app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def main(
    line: Annotated[int, typer.Option(min=1, max=len(LINES), help="Which one; see below.")],
    peer: Annotated[bool, typer.Option(help="Whether TRL is measured too (lines 3 and 5).")] = True,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Measures one line on the first NVIDIA GPU of this machine (80 GB are enough for each).

    Examples:

      python -m benchmarks.gpu --line 1 --json quickstart.json

      python -m benchmarks.gpu --line 3 --no-peer
    """
    what, module, function = LINES[line]
    console = Console()
    if not torch.cuda.is_available():
        typer.echo(f"line {line} ({what}) needs an NVIDIA GPU: torch {torch.__version__} sees none here")
        raise typer.Exit(NEEDS_GPU)
    results = getattr(import_module(module), function)(console, peer)
    console.print(Pretty(results))
    command = f"python -m benchmarks.gpu --line {line}{'' if peer else ' --no-peer'}"
    write_result(json, f"gpu line {line}: {what}", {"line": line, "device": _device(), "command": command}, results)


def _device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": properties.total_memory / 2**30,
        "cuda": torch.version.cuda,
        "driver": gpu_says("driver_version"),
    }


if __name__ == "__main__":
    app()
