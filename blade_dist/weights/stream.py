"""A push as one stream per engine: the engine waits in one call, and takes pieces until the stream ends.

One call per push and engine, not one per parameter. Each piece announces the one after it, so that nothing but the
pieces travels. What a piece looks like is sent once; later pushes only give its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blade_dist.weights.answers import Lost, answers, sorted_answers
from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import Description, describe_bucket, pieces

Announcement = tuple[int, Description | None]
"""Number of a piece, and its description where it is new."""

FAREWELL_S = 10.0
"""How long an engine, to which a transfer has failed, may take to say why."""

END = -1
"""Number that ends a stream."""


class StreamSender(ABC):
    """What the sending ends of streaming transports share. After a failure nothing is reused: connect again.

    An engine that is lost is left out from then on.
    """

    piece_bytes: int
    """How finely buckets are cut: an engine loads one piece while the next arrives."""

    def __init__(self, engines: list[Any], timeout_s: float) -> None:
        self._living = dict(enumerate(engines))
        self._timeout_s = timeout_s
        self.lost: dict[int, Lost] = {}
        self._known: dict[tuple[Any, ...], int] = {}
        self._updates: dict[int, Any] = {}
        self._version = (0, 0)

    def begin(self, version: tuple[int, int]) -> None:
        """The engines start to wait with the first piece."""
        self._version, self._updates = version, {}

    def send(self, bucket: Bucket) -> None:
        """Sends a bucket, its last piece with the next call; its tensors may change once this returns.

        The last piece is packed and held until the one after it is known, which it has to announce.
        """
        for piece in pieces(bucket, self.piece_bytes):
            description = describe_bucket(piece)
            key = tuple(description.values())
            known = key in self._known
            number = self._known.setdefault(key, len(self._known))
            with self._explained():
                self._announce((number, None if known else description))
                self.hold(piece)

    def finish(self, version: tuple[int, int]) -> list[dict[str, float]]:  # noqa: ARG002 - the engines know it
        """Ends the stream; seconds of each part, of every engine, once it serves the weights."""
        with self._explained():
            self._announce((END, None))
        seconds, lost = sorted_answers(self._updates, self._timeout_s)
        for number, how in lost.items():
            self._lose(number, how)
        return list(seconds.values())

    @abstractmethod
    def hold(self, piece: Bucket) -> None:
        """Packs a piece."""

    @abstractmethod
    def release(self, following: Announcement) -> None:
        """Sends the piece that is held."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of groups and stores: an engine that still waits for a piece fails at once."""

    def _announce(self, piece: Announcement) -> None:
        if self._updates:
            self.release(piece)
        else:  # the first announcement travels as an argument of the call in which the engine will wait
            self._updates = {
                number: engine.update.remote(self._version, piece) for number, engine in self._living.items()
            }

    def _guarded(self, number: int, call: Any, transfer: Callable[[], object]) -> None:
        """Where a transfer to an engine fails, and the engine died or is silent, the others go on without it.

        Args:
            number: of the engine.
            call: reference to what it is asked for meanwhile.
            transfer: what may fail.

        Raises:
            Exception: what the engine raised, or why a transfer failed to an engine that waits for it.
        """
        if number not in self._living:
            return
        try:
            transfer()
        except Exception:
            (answer,) = answers([call], FAREWELL_S)
            if not isinstance(answer, Lost):
                raise
            self._lose(number, answer)

    def _lose(self, number: int, how: Lost) -> None:
        """The rest of the push is for the others."""
        self.lost[number] = how
        self._living.pop(number, None)
        self._updates.pop(number, None)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Lets an engine that has failed say why, instead of the transport that it has left."""
        try:
            yield
        except Exception:
            self.close()
            answers(list(self._updates.values()), self._timeout_s)
            raise


class Descriptions:
    """The receiving end's memory of the pieces that were described to it."""

    def __init__(self) -> None:
        self._known: dict[int, Description] = {}

    def look_up(self, piece: Announcement) -> Description:
        """The description of a piece that was announced."""
        number, description = piece
        if description is not None:
            self._known[number] = description
        return self._known[number]
