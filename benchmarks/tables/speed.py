"""The tables of what is fast: what was measured, its goal, and the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.tables.text import Result, Rows

Entry = tuple[str, str, Callable[[Result], float], str, str]
"""What it is, its result file, how it is read there, how it is written, its goal."""


def speed(results: Mapping[str, Result]) -> Rows:
    """On CPU cores; of the measures whose result file there is."""
    rows = [
        [text, form.format(read(results[file])), goal, f"`benchmarks/{file}.py`"]
        for text, file, read, form, goal in SPEED
        if file in results
    ]
    return [["what (2 CPU cores)", "measured", "goal", "by"], *rows]


def gpu(results: Mapping[str, Result]) -> Rows:
    """On one GPU, by a line of ``gpu.py``."""
    rows = [
        [text, form.format(read(results[file])), goal, f"`{results[file]['settings']['command']}`"]
        for text, file, read, form, goal in GPU
    ]
    return [["what (one NVIDIA H200)", "measured", "goal", "by"], *rows]


def endured(results: Mapping[str, Result]) -> Rows:
    """What was done to a training, and what it lost by it."""
    rows = [
        [text, str(read(results[file])), goal, f"`benchmarks/{file}.py`" if file != "fuzz" else "`benchmarks/fuzz`"]
        for text, file, read, goal in ENDURED
        if file in results
    ]
    return [["what", "measured", "goal", "by"], *rows]


def step_seconds(result: Result) -> Rows:
    """Seconds of each part of a step."""
    names = ["generate", "score", "estimate", "learn", "push", "step"]
    numbers = [f"{result['seconds'][name]:.3f}" for name in names]
    return [[*(f"{name}, s" for name in names), "overhead"], [*numbers, f"{result['overhead']:.1%}"]]


def _items(count: str, name: str) -> Callable[[Result], float]:
    return lambda result: result["by_items"][count][name]


def _case(name: str, number: str) -> Callable[[Result], float]:
    return lambda result: result["cases"][name][number]


def _learner_ratio(one: str, other: str) -> Callable[[Result], float]:
    return lambda r: r["cases"][one]["lists_per_second"] / r["cases"][other]["lists_per_second"]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _damaged(result: Result) -> list[bool]:
    return [kill["newest_damaged"] for kill in result["kills"]]


SPEED: list[Entry] = [
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
    ("head over 12,101 items, against PyTorch's", "learner", lambda r: r["whole_head_speedup"], "{:.2f}x", ""),
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
    ("items of one token, without separators: lists/s", "separators", lambda r: r["ratio"], "{:.2f}x", "1.6x"),
    ("a log of a million rows: data and fine-tuning, min", "large_log", lambda r: r["seconds"] / 60, "{:.1f}", "15"),
    ("served greedy list of 10: lists/s", "serving", lambda r: r["lists_per_second"], "{:.0f}", ""),
    ("the same, times Transformers' beam over a trie", "serving", lambda r: r["ratio_vs_hf_beam"], "{:.1f}x", "10x"),
    ("the same, times the best of 16 drawn lists", "serving", lambda r: r["ratio_vs_best_of_16"], "{:.1f}x", "12x"),
    ("p99 over p50 of latencies at 8 clients", "serving", lambda r: r["p99_over_p50"], "{:.1f}", "3"),
    ("first item of a list, ms at 1 client", "serving", lambda r: r["first_item_ms"], "{:.0f}", ""),
    ("the whole list, ms at 1 client", "serving", lambda r: r["whole_list_ms"], "{:.0f}", ""),
    ("constrained over unconstrained tokens/s, as served", "serving", lambda r: r["generation_ratio"], "{:.2f}", "0.9"),
    ("requests lost, an engine killed among them", "serving", lambda r: r["lost"], "{:.0f}", "0"),
    ("illegal lists served", "serving", lambda r: r["illegal"], "{:.0f}", "0"),
    ("catalog of the day with 100,000 new items, s", "catalog", lambda r: r["seconds"], "{:.1f}", "10"),
    ("share of the loop's time that it waits for checkpoints", "saving", lambda r: 100 * r["share"], "{:.1f} %", "3 %"),
    ("wait for a checkpoint, s", "saving", lambda r: r["wait_seconds"], "{:.2f}", ""),
    ("seconds in which it is written meanwhile", "saving", lambda r: r["write_seconds"], "{:.2f}", ""),
    ("push of 11 MB to two engines over one gloo broadcast", "push", lambda r: r["ratio_to_limit"], "{:.1f}x", "1.5x"),
]

ENDURED: list[tuple[str, str, Callable[[Result], object], str]] = [
    ("processes that were killed or stopped, one by one", "chaos", lambda r: r["blows"], "60"),
    ("of these stopped, so that they hung", "chaos", lambda r: r["hangs_injected"], "10"),
    ("runs that ended by it", "chaos", lambda r: r["runs_ended"], "0"),
    ("steps done, of those due", "chaos", lambda r: f"{r['steps_done']} of {r['steps_expected']}", "all"),
    ("evidence lost / doubled", "chaos", lambda r: f"{r['evidence_lost']} / {r['evidence_doubled']}", "0 / 0"),
    ("processes left over", "chaos", lambda r: r["orphans"], "0"),
    ("rows and weights of the undisturbed training, bit for bit", "chaos", lambda r: _yes(r["identical"]), "yes"),
    ("distance of the weights, as a share of their way", "chaos", lambda r: f"{r['weight_difference']:.1e}", ""),
    ("whole programs that were killed", "resume", lambda r: len(r["kills"]), "10"),
    ("of these with the newest checkpoint damaged", "resume", lambda r: sum(_damaged(r)), ""),
    ("rows and weights of the undisturbed training, bit for bit", "resume", lambda r: _yes(r["identical"]), "yes"),
    ("spoiled inputs", "fuzz", lambda r: f"{r['inputs']:,}", "10,000"),
    ("of these with an unclear end", "fuzz", lambda r: r["unclear"], "0"),
]

BEST, DENSE, UNPACKED = "shared prefix, legal tokens", "shared prefix, whole vocabulary", "unpacked, legal tokens"
GPU: list[Entry] = [
    ("push of 2.5 GB by CUDA IPC, s", "push", lambda r: r["seconds"], "{:.3f}", "0.18"),
    ("the same in GB/s", "push", lambda r: r["gb_per_second"], "{:.1f}", ""),
    ("times what one copy on the device takes", "push", lambda r: r["ratio_to_limit"], "{:.0f}x", ""),
    ("learner: lists/s", "learner", _case(BEST, "lists_per_second"), "{:.0f}", ""),
    ("learner: MFU, prompts counted once", "learner", lambda r: 100 * _case(BEST, "mfu")(r), "{:.1f} %", "40 %"),
    ("learner, shared prefix against unpacked", "learner", _learner_ratio(BEST, UNPACKED), "{:.1f}x", ""),
    ("learner, legal-token head against whole", "learner", _learner_ratio(BEST, DENSE), "{:.2f}x", ""),
]
