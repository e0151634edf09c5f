"""Running engines, and what their answers are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blade_dist.batches import Rollouts
from blade_dist.catalog.legality import Legality
from blade_dist.data.bundle import DataBundle
from blade_dist.learners.packing import PromptLists, legal_tokens
from blade_dist.learners.policy import Policy, load_model, sequence_logprobs
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.training.prompter import Prompter


class Setup:
    def __init__(self, config: Config, data: DataBundle, model: Path, pool: EnginePool) -> None:
        self.config, self.data, self.model, self.pool = config, data, model, pool
        paths = RunPaths(config.run.dir)
        self.legality = Legality.load(config.lists, data.codec, paths.trie, paths.catalog)

    def request(self, prompts: int, group: int, temperature: float) -> RolloutRequest:
        rows = np.arange(prompts)
        return Prompter(self.data.train, self.data.codec, 0, True).request(rows, group, temperature, "test")

    def learner_logprobs(self, request: RolloutRequest, rollouts: Rollouts) -> np.ndarray:
        owner = np.repeat(np.arange(len(request)), request.group_size)
        legal = legal_tokens(self.legality, rollouts.tokens, request.excluded.take(owner))
        policy = Policy(load_model(self.model, self.config.model), request.temperature)
        sequences = PromptLists(request.tokens, rollouts.tokens, owner, legal)
        return sequence_logprobs(policy, sequences, self.data.codec.pad, 16384, shared=True).numpy()
