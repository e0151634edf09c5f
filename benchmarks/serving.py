"""What a list costs at the door: the real server over loopback, beside what papers serve with.

The same checkpoint answers one list a request in several ways. The peer is a beam search of Transformers over the trie
of items, in a process of its own and without HTTP in between.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.report import show, write_result
from benchmarks.serving_clients import Body, Load, closed_loop, percentiles_ms, server
from benchmarks.serving_export import LISTS, NDCG, HeldOut, K, held_out, make_export
from benchmarks.serving_free import without_legality
from benchmarks.serving_peer import beam_by_transformers
from blade_dist.evaluation.bootstrap import Resamples

CLIENTS = (1, 8, 64)
"""Requests under way at once."""
SAMPLES = 16
"""Lists of a search: best-of-16, by their own log-probs."""
FIRST, SEARCH, FREE = "first item", "best of 16", "unconstrained"
PEER, KILLED = "Transformers' beam", "an engine is killed"
BOOTSTRAP = 2000
"""Resamples of the users."""
WARM = 64
"""Requests before a way is measured: what is done once is done then."""
KILL_S = 2.0
"""Seconds of requests until the engine is killed."""
GREEDY = {"decode": "greedy"}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "rank": {"decode": "rank"},
    "sample": {"decode": "sample"},
    FIRST: GREEDY | {"k": 1},
}
"""Of a request: one list item by item; the best single items, a beam over items of several tokens; a drawn list; the
greedy list's first item alone, which is when a list could begin to be shown: answers are whole lists."""
GOALS = {"ratio_vs_hf_beam": 10, "ratio_vs_best_of_16": 12, "generation_ratio": 0.9, "p99_over_p50": 3}
GOALS |= {"lost": 0, "illegal": 0}


def main(
    items: Annotated[int, typer.Option(min=100, help="Items of the generated catalog.")] = 10_000,
    levels: Annotated[int, typer.Option(min=1, help="Tokens of an item.")] = 1,
    epochs: Annotated[float, typer.Option(min=0, help="Of the fine-tuning; 0: random weights.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Of each way and number of clients, at most.")] = 1000,
    seconds: Annotated[float, typer.Option(min=1, help="That each of these takes, at most.")] = 20,
    killed: Annotated[int, typer.Option(min=0, help="Requests while one of two engines is killed.")] = 10_000,
    peer: Annotated[bool, typer.Option(help="Whether the peer is measured.")] = True,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Makes an export, serves it, asks, and prints lists per second, latencies and accuracy of each way.

    All of it takes some ten minutes on two cores.

    Examples:

      python -m benchmarks.serving --json serving.json

      python -m benchmarks.serving --items 500 --epochs 0 --requests 50 --seconds 5 --killed 500

      python -m benchmarks.serving --items 1000000 --levels 2 --epochs 0 --json serving-1m.json
    """
    with tempfile.TemporaryDirectory() as name:
        export = make_export(Path(name), items, levels, epochs)
        users = held_out(Path(name))
        found = asyncio.run(_ways(export, users, requests, seconds))
        if killed:
            found[KILLED] = asyncio.run(_killed(export, users, killed))
        found[FREE] = without_legality(export)
        if peer:
            found[PEER] = beam_by_transformers(export, requests, seconds)
    results = against_goals(found) | against_peer(found, users)
    for title, numbers in found.items():
        numbers.pop(LISTS, None)  # many, and no summary
        show(title, numbers)
    show("serving", {name: results[name] for name in GOALS if name in results}, GOALS)
    settings = {"items": items, "levels": levels, "epochs": epochs, "requests": requests}
    settings |= {"seconds": seconds, "killed": killed}
    write_result(json, "serving", settings, results | {"by_way": found})


async def _ways(export: Path, users: HeldOut, requests: int, seconds: float) -> dict[str, Any]:
    """By way: accuracy, and by number of clients speed and latencies."""
    found: dict[str, Any] = {}
    async with server(export, engines=1) as running:
        for name, how in WAYS.items():
            bodies = users.bodies(requests, how)
            await closed_loop(running.url, bodies[:WARM], max(CLIENTS))
            loads = {clients: await _load(name, running.url, bodies, clients, seconds) for clients in CLIENTS}
            found[name] = judged(loads, users, how.get("k", K)) | {"memory_mb": running.memory_mb()}
        searches = users.searches(max(CLIENTS[1], requests // SAMPLES), SAMPLES)
        loads = {clients: await _load(SEARCH, running.url, searches, clients, seconds) for clients in CLIENTS[:2]}
        found[SEARCH] = judged(loads, users, K) | {"memory_mb": running.memory_mb()}
    return found


async def _load(name: str, url: str, bodies: Sequence[Body], clients: int, seconds: float) -> Load:
    load = await closed_loop(url, bodies, clients, seconds)
    print(f"{name}, {clients} client(s): {load.per_second:.1f} answers/s", flush=True)
    return load


def judged(loads: dict[int, Load], users: HeldOut, k: int) -> dict[str, Any]:
    """``k``: items that each list was to have; accuracy is that of whole lists."""
    last = loads[max(loads)].answers
    return {
        "answers_per_second": {str(clients): load.per_second for clients, load in loads.items()},
        **percentiles_ms({str(clients): load.latencies for clients, load in loads.items()}),
        "lost": sum(load.lost for load in loads.values()),
        "illegal": sum(users.illegal(load.answers, k) for load in loads.values()),
        **(users.accuracy(last) | {LISTS: users.items_of(last)} if k == K else {}),
    }


async def _killed(export: Path, users: HeldOut, requests: int) -> dict[str, Any]:
    """What becomes of requests when one of two engines is killed among them."""
    async with server(export, engines=2) as running:
        kill = asyncio.create_task(running.kill_engine(after_s=KILL_S))
        load = await closed_loop(running.url, users.bodies(requests, GREEDY), CLIENTS[1])
        if not kill.done():
            raise RuntimeError("all requests were answered before the engine was killed; ask for more with --killed")
    return {
        "requests": requests,
        "lost": load.lost,
        "illegal": users.illegal(load.answers),
        "answers_per_second": load.per_second,
        "slowest_ms": max(load.latencies) * 1e3,
    }


def against_peer(found: dict[str, Any], users: HeldOut) -> dict[str, Any]:
    """How much more accurate the greedy list is than the peer's, of the prompts that both were asked for."""
    if PEER not in found:
        return {}
    both = found["greedy"][LISTS].keys() & found[PEER][LISTS].keys()
    lists = [{row: found[name][LISTS][row] for row in sorted(both)} for name in ("greedy", PEER)]
    gains = users.ndcg_of(lists[0]) - users.ndcg_of(lists[1])
    interval = Resamples(users.prompts.user[sorted(both)], BOOTSTRAP, seed=0).each_mean({NDCG: gains})[NDCG]
    return {"ndcg_above_hf_beam": interval.as_dict() | {"prompts": len(both)}}


def against_goals(found: dict[str, Any]) -> dict[str, Any]:
    """What the goals are about."""
    greedy = found["greedy"]
    speed = max(greedy["answers_per_second"].values())
    ratios = {
        "lists_per_second": speed,
        "p99_ms": greedy["p99_ms"]["8"],
        "first_item_ms": found[FIRST]["p50_ms"]["1"],
        "whole_list_ms": greedy["p50_ms"]["1"],
        "p99_over_p50": greedy["p99_ms"]["8"] / greedy["p50_ms"]["8"],
        "ratio_vs_best_of_16": speed / max(found[SEARCH]["answers_per_second"].values()),
        "generation_ratio": found[FREE]["generation_ratio"],
        **{what: sum(numbers.get(what, 0) for numbers in found.values()) for what in ("lost", "illegal")},
    }
    if PEER in found:
        ratios["ratio_vs_hf_beam"] = speed / max(found[PEER]["answers_per_second"].values())
    return ratios


if __name__ == "__main__":
    typer.run(main)
