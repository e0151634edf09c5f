"""The settings tree: defaults, overrides, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.store.files import write_text
from tests.helpers.paths import CONFIGS


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_bundled_files_load(path: Path) -> None:
    config = load_config(path)
    assert config.run.dir.name == path.stem
    for given in (config.data.path, config.data.items, config.model.path):
        assert given is None or ".." not in given.parts, f"{given}: whoever reads the file has nothing there"


def test_what_is_dumped_loads_again(tmp_path: Path) -> None:
    config = load_config(None, ["learner.lr=3e-5", "reward.weights={hr@5: 2.0}", "run.compare=[static]"])
    write_text(tmp_path / "deep" / "config.yaml", dump_config(config))
    assert load_config(tmp_path / "deep" / "config.yaml") == config
    assert yaml.safe_load(dump_config(config))["learner"]["lr"] == 3e-5


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: grpo\nlearner: {lr: 0.5, zero_stage: 1}\n")
    config = load_config(tmp_path / "c.yaml", ["learner.lr=0.25", "target=static"])
    assert (config.target, config.learner.lr, config.learner.zero_stage) == ("static", 0.25, 1)


def test_derived_defaults() -> None:
    config = load_config(None)
    assert config.kl_coef == pytest.approx(1 / 15)
    assert load_config(None, ["learner.kl_coef=0"]).kl_coef == 0
    assert config.loads_reference
    assert not load_config(None, ["learner.kl_coef=0"]).loads_reference
    assert not load_config(None, ["learner.lora={}"]).loads_reference
    assert load_config(None, ["target=bond", "learner.kl_coef=0"]).loads_reference
    assert config.prior_strength == config.prior.size
    assert config.logprob_tolerance == 1e-4
    assert load_config(None, ["model.dtype=bfloat16"]).logprob_tolerance == 0.1


def test_the_anchor_is_the_reference_of_bond() -> None:
    config = load_config(None, ["target=bond", "bond={beta: 0.25, gamma: 0.5}", "learner.kl_coef=3"])
    assert (config.kl_coef, config.own_share) == (0.75, 0.25)
    other = config.model_copy(update={"target": "static"})
    assert (other.kl_coef, other.own_share) == (3, 1)


@pytest.mark.parametrize("how", ["target=bond", "run.compare=[bond]"])
def test_bond_needs_fresh_lists_and_all_weights(how: str) -> None:
    with pytest.raises(UserError, match=r"rollout\.max_staleness: target bond needs 0"):
        load_config(None, [how, "rollout.max_staleness=1"])
    with pytest.raises(UserError, match=r"learner\.lora: target bond averages all weights"):
        load_config(None, [how, "learner.lora={}"])


def test_a_refreshed_prior_is_for_targets_that_read_it() -> None:
    assert load_config(None, ["prior.refresh_every=3"]).refresh_every == 3
    assert load_config(None, ["prior.refresh_every=3", "target=grpo"]).refresh_every is None
    with pytest.raises(UserError, match=r"prior\.refresh_every: needs rollout\.max_staleness = 0"):
        load_config(None, ["prior.refresh_every=3", "rollout.max_staleness=1"])
    with pytest.raises(UserError, match=r"prior\.refresh_every: evidence that posterior\.carry brings back is older"):
        load_config(None, ["prior.refresh_every=3", "posterior.carry=0.5"])
    with pytest.raises(UserError, match=r"prior\.refresh_every: multipliers of reward\.at_least"):
        load_config(None, ["prior.refresh_every=3", "reward.at_least={ndcg@5: 0.2}"])


def test_a_small_tau_may_be_written_as_people_do() -> None:
    """YAML takes 1e-2 for text."""
    assert load_config(None, ["posterior.tau=1e-2"]).posterior.tau == 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.zero_stag=2", "learner.zero_stag: unknown setting; did you mean learner.zero_stage?"),
        ("data.synthetic.user=3", "data.synthetic.user: unknown setting; did you mean data.synthetic.users?"),
        ("lerner.lr=1", "lerner: unknown setting; did you mean learner?"),
        ("posterior.tau=1", "posterior.tau: write a number that is at least 0 and less than 1, or auto; got 1"),
        ("posterior.tau=automatic", "posterior.tau: write a number that is at least 0 and less than 1, or auto"),
        (
            "posterior={ties: exact, proxy: mean_log}",
            "posterior.proxy: mean_log has no closed form with",
        ),
        ("posterior.tau=off", "posterior.tau: write a number that is at least 0 and less than 1, or auto; got 'off'"),
        ("reward.boosts={promo: {i1: 1}}", "reward.boosts.promo: no metric uses it; give boost/promo@5 a weight"),
        ("reward.distributions={t: {head: 1}}", "reward.distributions.t: no metric uses it; give mgu/t@5 a weight"),
        ("prior.cold_size=2", "prior.cold_size: without prior.prompts no prompt is cold"),
        ("lists.exclude_history=all", "lists.exclude_history"),
        (
            "prior={size: 4, prompts: 9, cold_size: 4}",
            "prior.cold_size: cold prompts have fewer lists than prior.size = 4; got 4",
        ),
        ("learner.lr=.inf", "learner.lr: Input should be a finite number (got inf)"),
        ("learner.zero_stage=4", "learner.zero_stage: Input should be less than or equal to 3"),
        ("target=dpo", "target: Input should be 'blade', 'static', 'bond', 'grpo' or 'best_of_n_sft'"),
        ("reward.weights={ndcg@5: 0}", "reward.weights: every weight is 0"),
        ("evaluate.rerank={mmr: [1.5]}", "evaluate.rerank.mmr.0: Input should be less than or equal to 1 (got 1.5)"),
        ("evaluate.rerank={mrm: [0.5]}", "evaluate.rerank.mrm.[key]: Input should be 'mmr', 'dpp', 'utility' or"),
        ("evaluate.select_by={ild@5: 0}", "evaluate.select_by: every weight is 0; give at least one metric a weight"),
        (
            "reward={at_least: {ndcg@5: 0.5}, at_most: {ndcg@5: 0.3}}",
            "reward.at_least.ndcg@5: the floor 0.5 is above the ceiling reward.at_most.ndcg@5 = 0.3",
        ),
        ("reward.ranker=5", "reward.ranker: write policy, or the path of a Parquet file; got 5"),
        ("reward.ranker=scores.parquet", "reward.ranker: no metric reads it; give expected_ndcg@5 a weight"),
        ("reward.ranker=s3://bucket/scores", "a path of this machine is needed, not a URI"),
        ("reward.ranker_top=4", "reward.ranker_top: 4 items; give lists.k = 5 at least"),
        ("rollout.k=6", "rollout.k: 6 items in training, and lists.k = 5; at most that many"),
        ("rollout.k=3", "rollout.k: the reward's ndcg@5 looks at more than 3 items; give it at least 5"),
        ("data.source=movielens", "data.path: required where data.source is movielens"),
        ("codec.prompt=hello", "codec.prompt: the text has no {history}"),
        ("model.build.heads=3", "model.build: hidden_size / heads must be a multiple of 32"),
        ("learner.lr", "--set learner.lr: write section.key=value"),
        ("data.k_core=true", "data.k_core: a number is needed, and true and false are none (got True)"),
        ("train.max_failures=false", "train.max_failures: a number is needed, and true and false are none (got False)"),
        ("data.min_rating=true", "data.min_rating: a number is needed"),
        ("posterior.tau=true", "posterior.tau: a number is needed"),
        ("lists.at_most={'*': true}", "lists.at_most: a number is needed"),
        ("evaluate.best_of=[4, true]", "evaluate.best_of: a number is needed"),
        ("reward.weights={'ndcg@5': true}", "reward.weights: a number is needed"),
        ("run.seed=99999999999999999999999", "run.seed: at most 2147483647 (got 99999999999999999999999)"),
        ("codec.vocab_size=99999999999999999999", "codec.vocab_size: at most 2147483647"),
        ("data.targets=2147483648", "data.targets: at most 2147483647"),
        ("run=3", "run: it is a section: write its settings below it, each on a line (got 3)"),
        ("run.dir=[a]", "run.dir: a path is needed, as text (got ['a'])"),
        (
            "data={split: global_time, validation_fraction: 0.6, test_fraction: 0.5}",
            "data.validation_fraction: with data.test_fraction it is 1.1 of the log, which leaves nothing to train on",
        ),
        ("target.x=1", "target"),
        ("learner.lr=[", "--set learner.lr=["),
    ],
)
def test_what_is_refused_is_named(override: str, message: str) -> None:
    overrides = ["target=blade", override] if override.startswith("target.x") else [override]
    with pytest.raises(UserError) as error:
        load_config(None, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_section_with_nothing_below_it_has_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run:\n  # dir: runs/x\ndata:\nlearner: {lr: 0.5, lora: }\nmodel: {build: }\n")
    assert load_config(tmp_path / "c.yaml") == load_config(None, ["learner.lr=0.5"])


def test_what_may_be_true_or_false_still_is() -> None:
    assert load_config(None, ["lists.exclude_history=false", "colocate=true", "learner.lora={}"]).colocate
    assert load_config(None, ["reward.normalise=yes", "train.steps='7'"]).train.steps == 7


def test_the_policy_s_own_ranking_is_one_of_legal_items() -> None:
    free = ["lists.constrain=none", "evaluate.metrics=[expected_ndcg@5]"]
    with pytest.raises(UserError, match=r"reward\.ranker: policy needs lists\.constrain = catalog; or give the path"):
        load_config(None, free)
    file = load_config(None, [*free, "reward.ranker=~/scores.parquet"]).reward.ranker
    assert file == Path.home() / "scores.parquet"


def test_names_are_what_they_look_like() -> None:
    """YAML 1.1 takes leading zeros for octal numbers, and colons for base 60."""
    config = load_config(None, ["lists.exclude=[0012, 12:30, 7]", "train.steps=1_000", "run.seed=0"])
    assert (config.lists.exclude, config.train.steps, config.run.seed) == (["0012", "12:30", "7"], 1000, 0)
    again = yaml.safe_load(dump_config(config))
    assert Config.model_validate(again) == config


def test_a_section_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    """The first one would be lost."""
    (tmp_path / "twice.yaml").write_text("reward: {at_least: {ild@5: 0.7}}\nlists: {k: 5}\nreward: {weights: {}}\n")
    with pytest.raises(UserError, match=r"twice\.yaml: not valid YAML: 'reward' stands there twice .*line 3"):
        load_config(tmp_path / "twice.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml: No such file"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "broken.yaml").write_text("run:\n  dir: [\n")
    with pytest.raises(UserError, match=r"broken\.yaml: not valid YAML: .*line 3"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load_config(tmp_path / "list.yaml")


def test_constrained_metrics_are_scored_and_carry_has_no_place_beside_them() -> None:
    reward = load_config(None, ["reward.at_least={ndcg@5: 0.2}", "reward.weights={ild@5: 1.0}"]).reward
    assert reward.scored == {"ndcg@5": 0.0, "ild@5": 1.0}
    with pytest.raises(UserError, match=r"posterior\.carry: earlier evidence has no place beside reward\.at_least"):
        load_config(None, ["reward.at_most={mgu@5: 0.1}", "posterior.carry=0.5"])


def test_a_floor_may_be_the_ceiling() -> None:
    reward = load_config(None, ["reward.at_least={ild@5: 0.3}", "reward.at_most={ild@5: 0.3}"]).reward
    assert reward.constrained == ["ild@5", "ild@5"]


def test_of_many_wrong_values_the_first_are_said_and_the_others_counted() -> None:
    wrong = ["lists.k=-1", "sft.epochs=few", "prior.size=abc", "train.steps=-4", f"data.path={list(range(99))}"]
    with pytest.raises(UserError, match=r"^settings: .*; and [1-3] more$") as error:
        load_config(None, wrong[:-1])
    assert len(str(error.value)) <= 3 * 80
    with pytest.raises(UserError, match=r"data.path: .*[0-9]\.\.\.\)$") as error:
        load_config(None, wrong[-1:])
    assert len(str(error.value)) <= 3 * 80


def test_words_for_true_and_false_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {null_words: [NO, off, n]}\nlists: {exclude_history: no}\n")
    config = load_config(tmp_path / "c.yaml", ["data.quoted=yes"])
    assert config.data.null_words == ["NO", "off", "n"]
    assert (config.lists.exclude_history, config.data.quoted) == (False, True)
    with pytest.raises(UserError, match=r"data.k_core: .*\(got 'yes'\)"):
        load_config(None, ["data.k_core=yes"])


@pytest.mark.parametrize("given", ["=3", "data..k_core=1", ".k=1", "data.=1"])
def test_a_setting_has_a_name(given: str) -> None:
    with pytest.raises(UserError, match=r"^--set .*: write section\.key=value$"):
        load_config(None, [given])


def test_a_null_character_is_of_no_path() -> None:
    with pytest.raises(UserError, match=r"run\.dir: no path has a null character in it"):
        load_config(None, ['run.dir="a\\0b"'])


def test_a_file_of_a_thousand_lists_in_each_other_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: " + "[" * 3000 + "]" * 3000)
    with pytest.raises(UserError, match=r"c\.yaml: .* a thousand deep"):
        load_config(tmp_path / "c.yaml")
