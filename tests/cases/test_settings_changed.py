"""One setting changed against a run that has all of its work: what is said of it, and by which command."""

from __future__ import annotations

import numpy as np
import pytest

from blade_dist.data.bundle import ELSEWHERE, load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.errors import UserError
from blade_dist.posterior.prior import PriorWriter
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.align import align_stamp, is_aligned
from blade_dist.stages.opened import OpenedRun, open_run
from blade_dist.stages.prior import open_prior
from blade_dist.stages.sft import sft_stamp
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths
from blade_dist.store.stage import STAGE, is_done, mark
from tests.cases.wild import Wild
from tests.helpers.runs import random_policy

SIZES = "model.build={hidden_size: 32, layers: 1, heads: 1, kv_heads: 1, ffn_size: 32, context: 128}"
GIVEN = (
    *("reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]", SIZES, "prior.size=4", "rollout.group_size=4"),
    *("train={steps: 6, prompts: 48, prompts_per_step: 12}", "sft.epochs=2"),
)

REFUSED = {
    "data.targets=2": "data: data.targets: 3 there, 2 now",
    "data.min_rating=2": "data: data.min_rating: None there, 2.0 now",
    "data.columns.groups=null": "data: data.columns.groups: genre there, None now",
    "codec.kind=title": "data: codec.kind: None there, title now",
    "codec.prompt='so far {history}'": "data: codec.prompt: {history} there, so far {history} now",
    "train.prompts_from=held_out": "data: train.prompts_from: train there, held_out now",
    "lists.k=4": "sft: lists.k: 3 there, 4 now",
    "lists.exclude_history=false": "sft: lists.exclude_history: True there, False now",
    "model.build.layers=2": "sft: model.build.layers: 1 there, 2 now",
    "sft.epochs=3": "sft: sft.epochs: 2 there, 3 now",
    "sft.lr=1e-4": "sft: sft.lr: 0.003 there, 0.0001 now",
    "evaluate.decode=rank": "sft: evaluate.decode: list there, rank now",
    "run.seed=1": "data: run.seed: 0 there, 1 now",
    "lists.exclude=[i3]": "prior: lists.exclude, lists.at_most: no rules there, rules ",
    "lists.at_most={'*': 2}": "prior: lists.exclude, lists.at_most: no rules there, rules ",
    "lists.constrain=none": "prior: lists.constrain: catalog there, none now",
    "prior.size=8": "prior: prior.size: 4 there, 8 now",
    "prior.prompts=20": "prior: prior.prompts: None there, 20 now and 1 more",
    "rollout.temperature=0.9": "prior: rollout.temperature: 1.0 there, 0.9 now",
    "reward.weights={ndcg@3: 2.0}": "prior: reward.weights.ndcg@3: 1.0 there, 2.0 now",
    "reward.normalise=true": "prior: reward.normalise: False there, True now",
    "reward.at_least={ild@3: 0.1}": "prior: reward.weights.ild@3: None there, 0.0 now and 1 more",
    "posterior.tau=0.5": "train: posterior.tau: 0.3 there, 0.5 now",
    "rollout.group_size=8": "train: rollout.group_size: 4 there, 8 now",
    "rollout.max_staleness=1": "train: rollout.max_staleness: 0 there, 1 now",
    "learner.lr=1e-4": "train: learner.lr: 0.001 there, 0.0001 now",
    "learner.schedule=constant": "train: learner.schedule: linear there, constant now",
    "learner.lora={}": "train: learner.lora.alpha: None there, 32 now and 2 more",
    "train.prompts_per_step=6": "train: train.prompts_per_step: 12 there, 6 now",
    "train.steps=5": "train: train.steps: 6 there, 5 now",
    "train.validation_prompts=9": "train: train.validation_prompts: 0 there, 9 now and 1 more",
}
"""By the change, what the first command whose work it concerns says."""

HARMLESS = [
    *("data.partition_rows=100", "rollout.engines=2", "rollout.max_num_seqs=16", "rollout.kv_cache_gb=2"),
    *("rollout.request_timeout_s=9", "reward.timeout_s=9", "reward.multiplier_lr=0.1", "bond.beta=0.2"),
    *("learner.workers=2", "learner.zero_stage=2", "learner.cpus_per_worker=2", "learner.tokens_per_microbatch=999"),
    *("learner.shared_prefix=false", "learner.gradient_checkpointing=true", "weights.bucket_mb=10"),
    *("weights.tolerance=0.01", "weights.probe_prompts=3", "train.checkpoint_every=3", "train.keep_checkpoints=4"),
    *("train.max_failures=0", "train.max_skipped=1", "evaluate.metrics=[recall@3]", "evaluate.bootstrap=100"),
    *("tracking.tensorboard=false", "warn.kl=3", "ray.silence_s=9", "run.compare=[static]", "colocate=false"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run with data, a model, a prior and an alignment, as far as the checks before a start look at them."""
    wild = Wild(tmp_path_factory.mktemp("changed"))
    config = wild.config(*GIVEN)
    prepare_data(config)
    data, paths = load_data(config.run.dir), RunPaths(config.run.dir)
    random_policy(config, data, paths.reference, tied=True)
    mark(paths.sft, sft_stamp(config, data), done=True)
    run = open_run(config)
    writer = PriorWriter(paths.prior, run.prior_stamp)
    writer.add(run.rows, np.random.default_rng(0).random((len(run.rows), 4)))
    writer.finish()
    mark(paths.target("blade"), align_stamp(run), done=True)
    return config


def _changed(config: Config, *settings: str) -> Config:
    file = config.run.dir / "given.yaml"
    file.write_text(dump_config(config))
    return load_config(file, settings)


def _stamp(config: Config) -> dict[str, object]:
    return sft_stamp(config, load_data(config.run.dir))


def _refused(config: Config) -> tuple[str, str]:
    """The first command that refuses the settings, and what it says; nothing where all of them go on."""
    paths, runs = RunPaths(config.run.dir), list[OpenedRun]()
    commands = {
        "data": lambda: prepare_data(config),
        "sft": lambda: is_done(paths.sft, _stamp(config), "the fine-tuned model", ELSEWHERE),
        "open": lambda: runs.append(open_run(config)),
        "prior": lambda: open_prior(runs[0]),
        "train": lambda: is_aligned(runs[0], paths.target("blade"), "the aligned model"),
    }
    for name, command in commands.items():
        try:
            command()
        except UserError as error:
            return name, str(error).replace(f"{config.run.dir}/", "")
    return "", ""


@pytest.mark.parametrize(("given", "said"), REFUSED.items())
def test_a_changed_setting_is_named_with_both_values(made: Config, given: str, said: str) -> None:
    command, text = _refused(_changed(made, given))
    stage, _, named = said.partition(": ")
    assert (command, f" was made with other settings: {named}" in text) == (stage, True), text
    assert "; it stays as it is: set them back, " in text
    assert text.endswith("anew")
    assert "delete" not in text
    assert len(text) <= 3 * 80


@pytest.mark.parametrize("given", HARMLESS)
def test_where_and_how_fast_is_free(made: Config, given: str) -> None:
    assert _refused(_changed(made, given)) == ("", "")


def test_what_earlier_versions_noted_too_refuses_nothing(made: Config) -> None:
    folder = RunPaths(made.run.dir).target("blade")
    settings = (read_json(folder / STAGE) or {})["settings"]
    older = settings | {"learner": settings["learner"] | {"gradient_checkpointing": False}}
    mark(folder, older, done=True)
    try:
        assert _refused(_changed(made, "learner.gradient_checkpointing=true")) == ("", "")
    finally:
        mark(folder, settings, done=True)


@pytest.mark.parametrize("given", ["sft.epochs=3", "model.build.layers=2"])
def test_alignment_says_that_its_model_was_tuned_otherwise(
    made: Config, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    open_run(_changed(made))
    assert not caplog.records
    open_run(_changed(made, given))
    name, _, value = given.partition("=")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "sft was fine-tuned with other settings, and stays as it is: " in said
    assert said.endswith(f" there, {value} now")
    assert name in said
