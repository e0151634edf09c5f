"""How answers of a server are judged, and what its clients do; no server, no engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web

from benchmarks.serving import FIRST, FREE, PEER, SEARCH, against_goals, against_peer, judged
from benchmarks.serving_clients import Load, closed_loop, is_engine, percentiles_ms, until
from benchmarks.serving_export import LISTS, HeldOut, K
from benchmarks.serving_free import without_legality
from benchmarks.serving_peer import Trie, before
from benchmarks.tables import pages
from blade_dist.batches import Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from tests.helpers.exports import small_export

ITEMS = 30


@pytest.fixture
def users() -> HeldOut:
    """Two: of items 0 and 1 the first has item 5 next, of item 2 the second has item 6 next."""
    history = Ragged.of([[0, 1], [2]])
    names = np.array([f"i{item}" for item in range(ITEMS)], dtype=object)
    catalog = Catalog(names, names, Ragged.of([[]] * ITEMS), [], np.ones(ITEMS, dtype=np.int64), None)
    known = {"index": np.arange(2), "user": np.array(["u", "v"], dtype=object), "seen": history}
    return HeldOut(catalog, Prompts(history=history, targets=Ragged.of([[5], [6]]), **known))


def listed(users: HeldOut, items: list[int], logprob: float = -1.0) -> dict[str, Any]:
    return {"items": [{"id": users.catalog.item_ids[item], "logprob": logprob} for item in items]}


def test_illegal_lists_are_counted(users: HeldOut) -> None:
    fine, short, twice = list(range(5, 5 + K)), list(range(5, 4 + K)), [5, *range(5, 4 + K)]
    seen = [2, *range(5, 4 + K)]
    answers = [(0, [listed(users, fine)]), (0, [listed(users, seen)]), (1, [listed(users, fine)])]
    assert users.illegal(answers) == 0
    assert users.illegal([(number, [listed(users, items)]) for number, items in enumerate([short, twice])]) == 2
    assert users.illegal([(3, [listed(users, seen)])]) == 1  # the third request is the second user's again
    alien = listed(users, fine)
    alien["items"][0]["id"] = "of no catalog"
    assert users.illegal([(0, [alien])]) == 1


def test_the_first_item_alone_is_legal_and_has_no_accuracy_of_a_list(users: HeldOut) -> None:
    loads = {1: Load(seconds=0.5, latencies=[0.2, 0.3], answers=[(0, [listed(users, [5])]), (1, [listed(users, [2])])])}
    first = judged(loads, users, 1)
    assert first["illegal"] == 1  # the second user has had item 2
    assert first["answers_per_second"] == {"1": 4}
    assert (first["p50_ms"]["1"], first["p99_ms"]["1"]) == pytest.approx((250, 299))
    assert not {f"ndcg@{K}", LISTS} & first.keys()
    assert {f"ndcg@{K}", LISTS} <= judged(loads, users, K).keys()


def way(speed: float, p50: float = 10.0, p99: float = 20.0) -> dict[str, Any]:
    return {"answers_per_second": {"1": speed / 2, "8": speed}, "p50_ms": {"1": p50, "8": p50}, "p99_ms": {"8": p99}}


def test_ratios_are_those_that_have_goals() -> None:
    found = {"greedy": way(120.0) | {"lost": 1}, FIRST: way(300.0, p50=4.0), SEARCH: way(10.0)}
    found |= {FREE: {"generation_ratio": 0.95}, PEER: way(6.0)}
    reached = against_goals(found)
    assert (reached["ratio_vs_hf_beam"], reached["ratio_vs_best_of_16"], reached["generation_ratio"]) == (20, 12, 0.95)
    assert (reached["first_item_ms"], reached["whole_list_ms"], reached["p99_over_p50"]) == (4, 10, 2)
    assert (reached["lost"], reached["illegal"]) == (1, 0)
    assert "ratio_vs_hf_beam" not in against_goals({name: of for name, of in found.items() if name != PEER})


def test_the_table_appears_when_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    page = "<!-- table serving -->\n<!-- end -->\n<!-- table catalog -->\n<!-- end -->\n"
    assert pages.filled(page) == page
    clients = ("1", "8", "64")
    greedy = {"answers_per_second": dict(zip(clients, (20.0, 80.0, 90.04), strict=True)), "memory_mb": 512.4}
    greedy |= percentiles_ms({name: [0.01, 0.02, 0.03] for name in clients}) | {"ndcg@10": 0.05, "hr@10": 0.1}
    ways = {
        "greedy": greedy,
        FREE: {"generation_ratio": 0.95, "ndcg@10": 0.04, "hr@10": 0.08},
        "an engine is killed": {},
    }
    kinds = {"title": {"seconds": 9.04, "one_item_seconds": 2.0, "peak_memory_mb": 800.0}}
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "serving.json").write_text(json.dumps({"by_way": ways}))
    (tmp_path / "cpu" / "catalog.json").write_text(json.dumps({"by_kind": kinds, "settings": {"new": 100_000}}))
    lines = pages.filled(page).splitlines()
    served = "20.0 | 80.0 | 90.0 | 20 / 29 / 30 | 20 / 29 / 30 | 20 / 29 / 30 | 0.0500 | 0.1000 | 512"
    assert f"| greedy list | {served} |" in lines
    assert "| greedy list without legality |  |  |  |  |  |  | 0.0400 | 0.0800 |  |" in lines
    assert "| title | 100,000 | 9.0 | 2.0 | 800 |" in lines
    assert not any("killed" in line for line in lines)


@pytest.mark.slow
def test_the_served_checkpoint_is_decoded_with_and_without_legality(tmp_path: Path) -> None:
    found = without_legality(small_export(tmp_path, "one"))
    assert min(found["unconstrained_tokens_per_second"], found["constrained_tokens_per_second"]) > 0
    assert 0 < found["missing"] <= 1  # weights at random write what is no item
    assert {f"hr@{K}", f"ndcg@{K}", "generation_ratio"} <= found.keys()


def test_accuracy_is_that_of_the_likeliest_list(users: HeldOut) -> None:
    hit, miss = list(range(5, 5 + K)), list(range(8, 8 + K))
    answers = [(0, [listed(users, miss, -2.0), listed(users, hit, -1.0)]), (1, [listed(users, miss)])]
    assert users.accuracy(answers) == {f"hr@{K}": 0.5, f"ndcg@{K}": 0.5}


def test_the_peer_is_compared_on_the_prompts_that_both_were_asked_for(users: HeldOut) -> None:
    hit, miss = list(range(5, 5 + K)), list(range(8, 8 + K))
    found = {"greedy": {LISTS: {0: hit, 1: miss}}, PEER: {LISTS: {0: miss}}}
    assert against_peer(found, users)["ndcg_above_hf_beam"] == {"mean": 1, "low": 1, "high": 1, "prompts": 1}
    assert against_peer({"greedy": found["greedy"]}, users) == {}


@pytest.mark.parametrize(
    ("title", "engine"),
    [
        ("ray::ServeReplica:engines-1:engine", True),
        ("ray::ServeReplica:engines-12:engine.handle_request_with_rejection", True),
        ("ray::ServeReplica:blade-dist:front", False),
        ("ray::ServeReplica:blade-dist:front.handle_request", False),
        ("ray::ServeController.listen_for_change", False),
        ("python -m blade_dist serve engines-1:engine", False),
    ],
)
def test_engines_are_told_by_the_titles_of_their_processes(title: str, engine: bool) -> None:
    assert is_engine(title) is engine


def test_what_there_is_no_time_for_is_left() -> None:
    assert [*until(0.0, range(5))] == [0]  # long ago
    assert [*until(float("inf"), range(5))] == [0, 1, 2, 3, 4]


def test_the_peers_trie_allows_items_and_then_the_end() -> None:
    nothing = np.zeros(0, np.int32)
    tokens = Ragged.of([[4, 7], [4, 8], [5]])
    codec = Codec("semantic_id", None, tokens, None, end=1, pad=0, prefix=nothing, suffix=nothing)  # type: ignore[arg-type]
    trie = Trie(codec)
    assert torch.equal(trie.allowed([]), torch.tensor([4, 5]))
    assert torch.equal(trie.allowed([4]), torch.tensor([7, 8]))
    assert torch.equal(trie.allowed([5]), torch.tensor([1]))
    assert trie.of[before([4, 8, 1, 0], 1, 0)] == 1


def test_clients_send_again_what_was_one_too_many() -> None:
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(body := await request.json())
        if asked.count(body) == 1 and body["number"] == 0:
            return web.json_response({"error": "busy"}, status=429)
        return web.json_response({"items": []}, status=503 if body["number"] == 1 else 200)

    async def load() -> Any:
        app = web.Application()
        app.router.add_post("/v1/recommend", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        done = await closed_loop(f"http://127.0.0.1:{port}", [{"number": number} for number in range(3)], clients=2)
        await runner.cleanup()
        return done

    done = asyncio.run(load())
    assert sorted(number for number, _ in done.answers) == [0, 2]
    assert done.lost == 1
    assert len(done.latencies) == 3
    assert max(done.latencies) >= 0.05  # the one that was sent again waited in between
