"""YAML as settings are written in it: no key twice, and a number with leading zeros is the name that it looks like."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_INT = "tag:yaml.org,2002:int"


def read_yaml(text: str) -> Any:
    """Plain values.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping has a key twice; says where.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 0012 for ten (octal) and 12:30 for 750 (base 60): as ids of items both are text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != _INT]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
