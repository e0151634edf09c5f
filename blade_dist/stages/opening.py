"""The first line of each command: what it will do, how much of it, and where. Imports nothing that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blade_dist.settings import Config
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths


def data_line(config: Config) -> str:
    given = config.data
    items = given.items if given.source in ("table", "amazon") else None
    read = " and ".join(str(path) for path in (given.path, items, given.splits) if path is not None)
    return f"reads {read or 'a generated log'}, writes {config.run.dir / 'data'}: catalog, prompts, card.json"


def prompt_line(config: Config, user: str) -> str:
    return f"shows what the model reads of user {user}, from {config.run.dir / 'data'}"


def sft_line(config: Config) -> str:
    build = config.model.build
    model = f"a new model ({build.layers} layers of {build.hidden_size})"
    sequences = (_card(config) or {}).get("sequences")
    of = "the training sequences" if sequences is None else f"{sequences:,} training sequences"
    passes = f"{config.sft_epochs} times" + (f" or {config.sft.max_steps:,} steps" if config.sft.max_steps else "")
    often = config.sft.validations_per_epoch
    return (
        f"fine-tunes {config.model.path or model} on {of}, {passes} at most, "
        f"validated {f'{often} times in' if often > 1 else 'after'} each, writes {config.run.dir / 'sft'}"
    )


def prior_line(config: Config) -> str:
    few = f" ({config.prior.prompts:,} of them; others get {config.prior.cold_size})" if config.prior.prompts else ""
    return (
        f"the fine-tuned model writes {config.prior.size} lists for each of {_training_prompts(config)}{few}; "
        f"their rewards go to {config.run.dir / 'prior.arrow'}"
    )


def train_line(config: Config) -> str:
    train = config.train
    validated = f"validated every {train.checkpoint_every} on {train.validation_prompts} prompts"
    return (
        f"aligns the fine-tuned model to {config.target}: {train.steps:,} steps of {train.prompts_per_step} prompts, "
        f"{config.rollout.group_size} lists for each, {f'{validated}, ' if train.validation_prompts else ''}"
        f"writes {config.run.dir / config.target}"
    )


def evaluate_line(config: Config, checkpoints: Sequence[Path]) -> str:
    """``checkpoints``: what is evaluated."""
    limit, there = config.evaluate.max_prompts, (_card(config) or {}).get("prompts", {}).get("test")
    known = [count for count in (limit, there) if count is not None]
    prompts = f"{min(known):,} test prompts" if known else "all test prompts"
    return (
        f"lists for {prompts} by {', '.join(map(str, checkpoints))} and by recommenders without a model; the report "
        f"goes to {config.run.dir / 'evaluation'}"
    )


def sweep_line(config: Config, over: Sequence[str]) -> str:
    return f"trains with each choice of {', '.join(over)}, writes {config.run.dir / 'sweep'}"


def run_line(config: Config) -> str:
    targets = " and ".join(dict.fromkeys([*config.run.compare, config.target]))
    return f"data, sft, train ({targets}), evaluate and export, in {config.run.dir}; what is done is skipped"


def export_line(checkpoint: Path, out: Path) -> str:
    return f"copies {checkpoint}, with all that serving needs, to {out}"


def catalog_line(served: Path, items: Path, out: Path) -> str:
    return f"reads the items of the day from {items}, copies {served} with them to {out}; nothing is trained"


def next_stage(config: Config) -> str:
    """The first command whose work is not there yet; of a run that has all of it, the last of these."""
    paths = RunPaths(config.run.dir)
    stages = {"data": paths.data, "sft": paths.reference, "train": paths.policy(config.target)}
    return next((name for name, made in stages.items() if not made.exists()), "train")


def _training_prompts(config: Config) -> str:
    limit, there = config.train.prompts, (_card(config) or {}).get("prompts", {}).get("train")
    known = [count for count in (limit, there) if count is not None]
    return f"{min(known):,} training prompts" if known else "the training prompts"


def _card(config: Config) -> dict | None:
    """What the data stage counted, where it has."""
    return read_json(config.run.dir / "data" / "card.json")
