"""A training on which blows fall, on every role, by death and by hanging, and the books after it.

A blow is a signal to one process: SIGKILL, or SIGSTOP, after which it neither works nor dies. The next one falls when
further steps are saved. Rows, evidence and weights are compared with those of the same training undisturbed.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import typer

from benchmarks.disturbed import GROUP, Folder, Json, Program, Seed, Settings, compared, newest, prepared, record

ROLES = {
    "engine": "Engine",
    "reward": "_StoredScorer",
    "estimator": "_StoredEstimator",
    "pipeline": "StepPipeline",
    "step log": "StepLog",
    "learner": "RayTrainWorker",
    "driver": None,
}
"""Part of the process's name; None: the command itself, with all that it has started."""
SILENCE_S = 20.0
"""Until somebody is held to hang."""
EVERY = 2
"""Steps between checkpoints."""
STEPS_OF_A_BLOW = 2 * EVERY
STARTS = 3
"""Programs that may end one after the other without reaching what is waited for."""
MARK = "BLADE_CHAOS"
"""Variable in the environment of all processes, so that those that are left over are found."""
GOALS = {"runs_ended": 0, "evidence_lost": 0, "evidence_doubled": 0, "orphans": 0, "identical": True}


def main(
    blows: Annotated[int, typer.Option(min=1, help="How many.")] = 60,
    seed: Seed = 0,
    folder: Folder = None,
    json: Json = None,
) -> None:
    """Trains under blows, and keeps the books.

    Examples:

      python -m benchmarks.chaos --blows 60 --seed 0 --json chaos.json
    """
    record("chaos", partial(run, blows), {"blows": blows, "seed": seed}, GOALS, folder, json)


def schedule(blows: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """Roles, and whether each shall hang (else die): round after round, every role once a round in random order."""
    chosen: list[tuple[str, bool]] = []
    while len(chosen) < blows:
        order = rng.permutation(list(ROLES)).tolist()
        chosen += [(role, ROLES[role] is not None and bool(rng.random() < 0.4)) for role in order]
    return chosen[:blows]


def run(blows: int, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The blows, and what became of the training."""
    steps = STEPS_OF_A_BLOW * (blows + 1)
    limits = {"request_timeout_s": SILENCE_S, "push_timeout_s": SILENCE_S}
    config, whole = prepared(
        folder,
        steps,
        EVERY,
        rollout={"engines": 2, **limits},
        ray={"silence_s": SILENCE_S},
        train={"max_failures": 10**6},
    )
    mark, began = uuid.uuid4().hex, time.perf_counter()
    start = partial(Program, config, folder / "log", {MARK: mark})
    program, ended, log = start(), 0, []
    try:
        for number, (role, hangs) in enumerate(schedule(blows, rng)):
            wanted = min(newest(config) + EVERY, steps - EVERY)
            program, died = _lasting(program, start, lambda _, wanted=wanted: newest(config) >= wanted)
            ended += died
            time.sleep(float(rng.uniform(0, 2)))
            struck = _strike(program, role, hangs, rng)
            print(
                f"blow {number + 1} of {blows}: {role} {'hangs' if hangs else 'dies'}; step {newest(config)}",
                flush=True,
            )
            log.append({"role": role, "hangs": hangs, "step": newest(config), "struck": struck})
            if ROLES[role] is None:
                program = start()
        program, died = _lasting(program, start, lambda program: program.done)
        ended += died
        orphans = _orphans(mark)
    finally:
        program.kill()
    lost, doubled = evidence(config, whole)
    books = compared(config, whole)
    return {
        "blows": sum(blow["struck"] for blow in log),
        "hangs_injected": sum(blow["struck"] and blow["hangs"] for blow in log),
        "runs_ended": ended,
        "steps_expected": steps,
        "steps_done": newest(config),
        "evidence_lost": lost,
        "evidence_doubled": doubled,
        "orphans": orphans,
        **books,
        "seconds": time.perf_counter() - began,
        "log": log,
    }


def _lasting(
    program: Program, start: Callable[[], Program], condition: Callable[[Program], object]
) -> tuple[Program, int]:
    """One that lived until the condition held, this or the next one, and how many ended, or saved nothing more, before.

    Raises:
        RuntimeError: so did :data:`STARTS` in a row.
    """
    for ended in range(STARTS):
        try:
            program.wait(partial(condition, program))
        except RuntimeError:
            program.kill()
            if ended + 1 == STARTS:
                raise
            program = start()
        else:
            break
    return program, ended


def _strike(program: Program, role: str, hangs: bool, rng: np.random.Generator) -> bool:
    """Whether there was such a process."""
    part = ROLES[role]
    if part is None:
        program.kill()
        return True
    found = [one for one in program.below() if _is(one, part)]
    if not found:
        return False
    os.kill(found[int(rng.integers(len(found)))].pid, signal.SIGSTOP if hangs else signal.SIGKILL)
    return True


def _is(process: psutil.Process, part: str) -> bool:
    try:
        title = process.cmdline()[:1]
        return bool(title) and title[0].startswith("ray::") and part in title[0]
    except psutil.Error:
        return False


def evidence(config: Settings, whole: Settings) -> tuple[int, int]:
    """Groups of rewards that the estimator's memory lacks, and that it has too often, by what an undisturbed one knows.

    The memory holds each prompt's latest visits: one that is lost or counted twice moves all that came before it.
    """
    ours, theirs = (_groups(of) for of in (config, whole))
    return (theirs - ours).total(), (ours - theirs).total()


def _groups(settings: Settings) -> Counter[tuple[float, ...]]:
    """Prompt and rewards of every visit, how often."""
    table = pa.ipc.open_stream((settings.checkpoints()[-1] / "estimator.arrow").read_bytes()).read_all()
    values, weights = (
        np.stack(table[name].to_numpy()).reshape(len(table), -1, GROUP) for name in ("values", "weights")
    )
    prompts = table["prompt"].to_pylist()
    return Counter((prompts[row], *values[row, place].round(6)) for row, place in np.argwhere(weights[:, :, 0] > 0))


def _orphans(mark: str) -> int:
    """Processes that are left over."""
    time.sleep(2.0)  # those that are just ending
    found = 0
    for process in psutil.process_iter():
        try:
            found += process.environ().get(MARK) == mark
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    typer.run(main)
