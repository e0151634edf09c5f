"""Settings that change between two sittings of one command, in the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blade_dist.data.bundle import DataBundle, load_matching_data
from blade_dist.data.prepare import prepare_data
from blade_dist.errors import DivergedError, UserError
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages import sft
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.files import read_json, write_json
from blade_dist.store.policy import read_policy
from blade_dist.store.run import RunPaths
from tests.cases.wild import Wild


class Fits:
    """Stands for the learners: diverges above a learning rate, and leaves a checkpoint either way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = SimpleNamespace(ask_to_end=SimpleNamespace(remote=None))
        monkeypatch.setattr(sft, "tracker", lambda *_: nullcontext(log))
        monkeypatch.setattr(sft, "place_here", lambda *_, **__: SimpleNamespace(learners=[]))
        monkeypatch.setattr(sft, "fit", self)
        monkeypatch.setattr(sft, "publish", lambda _, __, policy: policy.mkdir())

    def __call__(self, _: object, __: object, config: Config, folder: Path, *___: object) -> None:
        write_json(folder / "checkpoint_1" / "lr.json", config.sft.lr)
        if config.sft.lr > 1:
            raise DivergedError("the loss is nan at step 3: lower sft.lr and run the same command again")


def test_a_fine_tuning_that_diverged_begins_anew_with_a_lower_rate(wild: Wild, monkeypatch: pytest.MonkeyPatch) -> None:
    Fits(monkeypatch)
    config = wild.config("sft.lr=9", "reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]")
    prepare_data(config)
    folder, console = RunPaths(config.run.dir).sft, Console(record=True, width=400)
    with pytest.raises(DivergedError):
        sft.sft_stage(config, console)
    assert [(read_json(folder / "stage.json") or {})[name] for name in ("done", "diverged")] == [False, True]
    lower = config.model_copy(update={"sft": config.sft.model_copy(update={"lr": 0.01})})
    sft.sft_stage(lower, console)
    assert f"sft: begins anew (sft.lr: 9.0 there, 0.01 now); what diverged is kept in {folder}.diverged" in (
        console.export_text()
    )
    kept = [
        json.loads((path / "learners/checkpoint_1/lr.json").read_text())
        for path in (folder, Path(f"{folder}.diverged"))
    ]
    assert kept == [0.01, 9.0]
    assert (read_json(folder / "stage.json") or {})["done"]
    with pytest.raises(
        UserError, match=r"sft: the fine-tuned model there was made with other settings: sft\.lr: 0\.01 "
    ):
        sft.sft_stage(config, console)  # what is finished is not given up


def test_a_catalog_that_grew_is_told_as_that(wild: Wild, monkeypatch: pytest.MonkeyPatch) -> None:
    Fits(monkeypatch)
    config = wild.config("sft.lr=0.01", "reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]")
    prepare_data(config)
    sft.sft_stage(config, Console(quiet=True))
    shutil.rmtree(RunPaths(config.run.dir).root / "data")
    with (wild.folder / "items.csv").open("a") as items, (wild.folder / "log.csv").open("a") as rows:
        items.write("i99,Title 99,a\n")
        rows.writelines(f"u{user},i99,{user}\n" for user in range(9))
    prepare_data(config)
    with pytest.raises(
        UserError, match=r"sft: the fine-tuned model there was .*: items of the catalog: 24 there, 25 now"
    ):
        sft.sft_stage(config, Console(quiet=True))
    with pytest.raises(UserError, match=r"sft: the fine-tuned model there is of 24 items, and the catalog has 25 now"):
        open_run(config)


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("data.targets=2", "data.targets=2"),
        ("data.columns.groups=title", "data.columns.groups=title"),
        ("data.bad_rows=drop", "data.bad_rows=drop"),
        ("codec.prompt='so far: {history}'", "codec.prompt='so far: {history}'"),
        ("data.null_words=[]", None),
    ],
)
def test_what_an_earlier_command_was_given_is_typed_again(wild: Wild, given: str, typed: str | None) -> None:
    config = wild.config(given)
    prepare_data(config)
    assert len(load_matching_data(config).test)
    with pytest.raises(UserError) as error:
        load_matching_data(wild.config().model_copy(update={"run": config.run}))
    again = "" if typed is None else f"as by --set {typed}, "
    assert f"set them back, {again}or choose another run.dir" in str(error.value)


@pytest.mark.parametrize("given", ["data.null_words=[]", f"codec.prompt='{'so far: ' * 30}{{history}}'"])
def test_a_change_of_a_long_setting_is_shown_where_it_is(wild: Wild, given: str) -> None:
    wild.data()
    wild._runs = 0
    with pytest.raises(UserError) as error:
        wild.data(given)
    text = str(error.value).replace(str(wild.folder), "")
    assert given.partition("=")[0] in text
    assert len(text) <= 3 * 80


def test_a_finished_training_goes_on_to_more_steps(
    trained: dict[int, RunPaths], tiny_data: DataBundle, tmp_path: Path
) -> None:
    paths = RunPaths(shutil.copytree(trained[1].root, tmp_path / "run"))
    folder, console = paths.target("blade"), Console(record=True, width=400)
    file = folder / "config.yaml"
    (before,) = pq.read_table(folder / "metrics.parquet").to_pylist()

    def align(*settings: str) -> None:
        align_stage(open_run(load_config(file, [f"run.dir={paths.root}", *settings])), console)

    align("train.steps=2")
    assert "train: goes on from step 1, saved in " in (said := console.export_text())
    assert "to step 2 (train.steps: 1 there, 2 now); the learning rate is that of 2 steps from here on, 0.0005 " in said
    first, second = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert (first, second["step"], second["lr"]) == (before, 1, pytest.approx(5e-4))
    assert read_policy(folder / "policy", tiny_data.codec.fingerprint()).step == 2
    with pytest.raises(UserError, match=r"made with other settings: train\.steps: 2 there, 1 now; it stays as it is"):
        align("train.steps=1")


def _longer(wild: Wild) -> str:
    before = (wild.folder / "log.csv").stat().st_size
    with (wild.folder / "log.csv").open("a") as file:
        now = before + file.write("u1,i1,1600000000\n")
    return f"{wild.folder / 'log.csv'} (data.path) has changed since ({before:,} bytes then, {now:,} now), and "


def _as_long(wild: Wild) -> str:
    text = (wild.folder / "items.csv").read_text()
    (wild.folder / "items.csv").write_text(text.replace("Title 3", "Other 3"))
    return f"{wild.folder / 'items.csv'} (data.items) has changed since, and "


def _another_name(wild: Wild) -> str:
    (wild.folder / "parts" / "a.csv").rename(wild.folder / "parts" / "b.csv")
    return f"{wild.folder / 'parts'} (data.path) has changed since, and "


@pytest.mark.parametrize("change", [_longer, _as_long, _another_name])
def test_a_file_that_changed_is_said_when_data_is_run_again(
    wild: Wild, caplog: pytest.LogCaptureFixture, change: Callable[[Wild], str]
) -> None:
    (wild.folder / "parts").mkdir()
    shutil.copy(wild.folder / "log.csv", wild.folder / "parts" / "a.csv")
    given = [wild.path("parts")] if change is _another_name else []
    first = wild.data(*given)
    wild._runs = 0
    again = wild.data(*given)
    assert not caplog.records
    assert "was there with these settings, and nothing is read anew" in again.said
    assert "nothing is read anew" not in first.said
    said, wild._runs = change(wild), 0
    assert wild.data(*given).histories == first.histories
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"data: warning: {said}")
    assert line.endswith("stays as it is: choose another run.dir to read it anew")
    caplog.clear()
    (wild.folder / "items.csv").unlink()
    wild._runs = 0
    wild.data(*given)
    assert len(caplog.records) == (change is not _as_long)  # nothing of what is not there
