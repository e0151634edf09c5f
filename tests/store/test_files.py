"""Files and folders are the old ones or the new ones, also when the writer fails or dies."""

import os
from pathlib import Path

import pytest

from blade_dist.store.files import whole_file, whole_folder, write_text


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert _names(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk error")

    with pytest.raises(OSError, match="disk error"):
        fail()
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    for content in ("first", "second"):
        with whole_folder(path) as temporary:
            (temporary / content).touch()
            assert not (path / content).exists()
        assert _names(path) == [content]
    assert _names(path.parent) == ["folder"]


def test_a_failed_write_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="disk error"):
        _fail(path)
    assert _names(tmp_path) == []
    _write(path, "old")
    with pytest.raises(OSError, match="disk error"):
        _fail(path)
    assert _names(path) == ["old"]
    assert _names(tmp_path) == ["folder"]


def test_a_copy_that_the_user_put_aside_stays(tmp_path: Path) -> None:
    (tmp_path / "folder.old").mkdir()
    (tmp_path / "folder.old" / "kept").touch()
    for content in ("first", "second"):
        _write(tmp_path / "folder", content)
        assert _names(tmp_path / "folder") == [content]
    assert _names(tmp_path / "folder.old") == ["kept"]
    assert _names(tmp_path) == ["folder", "folder.old"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_survives_the_death_of_its_writer(tmp_path: Path, renames: int) -> None:
    """The process dies after so many renames; the next writer fails too, and the one after it succeeds."""
    path = tmp_path / "folder"
    _write(path, "old")
    if (child := os.fork()) == 0:
        _die_after(renames)
        _write(path, "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    with pytest.raises(OSError, match="disk error"):
        _fail(path)
    assert _names(path) == ["new" if renames == 2 else "old"]
    _write(path, "last")
    assert _names(path) == ["last"]
    assert _names(tmp_path) == ["folder"]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _write(path: Path, content: str) -> None:
    with whole_folder(path) as temporary:
        (temporary / content).touch()


def _fail(path: Path) -> None:
    with whole_folder(path) as temporary:
        (temporary / "half").touch()
        raise OSError("disk error")


def _die_after(renames: int) -> None:
    """This process ends, without any clean-up, after so many renames; before the first one with 0."""
    replace, done = os.replace, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal done
        if done == renames:
            os._exit(1)
        replace(source, target)
        done += 1
        if done == 2:
            os._exit(1)

    os.replace = dying  # type: ignore[assignment]
