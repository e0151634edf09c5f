"""What foreseeable errors of others become: three lines at most, with what to do; a fault of ours names its log."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.stages.ends import ROLES, ending
from tests.helpers.paths import ROOT


class ActorDiedError(Exception):
    """As Ray's is called, and worded."""


class ActorUnavailableError(Exception):
    """As Ray's of an actor that is being started again."""


class WorkerHealthCheckTimeoutError(Exception):
    """As Ray Train's of a rank that hangs."""


KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayTrainWorker
\tactor_id: 0123
\tpid: 4711
\tip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR."""
SHORT = """The actor died unexpectedly before finishing this task.
\tclass_name: Engine
\tpid: 12
Task was killed. 1 worker(s) were killed due to the node running low on memory. (pid=12, actual memory used=3.25GB)"""


class WorkerGroupError(Exception):
    """As Ray Train's, which has the errors of the ranks."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__("Training failed.\n" * 50)
        self.worker_failures = dict(enumerate(errors))


def test_the_actors_are_called_as_ray_calls_them() -> None:
    source = "".join(path.read_text() for path in (ROOT / "blade_dist").rglob("*.py"))
    actors = set(re.findall(r"ray\.remote(?:\(concurrency_groups=.*?\))?\(([A-Z_]\w+)\)", source))
    assert {"Engine", "StepPipeline"} <= actors
    assert ROLES.keys() == actors | {"RayTrainWorker"}


@pytest.mark.parametrize(
    ("error", "begins", "has"),
    [
        (WorkerGroupError(ActorDiedError(KILLED)), "a learner died (process 4711, 10.0.0.7): ", "the same command"),
        (
            ActorDiedError(SHORT),
            "out of memory: an engine (process 12) was ended at 3.25GB; lower rollout.max_",
            "the same",
        ),
        (ActorUnavailableError("The actor 0123 is unavailable"), "a process died: it was ended", "the same command"),
        (
            WorkerGroupError(WorkerHealthCheckTimeoutError("33 s")),
            "the learners gave no sign of life within ray.",
            "aga",
        ),
        (MemoryError(), "out of memory: a process was ended; lower learner.tokens_per_microbatch or ", "the same"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: a process", "lower"),
        (FileNotFoundError(2, "No such file", "runs/mine/data/train.arrow"), "[Errno 2] No such file: 'runs/", "moved"),
        (OSError(errno.EROFS, "Read-only", "runs/mine/a"), "[Errno 30] Read-only: 'runs/mine/a'; nothing", "run.dir"),
        (OSError(errno.ENAMETOOLONG, "Name too long", "r"), "[Errno 36] Name too long: 'r'; choose a ", "run.dir"),
        (OSError(errno.EMFILE, "Too many open files"), "[Errno 24] Too many open files; raise the", "same command"),
        (OSError("4096 requested and 512 written"), "the disk is full: 4096 requested and 512 written; make", "again"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full: I/O error", "again"),
        (OSError(errno.ENOSPC, "No space left"), "the disk is full: [Errno 28] No space left; make room", "again"),
    ],
)
def test_what_a_user_can_do_something_about(tmp_path: Path, error: Exception, begins: str, has: str) -> None:
    log = tmp_path / "log.txt"
    lines, code = ending(error, log, noise=True, verbose=False)
    assert code == 2
    assert lines[0].startswith(f"error: {begins}")
    assert has in lines[0]
    assert lines[1:] == [f"traceback: at the end of {log}"]
    assert max(map(len, lines)) <= 240
    assert type(error).__name__ in log.read_text()


def test_a_user_error_is_one_line_and_the_log_where_others_wrote_to_it(tmp_path: Path) -> None:
    error = UserError("lists.k: too\n  long")
    assert ending(error, None, noise=False, verbose=False) == (["error: lists.k: too long"], 2)
    log = tmp_path / "log.txt"
    assert ending(error, log, noise=True, verbose=False) == (["error: lists.k: too long", f"log: {log}"], 2)
    assert not log.exists()
    assert ending(WorkerGroupError(error), None, noise=False, verbose=False)[0] == ["error: lists.k: too long"]


def test_a_fault_of_ours(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(KeyError) as raised:
        {}["x" * 1000]
    lines, code = ending(raised.value, log, noise=False, verbose=False)
    loud, _ = ending(raised.value, None, noise=False, verbose=True)
    assert code == 1
    assert lines[0].startswith("error: KeyError in test_ends.py:")
    assert lines[2] == f"traceback: at the end of {log}"
    assert len(lines) == 3
    assert max(map(len, lines)) <= 240
    assert log.read_text().startswith("Traceback")
    assert loud[0].startswith("Traceback")
