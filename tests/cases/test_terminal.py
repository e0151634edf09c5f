"""What a command says first and last: what it will do, what it made, the number that matters, what comes next."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

import blade_dist.cli
from blade_dist.cluster.signals import Stopped
from blade_dist.data.bundle import load_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages import loudness, opening
from blade_dist.stages.align import _progress as aligned
from blade_dist.stages.data import data_stage
from blade_dist.stages.ends import ending
from blade_dist.stages.sft import _quality as tuned
from blade_dist.tracking.bar import PROGRAM
from tests.cases.wild import ROWS, Wild

HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "pyarrow", "scipy")
"""Packages that take seconds to import."""


@pytest.mark.slow
def test_the_first_line_needs_nothing_that_takes_long() -> None:
    known = f"import sys, blade_dist.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", known], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_data_says_what_it_does_what_it_made_and_what_comes_next(
    wild: Wild, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(wild.folder)
    values = {
        "run": {"dir": "runs/mine"},
        "data": {"source": "table", "path": "log.csv", "items": "items.csv", "columns": {"groups": "genre"}},
        "lists": {"k": 3},
        "reward": {"weights": {"ndcg@3": 1.0}},
        "evaluate": {"metrics": ["ndcg@3"]},
    }
    Path("my own.yaml").write_text(yaml.safe_dump(values))
    typed = ["--set", "data.k_core=2", "--set", "data.targets=3"]
    monkeypatch.setattr("sys.argv", ["blade-dist", "data", "my own.yaml", *typed])
    with pytest.raises(SystemExit) as ended:
        blade_dist.cli.main()
    first, *_, made, number, following = capsys.readouterr().out.splitlines()
    assert not ended.value.code
    assert first == "data: reads log.csv and items.csv, writes runs/mine/data: catalog, prompts, card.json"
    assert made.startswith(f"data: runs/mine/data holds {ROWS} of {ROWS} interactions read; 30 users, ")
    assert number.startswith("data: of 30 users 30 have a training sequence")
    assert following == "next: blade-dist sft 'my own.yaml' --set data.k_core=2 --set data.targets=3"
    assert opening.sft_line(load_config("my own.yaml")) == (
        "fine-tunes a new model (2 layers of 128) on 30 training sequences, 20 times at most, validated after each, "
        "writes runs/mine/sft"
    )


@pytest.fixture
def prepares(wild: Wild, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``data`` with some options, and the stage as it is or in its place; its exit code."""

    def prepared(*options: str, stage: Callable[..., None] | None = None) -> int:
        monkeypatch.chdir(wild.folder)
        Path("my.yaml").write_text(dump_config(wild.config()))
        if stage is not None:
            monkeypatch.setattr("blade_dist.stages.data.data_stage", stage)
        monkeypatch.setattr("sys.argv", ["blade-dist", "data", "my.yaml", "--set", "run.dir=mine", *options])
        with pytest.raises(SystemExit) as ended:
            blade_dist.cli.main()
        return int(ended.value.code or 0)

    return prepared


def fault(config: Config, console: Console) -> None:
    print("Ray says something")  # noqa: T201
    {}["missing"]


def raising(error: BaseException) -> Callable[..., None]:
    def stage(config: Config, console: Console) -> None:
        raise error

    return stage


def test_a_quiet_command_says_three_lines_and_leaves_no_log(
    prepares: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepares("--quiet") == 0
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["data:", "mine/data"],
        ["data:", "of"],
        ["next:", "blade-dist"],
    ]
    assert not said.err
    assert not Path("mine/log.txt").exists()


def test_a_terminal_shows_a_sign_of_life_from_the_first_second(
    prepares: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(loudness, "Voice", lambda *_: Console(file=shown, force_terminal=True, width=80))
    assert prepares() == 0
    places = [shown.getvalue().index(words) for words in ("data: reads", PROGRAM, "data \x1b", "data: mine/data holds")]
    assert places == sorted(places)


def test_doctor_keeps_what_ray_says_off_the_terminal_and_out_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def looks(_: Config, console: Console) -> bool:
        print("Ray says something")  # noqa: T201
        console.print("a table")
        return True

    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("blade_dist.doctor.report.doctor", looks)
    monkeypatch.setattr("sys.argv", ["blade-dist", "doctor", "--set", "run.dir=mine"])
    with pytest.raises(SystemExit) as ended:
        blade_dist.cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out == "a table\n"
    (log,) = (tmp_path / "temporary").rglob("log.txt")
    assert "Ray says something" in log.read_text()
    assert not Path("mine").exists()


def test_a_fault_of_ours_ends_with_three_lines_and_its_traceback_in_the_log(
    prepares: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepares(stage=fault) == 1
    said = capsys.readouterr()
    assert "Ray says" not in said.out + said.err
    first, second, third = said.err.splitlines()
    assert first.startswith("error: KeyError in test_terminal.py:")
    assert "please report it" in second
    assert third == "traceback: at the end of mine/log.txt"
    log = Path("mine/log.txt").read_text()
    assert "Ray says something" in log
    assert log.endswith("KeyError: 'missing'\n")


def test_a_verbose_command_shows_noise_and_traceback(
    prepares: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepares("--verbose", stage=fault) == 1
    said = capsys.readouterr()
    assert "Ray says something" in said.out
    assert said.err.startswith("Traceback")
    assert not Path("mine/log.txt").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("lists.k: too long"), 2, "error: lists.k: too long"),
        (FileNotFoundError(2, "No such file", "mine/a.arrow"), 2, "error: [Errno 2] No such file: 'mine/a.arrow'; was"),
        (Stopped(signal.SIGINT, "a step is kept"), 130, "stopped by SIGINT: a step is kept"),
        (
            OSError(errno.EFBIG, "File too large"),
            2,
            "error: [Errno 27] File too large; no file may grow so large: raise",
        ),
        (Stopped(signal.SIGHUP, "a step is kept"), 129, "stopped by SIGHUP: a step is kept"),
        (Stopped(signal.SIGTERM, "a step is kept"), 143, "stopped by SIGTERM: a step is kept"),
    ],
)
def test_exit_codes(
    prepares: Callable[..., int], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert prepares(stage=raising(error)) == code
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.ESTALE])
def test_a_run_folder_that_takes_nothing(
    prepares: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number), "mine/log.txt")

    monkeypatch.setattr(loudness, "noise_to", refuses)
    assert prepares() == 2
    assert capsys.readouterr().err == f"error: run.dir: nothing can be written in mine ({os.strerror(number)})\n"


def test_the_number_that_matters_has_its_interval(tmp_path: Path) -> None:
    config = load_config(None, [f"run.dir={tmp_path}"])
    rows = [
        {"validation_ndcg": value, "validation_ndcg_margin": 0.02, "epoch": float(n)}
        for n, value in enumerate((0.1, 0.3, 0.2))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metrics.parquet")
    assert tuned(config, tmp_path) == "validation NDCG@5 0.3000 [0.280, 0.320] by list after 1 of 2 epochs"
    pq.write_table(pa.table({"reward": np.linspace(0.0, 1.0, 21)}), tmp_path / "metrics.parquet")
    last, first = aligned(tmp_path).split(" on average in the last 10 of 21 steps, ")
    assert last.startswith("reward 0.7750 [0.6")
    assert first.startswith("0.2250 [0.1")
    pq.write_table(pa.table({"reward": [0.25]}), tmp_path / "metrics.parquet")
    assert aligned(tmp_path) == "reward 0.2500 on average in the last 1 of 1 steps, 0.2500 in the first 1"


def test_a_file_that_was_lost_between_two_stages(wild: Wild) -> None:
    config = wild.config()
    wild_data = config.run.dir / "data"
    data_stage(config, Console(quiet=True))
    (wild_data / "train.arrow").unlink()
    with pytest.raises(Exception, match=r"train\.arrow") as lost:
        load_data(config.run.dir)
    lines, code = ending(lost.value, None, noise=False, verbose=False)
    assert code == 2
    assert str(wild_data / "train.arrow") in lines[0]


def test_the_versions_of_the_stack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["blade-dist", "--version"])
    with pytest.raises(SystemExit) as ended:
        blade_dist.cli.main()
    assert not ended.value.code
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"blade-dist {blade_dist.__version__}"
    assert {"ray", "torch", "deepspeed", "transformers"} <= {line.split()[0] for line in others}


def test_how_much_is_said_before_anything_is_there() -> None:
    config = load_config(None, ["run.dir=nothing/there", "train.prompts=40", "evaluate.max_prompts=9"])
    assert opening.sft_line(config).startswith(
        "fine-tunes a new model (2 layers of 128) on the training sequences, 20 "
    )
    assert "writes 32 lists for each of 40 training prompts; their rewards go to nothing/" in opening.prior_line(config)
    assert "100 steps of 64 prompts, 16 lists for each, writes nothing/there/blade" in opening.train_line(config)
    assert opening.evaluate_line(config, [Path("a"), Path("b")]).startswith("lists for 9 test prompts by a, b and ")
    assert "the training prompts" in opening.prior_line(Config())
    watched = load_config(
        None, ["train.validation_prompts=9", "train.checkpoint_every=5", "sft.validations_per_epoch=2"]
    )
    assert ", validated every 5 on 9 prompts, writes" in opening.train_line(watched)
    assert ", validated 2 times in each, writes" in opening.sft_line(watched)
    films = ["data.source=movielens", "data.path=ml", "data.items=items.csv"]
    assert opening.data_line(load_config(None, films)).startswith("reads ml, writes ")
    assert opening.run_line(load_config(None, ["run.compare=[static]"])).startswith(
        "data, sft, train (static and blade)"
    )
