"""The HTTP interface without Ray and without an engine: who gets in, what is refused, and in which one line."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.errors import UserError
from blade_dist.serving.access import TOKEN, check_free, digest, expected_digest, is_allowed, is_loopback
from blade_dist.serving.api import make_app
from blade_dist.serving.current import Busy, Current, NoEngine, Served
from blade_dist.serving.door import Limits, Metrics
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.recommend import List
from blade_dist.serving.request import Resolved, Resolver

SECRET = "a-secret-of-sixteen"
SMALL = Limits(body_bytes=2000, lists=3, deadline_s=300.0)


class ByHand:
    """Answers every request with the items after the history's last one."""

    def __init__(self, fails: Exception | None = None, takes_s: float = 0.0, count: int = 1) -> None:
        self.asked: list[Resolved] = []
        self.cancelled = False
        self._fails, self._takes_s, self._count = fails, takes_s, count

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        self.asked += requests
        try:
            await asyncio.sleep(self._takes_s)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self._fails:
            raise self._fails
        return [
            (
                np.arange(one.history[-1] + 1, one.history[-1] + 1 + one.lists.k, dtype=np.int32) % 40,
                np.zeros(one.lists.k),
            )
            for one in requests
        ]

    async def running(self) -> int:
        return self._count


class Unstarted:
    """Starts no engines: what is tested with it is not about other exports."""

    async def start(self, folder: Path, before: OpenedExport) -> Served:
        raise NoEngine("no room")

    async def stop(self, served: Served) -> None:
        raise AssertionError


Make = Callable[..., TestClient]


@pytest.fixture(scope="module")
def client(opened: OpenedExport) -> Make:
    def make(engines: ByHand | None = None, limits: Limits = SMALL, token: bytes | None = None) -> TestClient:
        current = Current(Served(Resolver(opened), engines or ByHand()))
        app = make_app(current, Unstarted(), limits, token, Metrics())
        return TestClient(app, raise_server_exceptions=False)

    return make


def named(opened: OpenedExport, *items: int) -> list[str]:
    return opened.catalog.item_ids[list(items)].tolist()


def test_one_request_has_one_answer_and_many_have_many(client: Make, opened: OpenedExport) -> None:
    engines = ByHand()
    asking = client(engines)
    one = {"history": [*named(opened, 3), "gone"]}
    answered = asking.post("/v1/recommend", json=one).json()
    assert [item["id"] for item in answered["items"]] == named(opened, 4, 5, 6)
    assert answered["items"][0] == {"id": named(opened, 4)[0], "title": opened.catalog.titles[4], "logprob": 0.0}
    assert (answered["skipped"], answered["cut"]) == (["gone"], 0)
    long = {"history": named(opened, *range(12)), "k": 2, "decode": "sample", "seed": 7}
    many = asking.post("/v1/recommend", json=[one, long]).json()
    assert many[0] == answered
    assert ([item["id"] for item in many[1]["items"]], many[1]["cut"]) == (named(opened, 12, 13), 4)
    assert [(asked.decode, asked.seed) for asked in engines.asked] == [("list", 0), ("list", 0), ("sampled", 7)]
    assert asking.post("/v1/recommend", json=one | {"decode": "greedy"}).json() == answered


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"{", 400, "body: not valid JSON: "),
        (b"\xff", 400, ""),
        (b"[" * 1900, 400, ""),
        (b'{"history": ["i1"], "seed": ' + b"9" * 1900 + b"}", 422, "seed: Input should be less than"),
        (b"", 422, "body: Field required"),
        (b"null", 422, "body: "),
        (b'"a"', 422, "body: "),
        (b"{}", 422, "history: Field required"),
        (b'{"one": 1, "history": ["i1"]}', 422, "one: Extra inputs are not permitted"),
        (b'{"\\ud800\\n": 1, "history": ["i1"]}', 422, "body: Input should be a valid string"),
        (b'{"history": []}', 422, "history: is empty; give at least one item of the catalog"),
        (b'{"history": "i1"}', 422, "history: Input should be a valid list"),
        (b'{"history": ["i1", null]}', 422, "history[1]: Input should be a valid string"),
        (b'{"history": ["a\\u001b"]}', 422, "history: 'a\\x1b' has a control character"),
        (b'{"history": ["\\ud800"]}', 422, "history: '\\ud800' has a control character"),
        (b'{"history": ["gone"]}', 422, "history: none of its 1 ids is an item ('gone')"),
        (b'{"history": ["i1"], "k": 0}', 422, "k: Input should be greater than 0"),
        (b'{"history": ["i1"], "k": 1.5}', 422, "k: Input should be a valid integer"),
        (b'{"history": ["i1"], "k": 40}', 422, "k: 40 items, and 39 of 40 may stand in this list; ask for fewer"),
        (b'{"history": ["i1"], "exclude": ["a\\u0000"]}', 422, "exclude: 'a\\x00' has a control character"),
        (b'{"history": ["i1"], "k": 9999999999999999999999}', 422, "k: 9999999999999999999999 items, and there are 40"),
        (b'{"history": ["i1"], "seed": 9223372036854775808}', 422, "seed: Input should be less than"),
        (b'{"history": ["i1"], "decode": "guess"}', 422, "decode: Input should be"),
        (b'{"history": ["i1"], "at_most": {"a": 1}}', 422, "at_most: there is no group 'a'; did you mean"),
        (b'{"history": ["i1"], "exclude": ["group:a"]}', 422, "exclude: there is no group 'a'; did you mean"),
        (b"[]", 422, "body: 0 requests; give 1 to 3 at once"),
        (b'[{"history": ["i1"]}, {"history": ["gone"]}]', 422, "[1].history: none of its 1 ids is an item"),
        (b'[{"history": ["i1"]}, {"history": [[]]}]', 422, "[1].history[0]: Input should be a valid string"),
        (b"[" + b", ".join([b'{"history": ["i1"]}'] * 4) + b"]", 422, "body: 4 requests; give 1 to 3 at once"),
        (b" " * 2001, 413, "body: more than 2,000 bytes; ask for fewer lists at once"),
    ],
)
def test_a_bad_body_is_refused_in_one_line_before_an_engine_has_it(
    client: Make, body: bytes, status: int, line: str
) -> None:
    engines = ByHand()
    answered = client(engines).post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == status, answered.text
    said = answered.json()["error"]
    assert list(answered.json()) == ["error"]
    assert line in said
    assert "\n" not in said
    assert engines.asked == []


def test_a_body_of_unknown_length_is_cut_off(client: Make) -> None:
    def pieces() -> Any:
        yield b'{"history": ["'
        for _ in range(50):
            yield b"a" * 100

    assert client().post("/v1/recommend", content=pieces()).status_code == 413


def test_what_is_not_there_is_said_as_one_line_too(client: Make) -> None:
    assert client().get("/v1/other").json() == {"error": "Not Found"}
    wrong = client().get("/v1/recommend")
    assert (wrong.status_code, wrong.json()) == (405, {"error": "Method Not Allowed"})


def test_engines_that_are_busy_lost_late_or_broken(client: Make, opened: OpenedExport) -> None:
    body = {"history": named(opened, 1)}

    def asked(engines: ByHand, limits: Limits = SMALL) -> Any:
        return client(engines, limits).post("/v1/recommend", json=body)

    busy = asked(ByHand(Busy()))
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
    assert "too many requests wait for an engine" in busy.json()["error"]
    lost = asked(ByHand(NoEngine()))
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "10")
    late = asked(slow := ByHand(takes_s=60), Limits(deadline_s=0.1))
    assert (late.status_code, late.json()["error"][:24]) == (504, "no answer within 0.1 s; ")
    assert slow.cancelled
    for error in (ValueError("a path"), TimeoutError("of its own")):
        broken = asked(ByHand(error))
        assert (broken.status_code, broken.json()) == (500, {"error": "the server failed; its log says why"})


def test_the_token_opens_all_but_what_everybody_may_see(client: Make, opened: OpenedExport) -> None:
    engines = ByHand()
    asking = client(engines, token=digest(SECRET.encode()))
    body = {"history": named(opened, 1)}
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": SECRET}, {"Authorization": f"Basic {SECRET}"}):
        refused = asking.post("/v1/recommend", json=body, headers=wrong)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert refused.json()["error"].startswith("Authorization: the server's token is needed")
    assert engines.asked == []
    assert [asking.get(path).status_code for path in ("/v1/model", "/metrics", "/v1/x")] == [401] * 3
    assert [asking.get(path).status_code for path in ("/v1/health", "/docs", "/openapi.json")] == [200] * 3
    right = {"Authorization": f"bearer {SECRET}"}
    assert asking.post("/v1/recommend", json=body, headers=right).status_code == 200
    assert asking.get("/v1/model", headers=right).json()["items"] == 40


def test_health_model_and_metrics(client: Make, opened: OpenedExport) -> None:
    assert client().get("/v1/health").json() == {"engines": 1}
    down = client(ByHand(count=0)).get("/v1/health")
    assert (down.status_code, down.json()) == (503, {"engines": 0})
    asking = client()
    said = asking.get("/v1/model").json()
    assert (said["weights"], said["lists"]["k"]) == (opened.manifest.weights, 3)
    assert said["limits"] == {"body_bytes": 2000, "lists": 3, "deadline_s": 300.0}
    asking.post("/v1/recommend", json=[{"history": named(opened, 1)}] * 2)
    asking.post("/v1/recommend", json={})
    lines = asking.get("/metrics").text.splitlines()
    assert 'blade_requests_total{path="/v1/recommend",status="200"} 1.0' in lines
    assert 'blade_requests_total{path="/v1/recommend",status="422"} 1.0' in lines
    assert 'blade_request_seconds_count{path="/v1/recommend"} 2.0' in lines
    assert 'blade_lists_total{decode="list"} 2.0' in lines
    assert "blade_lists_waiting 0.0" in lines
    assert "blade_requests_under_way 1.0" in lines  # this one


def test_the_schema_says_what_a_request_and_an_answer_are(client: Make) -> None:
    schema = client(token=digest(SECRET.encode())).get("/openapi.json").json()
    asked, answered = (schema["components"]["schemas"][name] for name in ("ListRequest", "Answer"))
    assert set(asked["properties"]) == {"history", "k", "exclude", "at_most", "decode", "seed"}
    assert asked["properties"]["history"]["description"] == "Item ids, oldest first."
    assert set(answered["properties"]) == {"items", "skipped", "cut"}
    assert schema["paths"]["/v1/recommend"]["post"]["security"] == [{"HTTPBearer": []}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["history", "k", "x"]), inner),
        max_leaves=8,
    )
)
def test_no_body_breaks_it(client: Make, body: Any) -> None:
    sent = json.dumps(body)  # with Python's Infinity, which is no JSON
    answered = client().post("/v1/recommend", content=sent, headers={"Content-Type": "application/json"})
    assert answered.status_code in (200, 400, 413, 422), answered.text


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_others_need_a_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert expected_digest(host, {TOKEN: SECRET}) == digest(SECRET.encode())
    if loopback:
        assert expected_digest(host, {}) is None
    else:
        with pytest.raises(UserError, match=f"--host {host}: others can reach it, and {TOKEN} is not set"):
            expected_digest(host, {})


@pytest.mark.parametrize("token", ["", "short", "with a space in it", "t\N{LATIN SMALL LETTER O WITH DIAERESIS}" * 9])
def test_a_token_that_is_none_is_not_printed(token: str) -> None:
    with pytest.raises(UserError, match=f"^{TOKEN}: must be 16 or more printable ASCII characters") as error:
        expected_digest("127.0.0.1", {TOKEN: token})
    assert not token or token not in str(error.value)


@given(st.binary(max_size=40))
def test_no_other_token_is_allowed(given: bytes) -> None:
    expected = digest(SECRET.encode())
    assert is_allowed([(b"Authorization", b"Bearer " + SECRET.encode())], expected)
    assert is_allowed([(b"authorization", b"Bearer " + given)], expected) is (given.strip() == SECRET.encode())
    assert not is_allowed([(b"authorization", given)], expected)


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--host 127.0.0.1, --port {port}: cannot listen there: Address already"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: no such address"):
        check_free("no.such.host.invalid", port)
