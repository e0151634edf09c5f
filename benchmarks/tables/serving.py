"""The tables of what a list costs at the door, and of the catalog of the day."""

from __future__ import annotations

from benchmarks.tables.text import Result, Rows

CLIENTS = ("1", "8", "64")
SHARES = ("p50_ms", "p95_ms", "p99_ms")
LIST = "list"
"""The greedy list, as result files are read."""
TITLES = {
    LIST: "greedy list",
    "rank": "best single items (`rank`)",
    "sample": "drawn list",
    "first item": "greedy list's first item alone",
    "best of 16": "likeliest of 16 drawn lists",
    "unconstrained": "greedy list without legality",
    "Transformers' beam": "Transformers' beam over a trie",
}
"""Way -> what a reader sees, in the order of the table; the others are no way of writing a list."""


def ways(result: Result) -> Rows:
    """By way: answers per second and latencies by requests at once, accuracy, memory."""
    speeds = [f"lists/s at {clients}" for clients in CLIENTS]
    latencies = [f"p50 / p95 / p99 at {clients}, ms" for clients in CLIENTS]
    rows = [["a list of 10", *speeds, *latencies, "NDCG@10", "HR@10", "memory, MB"]]
    for way, title in TITLES.items():
        if of := result["by_way"].get(way):
            cells = [_written(of.get("answers_per_second", {}).get(clients), ".1f") for clients in CLIENTS]
            cells += [_latencies(of, clients) for clients in CLIENTS]
            accuracy = [_written(of.get(metric), ".4f") for metric in ("ndcg@10", "hr@10")]
            rows.append([title, *cells, *accuracy, _written(of.get("memory_mb"), ".0f")])
    return rows


def catalog(result: Result) -> Rows:
    """By way of writing items: seconds and memory of the command."""
    heads = ["items are written as", "new items", "seconds", "with one new item", "peak memory, MB"]
    new = f"{result['settings']['new']:,}"
    rows = [
        [kind, new, f"{of['seconds']:.1f}", f"{of['one_item_seconds']:.1f}", f"{of['peak_memory_mb']:.0f}"]
        for kind, of in result["by_kind"].items()
    ]
    return [heads, *rows]


def _latencies(of: Result, clients: str) -> str:
    found = [_written(of.get(share, {}).get(clients), ".0f") for share in SHARES]
    return " / ".join(found) if all(found) else ""


def _written(value: float | None, form: str) -> str:
    """Nothing where it was not measured."""
    return "" if value is None else f"{value:{form}}"
