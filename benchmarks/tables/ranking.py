"""The table of a ranking study, in the form of published tables, with the cited rows beside ours."""

from __future__ import annotations

from benchmarks.tables.text import Result, Rows, interval

MAIN = "sft rank"
"""The fine-tuned model's K best first items."""
TITLES = {MAIN: "SFT, `rank`", "sft list": "SFT, `list`"}
CUTS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
DIVERSITY = ("ild@5", "ild@10")

PRESETS = {
    "ranking-movielens": "movielens-small",
    "ranking-scientific": "amazon-scientific",
    "ranking-beauty": "amazon-beauty",
}
"""Result file -> the preset that it is of."""

CITED: dict[str, list[tuple[str, tuple[str, str, str, str], str]]] = {
    "amazon-beauty": [
        ("SASRec, one negative", (".0387", ".0249", ".0605", ".0318"), "TIGER, table 1"),
        ("TIGER (13 M parameters)", (".0454", ".0321", ".0648", ".0384"), "TIGER, table 1"),
        ("LETTER-TIGER", (".0431", ".0286", ".0672", ".0364"), "cornac"),
        ("SASRec, tuned", (".0508", ".0348", ".0740", ".0423"), "cornac"),
        ("RPG", (".0550", ".0381", ".0809", ".0464"), "RPG, by cornac"),
        ("SASRec, cross-entropy over all items", (".0635", ".0454", ".0897", ".0539"), "an independent rerun"),
    ]
}
"""Preset -> published numbers of the same split and protocol."""


def ranking(result: Result, preset: str = "") -> Rows:
    """A row per method, the best NDCG last, then what others have published."""
    methods = result["methods"]
    cuts = [cut for cut in CUTS if cut in methods[MAIN]]
    shown = [*cuts, *(name for name in DIVERSITY if name in methods[MAIN])]
    ordered = sorted(methods, key=lambda name: methods[name][cuts[-1]]["mean"])
    ours = [
        [TITLES.get(name, name), *(interval(methods[name][metric]) for metric in shown), "measured"] for name in ordered
    ]
    published = CITED.get(preset, [])
    no_diversity = [""] * (len(shown) - len(cuts))
    cited = [
        [name, *(values[CUTS.index(cut)] for cut in cuts), *no_diversity, source] for name, values, source in published
    ]
    return [["method", *shown, "source"], *ours, *cited]


def minus(result: Result) -> Rows:
    """What the fine-tuned model as a ranker has more than each of the others, per user."""
    metrics = [cut for cut in CUTS if cut in result["methods"][MAIN]]
    return [
        ["SFT, `rank`, minus", *metrics],
        *(
            [TITLES.get(name, name), *(interval(of[metric]) for metric in metrics)]
            for name, of in result["ranker_minus"].items()
        ),
    ]
