"""The layout that CONTRIBUTING.md describes holds: who imports whom, what is pure, how long a file may be."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from functools import cache
from itertools import pairwise

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "blade_dist"

ROOMS = {
    "errors": [],
    "batches": [],
    "settings": ["errors", "batches"],
    "store": ["errors", "batches"],
    "tracking": ["store"],
    "nodes": ["errors"],
    "weights": [],
    "cluster": ["settings", "nodes"],
    "catalog": ["settings", "store"],
    "data": ["catalog"],
    "rewards": ["catalog"],
    "posterior": ["settings", "store"],
    "rollouts": ["catalog", "cluster", "weights"],
    "learners": ["catalog"],
    "evaluation": ["rewards"],
    "sweep": ["settings", "store", "tracking"],
    "training": ["data", "rewards", "posterior", "rollouts", "learners", "weights", "tracking"],
    "serving": ["data", "evaluation", "rollouts", "tracking"],
    "stages": ["training", "evaluation", "sweep", "cluster", "serving"],
    "doctor": ["stages"],
    "cli": ["stages", "doctor"],
    "__main__": ["cli"],
    "__init__": [],
}
"""Each room (a folder, or a module at the top) and those it may import, with all that these may import."""

CROSSINGS = {
    ("rewards/actor.py", "data"): "the actor reads the prompts' held-out items itself: they don't travel",
}
"""Imports beside the table, each with its reason; one that is no longer needed fails."""

STACK = {"ray", "vllm", "deepspeed"}

ON_THE_STACK = [
    *("*/actor.py", "stages/*", "cluster/*", "nodes/*", "weights/*", "cli.py", "__main__.py", "doctor/*"),
    *("rollouts/engine*.py", "rollouts/pool.py", "rollouts/fleet.py", "rollouts/processor_v*.py"),
    *("learners/zero.py", "learners/update.py"),
    *(f"training/{name}.py" for name in ("loop", "rank", "checkpoint", "pipeline", "probe", "publish", "saving")),
    *("training/sft.py", "training/ending.py", "training/validation.py"),
    *("serving/start.py", "serving/engines.py", "serving/front.py", "serving/processor.py", "serving/spread.py"),
]
"""Files that may import Ray, vLLM or DeepSpeed, be it through another file of ours. Every other file is pure."""

LINES = 350


def name_of(path: str) -> str:
    """The module's dotted name below ``blade_dist``: ``store/files.py`` is ``store.files``, ``store`` its package."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def files() -> dict[str, str]:
    """Path below ``blade_dist`` of each module, by its name."""
    paths = (path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py")))
    return {name_of(path): path for path in paths}


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports anywhere, in functions too: names below ``blade_dist``, and top names of the stack."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / files()[module]).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{files()[module]}: write imports in full"
            # `from package import module` names a module, `from module import function` does not
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if own(name) in files() else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    stack = {name.partition(".")[0] for name in found} & STACK
    return frozenset(own(name) for name in found if own(name) in files()) | stack


def own(name: str) -> str:
    """``blade_dist.store.files`` as ``store.files``; a foreign name as one that no module of ours has."""
    return name.removeprefix("blade_dist.") if name.startswith("blade_dist.") else f"foreign {name}"


def allowed(room: str) -> set[str]:
    """Rooms that this one may import."""
    return {room}.union(*(allowed(below) for below in ROOMS[room]))


def below(module: str) -> dict[str, str]:
    """All that a module imports, directly or not, each with a module that imports it."""
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        importer = todo.pop()
        for name in sorted(imports(importer) - found.keys()):
            found[name] = importer
            if name not in STACK:
                todo.append(name)
    return found


def crossings() -> set[tuple[str, str]]:
    """File and room of every import that the table does not allow."""
    return {
        (path, room)
        for module, path in files().items()
        for room in {name.partition(".")[0] for name in imports(module) - STACK}
        if room not in allowed(module.partition(".")[0])
    }


def test_every_room_is_in_the_table() -> None:
    assert {module.partition(".")[0] for module in files()} <= ROOMS.keys()


def test_no_file_imports_from_a_room_above_its_room() -> None:
    assert crossings() == CROSSINGS.keys()


def test_no_import_circle() -> None:
    circles = [f"{module} <- {below(module)[module]}" for module in files() if module in below(module)]
    assert not circles, circles


def test_pure_files_do_without_ray_vllm_and_deepspeed() -> None:
    impure = []
    for module, path in files().items():
        if not any(fnmatch(path, pattern) for pattern in ON_THE_STACK):
            found = below(module)
            impure += [f"{path}: {name}, by {found[name]}" for name in sorted(STACK & found.keys())]
    assert not impure, impure


def test_few_modules_stand_at_the_top() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} <= {
        *("__init__.py", "__main__.py", "batches.py", "cli.py", "errors.py")
    }


@pytest.mark.parametrize("folder", ["blade_dist", "benchmarks", "launch", "tests"])
def test_no_python_file_is_too_long(folder: str) -> None:
    lines = {path: path.read_text().count("\n") for path in (ROOT / folder).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > LINES} == {}


def test_a_circle_and_a_crossing_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = dict(pairwise(["errors", "store.files", "stages.align", "errors"]))
    monkeypatch.setattr(f"{__name__}.imports", lambda module: frozenset(filter(None, [chain.get(module)])))
    assert "errors" in below("errors")
    assert ("errors.py", "store") in crossings()
    assert ("stages/align.py", "errors") not in crossings()
