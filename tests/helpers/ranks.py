"""Learner ranks in processes of their own, for tests: each runs one step per setting and saves what came out."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from blade_dist.batches import Estimates, LearnBatch, Ragged, Rollouts
from blade_dist.settings import BuildSettings, LearnerSettings, ModelSettings

GROUP, K, VOCAB, PAD, END = 4, 2, 64, 0, 1


def make_batch(prompts: int = 6, seed: int = 0) -> LearnBatch:
    """Random prompts of different length, lists of different length, and their (invented) rollout log-probs."""
    rng = np.random.default_rng(seed)
    prompt_tokens = Ragged.of([rng.integers(2, VOCAB, rng.integers(3, 12)) for _ in range(prompts)])
    tokens = Ragged.of([rng.integers(2, VOCAB, rng.integers(2, 7)) for _ in range(prompts * GROUP)])
    index = np.arange(prompts)
    advantage = rng.normal(size=(prompts, GROUP)).astype(np.float32)
    rollouts = Rollouts(
        prompt=index,
        items=np.zeros((prompts, GROUP, K), np.int32),
        tokens=tokens,
        logprobs=rng.normal(-4, 0.1, len(tokens.flat)).astype(np.float32),
        decision=np.ones(len(tokens.flat), bool),
        version=np.zeros((prompts, 2), np.int64),
        invalid=np.zeros((prompts, GROUP), np.int32),
        duplicate=np.zeros((prompts, GROUP), np.int32),
        seconds=np.ones(1),
    )
    estimates = Estimates(index, advantage.astype(np.float64), advantage, np.ones(prompts, bool))
    return LearnBatch(prompt_tokens, nothing(prompts), rollouts, estimates, decision_tokens=len(tokens.flat))


def make_imitated(prompts: int = 6, seed: int = 3) -> Rollouts:
    """One list to imitate per prompt, by nobody we know."""
    rng = np.random.default_rng(seed)
    tokens = Ragged.of([rng.integers(2, VOCAB, rng.integers(2, 7)) for _ in range(prompts)])
    return Rollouts(
        prompt=np.arange(prompts),
        items=np.zeros((prompts, 1, K), np.int32),
        tokens=tokens,
        logprobs=rng.normal(-9, 3, len(tokens.flat)).astype(np.float32),
        decision=np.ones(len(tokens.flat), bool),
        version=np.zeros((prompts, 2), np.int64),
        invalid=np.zeros((prompts, 1), np.int32),
        duplicate=np.zeros((prompts, 1), np.int32),
        seconds=np.ones(1),
    )


def nothing(prompts: int) -> Ragged:
    return Ragged(np.zeros(0, np.int32), np.zeros(prompts + 1, np.int64))


def shard(batch: LearnBatch, rank: int, world: int) -> LearnBatch:
    """As the pipeline cuts it, unevenly on purpose: rank 0 has one prompt more."""
    rows = (
        np.array_split(np.arange(len(batch.prompt_tokens)), [len(batch.prompt_tokens) // 2 + 1])[rank]
        if world == 2
        else np.arange(len(batch.prompt_tokens))
    )
    return batch.take(rows)


def first_step(
    zero_stage: int, budget: int, tied: bool, dtype: str = "float32", shared: bool = True
) -> dict[str, torch.Tensor]:
    """Full parameters after one step, and Adam's first moment, which is (1 - beta1) times the gradient."""
    import deepspeed

    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.update import PolicyUpdate
    from blade_dist.learners.zero import DeepSpeedLearner
    from blade_dist.weights.gather import full_state

    model = ModelSettings(
        dtype=dtype,
        build=BuildSettings(hidden_size=64, layers=2, heads=2, kv_heads=1, ffn_size=48, context=64, tied=tied),
    )
    torch.manual_seed(0)
    policy = Policy(build_model(model, VOCAB, PAD, END), temperature=1.0)
    torch.manual_seed(1)
    reference = Policy(build_model(model, VOCAB, PAD, END), temperature=1.0).requires_grad_(False)
    settings = LearnerSettings(zero_stage=zero_stage, tokens_per_microbatch=budget, clip_grad=0.0, shared_prefix=shared)
    learner = DeepSpeedLearner(policy, settings, dtype, PAD)
    stats = PolicyUpdate(
        learner, partial(learner.logprobs, policy=reference), settings, kl_coef=0.1, legality=None
    ).learn(shard(make_batch(), learner.rank, learner.world_size), 1e-3)
    result = {f"weight/{name}": value for name, value in full_state(learner.model, 2**20, keep=True).items()}
    result |= gradients(learner, settings)
    result["stats"] = torch.tensor([stats.loss, stats.kl, stats.grad_norm, stats.rollout_gap], dtype=torch.float64)
    deepspeed.comm.barrier()
    return result


def gradients(learner: Any, settings: LearnerSettings) -> dict[str, torch.Tensor]:
    """Of the learner's first step, by the name of the parameter: what its moments hold."""
    from deepspeed.utils import safe_get_full_optimizer_state

    moments = {}
    for name, parameter in learner.model.named_parameters():
        if settings.zero_stage == 0:
            moment = learner._engine.optimizer.state[parameter]["exp_avg"]
        else:
            moment = safe_get_full_optimizer_state(parameter, "exp_avg")
        moments[f"gradient/{name}"] = moment.detach().clone().float() / (1 - settings.betas[0])
    return moments


def imitation_step(zero_stage: int, budget: int, shared: bool, own_share: float) -> dict[str, torch.Tensor]:
    """The gradient of a step with lists to imitate, and what it is by the formula, from a model of its own."""
    from dataclasses import replace

    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.update import PolicyUpdate
    from blade_dist.learners.zero import DeepSpeedLearner

    model = ModelSettings(build=BuildSettings(hidden_size=64, layers=2, heads=2, kv_heads=1, ffn_size=48, context=64))
    torch.manual_seed(0)
    policy = Policy(build_model(model, VOCAB, PAD, END), temperature=1.0)
    torch.manual_seed(0)
    plain = build_model(model, VOCAB, PAD, END)
    settings = LearnerSettings(zero_stage=zero_stage, tokens_per_microbatch=budget, clip_grad=0.0, shared_prefix=shared)
    learner = DeepSpeedLearner(policy, settings, "float32", PAD)
    whole = make_batch()
    # on-policy lists, so that no importance weight is truncated
    prompts = np.repeat(np.arange(6), GROUP)
    with torch.no_grad():
        own = torch.cat([_logprobs(plain, whole, whole.rollouts, row, p) for row, p in enumerate(prompts)])
    rollouts = replace(whole.rollouts, logprobs=own.numpy())
    batch = replace(whole, rollouts=rollouts, imitated=make_imitated())
    update = PolicyUpdate(learner, learner.logprobs, settings, 0.0, None, own_share)
    stats = update.learn(shard(batch, learner.rank, learner.world_size), 1e-3)

    mean_length = batch.decision_tokens / len(prompts)
    advantage = torch.from_numpy(batch.estimates.advantage.reshape(-1))
    of_group = [_logprobs(plain, batch, rollouts, row, p).sum() for row, p in enumerate(prompts)]
    imitated = [_logprobs(plain, batch, make_imitated(), row, row).sum() for row in range(6)]
    policy_loss, imitation = -(torch.stack(of_group) * advantage).mean(), -torch.stack(imitated).mean()
    ((own_share * policy_loss + (1 - own_share) * imitation) / mean_length).backward()
    result = {f"expected/{name}": parameter.grad for name, parameter in plain.named_parameters()}
    result |= gradients(learner, settings)
    result["stats"] = torch.tensor([stats.kl, stats.rollout_gap, stats.importance_weight], dtype=torch.float64)
    dist.barrier()
    return result


def _logprobs(model: torch.nn.Module, batch: LearnBatch, lists: Rollouts, row: int, prompt: int) -> torch.Tensor:
    """Of the tokens of one list, from the whole sequence by itself."""
    tokens = torch.from_numpy(lists.tokens[row].astype(np.int64))
    before = torch.from_numpy(batch.prompt_tokens[prompt].astype(np.int64))
    logits = model(torch.cat([before, tokens])[None]).logits[0, len(before) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0]


def dropped_gradients() -> dict[str, torch.Tensor]:
    """Gradients of a model with dropout, drawn twice: of places of lists that are imitated, and of sequences."""
    from blade_dist.learners.dropout import add_dropout
    from blade_dist.learners.item_vectors import add_item_vectors
    from blade_dist.learners.packing import PromptLists
    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.zero import DeepSpeedLearner

    build = BuildSettings(hidden_size=64, layers=1, heads=2, kv_heads=1, ffn_size=48, context=64)
    settings, listed = LearnerSettings(clip_grad=0.0), np.arange(2, 12)
    batch = make_batch()
    sequences = PromptLists(batch.prompt_tokens, batch.rollouts.tokens, np.repeat(np.arange(6), GROUP))
    given = np.tile([False, False, True, False], 6)
    imitated = PromptLists.single(batch.prompt_tokens, Ragged.of([[2] * 4] * 6), given=given)
    result = {}
    for name, counts in (("imitated", 0.0), ("sequences", 1.0)):
        for seed in (1, 2):
            torch.manual_seed(0)
            model = build_model(ModelSettings(build=build), VOCAB + 10, PAD, END)
            add_item_vectors(model, listed, np.arange(VOCAB, VOCAB + 10))
            add_dropout(model, 0.5)
            learner = DeepSpeedLearner(Policy(model, temperature=1.0), settings, "float32", PAD)
            torch.manual_seed(seed)
            learner.update(sequences, partial(_counted, counts), 1e-3, (imitated, 1.0 - counts))
            found = [value.reshape(-1) for value in gradients(learner, settings).values()]
            result[f"{name} {seed}"] = torch.cat(found)
    return result


def _counted(factor: float, _: Any, logprob: torch.Tensor) -> torch.Tensor:
    return -factor * logprob


def adapted_steps(zero_stage: int) -> dict[str, torch.Tensor]:
    """Two steps of an adapted policy: adapters, merged weights, and log-probs with and without them."""
    from blade_dist.learners.adapter import add_adapter
    from blade_dist.learners.packing import PromptLists
    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.update import PolicyUpdate
    from blade_dist.learners.zero import DeepSpeedLearner
    from blade_dist.settings import LoraSettings
    from blade_dist.weights.gather import full_state, trained_state

    build = BuildSettings(hidden_size=64, layers=2, heads=2, kv_heads=1, ffn_size=48, context=64)
    torch.manual_seed(0)
    policy = Policy(build_model(ModelSettings(build=build), VOCAB, PAD, END), temperature=1.0)
    result = {f"before/{name}": value.clone() for name, value in policy.model.named_parameters()}
    add_adapter(policy.model, LoraSettings(rank=8, alpha=24))
    settings = LearnerSettings(zero_stage=zero_stage, tokens_per_microbatch=40)
    learner = DeepSpeedLearner(policy, settings, "float32", PAD)
    update = PolicyUpdate(learner, learner.base_logprobs, settings, kl_coef=0.1, legality=None)
    batch = make_batch()
    sequences = PromptLists(batch.prompt_tokens, batch.rollouts.tokens, np.repeat(np.arange(6), GROUP))
    result["start"] = learner.logprobs(sequences)
    own = shard(batch, learner.rank, learner.world_size)
    result["kl"] = torch.tensor([update.learn(own, 1e-2).kl for _ in range(2)])
    result |= {f"merged/{name}": value for name, value in full_state(learner.model, 2**20, keep=True).items()}
    result |= {f"adapter/{name}": value for name, value in trained_state(learner.model, 2**20, keep=True).items()}
    result["end"], result["base"] = learner.logprobs(sequences), learner.base_logprobs(sequences)
    return result


def steps_with_bad_ones(zero_stage: int, bad: bool, dtype: str) -> dict[str, Any]:
    """Two good steps; ``bad``: between them one whose advantage and one whose gradient is NaN on the last rank."""
    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.update import PolicyUpdate
    from blade_dist.learners.zero import DeepSpeedLearner
    from blade_dist.weights.gather import full_state

    build = BuildSettings(hidden_size=64, layers=1, heads=2, kv_heads=1, ffn_size=48, context=64)
    torch.manual_seed(0)
    policy = Policy(build_model(ModelSettings(build=build, dtype=dtype), VOCAB, PAD, END), temperature=1.0)
    settings = LearnerSettings(zero_stage=zero_stage, tokens_per_microbatch=80, weight_decay=0.1)
    learner = DeepSpeedLearner(policy, settings, dtype, PAD)
    update = PolicyUpdate(learner, None, settings, 0.0, None)
    last = learner.rank == learner.world_size - 1
    stats = []

    def learn(seed: int, advantage: float = 1.0, gradient: float = 1.0) -> None:
        batch = make_batch(seed=seed)
        batch.estimates.advantage[-1, -1] *= advantage
        hook = learner.model.model.norm.weight.register_hook(lambda given: given * (gradient if last else 1.0))
        stats.append(update.learn(shard(batch, learner.rank, learner.world_size), 1e-2))
        hook.remove()

    learn(0)
    if bad:
        learn(1, advantage=np.nan)
        learn(1, gradient=np.nan)
    learn(2)
    weights = full_state(learner.model, 2**20, keep=True)
    return {"why": [one.not_finite for one in stats], "numbers": [one.numbers for one in stats], "weights": weights}


def _rank(
    rank: int, world: int, port: int, work: Callable[..., dict], cases: list[tuple[str, dict]], out: Path
) -> None:
    os.environ.update(
        DS_ACCELERATOR="cpu",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for name, case in cases:
        result = work(**case)
        if rank == 0:
            torch.save(result, out / f"{name}.pt")
    dist.destroy_process_group()


def run_ranks(
    world: int, cases: dict[str, dict], out: Path, port: int, work: Callable[..., dict] = first_step
) -> dict[str, dict[str, torch.Tensor]]:
    """Does the work of every case on ``world`` ranks and returns what rank 0 saved."""
    mp.spawn(_rank, args=(world, port, work, list(cases.items()), out), nprocs=world)
    return {name: torch.load(out / f"{name}.pt", weights_only=True) for name in cases}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
