"""Starts the engine of an export in this process, without Ray."""

from __future__ import annotations

from typing import Any

from blade_dist.rollouts.engine import Engine
from blade_dist.serving.opened import EngineOptions, OpenedExport
from blade_dist.serving.recommend import Recommender


def start_recommender(opened: OpenedExport, options: EngineOptions) -> Recommender:
    """Some 20 seconds. The process has its environment already (:mod:`blade_dist.rollouts.environment`)."""
    engine: Any = Engine(opened.spec(options))
    return Recommender(opened, engine)
