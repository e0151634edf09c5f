"""Ending well: SIGTERM, Ctrl-C and a closed terminal end a command by one exception; a training step is saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

KEPT = "what was finished is kept"


class Stopped(BaseException):
    """A signal ended the command. Like KeyboardInterrupt it is no Exception: nobody shall take it for a failure."""

    def __init__(self, number: int, kept: str) -> None:
        """``kept``: what is there of the work, for the user's last line."""
        super().__init__(f"stopped by {signal.Signals(number).name}: {kept}; the same command goes on from there")
        self.exit_code = 128 + number
        """As shells report it: 129 after a closed terminal, 130 after Ctrl-C, 143 after SIGTERM."""


class Heard:
    """Which signal has come."""

    number: int | None = None

    def is_echo(self, number: int) -> bool:
        """Whether the signal says what one has said before it: a terminal that closes sends SIGHUP once or twice."""
        return self.number is not None and number == signal.SIGHUP


@contextmanager
def signals_raise() -> Iterator[None]:
    """Inside, a signal raises :class:`Stopped` wherever the main thread is."""
    heard = Heard()

    def handle(number: int, _: Any) -> None:
        if not heard.is_echo(number):
            heard.number = number
            raise Stopped(number, KEPT)

    with _handled(handle):
        try:
            yield
        except KeyboardInterrupt:  # what Ray makes of any exception of a handler while it waits
            raise Stopped(heard.number or signal.SIGINT, KEPT) from None


@contextmanager
def first_signal_asks(ask: Callable[[], object]) -> Iterator[Heard]:
    """Inside, the first signal calls ``ask`` and is noted; the second one raises :class:`Stopped`."""
    heard = Heard()

    def handle(number: int, _: Any) -> None:
        if heard.is_echo(number):
            return
        if heard.number is not None:
            raise Stopped(number, KEPT)
        heard.number = number
        ask()

    with _handled(handle):
        yield heard


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Puts the handlers back that are set inside; joining a cluster sets one that ends the process with code 1."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        _set(before)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that this thread starts inside never hear of a closed terminal: they end when they are ended.

    The terminal tells all of them at once, and without them no step could be finished.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_nohup() -> bool:
    """Whether the process was started so that it outlives its terminal."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    with kept_handlers():
        _set({number: handler for number in SIGNALS if number != signal.SIGHUP or not is_nohup()})
        yield


def _set(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread do it
        for number, handler in handlers.items():
            signal.signal(number, handler)
