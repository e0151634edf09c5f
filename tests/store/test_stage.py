"""What a folder's work is to a stage under the settings of now: done, to be gone on with, made anew, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blade_dist.errors import UserError
from blade_dist.store.changes import LEGAL, changes, made_otherwise
from blade_dist.store.files import read_json, write_json
from blade_dist.store.stage import begin, is_done, mark, noted

SETTINGS: dict[str, Any] = {"sft": {"lr": 0.1, "betas": (0.9, 0.99)}, "run.seed": 0, "train.steps": 6}
OTHER = SETTINGS | {"sft": {"lr": 0.01, "betas": (0.9, 0.99)}}
MORE = SETTINGS | {"train.steps": 12}


def done(folder: Path, settings: dict[str, Any]) -> bool:
    return is_done(folder, settings, "the model", "or choose another run.dir", growing=["train.steps"])


def checkpoint(folder: Path) -> Path:
    path = folder / "learners" / "checkpoint_1" / "progress.json"
    write_json(path, {"step": 1})
    return path


def test_changes_are_named_with_both_values() -> None:
    assert changes(SETTINGS, SETTINGS) == {}
    assert list(changes(SETTINGS, OTHER | {"new": None, "more": 1}).values()) == [
        "sft.lr: 0.1 there, 0.01 now",
        "more: None there, 1 now",
    ]


def test_several_settings_that_are_noted_together_go_by_their_own_names() -> None:
    there = {"reward": {"weights": {"ild@5": 1.0}}, "limits of reward": {}, LEGAL: "catalog, nothing seen"}
    now = {"reward": {"weights": {"ild@5": 2.0}}, "limits of reward": {"at_least": {"hr@5": 0.1}}}
    assert changes(there, now | {LEGAL: "catalog, nothing shown, rules 1f"}) == {
        "lists.exclude, lists.at_most": "lists.exclude, lists.at_most: no rules there, rules 1f now",
        "lists.exclude_history": "lists.exclude_history: nothing seen there, nothing shown now",
        "reward.weights.ild@5": "reward.weights.ild@5: 1.0 there, 2.0 now",
        "reward.at_least.hr@5": "reward.at_least.hr@5: None there, 0.1 now",
    }


def test_of_many_changes_the_first_are_named_and_the_others_counted() -> None:
    texts = [f"posterior.setting_{number}: 1 there, 2 now" for number in range(9)]
    said = str(made_otherwise("x", texts, "or y"))
    assert said == (
        f"x was made with other settings: {'; '.join(texts[:4])} and 5 more; it stays as it is: set them back, or y"
    )
    assert "z" * 300 in str(made_otherwise("x", ["z" * 300], "or y"))


def test_finished_work_is_done_under_its_own_settings_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    assert not done(folder, SETTINGS)
    mark(folder, SETTINGS, done=True)
    assert done(folder, SETTINGS)
    with pytest.raises(UserError, match=r"sft: the model there was made with other settings: sft.lr: 0.1 there, 0.01 "):
        done(folder, OTHER)
    assert not done(folder, MORE)
    assert begin(folder, MORE, growing=["train.steps"]) is None
    assert (noted(folder)["train.steps"], (read_json(folder / "stage.json") or {})["done"]) == (12, False)


def test_saved_work_is_not_given_up(tmp_path: Path) -> None:
    mark(tmp_path, SETTINGS, done=False)
    checkpoint(tmp_path)
    with pytest.raises(UserError, match="set them back, or choose"):
        done(tmp_path, OTHER)


def test_where_nothing_is_saved_any_settings_begin(tmp_path: Path) -> None:
    mark(tmp_path, SETTINGS, done=False)
    assert not done(tmp_path, OTHER)
    assert begin(tmp_path, OTHER) == "begins anew (sft.lr: 0.1 there, 0.01 now), as nothing was saved there"
    assert changes(noted(tmp_path), OTHER) == {}


def test_what_diverged_steps_aside_for_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    mark(folder, SETTINGS, done=False, diverged=True)
    kept = checkpoint(folder).relative_to(folder)
    assert not done(folder, SETTINGS)
    assert begin(folder, SETTINGS) is None
    mark(folder, SETTINGS, done=False, diverged=True)
    assert not done(folder, OTHER)
    said = begin(folder, OTHER)
    assert said == f"begins anew (sft.lr: 0.1 there, 0.01 now); what diverged is kept in {tmp_path / 'sft.diverged'}"
    assert [(tmp_path / name / kept).exists() for name in ("sft", "sft.diverged")] == [False, True]


def test_a_model_is_kept_though_its_later_steps_diverged(tmp_path: Path) -> None:
    mark(tmp_path, SETTINGS, done=False, diverged=True)
    (tmp_path / "policy").mkdir()
    with pytest.raises(UserError, match="choose another"):
        done(tmp_path, OTHER)


def test_work_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "stage.json", {"stamp": "0a1b", "done": True})
    with pytest.raises(UserError, match="the model there is of an earlier version, which noted no settings: choose "):
        done(tmp_path, SETTINGS)
