"""What was left out or repaired while the log was read: by rule, how often, and one example of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Seen:
    """A rule at work."""

    count: int = 0
    example: str = ""

    def add(self, count: int, example: str) -> None:
        self.count += count
        self.example = self.example or example


@dataclass
class Remarks:
    """Kept while reading, and shown at its end."""

    dropped: dict[str, Seen] = field(default_factory=dict)
    """Rows of the log that were left out as they were read, by reason."""
    repaired: dict[str, Seen] = field(default_factory=dict)
    """Values that were changed, by what was wrong with them."""
    units: NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, np.int64))
    """How many times were numbers of each unit, see :func:`blade_dist.data.times.microseconds`."""
    unit_examples: dict[str, str] = field(default_factory=dict)
    """By unit."""
    rows: int = 0
    """Rows that were given the place where they stand as their time."""
    hints: list[str] = field(default_factory=list)
    """Lines about what looks wrong and was left as it is."""

    def drop(self, reason: str, count: int, example: str) -> None:
        """Rows left out."""
        if count:
            self.dropped.setdefault(reason, Seen()).add(count, example)

    def repair(self, what: str, count: int, example: str) -> None:
        """Values changed."""
        if count:
            self.repaired.setdefault(what, Seen()).add(count, example)

    def hint(self, line: str, example: str = "") -> None:
        """Said once, with the first example of it."""
        if not any(said == line or said.startswith(f"{line} (as ") for said in self.hints):
            self.hints.append(f"{line} (as {example})" if example else line)

    def add_of(self, other: Remarks, file: str) -> None:
        """Those of another file, whose rows are none of the log's; ``file``: the setting that names it."""
        for what, seen in other.repaired.items():
            self.repair(f"{what} ({file})", seen.count, seen.example)
        for reason, seen in other.dropped.items():
            self.hint(f"{file}: {seen.count:,} rows are left out: {reason}", seen.example)
        for line in other.hints:
            self.hint(f"{file}: {line}")

    @property
    def rows_dropped(self) -> int:
        return sum(seen.count for seen in self.dropped.values())

    def describe(self) -> dict[str, Any]:
        """For the data card."""
        return {
            "dropped": {name: vars(seen) for name, seen in self.dropped.items()},
            "repaired": {name: vars(seen) for name, seen in self.repaired.items()},
            "hints": list(self.hints),
        }


def shown(value: object, most: int = 40) -> str:
    """A value as a message shows it: blanks, invisible and special characters visible, cut to a length."""
    text = ascii(value)
    printable = isinstance(value, str) and value.isprintable() and value == value.strip()
    if printable:
        text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"
