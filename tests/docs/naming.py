"""Whether what a page names exists: settings, commands, options, files. Each check raises an AssertionError."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer.main
import yaml

import blade_dist.cli
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from tests.helpers.paths import ROOT

SECTIONS = set(Config.model_fields)
SUFFIXES = (".py", ".sh", ".yaml", ".md", ".json", ".csv", ".parquet", ".arrow", ".png", ".sbatch", ".lock", ".cff")
FOLDERS = tuple(f"{name}/" for name in ("blade_dist", "benchmarks", "cluster", "docs", "launch", "tests"))
FOREIGN = ("chmod", "export", "kubectl", "openssl", "pip", "ray", "source", "vllm")
"""Commands of others, whose options are theirs."""
SETTING = re.compile(r"([a-z_]+)\.[a-z_]+(\.[^:\s]+)?(: .+)?")
READERS = {"ratings.csv", "movies.csv", "my.yaml", "gpu.json", "cell.json"}
"""Files that are the reader's, a format's, or a study's."""


def check_setting(text: str) -> None:
    """``section.key``, perhaps with ``: value``; or a setting of the top level with its value."""
    name, _, value = text.partition(": ")
    if value:
        load_config(None, [f"{name}={value}", *NEEDED.get(name, [])])
        return
    node: Any = Config()
    for part in name.split("."):
        if isinstance(node, dict):
            return
        assert part in type(node).model_fields, f"{name}: no such setting"
        node = getattr(node, part)


NEEDED = {
    "rollout.k": ["lists.k=10"],
}
"""What a value that a page names can't do without."""


@cache
def commands() -> dict[str, set[str]]:
    """Each command of the program with its options."""
    group: Any = typer.main.get_command(blade_dist.cli.app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


def check_program(words: list[str]) -> None:
    """A call of ``blade-dist``: the command, its options, the settings that it changes."""
    command, *rest = words
    assert command in commands(), f"blade-dist {command}: no such command"
    for at, word in enumerate(rest):
        if word.startswith("--"):
            assert word in commands()[command], f"blade-dist {command} {word}: no such option"
        if word == "--set":
            load_config(None, [rest[at + 1]])
        if word == "--over":
            check_setting(rest[at + 1].partition("=")[0])


@cache
def _said(folder: str, pattern: str) -> str:
    """The text of files; a parameter that a function calls ``dry_run`` is the option ``--dry-run``."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / folder).rglob(pattern)))
    return text + "\n".join(f"--{name.replace('_', '-')}" for name in re.findall(r"^ +(\w+): Annotated", text, re.M))


def check_option(option: str, *sources: str) -> None:
    """An option of a script, a benchmark or the program."""
    option = re.split("[ =]", option, maxsplit=1)[0]
    said = "".join(sources) or _said("launch", "*.sh") + _said("blade_dist", "*.py") + _said("benchmarks", "*.py")
    known = option in said or option.replace("--no-", "--") in said
    assert known or any(option in options for options in commands().values()), f"{option}: no such option"


def check_module(words: list[str]) -> None:
    """``python -m NAME OPTIONS``."""
    path = ROOT / words[0].replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"python -m {words[0]}: no such file"
    for word in words[1:]:
        if word.startswith("--"):
            check_option(word, _said("benchmarks", "*.py"))


def check_path(text: str) -> None:
    """A file or a folder of the project, or a file whose name the package, or a study, writes or reads."""
    if text.startswith(FOLDERS):
        assert (ROOT / text).exists(), f"{text}: no such file"
        return
    name = text.rsplit("/", 1)[-1]
    stem = re.escape(name)
    said = _said("blade_dist", "*.py")
    assert (
        (ROOT / text).exists()
        or name in READERS
        or re.search(rf"['\"/]{stem}['\"]", said)
        or _made_of_suffix(name, said)
    ), f"{text}: neither in the project nor written by it"


def _made_of_suffix(name: str, said: str) -> bool:
    stem, _, suffix = name.partition(".")
    return (f'"{stem}"' in said and f'"{suffix}"' in said) or f'"{stem}.' in said


def check_line(line: str) -> None:
    """A line of a block of commands."""
    for part in line.partition(" #")[0].split(";"):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if not words or words[0] in FOREIGN:
            for word in words:
                if word.startswith(FOLDERS):
                    check_path(word)
            continue
        if words[0] == "sbatch":
            words = [word for word in words[1:] if not word.startswith("--")]
        if words[0] == "bash":
            words = words[1:]
        if words[:2] == ["python", "-m"]:
            check_module(words[2:])
        elif words[0] == "blade-dist":
            check_program(words[1:])
        else:
            check_script(words)


def check_script(words: list[str]) -> None:
    """A script of the project, perhaps with a command of the program."""
    script, *rest = words
    assert (ROOT / script).is_file(), f"{script}: no such script"
    for at, word in enumerate(rest):
        if word in commands():
            check_program(rest[at:])
            return
        if word.startswith("--"):
            check_option(word)


def check_name(text: str, columns: set[str]) -> None:
    """What stands in backticks; ``columns``: of the metrics of a BLADE run."""
    words = shlex.split(text) if "'" not in text else [text]
    if words[0] == "blade-dist":
        check_program(words[1:]) if words[1:] else None
    elif words[:2] == ["python", "-m"]:
        check_module(words[2:])
    elif words[0] == "bash":
        check_line(text)
    elif text.startswith("--"):
        check_option(text)
    elif text.startswith("posterior/"):
        assert text in columns, f"{text}: no such column of metrics.parquet"
    elif text.endswith(SUFFIXES) or (text.startswith(FOLDERS) and " " not in text):
        check_path(text)
    elif (match := SETTING.fullmatch(text)) and match[1] in SECTIONS:
        check_setting(text)
    elif (key := text.partition(": ")[0]) in SECTIONS and ": " in text:
        assert isinstance(yaml.safe_load(text), dict)
        load_config(None, [f"{key}={text.partition(': ')[2]}"])
