"""The report: every look and its verdict, as a table and an exit status."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from blade_dist.cluster.placement import Node, Placement, cluster_nodes, place_here
from blade_dist.cluster.runtime import OBJECT_STORE_BYTES, ray_runtime, temporary_folder
from blade_dist.data.bundle import load_matching_data
from blade_dist.data.first_look import first_look
from blade_dist.doctor import findings, look
from blade_dist.doctor.findings import Finding, Level
from blade_dist.doctor.memory import Need, Shape, need, parameters
from blade_dist.errors import UserError
from blade_dist.learners.generation import FILE, generation_problem
from blade_dist.learners.policy import load_model, model_without_weights
from blade_dist.nodes.versions import versions
from blade_dist.settings import Config
from blade_dist.stages.copied import usable
from blade_dist.stages.opened import check_lists, check_metrics
from blade_dist.store.base_files import check_kind
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import show_table

PORTS = {6379: "the Ray head", 8265: "Ray's dashboard"}
SPILLED = "Ray's objects that memory has no room for, and its logs"
WIDTH = 120
"""Of the report where no terminal says how wide it is."""

ENGINE = "its process, weights twice, rollout.kv_cache_gb"
LEARNER = "its process, weights, reference, gradients, Adam, learner.tokens_per_microbatch, a copy for checkpoints"
"""What their memory is for, on cores."""
COPY = "what the learners copy of themselves while a checkpoint is written"

STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(config: Config, console: Console) -> bool:
    """Prints one line per finding; returns whether none is a failure."""
    levels = set()
    table = Table("", "what", "result", "fix", title="doctor")
    with console.status("looking"):
        for finding in examine(config):
            levels.add(finding.level)
            style = STYLE[finding.level]
            table.add_row(f"[{style}]{finding.level}[/]", finding.what, escape(finding.result), escape(finding.fix))
    show_table(console, table, WIDTH)
    return Level.FAIL not in levels


def examine(config: Config) -> Iterator[Finding]:
    """All findings, the cheap ones first."""
    yield from findings.together(versions(), look.requirements())
    yield findings.gpus(look.gpu_facts())
    yield findings.shared_memory(look.shared_memory_size())
    yield findings.token(os.environ.get("RAY_AUTH_MODE"), _has_token())
    joins = bool(config.ray.address or os.environ.get("RAY_ADDRESS"))
    if not joins:
        setting, temporary = temporary_folder()
        yield findings.sockets(setting, temporary)
        fix = "make room there, or set RAY_TMPDIR to a folder of another disk"
        yield findings.space("temporary disk", look.free_disk(Path(temporary)), OBJECT_STORE_BYTES, fix, why=SPILLED)
    for number, what in () if joins else PORTS.items():
        yield findings.port(number, what, look.is_free(number))
    yield findings.storage(str(config.run.dir), look.storage_problem(config.run.dir))
    if (uri := config.run.copy_to) is not None:
        yield _tried("copy", lambda: f"{usable(uri).uri}: takes, gives back and deletes a file")
    yield _tried("data", lambda: first_look(config.data))
    try:
        if config.model.path is not None:
            check_kind(config.model.path)
        needed = estimate(config)
    except UserError as error:
        yield Finding(
            Level.FAIL, "model", str(error), "set model.path to a causal LM that Transformers knows, then look again"
        )
        return
    # with validation the last one is kept beside the best ones; a new one is whole before an old one goes, and one that
    # is being copied stays until that is done
    kept = config.train.keep_checkpoints + (config.train.validation_prompts > 0) + 1 + (config.run.copy_to is not None)
    fix = "make room, or lower train.keep_checkpoints"
    yield findings.space("disk", look.free_disk(config.run.dir), kept * needed.checkpoint, fix)
    yield from _artifacts(config)
    yield from _cluster(config, needed)


def estimate(config: Config) -> Need:
    """Bytes of an engine, a learner and a checkpoint of these settings.

    Raises:
        UserError: ``model.path`` is of an architecture that is not known.
    """
    return _need(config, _shape(config))


def _need(config: Config, shape: Shape) -> Need:
    learner = config.learner
    return need(
        shape,
        config.model.dtype,
        learner.zero_stage,
        learner.workers,
        learner.tokens_per_microbatch,
        config.rollout.kv_cache_gb * findings.GB,
        None if learner.lora is None else learner.lora.rank,
        config.rollout.tensor_parallel,
        learner.gradient_checkpointing,
        config.loads_reference,
    )


def _shape(config: Config) -> Shape:
    if config.model.path is not None:
        # counted, as every architecture has names of its own for its sizes
        model = model_without_weights(config.model.path, config.model)
        vocab, hidden = model.get_input_embeddings().weight.shape
        layers = getattr(model.config.get_text_config(), "num_hidden_layers", 1)
        return Shape(sum(part.numel() for part in model.parameters()), hidden, layers, vocab)
    build, vocab = config.model.build, config.codec.vocab_size
    count = parameters(build.hidden_size, build.layers, build.heads, build.kv_heads, build.ffn_size, vocab, build.tied)
    return Shape(count, build.hidden_size, build.layers, vocab)


def _artifacts(config: Config) -> Iterator[Finding]:
    """The catalog and the model, where they are there already."""
    paths = RunPaths(config.run.dir)
    if paths.data.is_dir():
        yield _tried("catalog", lambda: _load_data(config))
    else:
        yield findings.good("catalog", f"not yet prepared in {config.run.dir} (blade-dist data)")
    model = paths.reference if paths.reference.is_dir() else config.model.path
    if model is not None:
        yield _tried("model", lambda: _load_model(model, config))
    else:
        yield findings.good("model", "none yet: a small Llama would be made (blade-dist sft)")


def _load_data(config: Config) -> str:
    data = load_matching_data(config)
    check_metrics(config, data)
    check_lists(config, data)
    return f"{len(data.catalog)} items, {len(data.train)} training prompts"


def _load_model(path: Path, config: Config) -> str:
    model, problem = load_model(path, config.model), generation_problem(path)
    size = f"{path}: {type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    return f"{size}; its {FILE} is invalid and is not used" if problem else size


def _tried(what: str, action: Callable[[], str]) -> Finding:
    try:
        return findings.good(what, action())
    except UserError as error:
        return Finding(Level.FAIL, what, str(error), "fix what it names, then look again")


def _cluster(config: Config, needed: Need) -> Iterator[Finding]:
    """Nodes, memory and the plan, on the cluster that a run would use."""
    try:
        with ray_runtime(config):
            nodes, idle = cluster_nodes(), look.gpus_are_idle()
            there = ", ".join(f"{node.address} ({node.cpus:g} cores, {node.gpus} GPUs)" for node in nodes)
            yield findings.good("nodes", there)
            yield from findings.network(look.bandwidths(idle))
            placement = place_here(config)
            for node in nodes:
                yield from _memory(node, placement, config, needed, idle)
            roles = f"{len(placement.engines)} engine(s), {len(placement.learners)} learner(s)"
            yield findings.good("placement", roles + (", GPUs shared in pairs" if placement.colocated else ""))
    except UserError as error:
        yield Finding(Level.FAIL, "cluster", str(error), "fix what it names, then look again")


def _memory(node: Node, placement: Placement, config: Config, needed: Need, idle: bool) -> Iterator[Finding]:
    """Whether a node's memory, and that of its GPUs, suffices for the roles that the plan puts there."""
    engines = [role for role in placement.engines if role.node == node]
    learners = [role for role in placement.learners if role.node == node]
    if not engines + learners:
        return
    if not placement.on_gpus:
        learner = needed.learner + needed.copy
        bytes_there = len(engines) * needed.engine + len(learners) * learner
        fix = "set fewer roles per node, a smaller learner.tokens_per_microbatch or rollout.kv_cache_gb"
        each = ((engines, "engine", needed.engine, ENGINE), (learners, "learner", learner, LEARNER))
        why = "; ".join(f"{len(of)} {name}(s) of {decimal(int(size))} ({what})" for of, name, size, what in each if of)
        free = look.on_node(node.id, look.free_memory)
        yield findings.space(f"memory {node.address}", free, bytes_there, fix, why=why)
        return
    facts = look.gpus_of_node(node.id, node.gpus, idle)
    if learners:
        free, fix = look.on_node(node.id, look.free_memory), "put fewer learners on a node"
        yield findings.space(f"memory {node.address}", free, len(learners) * needed.copy, fix, why=COPY)
    engine_gpu = needed.engine_gpu if engines else None
    learner_gpu = needed.learner if learners else None
    together = [(engine_gpu, learner_gpu)] if placement.colocated else [(engine_gpu, None), (None, learner_gpu)]
    for pair in together:
        if any(part is not None for part in pair):
            yield findings.gpu_memory(node.address, facts, config.rollout.gpu_memory_utilization, *pair)


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
