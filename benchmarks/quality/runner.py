"""Runs the cells of a study, each stage of `blade-dist` once, and records how long it took.

Cells share data, reference and prior where nothing that these depend on differs (:mod:`cells`). What is needed for a
piece of work is made only when that work is to be done: of finished cells :data:`LIGHT` is enough, so that a table is
made again, or continued, on a machine that has no weights of theirs.
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

from benchmarks.quality import DATA_FOLDER, best_of_n
from benchmarks.quality.cells import FIRST, OF_DATA, OF_PRIOR, OF_REFERENCE, Cell, Changes, folder_name, only
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
"""What is drawn over the steps."""
MEANS = (*DRAWN, "kl")
"""What is read off the last steps, besides each part of the reward."""
LIGHT = (RECORD, ROWS, CURVES)
"""Names of the files that a table is made of."""
OTHER = "{}: was made with another preset, other settings or another log; delete it or choose another --folder"
Needs = Mapping[str, Callable[[], Path]]
"""What a piece of work needs: name of a part of a run folder -> makes it; the run that has it."""


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

    def __init__(self, folder: Path, preset: Path, console: Console, log: Path | None = None) -> None:
        """
        Args:
            folder: below it are all runs.
            preset: settings that all cells share.
            console: says what was done.
            log: a folder in MovieLens format; None: the preset names its data.
        """
        self.folder, self._preset, self._console = folder.absolute(), preset, console
        self._log = {} if log is None else {"data.source": "movielens", "data.path": str(log.absolute())}
        self._given = {"preset": yaml.safe_load(preset.read_text()), "log": log and log.resolve().name}

    def start(self) -> AbstractContextManager[None]:
        """Ray, whose processes read the data of all seeds where a reward needs it."""
        data = self.folder / "data"
        return one_ray(self.config(data, {}), {DATA_FOLDER: str(data)})

    def config(self, run: Path, changes: Changes) -> Config:
        """The preset with these changes, in a run folder."""
        given = {"run.dir": str(run), **self._log, **changes}
        return load_config(self._preset, [f"{name}={json.dumps(value)}" for name, value in given.items()])

    def preset_value(self, name: str) -> Any:
        """A setting of the preset, by its full name."""
        value: Any = self.config(self.folder, {}).model_dump()
        for part in name.split("."):
            value = value[part]
        return value

    def seconds(self) -> dict[str, dict[str, float]]:
        """How long everything took: run folder -> stage -> seconds."""
        records = sorted(path for depth in ("*", "seed*/*") for path in self.folder.glob(f"{depth}/{RECORD}"))
        return {str(path.parent.relative_to(self.folder)): (read_json(path) or {})["seconds"] for path in records}

    def data(self, changes: Changes | None = None) -> Path:
        """The run whose data all seeds share: the same catalog, split and test prompts."""
        own = only(changes or {}, OF_DATA)
        run = self._shared(self.folder, "data", own)
        return self._stage(run, {"run.seed": FIRST, **own}, "data", makes=RunPaths(run).data / "card.json")

    def reference(self, seed: int, changes: Changes | None = None) -> Path:
        """The run with the seed's fine-tuned reference."""
        own = only(changes or {}, OF_REFERENCE)
        run = self._shared(self.folder / f"seed{seed}", "reference", own)
        makes = RunPaths(run).reference / "config.json"
        needs = {"data": lambda: self.data(own)}
        return self._stage(run, {"run.seed": seed, **own}, "sft", makes=makes, needs=needs)

    def prior(self, seed: int, changes: Changes | None = None) -> Path:
        """The run with the prior that belongs to these changes; the reference's where it depends on nothing else."""
        own, shared = only(changes or {}, OF_PRIOR), only(changes or {}, OF_REFERENCE)
        if own == shared:
            run = self.reference(seed, shared)
            return self._stage(run, {"run.seed": seed, **own}, "prior", makes=RunPaths(run).prior)
        run = self._shared(self.folder / f"seed{seed}", "prior", own)
        needs = dict.fromkeys(("data", "sft"), lambda: self.reference(seed, shared))
        return self._stage(run, {"run.seed": seed, **own}, "prior", makes=RunPaths(run).prior, needs=needs)

    def searched(self, seed: int) -> Path:
        """The reference's run, evaluated beside popularity, co-occurrence and the searches over its samples."""
        run = self.folder / f"seed{seed}" / "reference"
        choice = best_of_n.choice(self.config(run, {}).reward.weights)
        more = {"evaluate.best_of": BEST_OF, "evaluate.select_by": choice}
        # the prior is in the reference's own run: nothing is linked, it only has to be there
        needs = {"prior.arrow": lambda: self.prior(seed)}
        return self._evaluate(run, {"run.seed": seed}, [RunPaths(run).reference], needs, more)

    def searched_by(self, seed: int, metric: str, weight: float) -> Path:
        """The run with the reference's evaluation beside the largest search, which chooses by one metric."""
        run = self.folder / f"seed{seed}" / folder_name(f"search {weight:+g} {metric}")
        own = {"run.seed": seed, "evaluate.best_of": BEST_OF[-1:], "evaluate.select_by": {metric: weight}}
        needs = dict.fromkeys(("data", "sft", "prior.arrow"), lambda: self.prior(seed))
        return self._evaluate(run, own, [RunPaths(run).reference], needs)

    def aligned(self, cell: Cell) -> Path:
        """The cell's run, with what :meth:`summary` reads of its training."""
        return self._train(cell, RunPaths(self._place(cell)).target(cell.target) / CURVES)

    def evaluated(self, cell: Cell, beside_reference: bool = False) -> Path:
        """The cell's run, trained and evaluated; ``beside_reference``: with SFT and its searches in the same rows."""
        paths = RunPaths(self._place(cell))
        policy = paths.policy(cell.target)
        checkpoints = [policy, paths.reference] if beside_reference else [policy]
        needs = {"train": lambda: self._train(cell, policy / "config.json")}
        return self._evaluate(paths.root, cell.settings, checkpoints, needs)

    def tuned(self, seed: int, name: str, changes: Changes, rates: Sequence[float], by: str) -> list[dict[str, Any]]:
        """A seed's summaries at every learning rate, the one with the largest number ``by`` first."""
        cells = [Cell(seed, name, lr, changes) for lr in rates]
        for cell in cells:
            self.aligned(cell)
        return sorted((self.summary(cell) for cell in cells), key=lambda trial: -trial[by])

    def summary(self, cell: Cell) -> dict[str, Any]:
        """What the result file says of a trained cell; of what changes from step to step the mean of the last tenth."""
        rows = self._steps(cell)
        looks = [row["validation"] for row in rows if row.get("validation") is not None]
        names = [name for name in rows[0] if name in MEANS or name.startswith("reward/")]
        return {
            **asdict(cell),
            "target": cell.target,
            **({"validation": max(looks)} if looks else {}),
            **{name: mean_of_last([row[name] for row in rows]) for name in names},
            **({"last_tau": rows[-1]["posterior/tau"]} if "posterior/tau" in rows[-1] else {}),
        }

    def curves(self, cell: Cell) -> dict[str, list[float]]:
        """What is drawn of a trained cell over its steps."""
        rows = self._steps(cell)
        return {name: [row[name] for row in rows] for name in DRAWN}

    def _steps(self, cell: Cell) -> list[dict[str, Any]]:
        return pq.read_table(RunPaths(self._place(cell)).target(cell.target) / CURVES).to_pylist()

    def once(
        self,
        run: Path,
        settings: dict[str, Any],
        name: str,
        makes: Path,
        work: Callable[[], None],
        needs: Needs | None = None,
        more: dict[str, Any] | None = None,
    ) -> Path:
        """Does a piece of work in a run folder, unless it is done and what it makes is there; returns the folder.

        Args:
            run: the folder.
            settings: what it is made with.
            name: of the work.
            makes: what is read of the work afterwards.
            work: the work.
            needs: made before it, and linked into the folder.
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
        for part, source in (needs or {}).items():
            link(run, part, source())
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
        place = run.relative_to(self.folder)
        self._console.print(f"{place}: {name}, {record.seconds[name]:.0f} s", highlight=False, soft_wrap=True)
        return run

    def _record(self, path: Path, settings: dict[str, Any]) -> Record:
        now = {**self._given, "changes": json.loads(json.dumps(settings))}
        record = Record(**(read_json(path) or {"settings": now}))
        if record.settings != now:
            raise SystemExit(OTHER.format(path.parent))
        return record

    def _shared(self, within: Path, kind: str, changes: Changes) -> Path:
        """The folder of what cells share: one for each set of changes that it depends on."""
        label = " ".join([kind, *(f"{name} {value}" for name, value in changes.items())])
        return within / (folder_name(label) if changes else kind)

    def _place(self, cell: Cell) -> Path:
        return self.folder / f"seed{cell.seed}" / cell.folder

    def _train(self, cell: Cell, makes: Path) -> Path:
        needs: Needs = {
            **dict.fromkeys(("data", "sft"), lambda: self.reference(cell.seed, cell.changes)),
            "prior.arrow": lambda: self.prior(cell.seed, cell.changes),
        }
        return self._stage(self._place(cell), cell.settings, "train", makes=makes, needs=needs)

    def _evaluate(
        self, run: Path, changes: Changes, checkpoints: Sequence[Path], needs: Needs, more: Changes | None = None
    ) -> Path:
        """Lists of the checkpoints for the test prompts."""
        makes = RunPaths(run).evaluation / ROWS
        return self._stage(run, changes, "evaluate", *checkpoints, makes=makes, needs=needs, more=more)

    def _stage(
        self,
        run: Path,
        changes: Changes,
        name: str,
        *checkpoints: Path,
        makes: Path,
        needs: Needs | None = None,
        more: Changes | None = None,
    ) -> Path:
        """One stage in a run folder, unless it is done; ``more``: settings of this stage alone."""
        config = self.config(run, {**changes, **(more or {})})
        return self.once(run, changes, name, makes, lambda: stage(name, config, *checkpoints), needs, more)
