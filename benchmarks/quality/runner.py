"""Runs the cells of the quality table, each stage of `blade-dist` once, and keeps what it took.

Cells of a seed share what is equal: the data (all seeds do), the reference and, where nothing that it depends on
differs, the prior. What is needed for a piece of work is made only when that work is to be done: of finished cells
:data:`LIGHT` is enough, so that a table goes on, or is made again, on a machine that has no weights of theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console

from benchmarks.quality import best_of_n
from benchmarks.quality.cells import FIRST, Cell, folder_name
from benchmarks.quality.nextitem import RATES, chosen_rate, write_rows
from benchmarks.quality.stages import link, one_ray, stage
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.store.files import read_json, write_json
from blade_dist.store.run import RunPaths
from blade_dist.tracking.means import mean_of_last

BEST_OF = (2, 4, 8, 16)
"""N of the searches over the reference's samples."""
RECORD = "cell.json"
ROWS = "per_user.parquet"
CURVES = "metrics.parquet"
DRAWN = ("reward", "informative_groups")
LIGHT = (RECORD, ROWS, CURVES)
"""Names of the files that a table is made of."""
OTHER = "{}: was made with another preset or --data; delete it or choose another --folder"
Needs = Callable[[], Mapping[str, Path]]
"""Makes what a piece of work needs; what of it is linked into the run folder: name -> the run that has it."""


@dataclass
class Record:
    """What a run folder was made with, what is finished there, and how long that took."""

    settings: dict[str, Any]
    finished: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each piece of work, attempts that were cut off included."""
    given: dict[str, Any] = field(default_factory=dict)
    """Settings of finished pieces of work that are not the folder's."""


class Runner:
    """Run folders below one folder: ``data``, and for each seed the reference, priors and cells."""

    def __init__(self, folder: Path, preset: Path, data: Path, console: Console) -> None:
        self._folder, self._preset, self._console = folder.absolute(), preset, console
        self._log = {"data.source": "movielens", "data.path": str(data.absolute())}
        self._name = data.resolve().name
        self._given = yaml.safe_load(preset.read_text())

    def start(self) -> AbstractContextManager[None]:
        """Ray, whose processes find the data that :mod:`best_of_n` counts in."""
        return one_ray(self.config(self._folder / "data", 0), {best_of_n.FOLDER: str(self._folder / "data")})

    def config(self, run: Path, seed: int) -> Config:
        """The preset's settings in a run folder."""
        return load_config(self._preset, _overrides({"run.dir": str(run), "run.seed": seed, **self._log}))

    def preset_value(self, name: str) -> Any:
        """A setting of the preset, by its full name."""
        value: Any = self.config(self._folder, 0).model_dump()
        for part in name.split("."):
            value = value[part]
        return value

    def seconds(self) -> dict[str, dict[str, float]]:
        """What took how long: run folder -> stage -> seconds."""
        records = sorted(path for depth in ("*", "seed*/*") for path in self._folder.glob(f"{depth}/{RECORD}"))
        return {str(path.parent.relative_to(self._folder)): (read_json(path) or {})["seconds"] for path in records}

    def data(self) -> Path:
        """The run whose data all seeds share: the same catalog, split and test prompts."""
        run = self._folder / "data"
        return self._blade(run, {"run.seed": 0}, "data", makes=RunPaths(run).data / "card.json")

    def reference(self, seed: int) -> Path:
        """The run with the seed's fine-tuned reference."""
        run = self._reference(seed)
        return self._blade(
            run,
            {"run.seed": seed},
            "sft",
            makes=RunPaths(run).reference / "config.json",
            needs=lambda: {"data": self.data()},
        )

    def searched(self, seed: int) -> Path:
        """The reference's run, evaluated beside popularity, co-occurrence and the searches over its samples."""
        run = self._reference(seed)
        choice = best_of_n.choice(self.config(run, seed).reward.weights)
        more = {"evaluate.best_of": BEST_OF, "evaluate.select_by": choice}
        return self._evaluate(run, {"run.seed": seed}, RunPaths(run).reference, lambda: self._prior(seed, {}), more)

    def searched_by(self, seed: int, metric: str, weight: float) -> Path:
        """The run with the reference's evaluation beside the largest search, which chooses by one metric."""
        run = self._folder / f"seed{seed}" / folder_name(f"search {weight:+g} {metric}")
        own = {"run.seed": seed, "evaluate.best_of": BEST_OF[-1:], "evaluate.select_by": {metric: weight}}
        return self._evaluate(run, own, RunPaths(run).reference, lambda: self._prior(seed, {}))

    def aligned(self, cell: Cell) -> Path:
        """The cell's run, with what :meth:`summary` reads of its training."""
        return self._train(cell, RunPaths(self._place(cell)).target(cell.target) / CURVES)

    def evaluated(self, cell: Cell) -> Path:
        """The cell's run, trained and evaluated."""
        run = self._place(cell)
        policy = RunPaths(run).policy(cell.target)
        return self._evaluate(run, cell.settings, policy, lambda: self._train(cell, policy / "config.json"))

    def next_item(self, seed: int) -> Path:
        """The run with the next-item model's lists; its learning rate is chosen on the first seed too."""
        config = self.config(self._reference(seed), seed)
        run = self._folder / f"seed{seed}" / "next-item"
        decodes = ("greedy", "sampled", *(("beam",) if config.evaluate.beam_width else ()))
        out = RunPaths(run).evaluation / ROWS

        def needs() -> Mapping[str, Path]:
            self._prior(seed, {})
            return {}

        def work() -> None:
            first = RunPaths(self.next_item(FIRST)).evaluation / ROWS if seed != FIRST else None
            write_rows(config, decodes, out, RATES if first is None else [chosen_rate(first)])

        return self.once(run, {"run.seed": seed}, "next item", out, work, needs)

    def tuned(self, seed: int, name: str, changes: dict[str, Any], rates: Sequence[float]) -> list[dict[str, Any]]:
        """A seed's trials of every learning rate, the one with the best validation reward first."""
        cells = [Cell(seed, name, lr, changes) for lr in rates]
        for cell in cells:
            self.aligned(cell)
        return sorted((self.summary(cell) for cell in cells), key=lambda trial: -trial["validation"])

    def summary(self, cell: Cell) -> dict[str, Any]:
        """What the result file says of a trained cell; of what changes from step to step the mean of the last tenth."""
        run = self._place(cell)
        rows = self._steps(cell)
        looks = [row["validation"] for row in rows if row.get("validation") is not None]
        return {
            **asdict(cell),
            "validation": max(looks),
            "seconds": json.loads((run / RECORD).read_text())["seconds"],
            **{name: mean_of_last([row[name] for row in rows]) for name in DRAWN},
        }

    def curves(self, cell: Cell) -> dict[str, list[float]]:
        """What is drawn of a trained cell over its steps."""
        rows = self._steps(cell)
        return {name: [round(row[name], 6) for row in rows] for name in DRAWN}

    def _steps(self, cell: Cell) -> list[dict[str, Any]]:
        return pq.read_table(RunPaths(self._place(cell)).target(cell.target) / CURVES).to_pylist()

    def once(
        self,
        run: Path,
        settings: dict[str, Any],
        name: str,
        makes: Path,
        work: Callable[[], None],
        needs: Needs = dict,
        more: dict[str, Any] | None = None,
    ) -> Path:
        """Does a piece of work in a run folder, unless it is done and what it makes is there; returns the folder.

        Args:
            run: the folder.
            settings: what it is made with.
            name: of the work.
            makes: what those who ask for the work will read.
            work: the work.
            needs: called before it.
            more: settings of this work alone.

        Raises:
            SystemExit: the folder was made with other settings.
        """
        path = run / RECORD
        given = json.loads(json.dumps(more or {}))
        record = self._record(path, settings)
        if record.given.get(name, given) != given:
            raise SystemExit(OTHER.format(run))
        if name in record.finished and makes.exists():
            return run
        link(run, needs())
        record = self._record(path, settings)  # what was needed may have been made in this folder
        write_json(path, asdict(record))
        began = time.monotonic()
        try:
            work()
            record.finished = [*(done for done in record.finished if done != name), name]
            record.given[name] = given
        finally:
            record.seconds[name] = record.seconds.get(name, 0.0) + time.monotonic() - began
            write_json(path, asdict(record))
        place = run.relative_to(self._folder)
        self._console.print(f"{place}: {name}, {record.seconds[name]:.0f} s", highlight=False, soft_wrap=True)
        return run

    def _record(self, path: Path, settings: dict[str, Any]) -> Record:
        now = {"preset": self._given, "log": self._name, "changes": json.loads(json.dumps(settings))}
        record = Record(**(read_json(path) or {"settings": now}))
        if record.settings != now:
            raise SystemExit(OTHER.format(path.parent))
        return record

    def _place(self, cell: Cell) -> Path:
        return self._folder / f"seed{cell.seed}" / cell.folder

    def _reference(self, seed: int) -> Path:
        return self._folder / f"seed{seed}" / "reference"

    def _prior(self, seed: int, changes: dict[str, Any]) -> Path:
        """The run with the prior that belongs to these changes."""
        if not changes:
            run = self.reference(seed)
            return self._blade(run, {"run.seed": seed}, "prior", makes=RunPaths(run).prior)
        label = " ".join(["prior", *(f"{name} {value}" for name, value in changes.items())])
        run = self._folder / f"seed{seed}" / folder_name(label)
        return self._blade(
            run,
            {"run.seed": seed, **changes},
            "prior",
            makes=RunPaths(run).prior,
            needs=lambda: dict.fromkeys(("data", "sft"), self.reference(seed)),
        )

    def _train(self, cell: Cell, makes: Path) -> Path:
        def needs() -> Mapping[str, Path]:
            prior = self._prior(cell.seed, cell.of_prior)
            return {**dict.fromkeys(("data", "sft"), self.reference(cell.seed)), "prior.arrow": prior}

        return self._blade(self._place(cell), cell.settings, "train", makes=makes, needs=needs)

    def _evaluate(
        self,
        run: Path,
        changes: dict[str, Any],
        policy: Path,
        before: Callable[[], Path],
        more: dict[str, Any] | None = None,
    ) -> Path:
        """Lists of the policy for the test prompts; ``before`` makes the run that has it, or what it is linked to."""
        makes = RunPaths(run).evaluation / ROWS

        def needs() -> Mapping[str, Path]:
            source = before()
            return {} if source == run else dict.fromkeys(("data", "sft", "prior.arrow"), source)

        return self._blade(run, changes, "evaluate", policy, makes=makes, needs=needs, more=more)

    def _blade(
        self,
        run: Path,
        changes: dict[str, Any],
        name: str,
        *checkpoints: Path,
        makes: Path,
        needs: Needs = dict,
        more: dict[str, Any] | None = None,
    ) -> Path:
        """One stage in a run folder, unless it is done; ``more``: settings of this stage alone."""
        given = {"run.dir": str(run), **self._log, **changes, **(more or {})}
        config = load_config(self._preset, _overrides(given))
        return self.once(run, changes, name, makes, lambda: stage(name, config, *checkpoints), needs, more)


def _overrides(changes: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]
