"""One vLLM engine in a Ray actor: writes lists, and lets its weights be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from blade_dist.batches import Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.rollouts.request import RolloutRequest, to_rollouts
from blade_dist.settings import Config
from blade_dist.weights.stream import Announcement

BATCHED_TOKENS = 8192
"""Prompt tokens that vLLM takes in one pass."""

NO_VERSION = (-1, -1)
"""Of an engine that holds a part of a push."""


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine needs to start."""

    model: Path
    """Hugging Face folder."""
    codec: Path
    """Folder of the saved codec."""
    k: int
    """Items per list."""
    exclude_history: bool
    seed: int
    dtype: str
    context: int
    """Longest sequence, prompt and list together."""
    tensor_parallel: int
    max_num_seqs: int
    gpu_memory_utilization: float
    trust_remote_code: bool

    @classmethod
    def of(cls, config: Config, model: Path, codec: Path, context: int) -> EngineSpec:
        """The engine that ``config`` describes, starting from the weights in ``model``."""
        rollout = config.rollout
        return cls(
            model=model.absolute(),
            codec=codec.absolute(),
            k=config.lists.k,
            exclude_history=config.lists.exclude_history,
            seed=config.run.seed,
            dtype=config.model.dtype,
            context=context,
            tensor_parallel=rollout.tensor_parallel,
            max_num_seqs=rollout.max_num_seqs,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            trust_remote_code=config.model.trust_remote_code,
        )


def engine_environment(config: Config, gpu: bool) -> dict[str, str]:
    """Environment of an engine's process: inside the actor, quiet, and with its share of the cores."""
    threads = str(config.rollout.cpus_per_engine)
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.kv_cache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads,
        "TORCHDYNAMO_DISABLE": "0" if gpu else "1",  # on CPU compiling one small kernel takes longer than it saves
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
    }


class Engine:
    """vLLM behind four verbs: generate, connect, update weights, say who you are."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch
        from vllm import LLM

        gpu = torch.cuda.is_available()
        self._spec = spec
        self._codec = Codec.load(spec.codec)
        self._version = (0, 0)
        self._llm: Any = LLM(
            model=str(spec.model),
            skip_tokenizer_init=True,
            trust_remote_code=spec.trust_remote_code,
            dtype=spec.dtype,
            seed=spec.seed % 2**31,
            max_model_len=spec.context,
            max_num_seqs=spec.max_num_seqs,
            gpu_memory_utilization=spec.gpu_memory_utilization,
            tensor_parallel_size=spec.tensor_parallel,
            distributed_executor_backend="uni" if spec.tensor_parallel == 1 else "mp",
            enforce_eager=not gpu,
            enable_prefix_caching=True,
            enable_chunked_prefill=False,  # a seeded request cut in two fails on vLLM's CPU backend
            max_num_batched_tokens=max(BATCHED_TOKENS, spec.context),
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            worker_extension_cls="blade_dist.weights.receiver.WeightReceiver",
            disable_log_stats=True,
        )

    def generate(self, request: RolloutRequest) -> Rollouts:
        """``group_size`` lists per prompt, one vLLM request per prompt; the prompt's cache is shared."""
        from vllm import SamplingParams

        longest = self._codec.max_list_tokens(self._spec.k)
        params = [
            SamplingParams(
                n=request.group_size,
                temperature=request.temperature,
                top_p=1.0,
                min_p=0.0,
                seed=int(seed),
                max_tokens=longest,
                stop_token_ids=[self._codec.end],
                detokenize=False,
                logprobs=0,
                flat_logprobs=True,
            )
            for seed in request.seed
        ]
        prompts = [{"prompt_token_ids": request.tokens[row].tolist()} for row in range(len(request))]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        samples = [sample for output in outputs for sample in sorted(output.outputs, key=lambda s: s.index)]
        return to_rollouts(
            request,
            [sample.token_ids for sample in samples],
            [sample.logprobs.logprobs for sample in samples],
            self._version,
            self._codec,
            self._spec.k,
            self._spec.exclude_history,
        )

    def describe(self) -> dict[str, Any]:
        """Node address, GPU identities and number of workers: what a transport must know to reach it."""
        workers = self._llm.collective_rpc("blade_describe")
        return {"node_ip": ray.util.get_node_ip_address(), "gpus": workers, "world_size": len(workers)}

    def connect(self, transport: str, info: dict[str, Any]) -> None:
        """Joins the learner's transfer group (blocks until the learner joins too)."""
        self._llm.collective_rpc("blade_connect", args=(transport, info))

    def update(self, version: tuple[int, int], first: Announcement) -> dict[str, float]:
        """One whole push from a transport that streams (blocks until the stream ends); see :meth:`finish_update`.

        ``first`` announces the first piece. Where the update fails the engine leaves the group, and its lists belong
        to no version until a push succeeds.
        """
        self._version = NO_VERSION
        try:
            seconds: dict[str, float] = self._llm.collective_rpc("blade_update", args=(first,))[0]
        except BaseException:
            self._llm.collective_rpc("blade_disconnect")
            raise
        return self._serve(version, seconds)

    def start_update(self) -> None:
        """Makes the model ready for new weights, bucket by bucket."""
        self._version = NO_VERSION
        self._llm.collective_rpc("blade_start_update")

    def receive(self, bucket: dict[str, Any]) -> None:
        """Takes one bucket of weights."""
        self._llm.collective_rpc("blade_receive", args=(bucket,))

    def finish_update(self, version: tuple[int, int]) -> dict[str, float]:
        """Makes the new weights the served ones and forgets every cached prefix.

        Returns:
            Seconds of each part of the update.

        Raises:
            RuntimeError: the prefix cache could not be reset (a request was still running).
        """
        return self._serve(version, self._llm.collective_rpc("blade_finish_update")[0])

    def _serve(self, version: tuple[int, int], seconds: dict[str, float]) -> dict[str, float]:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset: a request was running during a weight push")
        self._version = (int(version[0]), int(version[1]))
        return seconds

    def digests(self) -> dict[str, tuple[int, int]]:
        """Digest of each parameter that arrived in the last update, by Hugging Face name."""
        digests: dict[str, tuple[int, int]] = self._llm.collective_rpc("blade_digests")[0]
        return digests


RolloutEngine: Any = ray.remote(Engine)
