"""The step log in an actor, so that learners record and the driver reads."""

from __future__ import annotations

from typing import Any

import ray

from blade_dist.tracking.step_log import StepLog

TrackerActor: Any = ray.remote(concurrency_groups={"life": 1})(StepLog)
"""One that is started again knows what the file holds."""
