"""The last lines of a command that failed: three at most, with what to do; the traceback is in the run's log."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from blade_dist.errors import UserError, origin, redacted
from blade_dist.store.files import FULL
from blade_dist.tracking.lasting import is_lost
from blade_dist.tracking.say import say

USERS, OURS = 2, 1
"""Exit codes: of what its user can change, and of what is to be fixed here."""

LONGEST = 160
"""Characters that are shown of an error that is not a UserError."""

OUT_OF_MEMORY = ("low on memory", "OutOfMemoryError", "CUDA out of memory", "Cannot allocate memory")
"""What Ray, PyTorch and the system say."""

NO_ROOM = r"No space left on device|Disk quota exceeded|[0-9]+ requested and [0-9]+ written"
"""What libraries make of a full disk: Rust's and C++'s (safetensors, PyTorch), NumPy's."""

DIED = ("ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError")
"""Ray's errors where a process is gone."""

_MOVED = "was it moved, or is it another's? put it back, or choose another run.dir"
REMEDIES = {
    errno.EROFS: "nothing can be written there: choose another run.dir",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another run.dir",
    errno.ENAMETOOLONG: "choose a shorter run.dir",
    errno.EFBIG: "no file may grow so large: raise the limit (ulimit -f unlimited), and run the same command again",
    errno.EMFILE: "raise the limit (ulimit -n 65535), and run the same command again",
    errno.EIO: "the disk or the network storage fails: run the same command again where it works",
    errno.ESTALE: "the network storage let go of it: run the same command again",
}
"""What to do about other errors of the system, by their numbers."""

HUNG = "WorkerHealthCheckTimeoutError"
"""Ray Train's, where a rank did not answer."""

ROLES = {
    "RayTrainWorker": ("a learner", "learner.tokens_per_microbatch"),
    "Engine": ("an engine", "rollout.max_num_seqs"),
    "_StoredScorer": ("the process that scores lists", "train.prompts_per_step"),
    "_StoredEstimator": ("the estimator", "train.prompts_per_step"),
    "StepPipeline": ("the pipeline", "train.prompts_per_step"),
    "StepLog": ("the step log", "train.prompts_per_step"),
    "Fleet": ("what watches the engines", "rollout.engines"),
}
"""By the class of an actor, as Ray names it: what it is called here, and what to lower where memory is short."""


def ending(error: Exception, log: Path | None, noise: bool, verbose: bool) -> tuple[list[str], int]:
    """What to print, and the exit code. The traceback of what is no UserError is appended to the log.

    Args:
        error: why the command ended.
        log: the run's; None where the command has none.
        noise: whether others wrote to it since the command began.
        verbose: whether the traceback is printed too.
    """
    cause = origin(error)
    told = cause if isinstance(cause, UserError) else foreseen(cause)
    if told is not None:
        lines = [f"error: {_flat(str(told))}"]
    else:
        lines = [
            f"error: {type(cause).__name__}{_place(cause)}: {_flat(str(cause))[:LONGEST]}",
            "it is a fault of blade-dist, or of what it stands on: please report it, with the traceback",
        ]
    if told is not cause and not verbose:
        keep_traceback(log, error)
        if log is not None:
            lines.append(f"traceback: at the end of {log}")
        elif told is None:
            lines.append("traceback: add --verbose to the command")
    elif noise:
        lines.append(f"log: {log}")
    if verbose:
        lines = ["".join(traceback.format_exception(error)).rstrip(), *lines]
    return [redacted(line) for line in lines], OURS if told is None else USERS


def leave(console: Console, lines: list[str], code: int, log: Path | None) -> NoReturn:
    """Says the last lines, to the log where nobody reads them any more, and ends the process."""
    for line in lines:
        say(console, line)
    if is_lost(console.file):
        append(log, "".join(f"{line}\n" for line in lines))
    sys.exit(code)


def start_again() -> NoReturn:
    """The same command in this process's place: a job and its scheduler see one that goes on."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def foreseen(cause: BaseException) -> UserError | None:
    """What a user can do about an error of Ray's or of the system's; None where it is none of those."""
    kind, text = type(cause).__name__, str(cause)
    if (isinstance(cause, OSError) and cause.errno in FULL) or re.search(NO_ROOM, text):
        return UserError(f"the disk is full: {_flat(text)[:LONGEST]}; make room, then run the same command again")
    if isinstance(cause, MemoryError) or any(words in text or words in kind for words in OUT_OF_MEMORY):
        return _out_of_memory(text)
    if kind in DIED:
        who, _ = _role(text)
        return UserError(
            f"{who} died{_process(text)}: it was ended from outside, or memory was short; run the same command again, "
            "it goes on from what is saved"
        )
    if kind == HUNG:
        return UserError(
            "the learners gave no sign of life within ray.silence_s, again and again; raise it where the machine "
            "stalls, and run the same command again: it goes on from what is saved"
        )
    if isinstance(cause, OSError):
        moved = _MOVED if isinstance(cause, FileNotFoundError | PermissionError) else None
        if remedy := REMEDIES.get(cause.errno or 0, moved):
            return UserError(f"{_flat(text)}; {remedy}")
    return None


def _out_of_memory(text: str) -> UserError:
    who, setting = _role(text)
    used = _found(r"memory used=([0-9.]+ ?Gi?B)", text)
    return UserError(
        f"out of memory: {who}{_process(text)} was ended{f' at {used}' if used else ''}; lower {setting}, or run "
        "fewer engines and learners on the machine; the same command goes on from what is saved"
    )


def _role(text: str) -> tuple[str, str]:
    """Whose process Ray's text is about, and the setting that its memory follows."""
    unknown = ("a process", "learner.tokens_per_microbatch or rollout.max_num_seqs")
    return ROLES.get(_found(r"class_name: (\w+)", text) or "", unknown)


def _process(text: str) -> str:
    """`` (process 12, 10.0.0.1)`` as far as Ray's text says it."""
    pid, address = _found(r"pid[:=] ?([0-9]+)", text), _found(r"\bip: ([0-9a-f.:]+)", text)
    known = ", ".join([*([f"process {pid}"] if pid else []), *([address] if address else [])])
    return f" ({known})" if known else ""


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _place(cause: BaseException) -> str:
    """`` in loop.py:88``: where it was raised; nothing where it came from another process."""
    frames = traceback.extract_tb(cause.__traceback__)
    return f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _flat(text: str) -> str:
    return " ".join(text.split())


def keep_traceback(log: Path | None, error: BaseException) -> None:
    """Writes it to the end of the log, without secrets."""
    append(log, redacted("".join(traceback.format_exception(error))))


def append(log: Path | None, text: str) -> None:
    """Writes the text to the end of the log, if there is one and it can be written."""
    if log is not None:
        with suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.write(text)
