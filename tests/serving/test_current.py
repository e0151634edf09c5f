"""Another export takes the place of the one that is served; no Ray and no engine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from blade_dist.errors import UserError
from blade_dist.serving.access import digest
from blade_dist.serving.api import make_app
from blade_dist.serving.current import Current, NoEngine, Served, check_same_policy
from blade_dist.serving.door import Door, Limits, Metrics
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.serving.recommend import List
from blade_dist.serving.request import Resolved, Resolver
from blade_dist.store.exported import MANIFEST
from tests.helpers.exports import ITEMS, renew, rows_of, small_export

SECRET = "a-secret-of-sixteen"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> OpenedExport:
    return open_export(small_export(tmp_path_factory.mktemp("before"), "one"))


@pytest.fixture(scope="module")
def today(before: OpenedExport) -> OpenedExport:
    """With an item more."""
    rows = rows_of(before.catalog, range(ITEMS))
    renew(before.folder, [*rows, rows[0] | {"item": "new", "title": "Today's"}], before.folder.with_name("today"))
    return open_export(before.folder.with_name("today"))


class Gated:
    """Engines that answer with the first items, once they may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.stopped = False

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        await self.may.wait()
        assert not self.stopped
        return [(np.arange(one.lists.k, dtype=np.int32), np.zeros(one.lists.k)) for one in requests]

    async def running(self) -> int:
        return 1


class Starter:
    """Starts engines by hand."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.stopped: list[Served] = []

    async def start(self, folder: Path, before: OpenedExport) -> Served:
        await self.may.wait()
        if folder.name == "none":
            raise NoEngine("no room for 1 more engine(s)")
        opened = open_export(folder)
        check_same_policy(before, opened)
        engines = Gated()
        engines.may.set()
        return Served(Resolver(opened), engines)

    async def stop(self, served: Served) -> None:
        assert not served.under_way
        self.stopped.append(served)
        engines: Any = served.engines
        engines.stopped = True


class Server:
    def __init__(self, opened: OpenedExport, limits: Limits | None = None, token: bytes | None = None) -> None:
        self.first, self.starter = Served(Resolver(opened), Gated()), Starter()
        self.app: Door = make_app(Current(self.first), self.starter, limits or Limits(), token, Metrics())
        transport: Any = httpx.ASGITransport(self.app)  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url="http://server")

    async def ask(self, history: list[str]) -> dict[str, Any]:
        answered = await self.client.post("/v1/recommend", json={"history": history})
        assert answered.status_code == 200, answered.text
        return answered.json()

    async def renew(self, folder: Path | str) -> tuple[int, dict[str, Any]]:
        answered = await self.client.post("/v1/catalog", json={"served": str(folder)})
        return answered.status_code, answered.json()


def test_old_requests_end_on_the_old_export_and_new_ones_begin_on_the_new(
    before: OpenedExport, today: OpenedExport
) -> None:
    async def story() -> None:
        server = Server(before)
        history = [str(before.catalog.item_ids[0]), "new"]
        old = asyncio.create_task(server.ask(history))
        renewing = asyncio.create_task(server.renew(today.folder))
        await asyncio.sleep(0.05)
        model = (await server.client.get("/v1/model")).json()
        assert (model["items"], model["day"]) == (ITEMS, None)
        assert (await server.renew(today.folder))[0] == 409
        server.starter.may.set()
        while (await server.client.get("/v1/model")).json()["day"] is None:
            await asyncio.sleep(0.01)
        assert (await server.ask(history))["skipped"] == []
        assert not old.done()
        assert not server.starter.stopped  # its request is under way
        server.first.engines.may.set()  # type: ignore[attr-defined]
        assert (await old)["skipped"] == ["new"]
        status, said = await renewing
        assert (status, said["items"], said["day"]["new"]) == (200, ITEMS + 1, 1)
        assert server.starter.stopped == [server.first]

    asyncio.run(story())


def test_what_can_not_be_served_changes_nothing(before: OpenedExport, tmp_path: Path) -> None:
    other = small_export(tmp_path, "title")
    damaged, later = (shutil.copytree(before.folder, tmp_path / name) for name in ("damaged", "later"))
    (damaged / "trie" / "rank.npy").write_bytes(b"")
    manifest = (later / MANIFEST).read_text()
    (later / MANIFEST).write_text(manifest.replace('"schema_version": 2', '"schema_version": 9'))

    async def story() -> None:
        server = Server(before)
        server.starter.may.set()
        server.first.engines.may.set()  # type: ignore[attr-defined]
        for folder, status, line in (
            (tmp_path / "nowhere", 422, "no export there"),
            (other, 422, "another policy: its training had the "),
            (damaged, 422, "rank.npy has 0 bytes instead of"),
            (later, 422, "schema_version: 9; this version of blade_dist reads 1 and 2"),
            ("", 422, "no export there"),
            ("a\x00b", 422, "no export there"),
            ("a" * 5000, 422, "served: aaa"),
            (tmp_path / "none", 503, "no room for 1 more engine(s)"),
        ):
            assert (await server.renew(folder))[0] == status
            said = (await server.renew(folder))[1]["error"]
            assert line in said
            assert status != 422 or said.startswith("served: ")
        assert (await server.client.post("/v1/catalog", json={"other": 1})).status_code == 422
        await server.ask([str(before.catalog.item_ids[0])])
        assert server.starter.stopped == []

    asyncio.run(story())


def test_it_needs_the_token_and_has_no_deadline(before: OpenedExport, today: OpenedExport) -> None:
    async def story() -> None:
        server = Server(before, Limits(deadline_s=0.05), digest(SECRET.encode()))
        assert (await server.renew(today.folder))[0] == 401
        server.client.headers["Authorization"] = f"Bearer {SECRET}"
        renewing = asyncio.create_task(server.renew(today.folder))
        await asyncio.sleep(0.2)
        server.starter.may.set()
        assert (await renewing)[0] == 200

    asyncio.run(story())


def test_of_two_at_once_one_is_refused(before: OpenedExport, today: OpenedExport) -> None:
    async def story() -> None:
        server = Server(before)
        server.starter.may.set()
        both = await asyncio.gather(server.renew(today.folder), server.renew(today.folder))
        assert sorted(status for status, _ in both) == [200, 409]
        assert (await server.renew(today.folder))[0] == 200

    asyncio.run(story())


def test_whoever_asked_may_go_away(before: OpenedExport, today: OpenedExport) -> None:
    async def story() -> None:
        server = Server(before)
        renewing = asyncio.create_task(server.renew(today.folder))
        await asyncio.sleep(0.05)
        renewing.cancel()
        server.starter.may.set()
        while not server.starter.stopped:
            await asyncio.sleep(0.01)
        assert (await server.client.get("/v1/model")).json()["day"]["new"] == 1

    asyncio.run(story())


def test_another_policy_is_named(before: OpenedExport, tmp_path: Path) -> None:
    other = open_export(small_export(tmp_path, "title"))
    with pytest.raises(UserError, match=r"^served: .*: another policy: its training had the weights "):
        check_same_policy(before, other)
