"""What engines answered, and which of them are lost: dead, or silent for longer than they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayActorError

K = TypeVar("K")

DEATHS = (RayActorError, ObjectLostError)
"""What Ray raises for an answer of a process, or from a node, that is gone."""


@dataclass(frozen=True)
class Lost:
    """Instead of an answer."""

    silent: bool
    """Whether the process did not answer in time; else it died."""


def answers(calls: Sequence[Any], timeout_s: float) -> list[Any]:
    """The answer to each call, or :class:`Lost`; waits ``timeout_s`` in all.

    Raises:
        Exception: what an engine raised that is alive.
    """
    if not calls:
        return []
    ready = set(ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s, fetch_local=False)[0])
    return [_answer(call) if call in ready else Lost(silent=True) for call in calls]


def sorted_answers(calls: dict[K, Any], timeout_s: float) -> tuple[dict[K, Any], dict[K, Lost]]:
    """:func:`answers` by the engine that was called, and the engines that are lost."""
    given = dict(zip(calls, answers(list(calls.values()), timeout_s), strict=True))
    lost = {engine: answer for engine, answer in given.items() if isinstance(answer, Lost)}
    return {engine: answer for engine, answer in given.items() if engine not in lost}, lost


def _answer(call: Any) -> Any:
    try:
        return ray.get(call)
    except DEATHS:
        return Lost(silent=False)
