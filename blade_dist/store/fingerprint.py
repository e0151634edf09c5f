"""Fingerprints: short strings, equal where the content is. A stage keeps them to see whether its result still fits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from blade_dist.batches import Ragged


def fingerprint(*values: object) -> str:
    """Of plain values (str, numbers, dicts, lists) and sections of the settings.

    The order of a dict's keys does not matter: ``fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})``.
    """
    plain = [value.model_dump(mode="json") if isinstance(value, BaseModel) else value for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint_file(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint_arrays(*parts: np.ndarray | Ragged | str | list[str]) -> str:
    """Of the bytes of arrays and strings, without their shapes and dtypes."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Ragged):
            blocks = [part.flat.tobytes(), part.offsets.astype(np.int64).tobytes()]
        elif isinstance(part, np.ndarray) and part.dtype != object:
            blocks = [part.tobytes()]
        else:
            blocks = [text.encode() for text in ([part] if isinstance(part, str) else part)]
        state.update(str(len(blocks)).encode())
        for block in blocks:
            state.update(f":{len(block)}:".encode())  # so that "ab", "c" differs from "a", "bc"
            state.update(block)
    return state.hexdigest()
