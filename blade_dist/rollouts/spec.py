"""What an engine is started with: its settings, its process's environment, vLLM's arguments. Pure, no vLLM import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blade_dist.rollouts.constrain import OPTION, constraint_options
from blade_dist.rollouts.environment import environment, model_runner
from blade_dist.settings import Config, ListSettings, LoraSettings
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths

CPU_BLOCK = 32
"""Tokens per block of the KV cache on a CPU; with vLLM's 128 every list computes up to 127 tokens of its prompt."""

BATCHED_TOKENS = 8192
"""Prompt tokens that vLLM takes in one pass."""

BYTES = {"float32": 4, "bfloat16": 2}
"""Of a number, by dtype."""


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine needs to start."""

    model: Path
    """Hugging Face folder."""
    codec: Path
    """Folder of the saved codec."""
    trie: Path
    """Folder of the trie of legal lists."""
    catalog: Path
    """Folder of the catalog, whose groups the rules of ``lists`` may name."""
    lists: ListSettings
    seed: int
    dtype: str
    context: int
    """Longest sequence, prompt and list together."""
    tensor_parallel: int
    max_num_seqs: int
    gpu_memory_utilization: float
    kv_cache_gb: int
    """The KV cache on a CPU, at most."""
    trust_remote_code: bool
    sleeps: bool
    """Whether it gives its GPU memory back while a learner on the same GPU learns."""
    lora: LoraSettings | None
    """Whether pushes bring adapters on ``model`` instead of weights, and which."""

    @classmethod
    def of(
        cls,
        config: Config,
        model: Path,
        paths: RunPaths,
        context: int,
        sleeps: bool = False,
        lora: LoraSettings | None = None,
    ) -> EngineSpec:
        """The engine that ``config`` describes, starting from the weights in ``model``."""
        rollout = config.rollout
        return cls(
            model=model.absolute(),
            codec=paths.codec.absolute(),
            trie=paths.trie.absolute(),
            catalog=paths.catalog.absolute(),
            lists=config.lists,
            seed=config.run.seed,
            dtype=config.model.dtype,
            context=context,
            tensor_parallel=rollout.tensor_parallel,
            max_num_seqs=rollout.max_num_seqs,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            kv_cache_gb=rollout.kv_cache_gb,
            trust_remote_code=config.model.trust_remote_code,
            sleeps=sleeps,
            lora=lora,
        )


def engine_environment(config: Config, gpu: bool) -> dict[str, str]:
    """As :func:`~blade_dist.rollouts.environment.environment`, of the settings."""
    rollout = config.rollout
    return environment(rollout.cpus_per_engine, gpu, config.lists.constrain == "catalog")


def engine_arguments(spec: EngineSpec, gpu: bool) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM``."""
    return {
        "model": str(spec.model),
        "skip_tokenizer_init": True,  # prompts and lists are tokens all the way
        "trust_remote_code": spec.trust_remote_code,
        "dtype": spec.dtype,
        "seed": spec.seed % 2**31,  # vLLM seeds numpy with it, which takes 32 bits
        "max_model_len": spec.context,
        "max_num_seqs": spec.max_num_seqs,
        "gpu_memory_utilization": spec.gpu_memory_utilization,
        "tensor_parallel_size": spec.tensor_parallel,
        "distributed_executor_backend": "uni" if spec.tensor_parallel == 1 else "mp",
        "enforce_eager": not gpu,
        "enable_sleep_mode": spec.sleeps,
        "enable_prefix_caching": True,  # the G lists of a prompt share its keys and values
        **({} if gpu else _on_cpu(spec)),
        "enable_chunked_prefill": False,  # a seeded request cut in two fails on vLLM's CPU backend
        "max_num_batched_tokens": max(BATCHED_TOKENS, spec.context),  # a prompt that is not cut must fit into one pass
        # the checkpoint's generation_config.json would change top-p or the temperature without a word
        "generation_config": "vllm",
        # after the mask and the temperature, as the learner computes them; raw ones would know no constraint
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,  # as many as a search over items has width
        **_constraint(spec, gpu),
        **_adapters(spec),
        "worker_extension_cls": "blade_dist.weights.receiver.WeightReceiver",
        "disable_log_stats": True,
    }


def _on_cpu(spec: EngineSpec) -> dict[str, Any]:
    return {
        "block_size": CPU_BLOCK,
        "kv_cache_memory_bytes": cache_bytes(spec),
        "compilation_config": {"custom_ops": ["all"]},
    }


def cache_bytes(spec: EngineSpec) -> int:
    """Of the KV cache on a CPU: twice what ``max_num_seqs`` sequences fill, so that prompts stay for their next lists.

    At most ``kv_cache_gb``, which is also what a model of unknown shape gets. vLLM fills all of it with zeros when it
    starts, which for a whole GiB takes seconds.
    """
    most = spec.kv_cache_gb * 2**30
    config = read_json(spec.model / "config.json") or {}
    layers, heads, width = (config.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (layers and heads and width):
        return most
    of_heads = config.get("num_key_value_heads", heads) * (config.get("head_dim") or width // heads)
    tokens = spec.max_num_seqs * -(-spec.context // CPU_BLOCK) * CPU_BLOCK
    return min(most, 2 * tokens * 2 * layers * of_heads * BYTES[spec.dtype])  # keys and values


def _constraint(spec: EngineSpec, gpu: bool) -> dict[str, Any]:
    """The arguments that make an engine write legal lists only; the two model runners have an interface each."""
    if spec.lists.constrain == "none":
        return {}
    options = constraint_options(spec.lists, spec.codec, spec.trie, spec.catalog)
    return {
        "logits_processors": [f"blade_dist.rollouts.processor_v{model_runner(gpu)}:CatalogProcessor"],
        "additional_config": {OPTION: options},
    }


def _adapters(spec: EngineSpec) -> dict[str, Any]:
    """The arguments that make room for the one adapter that is pushed."""
    return {} if spec.lora is None else {"enable_lora": True, "max_loras": 1, "max_lora_rank": spec.lora.rank}
