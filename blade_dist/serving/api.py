"""The HTTP interface: what is asked for, answered and refused. Pure: who writes the lists is behind a protocol."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from blade_dist import __version__
from blade_dist.errors import UserError
from blade_dist.serving.current import Busy, Current, NoEngine, Served, Starter
from blade_dist.serving.door import (
    CATALOG,
    DOCS,
    HEALTH,
    METRICS,
    MODEL,
    OPENAPI,
    RECOMMEND,
    Door,
    Limits,
    Metrics,
    refusal,
)
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.request import ListRequest, answer, field_name
from blade_dist.settings.section import Strict

ONE, MANY = "one", "many"
Body = Annotated[
    Annotated[ListRequest, Tag(ONE)] | Annotated[list[ListRequest], Tag(MANY)],
    Discriminator(lambda given: MANY if isinstance(given, list) else ONE),
]


class _Answered(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Item(_Answered):
    id: str
    """As the catalog has it."""
    title: str
    """For people."""
    logprob: float
    """Nats, given the prompt and the items before it; with ``rank`` given the prompt alone."""


class Answer(_Answered):
    items: list[Item]
    """The best first; fewer than K where rules leave no further one."""
    skipped: list[str]
    """Ids of the history that are no items."""
    cut: int
    """Items of the history that are too old to be shown to the model."""


class Health(_Answered):
    engines: int
    """Engines that answer; with none the status is 503."""


class Refused(_Answered):
    error: str
    """One line, which names the field."""


class Renewal(Strict):
    """The export that is served from now on."""

    served: str
    """Its folder, as the server's machine names it: what `blade-dist catalog` made from the one that is served."""


def make_app(current: Current, starter: Starter, limits: Limits, token: bytes | None, metrics: Metrics) -> Door:
    """The application; ``token``: digest of the one that requests must bring."""
    app = FastAPI(
        title="blade-dist", version=__version__, docs_url=DOCS, redoc_url=None, openapi_url=OPENAPI, lifespan=None
    )
    _refuse_in_one_line(app)
    guard = [Security(HTTPBearer(auto_error=False))] if token else []
    _recommend(app, current, limits, metrics, guard)
    _renew(app, current, starter, limits, guard)

    @app.get(HEALTH, responses={503: {"model": Health}})
    async def health() -> Health:
        """Whether it can write lists."""
        running = await current.served.engines.running()
        return JSONResponse({"engines": running}, 200 if running else 503)  # type: ignore[return-value]

    @app.get(MODEL)
    async def model() -> dict[str, Any]:
        """What is served, and its limits."""
        return described(current.served.resolver.opened, limits)

    @app.get(METRICS, include_in_schema=False)
    async def shown() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Door(app, limits, token, metrics)


def described(opened: OpenedExport, limits: Limits) -> dict[str, Any]:
    """What a client may know of the export."""
    manifest = opened.manifest
    names = (
        *("policy", "step", "weights", "codec", "catalog", "trained", "day"),
        *("decode", "beams", "max_history", "repeats"),
    )
    said = manifest.model_dump(mode="json", include={*names, "lists", "blade_dist"})
    own = {"body_bytes": limits.body_bytes, "lists": limits.lists, "deadline_s": limits.deadline_s}
    return said | {"items": opened.catalog.on_sale, "limits": own}


def _recommend(app: FastAPI, current: Current, limits: Limits, metrics: Metrics, guard: list[Any]) -> None:
    took = 0.0

    @app.post(
        RECOMMEND,
        responses={status: {"model": Refused} for status in (400, 401, 413, 422, 429, 503, 504)},
        dependencies=guard,
    )
    async def recommend(body: Body) -> Answer | list[Answer]:
        """A list for one request, or for each of an array of them, in order."""
        with current.taken() as served:
            return await answered(body, served)

    async def answered(body: Body, served: Served) -> Answer | list[Answer]:
        nonlocal took
        resolver = served.resolver
        asked = body if isinstance(body, list) else [body]
        if not 0 < len(asked) <= limits.lists:
            raise UserError(f"body: {len(asked)} requests; give 1 to {limits.lists} at once")
        resolved = resolver.resolve(asked, [f"[{n}]." for n in range(len(asked))] if body is asked else [""])
        began = time.perf_counter()
        metrics.waiting.inc(len(asked))
        try:
            lists = await served.engines.write(resolved)
        except Busy:
            again = max(1, math.ceil(took))
            line = f"too many requests wait for an engine; try again in {again} s"
            return refusal(429, line, {"Retry-After": str(again)})  # type: ignore[return-value]
        except NoEngine:
            line = "the engines that had this request were lost; try again later"
            return refusal(503, line, {"Retry-After": "10"})  # type: ignore[return-value]
        finally:
            metrics.waiting.dec(len(asked))
        took = time.perf_counter() - began
        for one in resolved:
            metrics.lists.labels(one.decode).inc()
        answers = [
            answer(resolver.opened, one, items.tolist(), logprobs.tolist())
            for one, (items, logprobs) in zip(resolved, lists, strict=True)
        ]
        # checked already, and made of plain values: to go through the models again would take longer than to resolve it
        return JSONResponse(answers if body is asked else answers[0])  # type: ignore[return-value]


def _renew(app: FastAPI, current: Current, starter: Starter, limits: Limits, guard: list[Any]) -> None:
    turn = asyncio.Lock()

    async def renewed(folder: Path) -> dict[str, Any]:
        try:
            served = await starter.start(folder, current.served.resolver.opened)
            await starter.stop(await current.replace(served))
            return described(served.resolver.opened, limits)
        finally:
            turn.release()

    @app.post(
        CATALOG,
        responses={status: {"model": Refused} for status in (400, 401, 409, 413, 422, 503)},
        dependencies=guard,
    )
    async def renew(body: Renewal) -> dict[str, Any]:
        """Serve another export of the same policy: the catalog of the day. Answers when it is served, in a minute or
        less; nothing waits meanwhile, and the requests under way end on the export before."""
        if turn.locked():
            line = "another export is being taken up; try again when that is done"
            return refusal(409, line, {"Retry-After": "10"})  # type: ignore[return-value]
        await turn.acquire()  # here, so that of two that come at once the second finds it locked
        try:
            # whoever asked may go away: what has begun ends
            return await asyncio.shield(renewed(Path(body.served)))
        except UserError as error:
            raise UserError(f"served: {str(error).removeprefix('served: ')}") from error
        except NoEngine as error:
            return refusal(503, str(error))  # type: ignore[return-value]


def _refuse_in_one_line(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refusal(400, f"body: not valid JSON: {first['ctx']['error']}")
        place = first["loc"][2:] if first["loc"][1:2] in ((ONE,), (MANY,)) else first["loc"][1:]
        return refusal(422, f"{field_name(place) or 'body'}: {first['msg']}")

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> Response:
        return refusal(422, str(error))

    @app.exception_handler(400)
    async def unreadable(_: Request, __: HTTPException) -> Response:
        # no JSON in ways that the parser has no words for: bytes of no encoding, too deep, a number that is too long
        return refusal(400, "body: not valid JSON")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def other(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return refusal(500, "the server failed; its log says why")
