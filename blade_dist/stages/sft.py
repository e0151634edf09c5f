"""``blade-dist sft``: data -> the reference policy."""

from __future__ import annotations

from pathlib import Path

from ray.train import CheckpointConfig
from rich.console import Console

from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle, check_context, check_sequences, load_matching_data
from blade_dist.learners.dropout import check_layers
from blade_dist.learners.policy import model_without_weights
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.stages.actors import tracker
from blade_dist.stages.fit import check_ranks, fit, publish
from blade_dist.store.files import write_text
from blade_dist.store.fingerprint import fingerprint, fingerprint_file
from blade_dist.store.policy import check_base
from blade_dist.store.run import RunPaths, is_done, mark
from blade_dist.tracking.listener import StepPrinter
from blade_dist.tracking.say import say
from blade_dist.training.sft import SftJob, fine_tune, sft_steps, sft_windows


def sft_stage(config: Config, console: Console) -> None:
    """Fine-tunes until validation stops improving; writes ``sft/policy``. Skipped where that is done."""
    paths = RunPaths(config.run.dir)
    data = load_matching_data(config)
    if config.model.path is not None:
        check_base(config.model.path, data.codec.fingerprint(), _tokenizer_of(config, data))
        if config.sft_dropout:
            check_layers(model_without_weights(config.model.path, config.model))
    check_context(config, data.card["tokens"]["longest_prompt"], data.codec.max_list_tokens(config.lists.k))
    check_sequences(config, data)
    stamp = sft_stamp(config, data)
    if is_done(paths.sft, stamp, "the fine-tuned model"):
        say(console, f"sft: {paths.reference} is already there")
        return
    check_ranks(config.learner.workers, paths.sft)
    mark(paths.sft, stamp, done=False)
    write_text(paths.sft / "config.yaml", dump_config(config))
    steps = sft_steps(len(sft_windows(data.sequences, config)), config) * config.sft.epochs
    best_and_last = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation_ndcg")
    with tracker(paths.sft, config.tracking.tensorboard) as log:
        roles = place_here(config, engines=False).learners
        job = SftJob(config, config.run.dir.absolute(), log)
        result = fit(fine_tune, job, config, paths.sft / "learners", roles, best_and_last, StepPrinter(steps, console))
    publish(result, best_and_last, paths.reference)
    mark(paths.sft, stamp, done=True)


def sft_stamp(config: Config, data: DataBundle) -> str:
    """All that the fine-tuned weights depend on; not where and how fast they are made.

    Most of ``learner`` is the alignment's alone: rate and decay are those of ``sft``, see
    :func:`blade_dist.training.sft.sft_learner`. The ZeRO stage does not count: it says where numbers are
    kept, and may be raised for the alignment when memory is short.
    """
    features = RunPaths(config.run.dir).features
    return fingerprint(
        config.model,
        config.sft,
        config.run.seed,
        config.lists.model_dump(include={"k", "exclude_history"}),  # of the lists that choose the checkpoint
        [config.evaluate.decode, config.evaluate.beams if config.evaluate.decode == "beam" else None],
        config.learner.model_dump(include={"betas", "clip_grad"}),
        config.data.max_history,
        data.codec.fingerprint(),
        data.sequences.fingerprint(),
        data.validation.fingerprint(),
        fingerprint_file(features)
        if features.is_file() and (config.sft.item_features or config.sft.distillation)
        else None,
    )


def _tokenizer_of(config: Config, data: DataBundle) -> Path | None:
    """The base checkpoint that the data were prepared for; the user vouches for a ``codec.tokenizer``."""
    if config.codec.tokenizer is not None:
        return config.model.path
    path = data.card["settings"]["model.path"]
    return None if path is None else Path(path)
