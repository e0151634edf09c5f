"""The program, run in the test's own process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import blade_dist.cli
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.store.files import write_text
from blade_dist.store.policy import STAMP
from blade_dist.store.run import RunPaths


class Program:
    """Runs commands on a settings file of its own."""

    def __init__(self, config: Config, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch):
        self.folder, self._capsys, self._patch = folder, capsys, patch
        values = config.model_dump()
        values["run"]["dir"] = folder / "run"
        self.config = Config.model_validate(values)
        self.paths = RunPaths(self.config.run.dir)
        write_text(folder / "config.yaml", dump_config(self.config))

    def fails(self, command: str, *arguments: str, file: Path | None = None) -> str:
        """The one line that is said on stderr."""
        argv = ["blade-dist", command, str(file or self.folder / "config.yaml"), *arguments]
        self._patch.setattr("sys.argv", argv)
        self._capsys.readouterr()
        before = self._files()
        with pytest.raises(SystemExit) as stop:
            blade_dist.cli.main()
        said = self._capsys.readouterr().err.strip()
        assert stop.value.code == 2, said
        lines = said.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], said
        assert "Traceback" not in said
        assert command == "run" or self._files() == before
        return lines[-1]

    def needs(self, command: str) -> list[str]:
        """Options that the command can't do without."""
        checkpoint = ["--checkpoint", str(self.paths.reference)]
        return {"evaluate": checkpoint, "export": [*checkpoint, "--out", str(self.folder / "out")]}.get(command, [])

    def foreign(self) -> Path:
        """A copy of the reference whose tokens mean other items."""
        folder = self.folder / "foreign"
        shutil.copytree(self.paths.reference, folder)
        (folder / STAMP).write_text((folder / STAMP).read_text().replace('"codec": "', '"codec": "0'))
        return folder

    def _files(self) -> dict[Path, int]:
        """All but what tells of a failure."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "incidents"}
