"""How answers of a server are judged, and what its clients do; no server, no engine."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web

from benchmarks.serving import PEER, against_peer
from benchmarks.serving_clients import closed_loop, is_engine, until
from benchmarks.serving_export import LISTS, HeldOut, K
from benchmarks.serving_peer import Trie, before
from blade_dist.batches import Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec

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
    assert done.percentile_ms(100) >= 50.0  # the one that was sent again waited in between
