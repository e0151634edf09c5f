"""Fills the tables of a Markdown page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.tables.pages import filled


def main(
    file: Annotated[Path, typer.Argument(help="Markdown file with marked tables.")],
    check: Annotated[bool, typer.Option(help="Write nothing; fail where a table is not what the results say.")] = False,
) -> None:
    """Fills a file's tables from `benchmarks/results`.

    Examples:

      python -m benchmarks.tables docs/results.md

      python -m benchmarks.tables docs/results.md --check
    """
    text = file.read_text()
    new = filled(text)
    if check and new != text:
        raise SystemExit(f"{file}: a table is not what the results say; run: python -m benchmarks.tables {file}")
    if new != text:
        file.write_text(new)


if __name__ == "__main__":
    typer.run(main)
