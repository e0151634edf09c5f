"""``vllm serve`` of an export writes the lists that ``recommend`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from blade_dist.batches import Ragged
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.request import ListRequest, Resolver
from tests.helpers.paths import ROOT
from tests.helpers.ranks import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log.txt"
    # what `vllm serve` starts; the CPU build's command looks for its own version under another name, and ends
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(made)]
    options = ["--logits-processors", "blade_dist.serving.processor:ServedLists", "--host", "127.0.0.1"]
    small = ["--port", str(port), "--enforce-eager", "--dtype", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    with log.open("w") as out:
        server = subprocess.Popen([*program, *options, *small], stdout=out, stderr=out, env=environment)
    try:
        while not healthy(port):
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1/completions"
    finally:
        server.terminate()
        server.wait()


def healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def completions(url: str, **body: Any) -> Any:
    with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}), timeout=300) as answer:
        return json.load(answer)["choices"]


def test_it_writes_the_lists_of_recommend(
    url: str, opened: OpenedExport, histories: list[list[str]], wanted: list[dict[str, Any]]
) -> None:
    requests = [ListRequest(history=history) for history in histories]
    resolved = Resolver(opened).resolve(requests, ["" for _ in requests])
    for history, one, row in zip(histories, resolved, wanted, strict=True):
        prompt = opened.codec.encode_prompt(one.history).tolist()
        (answer,) = completions(
            url,
            prompt=prompt,
            max_tokens=opened.codec.max_list_tokens(opened.manifest.lists.k),
            temperature=0,
            return_token_ids=True,
            vllm_xargs={"history": [*history, "no such item"]},
        )
        (items,) = opened.codec.parse(Ragged.of([answer["token_ids"]]), opened.manifest.lists.k)
        assert [opened.catalog.item_ids[item] for item in items] == row["items"]


def test_a_history_that_is_no_list_is_refused(url: str) -> None:
    with pytest.raises(HTTPError) as refused:
        completions(url, prompt=[5], max_tokens=1, vllm_xargs={"history": "i1"})
    assert refused.value.code == 400
    assert b"vllm_xargs.history: must be a list of item ids" in refused.value.read()
