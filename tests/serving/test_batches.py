"""What comes while an engine writes is one batch; who no longer waits is not in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from blade_dist.serving.batches import Batches
from blade_dist.serving.recommend import List


class Writes:
    """An engine that writes when it is let, and answers a number with a list of that number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def __call__(self, requests: Sequence[Any]) -> list[List]:
        self.batches.append(list(requests))
        self.began.release()
        self.let.acquire()
        if 13 in requests:
            raise ValueError("thirteen")
        return [(np.array([number], dtype=np.int32), np.zeros(1)) for number in requests]


async def under_way(batches: Batches, writes: Writes, *requests: list[Any]) -> list[asyncio.Task[list[List]]]:
    """Requests that came while the engine wrote the first of them."""
    tasks = [asyncio.create_task(batches.write(requests[0]))]
    await asyncio.to_thread(writes.began.acquire)
    tasks += [asyncio.create_task(batches.write(request)) for request in requests[1:]]
    await asyncio.sleep(0)
    return tasks


def numbers(lists: list[List]) -> list[int]:
    return [int(items[0]) for items, _ in lists]


@pytest.fixture
def writes() -> Writes:
    return Writes()


def test_what_waits_is_written_together_up_to_a_size(writes: Writes) -> None:
    async def run() -> list[list[int]]:
        batches = Batches(writes, ThreadPoolExecutor(1), most=3)
        tasks = await under_way(batches, writes, [1], [2], [3, 4], [5], [6, 7])
        assert batches.busy_s() > 0
        writes.let.release(9)
        answers = [numbers(await task) for task in tasks]
        assert numbers(await batches.write([8])) == [8]
        assert batches.busy_s() == 0
        return answers

    assert asyncio.run(run()) == [[1], [2], [3, 4], [5], [6, 7]]
    assert writes.batches == [[1], [2, 3, 4], [5, 6, 7], [8]]


def test_who_no_longer_waits_is_left_out(writes: Writes) -> None:
    async def run() -> None:
        batches = Batches(writes, ThreadPoolExecutor(1), most=9)
        tasks = await under_way(batches, writes, [1], [2], [3])
        tasks[0].cancel()
        tasks[1].cancel()
        writes.let.release(9)
        assert numbers(await tasks[2]) == [3]

    asyncio.run(run())
    assert writes.batches == [[1], [3]]


def test_an_error_is_told_to_its_batch_and_to_no_other(writes: Writes) -> None:
    async def run() -> None:
        batches = Batches(writes, ThreadPoolExecutor(1), most=2)
        tasks = await under_way(batches, writes, [1], [13], [2], [3])
        writes.let.release(9)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [list, ValueError, ValueError, list]

    asyncio.run(run())
    assert writes.batches == [[1], [13, 2], [3]]
