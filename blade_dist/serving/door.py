"""What every HTTP request passes first: token, size, deadline; and what is counted of it. Pure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from blade_dist.serving.access import is_allowed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

RECOMMEND, CATALOG, HEALTH, MODEL = "/v1/recommend", "/v1/catalog", "/v1/health", "/v1/model"
METRICS = "/metrics"
DOCS, OPENAPI = "/docs", "/openapi.json"
OPEN = {HEALTH, DOCS, OPENAPI}
"""Paths without a token: balancers ask for the first, and the others say what anybody can read in the program."""
COUNTED = {RECOMMEND, CATALOG, HEALTH, MODEL, METRICS}
LONGEST_LINE = 1000
"""Characters of a refusal: what it quotes may be as long as a body."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Edges of the histogram of latencies."""


@dataclass(frozen=True)
class Limits:
    """Of one HTTP request."""

    body_bytes: int = 2**20
    lists: int = 64
    """That one body may ask for."""
    deadline_s: float = 30.0


class Metrics:
    """What Prometheus reads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "blade_requests", "HTTP requests that were answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "blade_request_seconds", "Seconds to the answer.", ["path"], buckets=SECONDS, registry=registry
        )
        self.under_way = Gauge("blade_requests_under_way", "Requests without an answer yet.", registry=registry)
        self.waiting = Gauge("blade_lists_waiting", "Lists that engines write, or that wait for it.", registry=registry)
        self.lists = Counter("blade_lists", "Lists that were answered.", ["decode"], registry=registry)
        self.retries = Counter("blade_retries", "Requests whose engine was lost, given to another.", registry=registry)


def refusal(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One line; what could not be written as UTF-8, or would break it, is escaped, and what is too long is cut."""
    plain = " ".join(line.split()).encode("utf-8", "backslashreplace").decode()
    if len(plain) > LONGEST_LINE:
        plain = plain[: LONGEST_LINE - 3] + "..."
    return JSONResponse({"error": plain}, status, headers)


class Door:
    """An ASGI application around another one."""

    def __init__(self, app: App, limits: Limits, token: bytes | None, metrics: Metrics) -> None:
        """``token``: its digest, None where everybody may ask."""
        self._app, self._limits, self._token, self._metrics = app, limits, token, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        path = scope["path"] if scope["path"] in COUNTED else "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not deadline.expired():
                    deadline.reschedule(None)  # what has begun is sent whole
                self._metrics.requests.labels(path, status).inc()
            await send(message)

        with self._metrics.under_way.track_inprogress():
            try:
                # engines start behind one path, which takes as long as it does
                limit = None if path == CATALOG else self._limits.deadline_s
                async with asyncio.timeout(limit) as deadline:
                    await self._answer(scope, receive, counted)
            except TimeoutError:
                if not deadline.expired() or status:
                    raise
                late = f"no answer within {self._limits.deadline_s:g} s; ask for less at once, or again later"
                await refusal(504, late)(scope, receive, counted)
        self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._token and scope["path"] not in OPEN and not is_allowed(scope["headers"], self._token):
            wrong = "Authorization: the server's token is needed, as `Bearer TOKEN`"
            await refusal(401, wrong, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        body = await self._body(scope, receive)
        if body is None:
            large = f"body: more than {self._limits.body_bytes:,} bytes; ask for fewer lists at once"
            await refusal(413, large, {"Connection": "close"})(scope, receive, send)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, again, send)

    async def _body(self, scope: Message, receive: Receive) -> bytes | None:
        """All of it; None where it is too large, of which no more is read than may be."""
        most = self._limits.body_bytes
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said[:20]) > most:
            return None
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                return None
        return body
