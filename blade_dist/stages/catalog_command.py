"""The options of ``blade-dist catalog``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from blade_dist.stages import opening
from blade_dist.stages.loudness import loudness
from blade_dist.tracking.say import last_lines, say, say_command


def catalog(
    served: Annotated[Path, typer.Argument(help="Folder that export wrote, or this command.", show_default=False)],
    items: Annotated[
        Path, typer.Option(help="Table of all items that are on sale today: id, title, groups.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file whose section data says how the table is written.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes one setting of it.", show_default=False),
    ] = None,
) -> None:
    """Write an export with the items of the day: new ones, new titles and groups, and what is gone. Trains nothing.

    The table is the whole catalog. What it lacks is withdrawn: histories may name it, and no list holds it. What a
    later table has again is on sale again.

    Example: blade-dist catalog served --items today.parquet --out served-today

    Example: blade-dist catalog served --items today.csv --out served-today --set data.columns.title=name
    """
    console = loudness().console()
    say(console, f"catalog: {opening.catalog_line(served, items, out)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is not a folder must not become a download
    from blade_dist.settings.load import load_config
    from blade_dist.stages.catalog import catalog_stage

    history = catalog_stage(served, items, out, load_config(config, overrides or []).data, console)
    say_command(last_lines(console), "next: ", ["blade-dist", "recommend", str(out), "--history", ",".join(history)])
