"""The one walk over the tree of settings: which fields a section has, and where a full name leads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blade_dist.settings import Config

Name = tuple[str, ...]
"""A full name's parts."""


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field with this annotation is, or (``LoraSettings | None``) may be; None of a setting."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def fields_of(annotation: Any) -> dict[str, FieldInfo]:
    """Fields of a section by name, also of one that may be left out; none of anything else."""
    section = section_of(annotation)
    return {} if section is None else section.model_fields


def every_field(section: Any = Config, above: Name = ()) -> Iterator[tuple[Name, FieldInfo]]:
    """Every setting and every section below ``section``, each before what is in it."""
    for name, field in fields_of(section).items():
        path = (*above, name)
        yield path, field
        yield from every_field(field.annotation, path)


def setting_path(name: str) -> list[str]:
    """The parts of a full name. After a mapping to numbers the rest is one key: ``reward.weights.my.module:margin``."""
    path: list[str] = []
    node: Any = Config
    while "." in name:
        # the key of a mapping may hold dots itself; a mapping of mappings (reward.boosts) has one more name before it
        if get_origin(node) is dict and get_origin(node := get_args(node)[1]) is not dict:
            break
        part, _, name = name.partition(".")
        path.append(part)
        if part in fields_of(node):
            node = fields_of(node)[part].annotation
    return [*path, name]
