"""What a result was made with against the settings of now: which ones changed, and the error that names them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from blade_dist.errors import UserError

LONGEST = 240
"""Characters of a message, of which the place of the work counts as :data:`PLACE` at most."""
PLACE = 40
LONGEST_VALUE = 48
"""Characters of a value in a message."""
LEGAL = "legal lists (see lists)"
"""What a stage notes of three settings together: ``catalog, nothing seen, rules 1f2e``."""
NAMES = {
    "limits of reward.": "reward.",
    "metrics with a floor or a ceiling": "reward.at_least and reward.at_most",
    "the choice of warm prompts": "the warm prompts",
}
"""What a message calls other names that are noted, by how they begin."""
NO_MATTER = {"learner.gradient_checkpointing"}
"""What earlier versions noted though no number depends on it."""
UNSET = {
    "prior.cold_size": "0",
    "rollout.max_staleness": "0",
    "train.prompts_from": "train",
    "train.validation_prompts": "0",
}
"""Values of settings that are noted only where they are others than these."""


def changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Values that differ: dotted name -> ``name: 8 there, 7 now``; None stands for one that is missing.

    Settings that both know come first, and last what is no setting and follows from one.

    >>> changes({"lists": {"k": 8}, "seed": 0}, {"lists": {"k": 7}, "seed": 0})
    {'lists.k': 'lists.k: 8 there, 7 now'}
    """
    old, new = (_spelt(dict(_flat(json.loads(json.dumps(tree, default=str))))) for tree in (there, now))
    other = [name for name in (old.keys() | new.keys()) - NO_MATTER if old.get(name) != new.get(name)]
    other.sort(key=lambda name: (" " in name, name not in UNSET and (name not in old or name not in new), name))
    values = {name: [str(tree.get(name, UNSET.get(name))) for tree in (old, new)] for name in other}
    return {name: "{}: {} there, {} now".format(name, *_apart(*values[name])) for name in other}


def _spelt(values: dict[str, Any]) -> dict[str, Any]:
    """By the names of settings where something else is noted of them; ``values``: by dotted name."""
    spelt = {name: value for name, value in values.items() if name != LEGAL}
    for noted, setting in NAMES.items():
        spelt = {setting + name[len(noted) :] if name.startswith(noted) else name: spelt[name] for name in spelt}
    if LEGAL in values:
        constrain, history, *rules = values[LEGAL].split(", ")
        spelt |= {"lists.constrain": constrain, "lists.exclude_history": history}
        spelt["lists.exclude, lists.at_most"] = rules[0] if rules else "no rules"
    return spelt


def _apart(old: str, new: str) -> tuple[str, str]:
    """The two, or, where one of them is long, what is around the first place where they differ."""
    if max(len(old), len(new)) <= LONGEST_VALUE:
        return old, new
    alike = next((place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(old))
    start = max(0, min(alike, len(old), len(new)) - LONGEST_VALUE // 3)
    end = start + LONGEST_VALUE
    there, now = (f"{'...' * (start > 0)}{text[start:end]}{'...' * (len(text) > end)}" for text in (old, new))
    return there, now


def made_otherwise(what: object, changed: Iterable[str], instead: str) -> UserError:
    """The error of work that was made with other settings.

    Args:
        what: the work, or where it is.
        changed: texts of :func:`changes`.
        instead: what there is to do beside setting them back, and what that makes anew; follows a comma.
    """
    first, *rest = changed
    before, behind = " was made with other settings: ", f"; it stays as it is: set them back, {instead}"
    room = LONGEST - min(PLACE, len(str(what))) - len(before) - len(behind) - len(" and 9 more")
    named = [first]
    while rest and len("; ".join([*named, rest[0]])) <= room:
        named.append(rest.pop(0))
    more = f" and {len(rest)} more" if rest else ""
    return UserError(f"{what}{before}{'; '.join(named)}{more}{behind}")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
