"""The tables of a real log, from its result file."""

from __future__ import annotations

from benchmarks.quality.compare import AGAINST, MAIN, comparison, verdict
from benchmarks.tables.text import Result, Rows, interval, mean, signed, title
from blade_dist.evaluation.decoding import BEAM, LIST, SAMPLED

ACCURACY = ("ndcg@10", "recall@5", "recall@10", "mrr@10")
BEYOND = {
    "ild@5": "ild@5",
    "mgu@5": "mgu@5 ↓",
    "dgu@5": "dgu@5 ↓",
    "long_tail@5": "long_tail@5",
    "coverage": "coverage",
    "gini": "gini ↓",
    "miss": "invalid or repeated ↓",
}
"""Column -> its head; of ↓ less is better."""
SLICE = f"{MAIN}, "
"""How the columns of slices begin."""


def policies(result: Result) -> Rows:
    """Greedy lists of every policy: NDCG@5 with its interval, means of the other columns that there are."""
    table = result["tables"]["list"]
    names = [name for name in (*ACCURACY, *BEYOND) if any(name in of for of in table.values())]
    rows = [["list", MAIN, *(BEYOND.get(name, name) for name in names)]]
    for policy, of in table.items():
        rows.append([title(policy), interval(of[MAIN]), *(mean(of, name) for name in names)])
    return rows


def decodes(result: Result) -> Rows:
    """NDCG@5 of every policy under each way of decoding, and of the searches over SFT's samples."""
    tables = {decode: table for decode, table in result["tables"].items() if table}
    names = dict.fromkeys(policy for table in tables.values() for policy in table)
    rows = [[MAIN, *tables]]
    for policy in names:
        cells = [interval(table[policy][MAIN]) if policy in table else "" for table in tables.values()]
        rows.append([title(policy), *cells])
    return rows


def gains(result: Result) -> Rows:
    """NDCG@5 of each target minus SFT's and other targets', with Holm's p-value, and what kind of gain it is."""
    compared = result["comparisons"]
    rivals = [name for name in AGAINST[1:] if any(row["against"] == name for row in compared)]
    heads = ["target, minus", "SFT, greedy", "Holm's p", "SFT, beam", "SFT, one sample", "kind of gain"]
    rows = [heads + [head for name in rivals for head in (f"{title(name)}, greedy", "Holm's p")]]
    for policy in dict.fromkeys(row["policy"] for row in compared):
        greedy, beam, sampled = (comparison(compared, policy, "sft", decode, MAIN) for decode in (LIST, BEAM, SAMPLED))
        if greedy and sampled:
            beside = []
            for rival in rivals:
                row = comparison(compared, policy, rival, LIST, MAIN)
                beside += [signed(row), f"{row['p_holm']:.3f}"] if row else ["", ""]
            tested = [signed(greedy), f"{greedy['p_holm']:.3f}"]
            others = [signed(beam) if beam else "", signed(sampled)]
            rows.append([title(policy), *tested, *others, verdict(compared, policy, MAIN), *beside])
    return rows


def slices(result: Result) -> Rows:
    """Greedy NDCG@5 with only some held-out items counted, or only some prompts, whose number comes first."""
    table = result["tables"]["list"]
    names = dict.fromkeys(name for of in table.values() for name in of if name.startswith(SLICE))
    rows = [["greedy NDCG@5", *(name.removeprefix(SLICE) for name in names)]]
    rows.append(["prompts", *(str(result["prompts"][name]) for name in names)])
    for policy, of in table.items():
        rows.append([title(policy), *(mean(of, name) for name in names)])
    return rows


def trades(result: Result) -> Rows:
    """What rewards of accuracy and one other metric gave and cost against SFT, and that metric against other targets of
    the same reward."""
    traded = result["pareto"]["trades"]
    rivals = list(dict.fromkeys(rival for trade in traded for rival in trade["against"]))
    heads = ["target and reward", "metric", "relative to SFT", f"{MAIN} minus SFT", "as asked"]
    rows = [[*heads, *(f"metric, minus {title(rival)}" for rival in rivals)]]
    for trade in traded:
        change, metric = trade["relative_to_sft"], trade["metric"]
        relative = signed(change, ".1%")
        asked = "yes" if trade["reached"] else "no"
        beside = [signed(trade["against"][rival][metric]) if rival in trade["against"] else "" for rival in rivals]
        rows.append([trade["policy"], metric, relative, signed(trade[f"{MAIN}_minus_sft"]), asked, *beside])
    return rows


def sensitivity(result: Result) -> Rows:
    """BLADE with one setting changed: NDCG@5, its difference to the preset's BLADE, and how much there was to learn."""
    rows = [[title("blade"), MAIN, "minus the preset's", "informative groups", "validation"]]
    for name, values in result["sensitivity"][MAIN].items():
        for value, of in values.items():
            read = [f"{of['informative_groups']:.2f}", f"{of['validation']:.4f}"]
            other = of["minus_preset"]
            rows.append([f"`{name}: {value}`", interval(of), signed(other) if other else "", *read])
    return rows


def references(result: Result) -> Rows:
    """Static and BLADE over the number of reference lists per prompt, all seeds."""
    heads = [
        "static minus SFT",
        "BLADE minus SFT",
        "BLADE minus static",
        "relative to static",
        "informative: static",
        "BLADE",
    ]
    rows = [["reference lists", *heads]]
    for row in result["references"]["rows"]:
        own, relative = (row["minus_sft"][target] for target in ("static", "blade")), row["relative"]
        share = signed(relative, ".0%")
        known = [f"{row['informative_groups'][target]:.2f}" for target in ("static", "blade")]
        rows.append([str(row["lists"]), *map(signed, own), signed(row["blade_minus_static"]), share, *known])
    return rows


MAIN_TABLES = {"policies": policies, "decodes": decodes, "gains": gains, "slices": slices}
TABLES = {**MAIN_TABLES, "trades": trades, "sensitivity": sensitivity, "references": references}
"""By their names on pages."""
