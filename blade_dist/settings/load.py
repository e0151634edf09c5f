"""Settings from YAML: read, overridden, checked before anything starts, written as YAML.

Unknown keys are refused with the nearest valid name; ``blade-dist config CONFIG`` prints the resolved tree, with
``--explain`` what each setting does (``explain.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from blade_dist.errors import UserError, nearest
from blade_dist.settings import Config
from blade_dist.settings.text import read_yaml
from blade_dist.settings.walk import fields_of, setting_path

WORDS = {
    "model_type": "it is a section: write its settings below it, each on a line",
    "path_type": "a path is needed, as text",
    "invalid_key": "a name is needed, as text",
}
"""What is said instead of pydantic's words, by the type of its error."""
LONGEST, SHOWN = 160, 60
"""Characters of what is said about wrong values, but for the first one; of a value."""


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> Config:
    """Reads YAML, applies ``section.key=value`` overrides (values are YAML), and checks the tree.

    Raises:
        UserError: missing file, not UTF-8, bad YAML (file and line), unknown key (with the nearest valid one),
            bad value.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        try:
            tree = read_yaml(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise UserError(
                f"{path}: lists or mappings stand a thousand deep in each other; settings need four"
            ) from None
        if not isinstance(tree, dict):
            raise UserError(f"{path}: the top level must be a mapping of sections")
    for override in overrides:
        _apply(tree, override)
    return check_config(tree, str(path or "settings"))


def check_config(tree: dict[str, Any], where: str) -> Config:
    """The checked settings of a tree of plain values.

    Raises:
        UserError: unknown key (with the nearest valid one), bad value; it begins with ``where``.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first, *rest = map(_explain, error.errors())
        while rest and len(first) + len(rest[0]) <= LONGEST:
            first += f"; {rest.pop(0)}"
        more = f"; and {len(rest)} more" if rest else ""
        raise UserError(f"{where}: {first}{more}") from None


def change(tree: dict[str, Any], name: str, value: object) -> None:
    """Sets one setting, given by its full name, in a tree of plain values.

    A mapping that the tree does not have yet, as ``reward.weights``, starts with its default.

    Raises:
        UserError: a part of the name is a value in the tree, no section.
    """
    *sections, key = setting_path(name)
    node: Any = Config
    # an unknown section is made as it stands: the check of the whole tree refuses it with the nearest name
    for section in sections:
        field = fields_of(node).get(section)
        node = None if field is None else field.annotation
        if tree.get(section) is None:
            tree[section] = dict(field.default) if field is not None and get_origin(node) is dict else {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UserError(f"{name}: {section} is not a section")
    tree[key] = value


def dump_config(config: Config) -> str:
    """The resolved tree as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not all(part.strip() for part in name.split(".")):
        raise UserError(f"--set {override}: write section.key=value")
    try:
        change(tree, name.strip(), read_yaml(value))
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {value!r} is not a YAML value") from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *sections, key = [str(part) for part in error["loc"]]
        node: Any = Config
        for section in sections:
            node = fields_of(node)[section].annotation
        return f"{name}: unknown setting; did you mean {'.'.join([*sections, nearest(key, fields_of(node))])}?"
    message = WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    given = repr(error["input"])
    shown = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
    return message if error["type"] == "value_error" else f"{name}: {message} (got {shown})"
