"""The ways of decoding that a report shows, which of them is served, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.table import Table

from blade_dist.settings import Config, Way

LIST: Final = "list"
RANK: Final = "rank"
SAMPLED: Final = "sampled"
BEAM: Final = "beam"
"""Item by item, the likeliest token each; the K best first items; item by item, sampled; the likeliest list of a search
over lists."""

HOW: dict[Way, str] = {
    LIST: "item by item, the likeliest each",
    RANK: "the best first items",
    SAMPLED: "item by item, drawn",
    BEAM: "the likeliest list of a search",
}
"""In words."""


def decodes(config: Config) -> list[Way]:
    """What is reported: what is served comes first, and its numbers stand at the top of the summary.

    Without a constraint there is no ranking of items, as nobody knows where they end.
    """
    names: list[Way] = [LIST]
    names += [RANK] if config.lists.constrain == "catalog" else []
    names += [SAMPLED]
    names += [BEAM] if config.evaluate.beams else []
    return sorted(names, key=lambda name: name != config.evaluate.decode)


def trained_for(policy: str) -> list[str]:
    """The ways of decoding that a policy was trained for.

    Fine-tuning teaches what comes next, which is the first item of a list as well as the next one; an alignment rewards
    whole lists. A base checkpoint was trained for neither.
    """
    return {"sft": [LIST, RANK], "base": []}.get(policy, [LIST])


@dataclass(frozen=True)
class Cost:
    """What decoding took."""

    prompts: int
    tokens: int
    """Generated, each a forward pass."""
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Per prompt, and per 1,000 prompts."""
        per_thousand = 1000 * self.seconds / self.prompts
        return {"tokens_per_prompt": self.tokens / self.prompts, "seconds_per_1000_prompts": per_thousand}


def render_costs(costs: dict[tuple[str, str], Cost], trained: dict[str, list[str]]) -> Table:
    """A row for each policy and way of decoding; ``trained``: policy to the ways that it was trained for."""
    table = Table(title="cost of decoding")
    table.add_column("", no_wrap=True)
    for head in ("decode", "tokens per prompt", "seconds per 1,000 prompts", "trained for it"):
        table.add_column(head, justify="right")
    for (policy, decode), cost in costs.items():
        of = cost.as_dict()
        numbers = [f"{of['tokens_per_prompt']:.1f}", f"{of['seconds_per_1000_prompts']:.2f}"]
        served = "not served" if decode == SAMPLED else "yes" if decode in trained[policy] else "no"
        table.add_row(policy, decode, *numbers, served)
    return table
