"""A run's folder and its copy: whole at any moment, as new as can be, never two runs in one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.store.checkpoints import LEARNERS, NUMBERS, checkpoint_folder, saved_step
from blade_dist.store.copy import MANIFEST, OBJECTS, BusyError, Copier, ForeignError, files_of, read_copy
from blade_dist.store.fetched import fetch
from blade_dist.store.files import write_json, write_text
from blade_dist.store.lock import held
from blade_dist.store.stage import mark
from blade_dist.store.storage import Storage, Told, nobody
from blade_dist.store.whole import damage, files_below, sums, write_manifest


def save(root: Path, step: int, stage: str = "blade") -> Path:
    folder = checkpoint_folder(root / stage / LEARNERS, step)
    write_json(folder / NUMBERS, {"step": step})
    write_text(folder / "policy" / "model.safetensors", f"weights of step {step}")
    write_manifest(folder, sums(folder, files_below(folder)))
    write_text(root / stage / "metrics.parquet", f"{step} rows")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With data, a finished sft and an alignment under way; and with what is not to be copied."""
    root = tmp_path / "run"
    write_json(root / "data" / "card.json", {"settings_fingerprint": "a"})
    write_text(root / "data" / "catalog" / "items.arrow", "items")
    write_text(root / "prior.arrow", "rewards")
    save(root, 7, "sft")
    write_text(root / "sft" / "policy" / "model.safetensors", "weights of step 7")
    mark(root / "sft", {"lr": 1}, done=True)
    save(root, 4)
    mark(root / "blade", {"lr": 2}, done=False)
    for name in ("log.txt", ".blade.lock", "blade/metrics.parquet.tmp", "blade/learners/.checkpoint_00000008.part/x"):
        write_text(root / name, "not copied")
    write_text(root / "blade" / LEARNERS / "damaged_checkpoint_00000002" / "x", "not copied")
    (root / "sweep").mkdir()
    (root / "sweep" / "data").symlink_to("../data")
    return root


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def contents(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in files_of(root)}


def objects(storage: Storage) -> set[str]:
    return set(storage.sizes(OBJECTS))


def elsewhere(root: Path, storage: Storage) -> Path:
    """Another machine's folder, with what it fetched."""
    other = root.parent / "elsewhere"
    fetch(other, storage)
    return other


def test_an_empty_folder_gets_all_of_the_copy(root: Path, storage: Storage) -> None:
    assert fetch(root, storage) == []  # there is none yet
    copy = Copier(root, storage).copy()
    assert sorted(copy.files) == sorted(files_of(root))
    assert not any("not copied" in text for text in contents(root).values())
    other = root.parent / "elsewhere"
    (line,) = fetch(other, storage)
    assert line == (f"blade (step 4), data, prior.arrow, sft (done) came from {storage.uri}, as {other} had less")
    assert contents(other) == contents(root)
    assert damage(checkpoint_folder(other / "blade" / LEARNERS, 4)) is None
    assert fetch(other, storage) == []


def test_only_what_is_new_is_sent_and_what_is_gone_goes_after_that(root: Path, storage: Storage) -> None:
    copier, sent = Copier(root, storage), []
    assert len(objects(storage) | {of["sha256"] for of in copier.copy().files.values()}) == len(objects(storage))
    before = objects(storage)
    assert copier.copy() == read_copy(storage)
    shutil.rmtree(checkpoint_folder(root / "blade" / LEARNERS, 4))
    save(root, 8)

    class Watched(Storage):
        def send(self, file: Path, name: str, told: Told = nobody) -> str:
            sent.append(name)
            return super().send(file, name, told)

        def replace(self, name: str, content: bytes) -> None:
            assert before <= objects(self)
            super().replace(name, content)

    Copier(root, Watched(storage.uri)).copy()
    assert len(sent) == 4  # numbers, weights, manifest and rows
    assert len(before - objects(storage)) == 4
    assert contents(elsewhere(root, storage)) == contents(root)


@pytest.mark.parametrize("fails_at", ["send", "replace"])
def test_a_copy_that_fails_leaves_the_one_before(root: Path, storage: Storage, fails_at: str) -> None:
    Copier(root, storage).copy()
    before = contents(root)

    class Broken(Storage):
        def send(self, file: Path, name: str, told: Told = nobody) -> str:
            if fails_at == "send":
                (Path(self.uri) / name).write_text("ha")  # half of it
                raise OSError("gone")
            return super().send(file, name, told)

        def replace(self, name: str, content: bytes) -> None:
            raise OSError("gone")

    save(root, 8)
    with pytest.raises(OSError, match="gone"):
        Copier(root, Broken(storage.uri)).copy()
    assert contents(elsewhere(root, storage)) == before
    shutil.rmtree(root.parent / "elsewhere")
    Copier(root, storage).copy()
    assert contents(elsewhere(root, storage)) == contents(root)
    assert not list(root.glob(".copying"))


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_that_goes_while_it_is_copied_is_copied(
    root: Path, storage: Storage, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Storage):
        def send(self, file: Path, name: str, told: Told = nobody) -> str:
            shutil.rmtree(checkpoint_folder(root / "blade" / LEARNERS, 4), ignore_errors=True)
            return super().send(file, name, told)

    def refused(*_: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    before = contents(root)
    Copier(root, Slow(storage.uri)).copy()
    assert contents(elsewhere(root, storage)) == before


def test_a_file_that_is_written_meanwhile_is_left_out_until_it_rests(root: Path, storage: Storage) -> None:
    class Slow(Storage):
        def send(self, file: Path, name: str, told: Told = nobody) -> str:
            with (root / "notes.txt").open("a") as notes:
                notes.write("more")
            return super().send(file, name, told)

    write_text(root / "notes.txt", "a")
    assert "notes.txt" not in Copier(root, Slow(storage.uri)).copy().files
    assert "notes.txt" in Copier(root, storage).copy().files
    assert contents(elsewhere(root, storage)) == contents(root)


def test_a_folder_that_is_behind_goes_on_where_the_copy_is(root: Path, storage: Storage) -> None:
    Copier(root, storage).copy()
    other = elsewhere(root, storage)
    save(other, 8)
    Copier(other, storage).copy()
    (line,) = fetch(root, storage)  # the first machine is back
    assert line.startswith("blade (step 8) came from")
    assert contents(root) == contents(other)
    save(root, 12)
    Copier(root, storage).copy()
    save(other, 16)  # the second one did not know that it was given up
    with pytest.raises(ForeignError):
        Copier(other, storage).copy()
    assert fetch(other, storage) == []  # and is ahead
    assert saved_step(other / "blade" / LEARNERS) == 16


def test_what_was_moved_away_does_not_come_back(root: Path, storage: Storage) -> None:
    Copier(root, storage).copy()
    shutil.rmtree(root / "blade")
    assert fetch(root, storage) == []
    Copier(root, storage).copy()
    assert not (elsewhere(root, storage) / "blade").exists()
    for path in root.iterdir():
        if not path.name.startswith("."):  # as rm -r run/* does
            path.unlink() if path.is_file() else shutil.rmtree(path)
    assert fetch(root, storage)
    assert saved_step(root / "sft" / LEARNERS) == 7


def test_another_run_is_refused(root: Path, storage: Storage) -> None:
    Copier(root, storage).copy()
    other = root.parent / "other"
    shutil.copytree(root / "blade", other / "blade")
    mark(other / "blade", {"lr": 3}, done=False)
    with pytest.raises(UserError, match=r"run.copy_to: blade in .* made with other settings: lr: 2 there, 3 now"):
        fetch(other, storage)
    shutil.rmtree(other / "blade")
    write_json(other / "data" / "card.json", {"settings_fingerprint": "b"})
    with pytest.raises(UserError, match=r"run.copy_to: .* is the copy of a run of other data"):
        fetch(other, storage)
    with pytest.raises(ForeignError):
        Copier(other, storage).copy()


@pytest.mark.parametrize("gone", [True, False])
def test_what_is_damaged_in_the_storage_is_said(root: Path, storage: Storage, gone: bool) -> None:
    copy = Copier(root, storage).copy()
    for name in ("blade/learners/checkpoint_00000004/numbers.json", "data/catalog/items.arrow"):
        path = Path(storage.uri) / OBJECTS / str(copy.files[name]["sha256"])
        path.unlink() if gone else path.write_text("hm")
    other = root.parent / "elsewhere"
    first, second, third = fetch(other, storage)
    assert first.startswith("blade (step 4), prior.arrow, sft (done) came from")
    assert second == f"blade/learners/checkpoint_00000004 is damaged in {storage.uri}"
    assert third.startswith(f"data does not come from {storage.uri}, as data/catalog/items.arrow is damaged there")
    assert damage(checkpoint_folder(other / "blade" / LEARNERS, 4)) is not None
    assert not (other / "data").exists()


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"version": 2, "id": "a", "files": {}}', b'{"version": 1, "id": "a", "files": {"../x": 1}}'],
)
def test_what_is_no_copy_of_ours_is_refused(root: Path, storage: Storage, content: bytes) -> None:
    storage.write(MANIFEST, content)
    with pytest.raises(UserError, match="is no copy of a run"):
        fetch(root, storage)


def test_a_manifest_that_is_replaced_while_it_is_read_is_read_again(root: Path, storage: Storage) -> None:
    copy = Copier(root, storage).copy()

    class Racing(Storage):
        times = 0

        def read(self, name: str) -> bytes:
            self.times += 1
            return super().read(name)[: -1 if self.times == 1 else None]

    assert read_copy(Racing(storage.uri)) == copy


def test_two_commands_in_one_folder_copy_one_after_the_other(root: Path, storage: Storage) -> None:
    with held(root / ".copying", "the other one", "run.dir"), pytest.raises(BusyError):
        Copier(root, storage).copy()
    Copier(root, storage).copy()
    save(root, 8)
    Copier(root, storage).copy()  # another command's copy is this folder's too
