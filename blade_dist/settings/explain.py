"""The settings as a YAML file, each below a comment with its effect and when to change it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blade_dist.errors import UserError, nearest
from blade_dist.settings import Config
from blade_dist.settings.walk import Name, every_field, fields_of, section_of

WIDTH = 100
"""Columns that comments take, their indentation included."""


def explain_config(config: Config, names: Sequence[str] = ()) -> str:
    """The resolved tree as YAML that loads again, with the settings' descriptions as comments.

    Settings of a section that is left out (``learner.lora``) follow as comments, with their defaults.

    Args:
        config: whose values are shown.
        names: sections and full names of settings, to which it is restricted; none is everything.

    Raises:
        UserError: an unknown name, with the nearest one.
    """
    known = [path for path, _ in every_field()]
    wanted = [_known(name, known) for name in names]
    return "\n".join(_lines(Config, config.model_dump(mode="json"), (), wanted)).lstrip("\n") + "\n"


def _known(name: str, known: Sequence[Name]) -> Name:
    """The path of a name. A key alone is nearest to a setting that ends in it: ``tau`` to ``posterior.tau``."""
    path = tuple(name.split("."))
    if path in known:
        return path
    alike = [other for other in known if other[-1] == name] or known
    near = nearest(name, [".".join(other) for other in alike])
    raise UserError(f"{name}: unknown setting; did you mean {near}?")


def _lines(section: type[BaseModel], tree: Mapping[str, Any], above: Name, wanted: Sequence[Name]) -> Iterator[str]:
    """The lines of a section's fields that are on the way to a wanted one, or below one."""
    indent = "  " * len(above)
    for name, field in fields_of(section).items():
        path, inner = (*above, name), section_of(field.annotation)
        if wanted and not any(all(a == b for a, b in zip(path, other, strict=False)) for other in wanted):
            continue
        if inner is not None and not above:
            yield ""
        yield from _comment(_meaning(field), indent)
        if inner is None or tree[name] is None:
            yield from _setting(path, tree[name])
        else:
            yield f"{indent}{name}:"
            yield from _lines(inner, tree[name], path, wanted)
        if inner is not None and tree[name] is None:
            defaults = inner().model_dump(mode="json")
            for line in (f"{indent}{name}:", *_lines(inner, defaults, path, wanted)):
                yield f"{indent}# {line.removeprefix(indent)}"


def _setting(path: Name, value: Any) -> list[str]:
    """``name: value`` in YAML, indented as its path is deep."""
    for name in reversed(path):
        value = {name: value}
    return yaml.safe_dump(value, sort_keys=False).splitlines()[len(path) - 1 :]


def _comment(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _meaning(field: FieldInfo) -> str:
    """Its description, and the values that it may have where these can be counted."""
    text = " ".join((field.description or "").replace("``", "`").split())
    choices = _choices(field.annotation)
    how_many = "Any of" if get_origin(field.annotation) is list else "One of"
    return f"{text} {how_many}: {', '.join(choices)}." if len(choices) > 1 else text


def _choices(annotation: Any) -> list[str]:
    """Values of a Literal, also of one inside a list or beside None."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def file_and_names(given: list[str], explain: bool) -> tuple[Path | None, list[str]]:
    """The settings file, where the first argument is or looks like one, and names of settings.

    Raises:
        UserError: names, without ``--explain``.
    """
    first = Path(given[0]) if given else None
    if explain and first and first.suffix not in (".yaml", ".yml") and first.name == given[0] and not first.is_file():
        return None, given
    if given[1:] and not explain:
        raise UserError(f"{given[1]}: one CONFIG is printed; sections or settings are named after --explain")
    return first, given[1:]
