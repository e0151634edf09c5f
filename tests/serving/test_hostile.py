"""Clients that mean harm, or nothing at all: each is told in one line what is wrong, and the next one is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from blade_dist.serving.access import digest
from blade_dist.serving.api import make_app
from blade_dist.serving.current import Current, Served
from blade_dist.serving.door import LONGEST_LINE, Limits, Metrics
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.serving.request import Resolver
from tests.helpers.exports import small_export
from tests.serving.test_door import SECRET, ByHand, Unstarted

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedExport:
    """Made without Ray."""
    return open_export(small_export(tmp_path_factory.mktemp("hostile"), "one"))


class Server:
    def __init__(self, opened: OpenedExport, token: bytes | None = None) -> None:
        self.engines, self.known = ByHand(), opened.catalog.item_ids.tolist()
        self.groups = opened.catalog.group_names
        app = make_app(Current(Served(Resolver(opened), self.engines)), Unstarted(), Limits(), token, Metrics())
        self.client = TestClient(app, raise_server_exceptions=False)

    def refuses(self, status: int, line: str, body: Any = None, **sent: Any) -> None:
        """A body of values, or ``content`` as it stands."""
        headers = JSON | sent.pop("headers", {})
        content = sent.pop("content", None)
        content = json.dumps(body).encode() if content is None else content
        answered = self.client.post("/v1/recommend", content=content, headers=headers)
        self.says(answered, status, line)

    def says(self, answered: Any, status: int, line: str) -> None:
        assert answered.status_code == status, answered.text[:500]
        assert list(answered.json()) == ["error"]
        said = answered.json()["error"]
        assert said.startswith(line), said[:500]
        assert "\n" not in said
        assert len(said) <= LONGEST_LINE
        assert self.engines.asked == []


@pytest.fixture
def server(opened: OpenedExport) -> Iterator[Server]:
    one = Server(opened)
    yield one
    answered = one.client.post("/v1/recommend", json={"history": one.known[:2]})  # it lives
    assert (answered.status_code, len(answered.json()["items"])) == (200, 3)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"history": None}, "history: Input should be a valid list"),
        ({"history": {"a": 1}}, "history: Input should be a valid list"),
        ({"history": [True]}, "history[0]: Input should be a valid string"),
        ({"history": [float("nan")]}, "history[0]: Input should be a finite number"),
        ({"history": [float("inf")]}, "history[0]: Input should be a finite number"),
        ({"history": ["\x00"]}, "history: '\\x00' has a control character"),
        ({"history": ["x" * 900_000]}, "history: none of its 1 ids is an item ('xxx"),
        ({"history": ["x" * 900_000 + "\x1b"]}, "history: 'xxx"),
        ({"history": [f"no {item}" for item in range(50_000)]}, "history: none of its 50000 ids is an item ('no 0', "),
        ({"k": True}, "k: a number is needed, and true and false are none"),
        ({"k": "all"}, "k: Input should be a valid integer"),
        ({"k": -1}, "k: Input should be greater than 0"),
        ({"k": float("nan")}, "k: Input should be a finite number"),
        ({"k": float("inf")}, "k: Input should be a finite number"),
        ({"k": 1e308}, "k: "),
        ({"k": 10**400}, "k: 1000000"),
        ({"k": 39}, "k: 39 items, and 38 of 40 may stand in this list; ask for fewer"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": True}, "seed: a number is needed, and true and false are none"),
        ({"seed": 0.5}, "seed: Input should be a valid integer"),
        ({"seed": float("-inf")}, "seed: Input should be a finite number"),
        ({"decode": ["list"]}, "decode: Input should be 'list'"),
        ({"decode": 1}, "decode: Input should be 'list'"),
        ({"exclude": "group:"}, "exclude: Input should be a valid list"),
        ({"exclude": ["group:"]}, "exclude: there is no group ''"),
        ({"exclude": ["group:\ud800"]}, "exclude: there is no group '\\ud800'"),
        ({"exclude": ["group:" + "x" * 900_000]}, "exclude: there is no group 'xxx"),
        ({"exclude": [{}]}, "exclude[0]: Input should be a valid string"),
        ({"at_most": []}, "at_most: Input should be a valid dictionary"),
        ({"at_most": {"*": True}}, "at_most: a number is needed, and true and false are none"),
        ({"at_most": {"*": -1}}, "at_most.*: Input should be greater than or equal to 0"),
        ({"at_most": {"no such group": 1}}, "at_most: there is no group 'no such group'; did you mean "),
        ({"at_most": {"x" * 900_000: 1}}, "at_most: there is no group 'xxx"),
        ({"at_most": {f"no {group}": 1 for group in range(20_000)}}, "at_most: there is no group 'no 0'"),
        ({"at_most": {"a\x00\n": 1}}, "at_most: 'a\\x00\\n' has a control character"),
        ({"at_most": {"\ud800": 1}}, "at_most: '\\ud800' has a control character"),
        ({"K": 3}, "K: Extra inputs are not permitted"),
        ({"x" * 900_000: 3}, "xxx"),
        ({"__class__": {}}, "__class__: Extra inputs are not permitted"),
    ],
)
def test_a_field_that_can_not_be_answered_is_named(server: Server, fields: dict[str, Any], line: str) -> None:
    server.refuses(422, line, {"history": server.known[:2]} | fields)
    server.refuses(422, f"[1].{line}", [{"history": server.known[:2]}, {"history": server.known[:2]} | fields])


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b'{"history": ["i1"]', 400, "body: not valid JSON"),
        (b'{"history": ["i1"],}', 400, "body: not valid JSON"),
        (b"history=i1", 400, "body: not valid JSON"),
        (b"\x00" * 1000, 400, "body: not valid JSON"),
        (b"\xff\xfe\x00", 400, "body: not valid JSON"),
        (b"[" * 100_000, 400, "body: not valid JSON"),
        (b'{"k": ' + b"9" * 5000 + b"}", 400, "body: not valid JSON"),
        (b'{"history": ["i1"], "k": 1e400}', 422, "k: Input should be a finite number"),
        (b'{"history": [1e400]}', 422, "history[0]: Input should be a finite number"),
        (b"NaN", 422, "body: Input should be a valid dictionary"),
        (b"[" + b",".join([b'{"history": ["i1"]}'] * 1000) + b"]", 422, "body: 1000 requests; give 1 to 64 at once"),
        (b"[" + b",".join([b"{}"] * 1000) + b"]", 422, "[0].history: Field required"),
        (b'{"history": ["' + b"x" * 2**20 + b'"]}', 413, "body: more than 1,048,576 bytes"),
    ],
)
def test_a_body_that_is_no_request(server: Server, content: bytes, status: int, line: str) -> None:
    server.refuses(status, line, content=content)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_does_not_say_that_it_is_json(server: Server, kind: str) -> None:
    server.refuses(422, "body: ", {"history": server.known[:2]}, headers={"Content-Type": kind})


def test_what_is_odd_and_can_be_answered_is(server: Server) -> None:
    odd = {
        "history": [*server.known[:2], *server.known[:2], "gone", "\u2028", "\u202egone"],
        "exclude": [server.known[5], server.known[5], "gone", "gone", *[f"group:{server.groups[0]}"] * 1000],
        "at_most": {server.groups[0]: 10**30, "*": 2**70},
    }
    answered = server.client.post("/v1/recommend", json=odd)
    assert answered.status_code == 200, answered.text
    assert answered.json()["skipped"] == ["gone", "\u2028", "\u202egone"]
    long = server.client.post("/v1/recommend", json={"history": server.known[:30]})
    assert long.json()["cut"] == 22


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "NONE"])
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/catalog"])
def test_other_methods_are_refused(server: Server, method: str, path: str) -> None:
    answered = server.client.request(method, path)
    assert (answered.status_code, answered.headers["Allow"]) == (405, "POST")
    assert answered.text in ("", '{"error":"Method Not Allowed"}')


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", f"Bearer {SECRET}x", f"Token {SECRET}", "B" * 8000])
def test_no_token_opens_nothing_and_no_body_is_read(opened: OpenedExport, given: str | None) -> None:
    server = Server(opened, digest(SECRET.encode()))
    headers = {} if given is None else {"Authorization": given}
    for method, path in (("POST", "/v1/recommend"), ("POST", "/v1/catalog"), ("GET", "/v1/model"), ("GET", "/metrics")):
        answered = server.client.request(method, path, headers=headers, content=b"x" * 2**21)
        server.says(answered, 401, "Authorization: the server's token is needed, as `Bearer TOKEN`")
        assert SECRET not in answered.text


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({}, 422, "served: Field required"),
        ({"served": 1}, 422, "served: Input should be a valid string"),
        ({"served": ["a"]}, 422, "served: Input should be a valid string"),
        ({"served": "a", "token": "b"}, 422, "token: Extra inputs are not permitted"),
        ([], 422, "body: Input should be a valid dictionary"),
    ],
)
def test_a_catalog_that_is_none(server: Server, body: Any, status: int, line: str) -> None:
    server.says(server.client.post("/v1/catalog", json=body), status, line)
