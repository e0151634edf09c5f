"""The real server: what it answers is what ``recommend`` writes, also while one of its engines dies."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import ray
from ray import serve

from blade_dist.serving.access import digest
from blade_dist.serving.door import Limits
from blade_dist.serving.engines import APP, ENGINE, Replicas
from blade_dist.serving.front import FRONT
from blade_dist.serving.opened import EngineOptions, OpenedExport
from blade_dist.stages.serve import Address, running_server
from tests.helpers.exports import renew, rows_of

TOKEN = "a-secret-of-sixteen"


@pytest.fixture(scope="module")
def url(made: Path, ray_session: None) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replicas = Replicas(EngineOptions(), least=2, most=2, max_ongoing=8)
    limits = Limits(deadline_s=300.0)
    with running_server(made, Address("127.0.0.1", port), replicas, limits, digest(TOKEN.encode())):
        yield f"http://127.0.0.1:{port}"
    serve.shutdown()  # the session's Ray stays


def asked(url: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
    """Status and answer of a POST, or without a body of a GET."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        with urlopen(Request(url, data, headers), timeout=400) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer["items"]]


def engines() -> set[str]:
    """Names of the engines' actors."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in actors if f"::{APP}" in actor["name"] and f"#{ENGINE}#" in actor["name"]}


def test_its_lists_are_those_of_recommend(
    url: str, wanted: list[dict[str, Any]], histories: list[list[str]], opened: OpenedExport
) -> None:
    status, answers = asked(f"{url}/v1/recommend", [{"history": history} for history in histories])
    assert status == 200
    assert [ids(answer) for answer in answers] == [row["items"] for row in wanted]
    for answer, row in zip(answers, wanted, strict=True):
        assert [item["title"] for item in answer["items"]] == row["titles"]
        assert [item["logprob"] for item in answer["items"]] == pytest.approx(row["logprobs"], abs=1e-4)
        assert (answer["skipped"], answer["cut"]) == (row["skipped"], row["cut"])
    sampled = {"history": histories[3], "decode": "sample", "seed": 5}
    again = [asked(f"{url}/v1/recommend", sampled) for _ in range(2)]
    assert again[0] == again[1]


def test_it_survives_what_is_wrong(url: str, histories: list[list[str]]) -> None:
    assert asked(f"{url}/v1/recommend", {"history": histories[0]}, token="another-one")[0] == 401
    assert asked(f"{url}/v1/recommend", {"history": []})[0] == 422
    assert asked(f"{url}/v1/recommend", ["x" * 2**20])[0] == 413
    status, refused = asked(f"{url}/v1/recommend", {"history": histories[0], "k": 41})
    assert (status, refused["error"].split(";")[0]) == (422, "k: 41 items, and there are 40")
    assert asked(f"{url}/v1/health", token="another-one") == (200, {"engines": 2})


def test_no_accepted_request_is_lost_with_an_engine(
    url: str, wanted: list[dict[str, Any]], histories: list[list[str]]
) -> None:
    before = engines()
    with ThreadPoolExecutor(12) as clients:
        answers = [clients.submit(asked, f"{url}/v1/recommend", {"history": history}) for history in histories]
        answers[4].result()
        ray.kill(ray.get_actor(min(before), namespace="serve"))
        ends = [answer.result() for answer in answers]
    assert [status for status, _ in ends] == [200] * len(histories)
    assert [ids(answer) for _, answer in ends] == [row["items"] for row in wanted]
    until = time.monotonic() + 120
    while not engines() - before:  # the one that takes its place
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_new_catalog_is_served_without_a_pause(
    url: str, made: Path, opened: OpenedExport, histories: list[list[str]], tmp_path: Path
) -> None:
    items = rows_of(opened.catalog, range(len(opened.catalog)))
    renew(made, [*items[1:], items[0] | {"item": "new", "title": "Today's"}], tmp_path / "today")
    body = {"history": [histories[3][-1], "new"], "exclude": histories[3][:1]}
    with ThreadPoolExecutor(2) as clients:
        renewing = clients.submit(asked, f"{url}/v1/catalog", {"served": str(tmp_path / "today")})
        skipped = []
        while not renewing.done():
            status, answer = asked(f"{url}/v1/recommend", body)
            assert status == 200, answer
            skipped.append(bool(answer["skipped"]))
    status, said = renewing.result()
    assert (status, said["day"]["new"], said["day"]["withdrawn"]) == (200, 1, 1)
    assert skipped == sorted(skipped, reverse=True)  # the catalog before, and then the one of the day
    status, answer = asked(f"{url}/v1/recommend", body)
    assert (status, answer["skipped"]) == (200, [])
    assert items[0]["item"] not in ids(answer)
    assert asked(f"{url}/v1/health") == (200, {"engines": 2})
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    (front,) = (name for name in names if f"#{FRONT}#" in name)
    ray.kill(ray.get_actor(front, namespace="serve"))
    until = time.monotonic() + 120
    while True:  # a front that takes its place serves what was served last
        try:
            status, said = asked(f"{url}/v1/model")
            break
        except (OSError, ValueError):
            assert time.monotonic() < until
            time.sleep(0.5)
    assert (status, said["day"]["new"]) == (200, 1)
