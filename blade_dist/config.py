"""Settings from YAML: read, overridden, checked before anything starts, printed, saved.

Unknown keys are refused with the nearest valid name; ``blade-dist config CONFIG`` prints the resolved tree.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from blade_dist.errors import UserError
from blade_dist.settings import Config


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
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(tree, dict):
            raise UserError(f"{path}: the top level must be a mapping of sections")
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path or 'settings'}: " + "; ".join(_explain(e) for e in error.errors())) from None


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved tree as YAML, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(dump_config(config))
    temporary.replace(path)


def dump_config(config: Config) -> str:
    """The resolved tree as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def fingerprint(*parts: object) -> str:
    """A short digest of plain values (str, numbers, dicts, lists, models): equal inputs, equal digest."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write section.key=value")
    *sections, key = name.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {section} is not a section")
    try:
        tree[key] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {value!r} is not a YAML value") from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *sections, key = [str(part) for part in error["loc"]]
        node: Any = Config
        for section in sections:
            node = node.model_fields[section].annotation
        valid = list(node.model_fields)
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
        return f"{name}: unknown setting; did you mean {'.'.join([*sections, near[0]])}?"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{name}: {message} (got {error['input']!r})"
