"""A sweep's points: which there are, under what names, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.errors import UserError
from blade_dist.settings.load import load_config
from blade_dist.sweep.space import points

BASE = load_config(None, ["reward.weights={ndcg@5: 1.0}", "run.seed=7"])


def test_points_are_the_product_of_the_values() -> None:
    found = points(BASE, ["posterior.tau=0.05,auto", "learner.lr=1e-3,2e-3", "reward.weights.ild@5=0,0.3"])
    assert len(found) == 8
    first, last = found[0], found[-1]
    assert first.settings == {"posterior.tau": 0.05, "learner.lr": 1e-3, "reward.weights.ild@5": 0}
    assert last.settings == {"posterior.tau": "auto", "learner.lr": 2e-3, "reward.weights.ild@5": 0.3}
    assert last.config.reward.weights == {"ndcg@5": 1.0, "ild@5": 0.3}
    assert (last.config.posterior.tau, last.config.learner.lr) == ("auto", 2e-3)
    assert BASE.reward.weights == {"ndcg@5": 1.0}


def test_the_settings_of_j_bond_can_be_swept() -> None:
    found = points(BASE, ["target=bond", "bond.eta=0.01,0.05"])
    assert [(point.config.target, point.config.bond.eta) for point in found] == [("bond", 0.01), ("bond", 0.05)]


def test_every_combination_that_is_drawn_has_all_seeds() -> None:
    over = ["run.seed=0,1", "posterior.tau=0,0.1,0.2", "learner.bon_n=2,4"]
    drawn = points(BASE, over, 3)
    assert len(drawn) == 6
    assert [point.config.run.seed for point in drawn] == [0, 1] * 3
    labels = [point.seedless.label for point in drawn]
    assert labels[::2] == labels[1::2]
    assert len(set(labels)) == 3
    assert "seed" not in drawn[0].seedless.arguments
    with pytest.raises(UserError, match=r"--samples 7: the grid has 6 points, run\.seed aside; draw at most"):
        points(BASE, over, 7)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100))
def test_more_samples_hold_the_fewer_ones(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    config = BASE.model_copy(update={"run": BASE.run.model_copy(update={"seed": seed})})
    over = ["posterior.tau=0,0.1,0.2", "learner.bon_n=2,4,8,16"]
    drawn = [[point.folder for point in points(config, over, samples)] for samples in (few, more)]
    assert [len(set(names)) for names in drawn] == [few, more]
    assert set(drawn[0]) <= set(drawn[1])


def test_a_folder_s_name_does_not_depend_on_the_order() -> None:
    over = ["posterior.tau=0.1", "learner.lr=1e-5"]
    (one,), (other,) = points(BASE, over), points(BASE, over[::-1])
    assert one.folder == other.folder == "learner.lr=1.0e-05,posterior.tau=0.1"
    assert one.label == "posterior.tau=0.1, learner.lr=1.0e-05"


def test_folders_of_names_that_are_no_file_names_differ() -> None:
    over = ["reward.distributions={reach: {head: 0.6, tail: 0.4}},{reach: {head: 0.5, tail: 0.5}}"]
    names = [point.folder for point in points(BASE, [*over, "reward.weights.mgu/reach@5=-0.3,-0.4"])]
    assert len(set(names)) == 4
    assert all("/" not in name and len(name) < 200 for name in names)


@pytest.mark.parametrize(
    "over",
    [
        "posterior.tau=0.3",
        "posterior.tau=auto",
        "learner.lr=1e-05",
        "learner.lora={rank: 8}",
        "learner.lora.rank=8",
        "reward.weights.my.module:margin=0.5",
        "reward.weights={hr@5: 2, ild@5: 1}",
        "train.patience=null",
        "learner.betas=[0.9, 0.95]",
    ],
)
def test_a_point_s_arguments_give_its_settings(over: str, tmp_path: Path) -> None:
    (point,) = points(BASE, [over])
    _, given = shlex.split(point.arguments)
    fixed = ["reward.weights={ndcg@5: 1.0}", "run.seed=7"]
    assert load_config(None, [*fixed, given]) == point.config


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["posterior.tau"], "--over posterior.tau: write section.key=value,value"),
        (["posterior.tau="], "--over posterior.tau=: write section.key=value,value"),
        (["posterior.tau=[,"], "are not YAML values"),
        (["posterior.tua=0.1"], "posterior.tua: unknown setting; did you mean posterior.tau?"),
        (["lerner.lr=0.1"], "lerner: unknown setting; did you mean learner?"),
        (["posterior.tau=0.1,1.5"], "--over posterior.tau=1.5: posterior.tau: write a number that is at least 0"),
        (["reward.weights.ild@5=0.1,x"], "reward.weights.ild@5: Input should be a valid number"),
        (["posterior.tau=0.1", "posterior.tau=0.2"], "--over posterior.tau: given twice"),
        (["learner.lr=1e-3,0.001"], "--over: learner.lr=0.001 comes twice"),
        (["rollout.engines=1,2"], "--over rollout.engines: is the same for all alignments of one sweep"),
        (["posterior={tau: 0.1}"], "--over posterior: is a section; name a setting of it"),
        *(
            ([f"{name}=1"], f"--over {name}: is the same for all alignments of one sweep; what may be swept: target, ")
            for name in ("data.k_core", "codec.levels", "model.dtype", "sft.lr", "run.dir", "lists.k", "ray.address")
        ),
    ],
)
def test_what_is_refused_is_named(over: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        points(BASE, over)
    assert message in str(error.value)


def test_more_samples_than_points_are_refused() -> None:
    with pytest.raises(UserError, match="--samples 3: the grid has 2 points"):
        points(BASE, ["posterior.tau=0.1,0.2"], 3)
