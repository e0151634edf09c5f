"""What an engine writes at once: all that came while it wrote. Pure.

Ray Serve's own batches close after a fixed time, also while the engine is busy: under load most of them would hold one
request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from blade_dist.serving.recommend import List
from blade_dist.serving.request import Resolved

Write = Callable[[Sequence[Resolved]], list[List]]


class Batches:
    """Gives one function all that waits, one batch after the other.

    Whoever no longer waits for an answer (a deadline, a connection that was closed) is left out of the next batch.
    """

    def __init__(self, write: Write, thread: Executor, most: int) -> None:
        """``most``: lists of a batch that takes another request."""
        self._write, self._thread, self._most = write, thread, most
        self._waiting: deque[tuple[Sequence[Resolved], asyncio.Future[list[List]]]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._began: float | None = None

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        """A list for each."""
        answer: asyncio.Future[list[List]] = asyncio.get_running_loop().create_future()
        self._waiting.append((requests, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await answer

    def busy_s(self) -> float:
        """Seconds since the batch under way began."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def _write_all(self) -> None:
        while batch := self._next():
            self._began = time.monotonic()
            wanted = [one for requests, _ in batch for one in requests]
            try:
                lists = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, wanted)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            finally:
                self._began = None
            for requests, answer in batch:
                own, lists = lists[: len(requests)], lists[len(requests) :]
                if not answer.done():
                    answer.set_result(own)
        self._writing = None

    def _next(self) -> list[tuple[Sequence[Resolved], asyncio.Future[list[List]]]]:
        batch, lists = [], 0
        while self._waiting and lists < self._most:
            requests, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((requests, answer))
                lists += len(requests)
        return batch
