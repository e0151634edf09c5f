"""A run folder or a checkpoint that does not fit: one line, exit code 2, no engine started, nothing half-written."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from blade_dist.data.bundle import DataBundle, load_matching_data
from blade_dist.errors import UserError
from blade_dist.posterior.prior import PriorWriter
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stamp
from blade_dist.stages.opened import legal_lists, open_run
from blade_dist.stages.sft import sft_stamp
from blade_dist.store.lock import held
from blade_dist.store.policy import STAMP, check_base
from blade_dist.store.run import RunPaths
from blade_dist.store.stage import mark
from tests.helpers.program import Program


@pytest.mark.parametrize("command", ["data", "sft", "prior", "train", "evaluate", "export"])
def test_data_of_other_settings(ready: Program, command: str) -> None:
    said = ready.fails(command, *ready.needs(command), "--set", "data.max_history=7")
    assert "data was made with other settings" in said
    assert "data.max_history: 8 there, 7 now" in said


def test_the_raw_log_may_move_once_the_data_are_made(ready: Program) -> None:
    moved = ready.config.data.model_copy(update={"path": Path("elsewhere"), "partition_rows": 7})
    assert len(load_matching_data(ready.config.model_copy(update={"data": moved})).train)


def test_a_context_that_became_too_short(ready: Program) -> None:
    said = ready.fails("sft", "--set", "model.build.context=24")
    assert "data.max_history" in said
    assert "model.build.context is 24" in said


def test_stages_in_the_wrong_order(program: Program, tiny_config: Config, tiny_data: DataBundle) -> None:
    for command in ("sft", "prior", "train", "evaluate", "export"):
        assert "no prepared data" in program.fails(command, *program.needs(command))
    shutil.copytree(RunPaths(tiny_config.run.dir).data, program.paths.data)
    for command in ("prior", "train", "evaluate"):
        assert "run `blade-dist sft` first" in program.fails(command, *program.needs(command))


def test_a_folder_that_another_command_works_in(program: Program, tiny_config: Config, tiny_reference: Path) -> None:
    shutil.copytree(RunPaths(tiny_config.run.dir).data, program.paths.data)
    with held(program.paths.sft, "blade-dist sft", "run.dir"):
        assert "is in use by blade-dist sft (process" in program.fails("sft")
    shutil.copytree(tiny_reference, program.paths.reference)
    with held(program.paths.target("blade"), "blade-dist train, target blade", "run.dir"):
        assert "is in use by blade-dist train, target blade (process" in program.fails("train")


@pytest.mark.parametrize("command", ["prior", "train", "evaluate"])
def test_a_trie_that_is_gone_or_of_other_tokens(ready: Program, command: str) -> None:
    stamp = ready.paths.trie / "trie.json"
    stamp.write_text('{"codec": "of-another-tokenizer"}')
    assert "have changed since the trie was built" in ready.fails(command, *ready.needs(command))
    shutil.rmtree(ready.paths.trie)
    assert "no trie of the catalog there" in ready.fails(command, *ready.needs(command))


@pytest.mark.parametrize("command", ["prior", "train", "evaluate", "run"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.weights={ndgc@3: 1.0}", "reward.weights 'ndgc@3': unknown metric; did you mean ndcg@3?"),
        ("reward.at_least={ndgc@3: 0.1}", "reward.at_least 'ndgc@3': unknown metric; did you mean ndcg@3?"),
        ("reward.at_most={mgu@4: 0.1}", "reward.at_most 'mgu@4': write mgu@N with N from 1 to lists.k = 3"),
        ("evaluate.metrics=[recal@3]", "evaluate.metrics 'recal@3': unknown metric; did you mean recall@3?"),
        ("evaluate.metrics=[hr@4]", "evaluate.metrics 'hr@4': write hr@N with N from 1 to lists.k = 3"),
    ],
)
def test_a_wrong_metric(ready: Program, command: str, setting: str, message: str) -> None:
    assert message in ready.fails(command, *ready.needs(command), "--set", setting)


@pytest.mark.parametrize("command", ["prior", "train", "evaluate", "run"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lists.exclude=[nothing]", "lists.exclude: there is no item 'nothing'; did you mean"),
        ("lists.at_most={group_9: 1}", "lists.at_most: there is no group 'group_9'; did you mean"),
        ("lists.at_most={'*': 0}", "lists.exclude, lists.at_most: they leave room for 0 of"),
        ("reward.weights={boost/own@3: 1.0}", "reward.weights 'boost/own@3': reward.boosts has no 'own'"),
    ],
)
def test_a_wrong_rule(ready: Program, command: str, setting: str, message: str) -> None:
    assert message in ready.fails(command, *ready.needs(command), "--set", setting)


@pytest.mark.parametrize("command", ["prior", "train", "evaluate"])
def test_adapters_for_layers_that_are_not_there(ready: Program, command: str) -> None:
    said = ready.fails(command, *ready.needs(command), "--set", "learner.lora.modules=[nothing]")
    assert said.startswith("error: learner.lora.modules")


def test_a_run_under_other_settings_shares_what_is_on_disk_and_is_checked_again(ready: Program) -> None:
    run = open_run(ready.config)
    fewer = run.under(load_config(ready.folder / "config.yaml", ["train.prompts=9"]))
    assert (fewer.data is run.data, len(fewer.rows), len(run.rows) > 9) == (True, 9, True)
    assert fewer.prior_stamp == run.prior_stamp
    with pytest.raises(UserError, match="unknown metric; did you mean"):
        run.under(load_config(ready.folder / "config.yaml", ["reward.weights={ndgc@3: 1.0}"]))


def test_stamps_know_what_lists_depend_on(ready: Program) -> None:
    def stamps(*settings: str) -> tuple[dict[str, object], dict[str, object]]:
        config = load_config(ready.folder / "config.yaml", settings)
        run = open_run(config)
        return align_stamp(run), run.prior_stamp

    plain, late = stamps(), stamps("rollout.max_staleness=1")
    assert (plain[0] != late[0], plain[1]) == (True, late[1])
    warm = [stamps("prior.prompts=9", *more)[1] for more in ((), ("run.seed=5",), ("train.prompts=30",))]
    assert all(one != other for one, other in combinations(warm, 2))


def test_the_stamp_of_a_prior_knows_the_rules(ready: Program) -> None:
    assert open_run(ready.config).prior_stamp["legal lists (see lists)"] == legal_lists(ready.config.lists)

    def constraint(**rules: object) -> str:
        return legal_lists(ready.config.lists.model_copy(update=rules))

    assert constraint() == "catalog, nothing seen"
    assert constraint(exclude_history="shown") == "catalog, nothing shown"
    assert constraint(exclude=["a", "b"]) == constraint(exclude=["b", "a"]) != constraint(exclude=["a"])
    assert constraint(at_most={"a": 1}) != constraint(at_most={"a": 2})


def nan_reward(lists: Lists) -> np.ndarray:
    return np.full(len(lists), np.nan)


def flat_reward(lists: Lists) -> float:
    return 1.0


@pytest.mark.parametrize(("name", "message"), [("nan_reward", "returned nan"), ("flat_reward", "returned shape ()")])
def test_a_faulty_reward(ready: Program, name: str, message: str) -> None:
    assert message in ready.fails("train", "--set", f"reward.weights={{'{__name__}:{name}': 1.0}}")
    report = ready.fails("evaluate", *ready.needs("evaluate"), "--set", f"evaluate.metrics=['{__name__}:{name}']")
    assert f"evaluate.metrics {__name__}:{name}: {message}" in report


def test_a_prior_of_another_reference(ready: Program) -> None:
    run = open_run(ready.config)
    stamp = run.prior_stamp | {"the fine-tuned model": "another", "prior.size": 7}
    writer = PriorWriter(ready.paths.prior, stamp)
    writer.add(run.rows, np.zeros((len(run.rows), 4)))
    writer.finish()
    said = ready.fails("train")
    assert "the prior was made with other settings: prior.size: 7 there, 4 now and 1 more; it stays" in said
    assert "delete" not in said


def test_an_evaluation_by_scales_that_no_prior_has_yet(ready: Program) -> None:
    said = ready.fails("evaluate", *ready.needs("evaluate"), "--set", "reward.normalise=true")
    assert f"reward.normalise: {ready.paths.prior} has the scales; run `blade-dist prior` to make it" in said


def test_a_reward_that_is_the_same_for_all_lists(ready: Program) -> None:
    run = open_run(ready.config)
    writer = PriorWriter(ready.paths.prior, run.prior_stamp)
    writer.add(run.rows, np.full((len(run.rows), 4), 0.25))
    writer.finish()
    for command in ("prior", "train"):
        assert "prompts has a reward of 0.25: there is nothing to be learnt from that" in ready.fails(command)


def test_a_floor_that_no_list_reaches(ready: Program) -> None:
    floor = {"reward": ready.config.reward.model_copy(update={"at_least": {"ndcg@3": 0.7}})}
    run = open_run(ready.config.model_copy(update=floor))
    writer = PriorWriter(ready.paths.prior, run.prior_stamp)
    values = np.tile([0.1, 0.2, 0.3, 0.6], (len(run.rows), 1))
    writer.add(run.rows, values, {"ndcg@3": values})
    writer.finish()
    for command in (["train"], ["train"], ["sweep", "--over", "posterior.tau=0.1,0.3"]):  # nothing is locked
        said = ready.fails(*command, "--set", "reward.at_least={ndcg@3: 0.7}")
        assert "reward.at_least.ndcg@3: 0.7 is out of reach: the best of 4 reference lists" in said
        assert "have 0.6 on average, and only an oracle" in said


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_checkpoint_of_another_model(ready: Program, command: str) -> None:
    foreign = ready.foreign()
    out = ("--out", str(ready.folder / "out")) if command == "export" else ()
    assert "a checkpoint of another model" in ready.fails(command, "--checkpoint", str(foreign), *out)
    (foreign / STAMP).write_text('{"policy": "sft"}')
    assert f"{STAMP}: damaged: it must hold policy, step" in ready.fails(command, "--checkpoint", str(foreign), *out)
    (foreign / STAMP).unlink()
    (foreign / "tokenizer.json").unlink()  # an evaluation asks what tokens a checkpoint without stamp has
    said = ready.fails(command, "--checkpoint", str(foreign), *out)
    assert ("no tokenizer could be read" if command == "evaluate" else f"{STAMP} is missing") in said
    assert "no checkpoint there" in ready.fails(command, "--checkpoint", str(ready.folder / "empty"), *out)
    assert not (ready.folder / "out").exists()


def test_a_comparison_with_another_model(ready: Program) -> None:
    arguments = (*ready.needs("evaluate"), "--against", str(ready.foreign()))
    assert "foreign: a checkpoint of another model" in ready.fails("evaluate", *arguments)


def test_a_base_checkpoint_of_another_model(ready: Program, tiny_data: DataBundle) -> None:
    foreign, codec = ready.foreign(), tiny_data.codec.fingerprint()
    base = ("--set", f"model.path={foreign}")
    assert "foreign is a checkpoint of another model" in ready.fails("sft", *base)
    (foreign / STAMP).unlink()
    assert "foreign has another tokenizer than the prepared data" in ready.fails("sft", *base)
    check_base(foreign, codec, tokenizer_of=foreign)
    check_base(ready.paths.reference, codec, tokenizer_of=None)


def test_a_base_checkpoint_that_is_none(ready: Program) -> None:
    said = ready.fails("sft", "--set", f"model.path={ready.folder / 'nothing'}")
    assert "nothing" in said
    assert "config.json" in said


def test_an_export_does_not_overwrite(ready: Program) -> None:
    (ready.folder / "mine").mkdir()
    arguments = ("--checkpoint", str(ready.paths.reference), "--out", str(ready.folder / "mine"))
    assert "exists and is not an export" in ready.fails("export", *arguments)
    (ready.folder / "file").touch()
    said = ready.fails("export", *arguments[:3], str(ready.folder / "file" / "out"))
    assert f"{ready.folder / 'file'} is a file" in said


@pytest.mark.parametrize(
    ("file", "command", "message"),
    [
        ("data/card.json", "train", "damaged, not valid JSON"),
        ("sft/stage.json", "sft", "damaged, not valid JSON"),
        ("sft/policy/blade_dist.json", "train", "damaged, not valid JSON"),
        ("prior.arrow", "train", "damaged (ArrowInvalid: "),
    ],
)
def test_a_damaged_file(ready: Program, file: str, command: str, message: str) -> None:
    (ready.paths.root / file).write_text("{")
    said = ready.fails(command)
    assert f"{ready.paths.root / file}: {message}" in said


def test_a_prior_without_a_stamp(ready: Program) -> None:
    table = pa.table({"prompt": [0]})
    with pa.OSFile(str(ready.paths.prior), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert "prior.arrow: not a prior, it has no stamp" in ready.fails("prior")


def test_a_fine_tuned_model_of_other_settings(ready: Program) -> None:
    mark(ready.paths.sft, sft_stamp(ready.config, load_matching_data(ready.config)), done=True)
    said = ready.fails("sft", "--set", "sft.lr=1e-4")
    assert f"{ready.paths.sft}: the fine-tuned model there was made with other settings: sft.lr: 0.005 there, " in said
    assert said.endswith("set them back, or choose another run.dir, where data and what follows are made anew")
    (ready.paths.sft / "stage.json").write_text('{"stamp": "other", "done": true}')
    assert "the fine-tuned model there is of an earlier version, which noted no settings" in ready.fails("sft")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("posterior.tau=0.2", "posterior.tau: 0.3 there, 0.2 now"),
        ("reward.weights={ndcg@3: 1.0, ild@3: 0.5}", "reward.weights.ild@3: 0.3 there, 0.5 now"),
        (
            "lists.exclude_history=false",
            "lists.exclude_history: nothing seen there, anything seen now",
        ),
        ("train.steps=50", "train.steps: 100 there, 50 now"),  # no checkpoint is left to go on from
    ],
)
def test_an_aligned_model_of_other_settings(ready: Program, setting: str, named: str) -> None:
    mark(ready.paths.target("blade"), align_stamp(open_run(ready.config)), done=True)
    said = ready.fails("train", "--set", setting)
    assert f"{ready.paths.target('blade')}: the aligned model there was made with other settings: {named}" in said
    assert "delete" not in said


def test_dropout_for_a_base_checkpoint_of_other_layers(ready: Program, tmp_path: Path) -> None:
    base = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=1, n_head=1)).save_pretrained(base)
    shutil.copy(ready.paths.reference / STAMP, base / STAMP)
    said = ready.fails("sft", "--set", f"model.path={base}", "--set", "sft.dropout=0.1")
    assert "sft.dropout: the layers of GPT2LMHeadModel have no self_attn and mlp" in said
