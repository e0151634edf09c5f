"""Storage by a URI: files go there and come back, and what can't work is one line that names the setting."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.settings.load import load_config
from blade_dist.store.storage import Storage
from blade_dist.store.whole import digest
from tests.helpers.s3 import BUCKET, s3_server


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


@pytest.fixture(params=["path", "file", "s3", "fsspec"])
def storage(request: pytest.FixtureRequest, query: str, tmp_path: Path) -> Storage:
    uris = {
        "path": f"{tmp_path}/there",
        "file": f"file://{tmp_path}/there",
        "s3": f"s3://{BUCKET}/{tmp_path.name}{query}",
        "fsspec": f"fsspec+memory://{tmp_path.name}/there",
    }
    return Storage(uris[request.param])


def test_files_go_there_and_come_back(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    assert storage.sizes("objects") == {}
    file, pieces = tmp_path / "file", []
    file.write_bytes(bytes(range(256)) * 80_000)  # more than one piece
    assert storage.send(file, "objects/a", lambda: pieces.append(1)) == digest(file)
    assert len(pieces) == 2
    assert storage.sizes("objects") == {"a": file.stat().st_size}
    assert storage.fetch("objects/a", tmp_path / "new" / "back") == digest(file)
    assert digest(tmp_path / "new" / "back") == digest(file)
    for content in (b"one", b"two"):
        storage.replace("manifest.json", content)
        assert storage.read("manifest.json") == content
    storage.delete(["objects/a"])
    assert storage.sizes("objects") == {}
    with pytest.raises(FileNotFoundError):
        storage.read("objects/a")


def test_a_storage_that_can_t_be_used_is_one_line(query: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri, words in (
        ("nope://bucket/run", "no storage is called nope://; known are a path and file://, s3://, gs://"),
        (f"s3://no-such-bucket/run{query}", "make the bucket first"),
        (f"s3://{BUCKET}/run{query}&colour=red", "Unexpected query parameter in S3 URI: 'colour'"),
        (f"{tmp_path}/file/run", "can't be used"),
        ("fsspec+nope://bucket/run", "nope"),
    ):
        with pytest.raises(UserError, match=r"^run\.copy_to: ") as error:
            Storage(uri).check()
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_credentials_that_may_not_write_are_one_line() -> None:
    with s3_server() as query:
        uri, port = f"s3://{BUCKET}/run{query}", query.rpartition(":")[2]
        Storage(uri).check()
        from_now_on = urllib.request.Request(
            f"http://127.0.0.1:{port}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(from_now_on).close()
        try:
            with pytest.raises(UserError, match=r"^run\.copy_to: .* give credentials that may write there"):
                Storage(uri).check()
        finally:
            from_now_on.data = b"inf"
            urllib.request.urlopen(from_now_on).close()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:verysecret@bucket/run",
        "s3://verysecret@bucket/run",
        "abfs://account:verysecret@files.dfs.core.windows.net/run",
        "s3://bucket/run?region=x&secret_key=verysecret",
        "s3://bucket/run?AWS_SESSION_TOKEN=verysecret",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_said(uri: str) -> None:
    with pytest.raises(UserError, match=r"run\.copy_to: a URI with credentials") as error:
        load_config(None, [f"run.copy_to={uri}"])
    assert "verysecret" not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b:c?region=x&endpoint_override=h:1",
        "abfs://box@account.dfs.core.windows.net?credential_kind=cli",
        "~/copies",
    ],
)
def test_other_uris_are_taken_as_they_are(uri: str) -> None:
    assert load_config(None, [f"run.copy_to={uri}"]).run.copy_to == uri
