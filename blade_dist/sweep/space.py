"""The points of a sweep: which settings, in what combinations, under what names. Pure."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import yaml

from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import change, check_config
from blade_dist.settings.text import read_yaml
from blade_dist.settings.walk import fields_of, setting_path
from blade_dist.store.fingerprint import fingerprint

SECTIONS = ("prior", "rollout", "reward", "posterior", "advantage", "bond", "learner", "train")
"""Sections whose settings may differ between points, but for :data:`PLACES`."""

SEED = "run.seed"
"""Points that differ in nothing else are the same settings, tried several times."""

SINGLE = ("target", SEED)
"""Settings outside :data:`SECTIONS` that may differ between points."""

PLACES = (
    "rollout.engines",
    "rollout.tensor_parallel",
    "rollout.cpus_per_engine",
    "learner.workers",
    "learner.cpus_per_worker",
    "train.prompts_from",
)
"""Settings of :data:`SECTIONS` that may not differ: they change no result, and all places of points are of one size; or
they are of the data and the fine-tuned model, which all points share."""

LONGEST = 100
"""Characters of a folder's name."""


@dataclass(frozen=True)
class Point:
    """One combination."""

    settings: Mapping[str, Any]
    """Full name to value, as the settings hold it (plain: numbers, text, lists, dicts)."""
    config: Config
    """All settings; ``run.dir`` is the sweep's."""

    @property
    def label(self) -> str:
        """For people."""
        return ", ".join(f"{name}={text(value)}" for name, value in self.settings.items())

    @property
    def seedless(self) -> Point:
        """The same, as one of several seeds."""
        return Point({name: value for name, value in self.settings.items() if name != SEED}, self.config)

    @property
    def folder(self) -> str:
        """A file name that depends on the settings and values alone, not on their order."""
        whole = ",".join(f"{name}={text(self.settings[name])}" for name in sorted(self.settings))
        safe = re.sub(r"[^\w.@=,+-]+", "_", whole)
        return safe if safe == whole and len(whole) <= LONGEST else f"{safe[:LONGEST]}-{fingerprint(whole)}"

    @property
    def arguments(self) -> str:
        """What the other commands take to run with these settings."""
        return " ".join(f"--set {shlex.quote(f'{name}={text(value)}')}" for name, value in self.settings.items())


def points(config: Config, over: Sequence[str], samples: int | None = None) -> list[Point]:
    """The product of the values, or ``samples`` of it drawn with ``run.seed`` (more of them hold the fewer ones).

    Args:
        config: what all points share.
        over: ``section.key=value,value``; the values are YAML.
        samples: combinations that are drawn, each of them under all the seeds that ``over`` has; None takes all.

    Raises:
        UserError: a setting that is unknown, given twice or the same for all of a run's alignments; a value that it
            refuses, or that comes twice; more samples than points.
    """
    values = _values(over)
    seeds = [{SEED: seed} for seed in values.pop(SEED, [])] or [{}]
    grid = list(product(*values.values()))
    if samples is not None and samples > len(grid):
        each = f", {SEED} aside" if len(seeds) > 1 else ""
        raise UserError(f"--samples {samples}: the grid has {len(grid)} points{each}; draw at most as many")
    order = np.arange(len(grid)) if samples is None else np.random.default_rng(config.run.seed).permutation(len(grid))
    drawn = [dict(zip(values, grid[at], strict=True)) for at in np.sort(order[:samples])]
    by_folder: dict[str, Point] = {}
    for point in (_point(config, {**combination, **seed}) for combination in drawn for seed in seeds):
        # two spellings of one value, 0.1 and 1e-1, are one point
        if point.folder in by_folder:
            raise UserError(f"--over: {point.label} comes twice")
        by_folder[point.folder] = point
    return list(by_folder.values())


def text(value: object) -> str:
    """A value in one line of YAML."""
    line = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return line.removesuffix("...\n").strip()


def _values(over: Sequence[str]) -> dict[str, list[Any]]:
    values_of: dict[str, list[Any]] = {}
    for given in over:
        name, _, line = (part.strip() for part in given.partition("="))
        try:
            values = read_yaml(f"[{line}]")
        except yaml.YAMLError:
            raise UserError(f"--over {given}: {line!r} are not YAML values, separated by commas") from None
        if not values:
            raise UserError(f"--over {given}: write section.key=value,value")
        if name in values_of:
            raise UserError(f"--over {name}: given twice; write all values behind one")
        _check_name(name)
        values_of[name] = values
    return values_of


def _check_name(name: str) -> None:
    """Raises UserError where points may not differ in a setting; an unknown one is refused with the whole tree."""
    section = setting_path(name)[0]
    if section not in fields_of(Config) or name in SINGLE or (section in SECTIONS and name not in (section, *PLACES)):
        return
    why = "is the same for all alignments of one sweep"
    if name in SECTIONS:
        why = "is a section; name a setting of it"
    raise UserError(
        f"--over {name}: {why}; what may be swept: {', '.join([*SINGLE, *(f'{part}.*' for part in SECTIONS)])} "
        f"(but not {', '.join(PLACES)})"
    )


def _point(config: Config, values: Mapping[str, Any]) -> Point:
    tree = copy.deepcopy(config.model_dump())
    for name, value in values.items():
        change(tree, name, value)
    made = check_config(tree, f"--over {', '.join(f'{name}={text(value)}' for name, value in values.items())}")
    plain = made.model_dump(mode="json")
    return Point({name: _at(plain, setting_path(name)) for name in values}, made)


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree
