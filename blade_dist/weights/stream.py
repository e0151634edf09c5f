"""A push as one stream per engine: the engine waits in one call, and takes pieces until the stream ends.

What the pieces look like is told once; later pushes only say which piece comes.
"""

from __future__ import annotations

from typing import Any

import ray

from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import Description, describe_bucket, pieces

END = -1
"""Number that ends a stream."""


class StreamSender:
    """What the sending ends of streaming transports share. After a failure nothing is reused: connect again."""

    piece_bytes: int
    """How finely buckets are cut: an engine loads one piece while the next arrives."""

    def __init__(self, engines: list[Any]) -> None:
        self._engines = engines
        self._updates: list[Any] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def begin(self, version: tuple[int, int]) -> None:
        """Every engine starts to wait for the stream."""
        self._updates = [engine.update.remote(version) for engine in self._engines]

    def send(self, bucket: Bucket) -> None:
        """Sends a bucket; its tensors may change once this returns."""
        for piece in pieces(bucket, self.piece_bytes):
            description = describe_bucket(piece)
            key = tuple(description.values())
            told = key in self._known
            number = self._known.setdefault(key, len(self._known))
            self._guarded(number, None if told else description, piece)

    def finish(self, version: tuple[int, int]) -> list[dict[str, Any]]:  # noqa: ARG002 - the engines know it
        """Ends the stream; what every engine reports once it serves the weights."""
        self._guarded(END, None, [])
        return ray.get(self._updates)

    def deliver(self, number: int, description: Description | None, piece: Bucket) -> None:
        """Announces a piece (its number, and where that is new its description) and sends it."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of groups and stores: an engine that still waits for a piece fails at once."""
        raise NotImplementedError

    def _guarded(self, number: int, description: Description | None, piece: Bucket) -> None:
        try:
            self.deliver(number, description, piece)
        except Exception:
            self.close()
            ray.get(self._updates)  # the engine's own error, where it has one, says more
            raise


class Descriptions:
    """The receiving end's memory of the pieces that it was told of."""

    def __init__(self) -> None:
        self._known: dict[int, Description] = {}

    def look_up(self, number: int, told: Description | None) -> Description:
        """The description of piece ``number``."""
        if told is not None:
            self._known[number] = told
        return self._known[number]
