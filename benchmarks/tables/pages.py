"""Writes the results tables of a Markdown file from the JSON files in ``benchmarks/results``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.tables import movielens as quality_tables
from benchmarks.tables import synthetic as study_tables

RESULTS = Path(__file__).parents[1] / "results" / "cpu"
ON_GPU = RESULTS.with_name("gpu")
MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN = {
    "sft": "SFT",
    "static": "static (tau = 0)",
    "static, refreshed": "static, references of the policy every 20 steps",
    "bond": "J-BOND",
    "grpo": "GRPO (raw reward)",
    "best_of_n_sft": "SFT on the best of each group",
    "blade": "BLADE",
    **{f"sft best of {n}": f"SFT, best of {n} by co-occurrence" for n in (2, 4, 8, 16)},
    **{f"sft best of {n} (oracle)": f"SFT, best of {n} by the held-out items (oracle)" for n in (2, 4, 8, 16)},
}
Result = dict[str, Any]


def load(name: str) -> Result:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def quality(name: str, decode: str, metrics: list[str], least: str) -> str:
    """Every policy's means with their intervals."""
    rows = []
    for policy, found in load(name)["tables"][decode].items():
        cells = [f"{found[m]['mean']:.3f} [{found[m]['low']:.3f}, {found[m]['high']:.3f}]" for m in metrics]
        rows.append([SHOWN.get(policy, policy), *cells])
    heads = [f"{metric} (less is better)" if metric == least else metric for metric in metrics]
    return markdown([decode, *heads], rows)


def difference(name: str, metrics: list[str]) -> str:
    """BLADE minus SFT, per user."""
    summary = load(name)["summary"]
    rows = []
    for label, key in (("greedy", "difference"), ("one sample at T = 1", "difference_sampled")):
        cells = [summary[key][metric] for metric in metrics]
        rows.append([label, *(f"{c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]" for c in cells)])
    return markdown(["BLADE minus SFT", *metrics], rows)


def speed() -> str:
    """What was measured, its goal, and the command."""
    rows = []
    for text, file, read, form, goal in SPEED:
        if (RESULTS / f"{file}.json").is_file():
            rows.append([text, form.format(read(load(file))), goal, f"`benchmarks/{file}.py`"])
    return markdown(["what (2 CPU cores)", "measured", "goal", "by"], rows)


def gpu() -> str:
    """What was measured on a GPU, its goal, and the line of ``gpu.py``."""
    rows = []
    for text, file, read, form, goal in GPU:
        found = json.loads((ON_GPU / f"{file}.json").read_text())
        rows.append([text, form.format(read(found)), goal, f"`{found['settings']['command']}`"])
    return markdown(["what (one NVIDIA H200)", "measured", "goal", "by"], rows)


def role_seconds() -> str:
    """Where a step's time goes."""
    found = load("throughput")
    seconds = found["seconds"]
    names = ["generate", "score", "estimate", "learn", "push", "step"]
    rows = [[f"{seconds[name]:.3f}" for name in names] + [f"{found['overhead']:.1%}"]]
    return markdown([*(f"{name}, s" for name in names), "overhead"], rows)


def _items(count: str, name: str) -> Callable[[Result], float]:
    return lambda result: result["by_items"][count][name]


SPEED: list[tuple[str, str, Callable[[Result], float], str, str]] = [
    ("whole step: lists/s", "throughput", lambda r: r["lists_per_second"], "{:.1f}", ""),
    ("TRL GRPOTrainer at its fastest: lists/s", "throughput", lambda r: r["trl"]["lists_per_second"], "{:.1f}", ""),
    ("ratio to TRL", "throughput", lambda r: r["ratio_vs_trl"], "{:.1f}x", "8x"),
    (
        "learner in the run, shared prefix against unpacked",
        "throughput",
        lambda r: r["shared_prefix_speedup"],
        "{:.1f}x",
        "6.5x",
    ),
    ("overhead of a step", "throughput", lambda r: 100 * r["overhead"], "{:.1f} %", "5 %"),
    ("invalid and repeated positions", "throughput", lambda r: r["invalid"] + r["duplicate"], "{:.0f}", "0"),
    (
        "forward + backward, shared prefix against unpacked",
        "learner",
        lambda r: r["shared_prefix_speedup"],
        "{:.1f}x",
        "6.5x",
    ),
    ("legal-token head, vocabulary 32,000", "learner", lambda r: r["legal_head_speedup"], "{:.2f}x", "1.5x"),
    ("trie of 1,000,000 items: build, s", "trie", _items("1000000", "build_seconds"), "{:.1f}", "60"),
    ("trie of 1,000,000 items: memory, MB", "trie", _items("1000000", "megabytes"), "{:.0f}", "400"),
    ("trie of 1,000,000 items: load, s", "trie", _items("1000000", "load_seconds"), "{:.2f}", "1"),
    (
        "constrained over unconstrained tokens/s, 10,000 items",
        "trie",
        _items("10000", "generation_ratio"),
        "{:.2f}",
        "0.9",
    ),
    (
        "constrained over unconstrained tokens/s, 1,000,000 items",
        "trie",
        _items("1000000", "generation_ratio"),
        "{:.2f}",
        "0.9",
    ),
    (
        "proxy rewards/s, through the actor, one core",
        "posterior",
        lambda r: r["proxy_rewards_per_second"] / 1e6,
        "{:.1f} M",
        "10 M",
    ),
    ("rewards, lists/s, one core", "rewards", lambda r: r["lists_per_second"] / 1e3, "{:.0f} k", "200 k"),
    ("push of 11 MB to two engines over one gloo broadcast", "push", lambda r: r["ratio_to_limit"], "{:.1f}x", "1.5x"),
]


def _case(name: str, number: str) -> Callable[[Result], float]:
    return lambda result: result["cases"][name][number]


def _learner_ratio(one: str, other: str) -> Callable[[Result], float]:
    return lambda r: r["cases"][one]["lists_per_second"] / r["cases"][other]["lists_per_second"]


BEST, DENSE, UNPACKED = "shared prefix, legal tokens", "shared prefix, whole vocabulary", "unpacked, legal tokens"
GPU: list[tuple[str, str, Callable[[Result], float], str, str]] = [
    ("push of 2.5 GB by CUDA IPC, s", "push", lambda r: r["seconds"], "{:.3f}", "0.18"),
    ("the same in GB/s", "push", lambda r: r["gb_per_second"], "{:.1f}", ""),
    ("times what one copy on the device takes", "push", lambda r: r["ratio_to_limit"], "{:.0f}x", ""),
    ("learner: lists/s", "learner", _case(BEST, "lists_per_second"), "{:.0f}", ""),
    ("learner: MFU, prompts counted once", "learner", lambda r: 100 * _case(BEST, "mfu")(r), "{:.1f} %", "40 %"),
    ("learner, shared prefix against unpacked", "learner", _learner_ratio(BEST, UNPACKED), "{:.1f}x", ""),
    ("learner, legal-token head against whole", "learner", _learner_ratio(BEST, DENSE), "{:.2f}x", ""),
]


def made(rows: Callable[..., list[list[str]]], name: str, *arguments: Any) -> str:
    """What a function makes of a result file."""
    header, *lines = rows(load(name), *arguments)
    return markdown(header, lines)


WIDE = ["reward", "ndcg@5", "recall@5", "ild@5", "mgu@5"]
TABLES: dict[str, Callable[[], str]] = {
    "quickstart-greedy": lambda: quality("quickstart", "greedy", WIDE, "mgu@5"),
    "quickstart-sampled": lambda: quality("quickstart", "sampled", WIDE, "mgu@5"),
    "quickstart-difference": lambda: difference("quickstart", WIDE),
    "study-goals": lambda: made(study_tables.goals, "synthetic"),
    "study-targets": lambda: made(study_tables.targets, "synthetic", SHOWN),
    "study-taus": lambda: made(study_tables.taus, "synthetic"),
    "study-searches": lambda: made(study_tables.searches, "synthetic"),
    "study-supervision": lambda: made(study_tables.supervision, "synthetic"),
    "study-small": lambda: made(study_tables.small_regimes, "synthetic", SHOWN),
    **{
        f"movielens-{kind.__name__}": partial(made, kind, "movielens", SHOWN)
        for kind in (
            quality_tables.policies,
            quality_tables.decodes,
            quality_tables.gains,
            quality_tables.slices,
            quality_tables.trades,
            quality_tables.sensitivity,
            quality_tables.references,
        )
    },
    "speed": speed,
    "gpu": gpu,
    "seconds": role_seconds,
}


def filled(text: str) -> str:
    """The text with every marked table written anew."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)
