"""The formats of a raw log: a new one is a file with a reader, a line here, and its name in ``data.source``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blade_dist.data.amazon import read_amazon
from blade_dist.data.movielens import read_movielens
from blade_dist.data.rawlog import RawLog
from blade_dist.data.synthetic import read_synthetic
from blade_dist.data.table import read_table_log
from blade_dist.settings import DataSettings

Reader = Callable[[DataSettings, int, Path], RawLog]
"""(settings, seed, folder that it may write to) -> the log."""

FORMATS: dict[str, Reader] = {
    "amazon": read_amazon,
    "movielens": read_movielens,
    "synthetic": read_synthetic,
    "table": read_table_log,
}
