"""A folder with a manifest is whole, or what is wrong with it is said."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.store.whole import MANIFEST, bytes_of, damage, files_below, sums, write_manifest

CONTENT = {
    "deepspeed/state/optim.pt": bytes(range(256)) * 40,
    "policy/model.safetensors": b"weights" * 99,
    "empty": b"",
}


def make_whole(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, sums(folder, files_below(folder)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_whole(tmp_path / "folder")
    return tmp_path / "folder"


def test_what_was_just_written_is_whole(folder: Path) -> None:
    assert damage(folder) is None
    assert bytes_of(folder) == sum(map(len, CONTENT.values()))


def test_a_folder_that_was_moved_or_got_a_file_more_is_whole(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    (moved / "deepspeed" / "note").write_text("mine")
    assert damage(moved) is None


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_byte_is_found(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name, content in CONTENT.items() if content]))
    at = data.draw(st.integers(0, len(CONTENT[name]) - 1))
    flip = data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_whole(folder)
        changed = bytearray(CONTENT[name])
        changed[at] ^= flip
        (folder / name).write_bytes(changed)
        assert damage(folder) == f"{name} has another checksum than when it was written"


@settings(max_examples=60)
@given(st.data())
def test_any_file_that_is_cut_is_found(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name, content in CONTENT.items() if content]))
    size = data.draw(st.integers(0, len(CONTENT[name]) - 1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_whole(folder)
        (folder / name).write_bytes(CONTENT[name][:size])
        assert damage(folder) == f"{name} has {size} bytes instead of {len(CONTENT[name])}"


@settings(max_examples=100)
@given(st.data())
def test_a_manifest_that_was_changed_is_told_from_a_whole_one_or_says_the_same(data: st.DataObject) -> None:
    """Nothing that happens to the manifest raises, and none of it makes a file pass that is another."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_whole(folder)
        manifest = bytearray((folder / MANIFEST).read_bytes())
        at, flip = data.draw(st.integers(0, len(manifest) - 1)), data.draw(st.integers(1, 255))
        manifest[at] ^= flip
        (folder / MANIFEST).write_bytes(manifest if data.draw(st.booleans()) else manifest[:at])
        before = damage(folder)
        shutil.copyfile(folder / "policy" / "model.safetensors", folder / "empty")
        after = damage(folder)
        assert after is not None or "empty" not in (folder / MANIFEST).read_text()
        assert before is None or after is not None
        bytes_of(folder)


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert damage(folder) == f"{name} is missing"


@pytest.mark.parametrize("content", ["", "[]", "[1]", "3", '"text"', '{"empty": 3}', '{"empty": {"bytes": 0}}', "null"])
def test_a_manifest_of_another_form_is_damaged(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    assert str(damage(folder)).startswith(f"{MANIFEST} is damaged")
    assert bytes_of(folder) is None


def test_a_share_can_be_looked_at_before_there_is_a_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    share = sums(folder, ["empty"])
    (folder / "policy" / "model.safetensors").unlink()
    assert damage(folder, share) is None
    (folder / "empty").write_bytes(b"x")
    assert damage(folder, share) == "empty has 1 bytes instead of 0"
