"""The model card of an export: what it is, what it was measured to do, and what not to expect of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blade_dist import __version__
from blade_dist.serving.held_out import HeldOut
from blade_dist.settings import Config
from blade_dist.store.policy import PolicyStamp

LEFT_OUT = {"run", "ray", "tracking"}
"""Sections of the settings that say nothing about the model."""


@dataclass(frozen=True)
class Base:
    """The base checkpoint."""

    name: str | None
    """Of its folder; None where the model was built from nothing."""
    licence: str | None
    """As its own card names it; None where it names none, or is gone."""
    files: list[Path]
    """Texts of the licence, which go along."""

    @classmethod
    def of(cls, path: Path | None) -> Base:
        """The checkpoint in a folder, which may have been moved away since."""
        if path is None:
            return cls(None, None, [])
        patterns = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
        files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
        return cls(path.name, _named_licence(path / "README.md"), files)

    def describe(self) -> str:
        """A sentence or two."""
        if self.name is None:
            return "None: the model was built from nothing and trained on the log alone."
        named = f"`{self.licence}`, as its card says" if self.licence else "not named in its folder: look it up"
        texts = f" Its text: {', '.join(f'`{file.name}`' for file in self.files)}." if self.files else ""
        return f"`{self.name}`. Licence: {named}.{texts} What it forbids, it forbids for this model, too."


def model_card(config: Config, stamp: PolicyStamp, data: dict[str, Any], base: Base, numbers: HeldOut | None) -> str:
    """Text of ``README.md``.

    Args:
        config: of the run.
        stamp: what the weights are.
        data: the data card.
        base: what it was fine-tuned from.
        numbers: held-out ones of these weights, if there are.
    """
    goal = "fine-tuned on the log" if stamp.policy == "sft" else f"aligned to a reward of whole lists ({stamp.policy})"
    settings = yaml.safe_dump(_plain(config.model_dump(exclude_defaults=True, exclude=LEFT_OUT)), sort_keys=False)
    return f"""---
library_name: transformers
tags: [recommendation, blade-dist]
---

# A recommender of {data["catalog"]["items"]:,} items

A language model that answers a user's history with a list of {config.lists.k} items of its catalog, {goal}.
Written by blade-dist {__version__}; step {stamp.step}, weights `{stamp.weights}`.

## How to call it

```bash
blade-dist recommend FOLDER --history "ID,ID,ID" --k {config.lists.k}
blade-dist recommend FOLDER --histories users.parquet --out lists.parquet
```

It needs blade-dist and nothing else of the run. transformers and `vllm serve` load this folder too, and answer a prompt
greedily, but they know no catalog: they write free text. `recommender.json` has the prompt, the tokens that separate
items, the rules, and a checksum of every file.

Every list of `recommend` holds different items of the catalog (`catalog/items.arrow`), {_seen(config)}.

## Data

{_data(data)}

## Held-out numbers

{_table(config, numbers)}

## Limits

- It knows the items and the people of its log. It was not shown to do well on those of another time or place.
- {_cold(data)}
- The numbers are of held-out parts of one log; none of them is of what people do when they see these lists.
- It has learned from what people chose, with all that was unfair or unequal in it.

## Base model

{base.describe()}

## Settings

Those that are not the defaults:

```yaml
{settings}```
"""


def _seen(config: Config) -> str:
    history = {True: "none of them in the history", "shown": "none of them in the prompt", False: "old ones too"}
    rules = " It keeps the rules `exclude` and `at_most` below." if config.lists.exclude or config.lists.at_most else ""
    return history[config.lists.exclude_history] + rules


def _data(card: dict[str, Any]) -> str:
    log, users, prompts, split = card["log"], card["users"], card["prompts"], card["settings"]["data"]
    counts = ", ".join(f"{count:,} {name}" for name, count in prompts.items())
    by = "a ready split" if split["splits"] is not None else split["split"]
    return (
        f"{log['read']:,} interactions were read and {log['left']:,} are left after the filters, of {log['users']:,} "
        f"users\nwith {card['catalog']['items']:,} items in {card['catalog']['groups']:,} groups "
        f"({users['tested']:,} users are tested). Prompts: {counts}. Split: {by}."
    )


def _cold(card: dict[str, Any]) -> str:
    cold, everything = card["test_targets"]["cold"], card["test_targets"]["all"]
    never = card["catalog"]["items_only_held_out"]
    return (
        f"{never:,} items were never trained on, and are recommended by their tokens alone; {cold:,} of the "
        f"{everything:,} held-out test items are such."
    )


def _table(config: Config, numbers: HeldOut | None) -> str:
    if numbers is None:
        return (
            "These weights have not been evaluated with these lists. `blade-dist evaluate` measures them; exported "
            "again, this\npage then has the numbers."
        )
    names = list(numbers.by_policy[numbers.policy])
    head = (
        f"Decoded by `{config.evaluate.decode}`: means over {numbers.prompts:,} test prompts, with 95 % bootstrap "
        f"intervals over {numbers.users:,} users.\nThis model is `{numbers.policy}`.\n"
    )
    lines = [
        head,
        f"| | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for policy, of in numbers.by_policy.items():
        cells = [f"{of[name].mean:.4f} [{of[name].low:.4f}, {of[name].high:.4f}]" for name in names]
        shown = f"**{policy}**" if policy == numbers.policy else policy
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _named_licence(readme: Path) -> str | None:
    """The entry ``license`` (or its name) at the head of a Hugging Face model card."""
    if not readme.is_file():
        return None
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---")
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    if not isinstance(head, dict):
        return None
    named = head.get("license_name") or head.get("license")
    return " ".join(str(named).split()).replace("`", "") if named else None


def _plain(value: Any) -> Any:
    """As YAML writes it; of a path only its last part, as the others say more about a machine than about the model."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.name if isinstance(value, Path) else value
