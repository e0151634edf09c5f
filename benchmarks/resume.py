"""A training that is killed again and again, against the same training undisturbed: are rows and weights the same?

Every kill is SIGKILL to the whole program, at a random moment of a random step. Now and then the newest checkpoint is
damaged before the next start, so that the one before it has to do.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.disturbed import Folder, Json, Program, Seed, compared, newest, prepared, record

DAMAGED = 4
"""Every so many kills the newest checkpoint is damaged, too."""
EVERY = 2
"""Steps between checkpoints."""
APART = 3
"""Steps between two kills, at least."""


def main(
    points: Annotated[int, typer.Option(min=1, help="Kills.")] = 10,
    seed: Seed = 0,
    folder: Folder = None,
    json: Json = None,
) -> None:
    """Trains with kills and without, and compares every row and every weight.

    Examples:

      python -m benchmarks.resume --points 10 --json resume.json
    """
    record("resume", partial(run, points), {"points": points, "seed": seed}, {"identical": True}, folder, json)


def run(points: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The kills, and whether what they left is what nobody touched."""
    steps = (APART + 2) * (points + 1)
    config, whole = prepared(folder, steps, EVERY)
    kills: list[dict[str, Any]] = []
    began = time.perf_counter()
    for point in range(points):
        program = Program(config, folder / "log")
        wanted = min(newest(config) + int(rng.integers(1, APART + 1)), steps - EVERY)
        try:
            program.wait(lambda wanted=wanted: newest(config) >= wanted)
            time.sleep(float(rng.uniform(0, 1)))
        finally:
            program.kill()
        saved = newest(config)
        damaged = point % DAMAGED == DAMAGED - 1
        if damaged:
            _damage(config.checkpoints()[-1])
        kills.append({"saved_step": saved, "newest_damaged": damaged})
        print(f"kill {point + 1} of {points}: step {saved} was saved", flush=True)
    Program(config, folder / "log").end()
    return {"steps": steps, **compared(config, whole), "kills": kills, "seconds": time.perf_counter() - began}


def _damage(checkpoint: Path) -> None:
    """Turns a bit of the optimizer's state."""
    file = next((checkpoint / "optimizer").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


if __name__ == "__main__":
    typer.run(main)
