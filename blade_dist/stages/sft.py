"""``blade-dist sft``: data -> the reference policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray.train import CheckpointConfig
from rich.console import Console

from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import ELSEWHERE, DataBundle, check_context, check_sequences, load_matching_data
from blade_dist.errors import DivergedError
from blade_dist.learners.adapter import check_modules
from blade_dist.learners.dropout import check_layers
from blade_dist.learners.generation import FILE, generation_problem
from blade_dist.learners.policy import model_without_weights
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.stages.actors import tracker
from blade_dist.stages.fit import fit, publish
from blade_dist.stages.grown import say_new, with_todays_items
from blade_dist.stages.opened import tuned_by
from blade_dist.stages.resume import find_start, layout_of
from blade_dist.store.checkpoints import LEARNERS
from blade_dist.store.files import write_text
from blade_dist.store.fingerprint import fingerprint_file
from blade_dist.store.lock import held
from blade_dist.store.policy import check_base
from blade_dist.store.run import RunPaths
from blade_dist.store.stage import ITEMS, begin, is_done, mark
from blade_dist.tracking.listener import StepPrinter
from blade_dist.tracking.say import say, say_end
from blade_dist.tracking.step_log import drop_rows_from
from blade_dist.training.sft import SftJob, fine_tune, sft_examples, sft_steps, sft_windows, why_whole


def sft_stage(config: Config, console: Console) -> None:
    """Fine-tunes until validation stops improving; writes ``sft/policy``. Skipped where that is done.

    Raises:
        UserError: bad input, another process that works in the folder, or a training that diverged.
    """
    paths = RunPaths(config.run.dir)
    data = load_matching_data(config)
    given, config = config, _opened(config, data, console)
    if config.model.path is not None:
        check_base(config.model.path, data.codec.fingerprint(), _tokenizer_of(config, data))
        if config.sft_dropout:
            check_layers(model_without_weights(config.model.path, config.model))
        if config.learner.lora is not None:
            check_modules(config.model.path, config.learner.lora, config.model)
        if problem := generation_problem(config.model.path):
            say(console, f"sft: {config.model.path / FILE} is invalid and is not used ({problem})")
    check_context(config, data.card["tokens"]["longest_prompt"], data.codec.max_list_tokens(config.lists.k))
    check_sequences(config, data)
    stamp = sft_stamp(config, data) | {"model": given.model.model_dump(mode="json")}
    if is_done(paths.sft, stamp, "the fine-tuned model", ELSEWHERE):
        say_end(console, "sft", f"{paths.reference} is already there", _quality(config, paths.sft))
        return
    with held(paths.sft, "blade-dist sft", "run.dir"):
        _tune(config, data, stamp, console)


def _tune(config: Config, data: DataBundle, stamp: dict[str, Any], console: Console) -> None:
    paths = RunPaths(config.run.dir)
    best_and_last = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation_ndcg")
    if anew := begin(paths.sft, stamp):
        say(console, f"sft: {anew}")
    start = find_start(paths.sft, layout_of(config.learner), best_and_last)
    for line in start.lines:
        say(console, f"sft: {line}")
    drop_rows_from(paths.sft / "metrics.parquet", start.step)
    write_text(paths.sft / "config.yaml", dump_config(config))
    if (said := _said_of_adapters(config, data)) is not None:
        say(console, f"sft: {said}")
    examples = sft_examples(len(sft_windows(data.sequences, config)), config)
    _, steps = sft_steps(len(examples), config)
    with tracker(paths.sft, config) as log:
        roles = place_here(config, engines=False).learners
        job = SftJob(config, config.run.dir.absolute(), log)
        listener, end = StepPrinter(steps, console, "sft"), log.ask_to_end.remote
        try:
            result = fit(fine_tune, job, config, paths.sft / LEARNERS, roles, best_and_last, listener, end)
        except DivergedError:
            mark(paths.sft, stamp, done=False, diverged=True)
            raise
    publish(result, best_and_last, paths.reference)
    mark(paths.sft, stamp, done=True)
    say_end(console, "sft", f"{paths.reference} holds the fine-tuned model", _quality(config, paths.sft))


def _said_of_adapters(config: Config, data: DataBundle) -> str | None:
    """What becomes of ``learner.lora``, where it is set."""
    if (lora := config.learner.lora) is None:
        return None
    if (why := why_whole(config, data.codec)) is not None:
        return f"learner.lora is for the alignment only: here every weight is trained, as {why}"
    return f"trains adapters of rank {lora.rank} (learner.lora), which are merged into the fine-tuned model"


def _opened(config: Config, data: DataBundle, console: Console) -> Config:
    """With a ``model.path`` that knows all items, where it is a policy of the run that the items are written as.

    It is a whole path, as the ranks work in a folder of their own: from there a relative one leads nowhere.
    """
    if (base := config.model.path) is None:
        return config
    say_new("sft", base, config, data, console)
    path = with_todays_items(base, config, data).absolute()
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})


def _quality(config: Config, folder: Path) -> str:
    """Of the checkpoint that was kept."""
    file = folder / "metrics.parquet"
    rows = pq.read_table(file).to_pylist() if file.is_file() else []
    if not rows:
        return f"how good it is, is not known: {file} is missing"
    best = max(rows, key=lambda row: row["validation_ndcg"])
    ndcg, margin = best["validation_ndcg"], best.get("validation_ndcg_margin")
    interval = "" if margin is None else f" [{max(0.0, ndcg - margin):.3f}, {ndcg + margin:.3f}]"
    return (
        f"validation NDCG@{config.lists.k} {ndcg:.4f}{interval} by {config.evaluate.decode} after "
        f"{best['epoch']:.3g} of {rows[-1]['epoch']:.3g} epochs"
    )


def sft_stamp(config: Config, data: DataBundle) -> dict[str, Any]:
    """All that the fine-tuned weights depend on; not where and how fast they are made.

    Most of ``learner`` is the alignment's alone: rate and decay are those of ``sft``, see
    :func:`blade_dist.training.sft.sft_learner`. The ZeRO stage does not count: it says where numbers are
    kept, and may be raised for the alignment when memory is short.
    """
    features, lora = RunPaths(config.run.dir).features, config.learner.lora
    reads_features = features.is_file() and (config.sft.item_features or config.sft.distillation)
    return (
        tuned_by(config)
        | {
            "run.seed": config.run.seed,
            # of the lists that choose the checkpoint
            "lists": config.lists.model_dump(mode="json", include={"k", "exclude_history"}),
            "evaluate.decode": config.evaluate.decode,
            "evaluate.beam_width": config.evaluate.beams if config.evaluate.decode == "beam" else None,
            "learner": config.learner.model_dump(mode="json", include={"betas", "clip_grad"}),
            "data.max_history": config.data.max_history,
            ITEMS: len(data.catalog),
            "the codec": data.codec.fingerprint(),
            "the training sequences": data.sequences.fingerprint(),
            "the validation prompts": data.validation.fingerprint(),
            "the item features": fingerprint_file(features) if reads_features else None,
        }
        | ({} if lora is None or why_whole(config, data.codec) else {"learner.lora": lora.model_dump(mode="json")})
    )


def _tokenizer_of(config: Config, data: DataBundle) -> Path | None:
    """The base checkpoint that the data were prepared for; the user vouches for a ``codec.tokenizer``."""
    if config.codec.tokenizer is not None:
        return config.model.path
    path = data.card["settings"]["model.path"]
    return None if path is None else Path(path)
