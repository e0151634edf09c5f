"""YAML as settings are written in it: no key twice, and a number with leading zeros is the name that it looks like."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_INT, _BOOL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"


def read_yaml(text: str) -> Any:
    """Plain values.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping has a key twice; says where.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 0012 for ten (octal) and 12:30 for 750 (base 60), and NO for false: as ids and words all are text.

    A setting that is true or false takes ``yes`` and ``no`` all the same; a number no longer takes ``yes`` for 1.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _BOOL)]
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
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
