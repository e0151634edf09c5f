"""How much a command says: ``--quiet``, ``--verbose``, and the run's log, which has what others print."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from blade_dist.errors import UserError, redacted
from blade_dist.store.run import LOG
from blade_dist.tracking.noise import noise_to
from blade_dist.tracking.say import Voice

TO_DRIVER = "RAY_LOG_TO_DRIVER"
"""Ray's variable: whether this process prints what the workers do."""

OPTIONS: dict[str, Any] = {
    "quiet": Annotated[bool, typer.Option("--quiet", help="Says only errors and the last lines of a stage.")],
    "verbose": Annotated[
        bool, typer.Option("--verbose", help="Shows all tables, what others print, and errors with tracebacks.")
    ],
}
"""Of every command."""


class Loudness:
    """Of the command that runs; its noise is led away from :meth:`console` to the end of the block."""

    def __init__(self) -> None:
        self.quiet = self.verbose = False
        self.log: Path | None = None
        """Where the noise goes, once a run is known."""
        self._stack = ExitStack()
        self._before = 0

    @property
    def has_noise(self) -> bool:
        """Whether others wrote to the log since the command began; known once the block has ended."""
        return self.log is not None and self.log.is_file() and self.log.stat().st_size > self._before

    def __enter__(self) -> Loudness:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def console(self, folder: Path | None = None) -> Console:
        """For messages; ``folder``: of the run, in which the log is from now on.

        Raises:
            UserError: nothing can be written there.
        """
        out = sys.stdout
        if folder is not None and not self.verbose and self.log is None:
            self.log = folder / LOG
            self._before = self.log.stat().st_size if self.log.is_file() else 0
            try:
                out, _ = self._stack.enter_context(
                    noise_to(self.log, redacted(shlex.join(["blade-dist", *sys.argv[1:]])))
                )
            except OSError as error:  # not ours, read-only, full
                raise UserError(f"run.dir: nothing can be written in {folder} ({error.strerror})") from None
        os.environ[TO_DRIVER] = str(int(self.verbose or self.log is not None))
        return Voice(out, self.quiet, self.verbose)

    def until_end(self, block: AbstractContextManager[object]) -> None:
        """Enters a block, which is left when the command has ended."""
        self._stack.enter_context(block)

    def apart(self) -> Console:
        """For messages of a command that leaves nothing in a run: the log is in a temporary folder of its own."""
        return self.console(Path(tempfile.mkdtemp(prefix="blade-dist-")))


_running = Loudness()


def loudness() -> Loudness:
    """Of the command that runs."""
    return _running


def begin() -> Loudness:
    """Of a command that is about to be read from the command line."""
    global _running  # noqa: PLW0603 - the options of a command and its last lines are read in different places
    _running = Loudness()
    return _running


def heard(command: Callable[..., None]) -> Callable[..., None]:
    """The command with :data:`OPTIONS` beside its own."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name]) for name, parameter in inspect.signature(command).parameters.items()
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in OPTIONS.items()
    ]

    @wraps(command)
    def run(*arguments: Any, quiet: bool = False, verbose: bool = False, **given: Any) -> None:
        if quiet and verbose:
            raise UserError("--quiet and --verbose exclude each other: give one of them")
        running = loudness()
        running.quiet, running.verbose = quiet, verbose
        command(*arguments, **given)

    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, **OPTIONS}
    return run
