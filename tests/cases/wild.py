"""A small log as people bring it, and the data stage run on it in this process."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from blade_dist.data.bundle import DataBundle, load_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage

Row = tuple[str, str, int]
"""User, item, seconds."""
START = 1_600_000_000


def log(users: int = 30, items: int = 24, each: int = 12, seed: int = 0) -> list[Row]:
    """Every user has ``each`` different items, one after another."""
    draw = random.Random(seed)
    return [
        (f"u{user}", f"i{item}", START + 1000 * user + place)
        for user in range(users)
        for place, item in enumerate(draw.sample(range(items), each))
    ]


def titles(items: int = 24) -> dict[str, str]:
    """Title of each item."""
    return {f"i{item}": f"Title {item}" for item in range(items)}


def write_csv(path: Path, names: list[str], rows: list[Any], separator: str = ",", **how: Any) -> None:
    """As Python's csv module writes it."""
    with path.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n", **how)
        writer.writerows([names, *rows])


@dataclass
class Outcome:
    """What the data stage left and said."""

    bundle: DataBundle
    said: str

    @property
    def log(self) -> dict[str, int]:
        return self.bundle.card["log"]

    @property
    def titles(self) -> dict[str, str]:
        catalog = self.bundle.catalog
        return dict(zip(catalog.item_ids, catalog.titles, strict=True))

    @property
    def histories(self) -> dict[str, list[str]]:
        """Item ids of each user's test history."""
        rows = self.bundle.test.rows(np.arange(len(self.bundle.test)))
        ids = self.bundle.catalog.item_ids
        return {user: list(ids[items]) for user, items in zip(rows.user, rows.history, strict=True)}

    def line(self, word: str) -> str:
        """The one line that has the word."""
        (found,) = [line for line in self.said.splitlines() if word in line]
        return found


class Wild:
    """A folder with a log and its items, and what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_csv(folder / "log.csv", ["user", "item", "time"], log())
        write_csv(
            folder / "items.csv", ["item", "title", "genre"], [(i, t, "abcd"[len(i) % 4]) for i, t in titles().items()]
        )
        self._runs = 0

    def config(self, *settings: str) -> Config:
        """Settings of a new run folder."""
        self._runs += 1
        run = self.folder / "runs" / str(self._runs)
        given = [
            f"run.dir={run}",
            "data.source=table",
            f"data.path={self.folder / 'log.csv'}",
            f"data.items={self.folder / 'items.csv'}",
            *("data.columns.groups=genre", "data.k_core=2", "data.targets=3", "lists.k=3", "codec.vocab_size=512"),
            *settings,
        ]
        return load_config(None, given)

    def data(self, *settings: str) -> Outcome:
        """The data stage with a run folder of its own."""
        config, said = self.config(*settings), io.StringIO()
        data_stage(config, Console(width=80, file=said))
        return Outcome(load_data(config.run.dir), said.getvalue())

    def refused(self, *settings: str) -> str:
        """The error: one line that fits three lines of a terminal, and nothing left behind."""
        with pytest.raises(UserError) as error:
            self.data(*settings)
        text = " ".join(str(error.value).split()).replace(str(self.folder) + "/", "")
        assert len(text) <= 3 * 80, text
        assert not (self.folder / "runs" / str(self._runs) / "data").exists()
        return text

    def path(self, name: str) -> str:
        """Setting of another log."""
        return f"data.path={self.folder / name}"

    def items(self, rows: list[tuple[str, str, str]], **how: Any) -> None:
        """Other items."""
        write_csv(self.folder / "items.csv", ["item", "title", "genre"], rows, **how)


ROWS = len(log())
