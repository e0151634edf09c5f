"""The options of ``blade-dist prompt``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from blade_dist.stages import opening
from blade_dist.stages.loudness import loudness
from blade_dist.tracking.say import say


def prompt(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of settings.", show_default=False)],
    user: Annotated[str, typer.Option(help="User of the prepared data.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes one setting.", show_default=False),
    ] = None,
) -> None:
    """Show what the model reads of a user: text and tokens of a prompt and of a fine-tuning row, and where the loss is.

    Needs what data made, and starts nothing. Look at it before hours are spent on a prompt.

    Example: blade-dist prompt my.yaml --user u17
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is not a folder must not become a download
    from blade_dist.settings.load import load_config

    config, console = load_config(path, overrides or []), loudness().console()
    say(console, f"prompt: {opening.prompt_line(config, user)}")
    from blade_dist.stages.prompt import prompt_stage

    prompt_stage(config, user, console)
