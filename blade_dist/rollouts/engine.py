"""One vLLM engine in a Ray actor: writes lists, and lets its weights be replaced."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray

from blade_dist.batches import Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.rules import load_rules
from blade_dist.rollouts.beam import Beams
from blade_dist.rollouts.constrain import EXCLUDED, OPTION, WRITTEN, constraint_options
from blade_dist.rollouts.request import RolloutRequest, to_rollouts
from blade_dist.settings import Config, ListSettings, LoraSettings
from blade_dist.store.run import RunPaths
from blade_dist.weights.stream import Announcement

CPU_BLOCK = 32
"""Tokens per block of the KV cache on a CPU; with vLLM's 128 every list computes up to 127 tokens of its prompt."""

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
            trust_remote_code=config.model.trust_remote_code,
            sleeps=sleeps,
            lora=lora,
        )


def engine_environment(config: Config, gpu: bool) -> dict[str, str]:
    """Environment of an engine's process: inside the actor, quiet, and with its share of the cores."""
    threads = str(config.rollout.cpus_per_engine)
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.kv_cache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads,
        "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for large CPU tensors: logits fault less often
        "TORCHDYNAMO_DISABLE": "0" if gpu else "1",  # on CPU compiling one small kernel takes longer than it saves
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is for top-k and top-p, which no request has
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
        self._legality = Legality.load(spec.lists, self._codec, spec.trie, spec.catalog)
        self._rules = load_rules(spec.lists, spec.catalog)
        self._longest_list = self._codec.max_list_tokens(spec.lists.k)
        self._version = (0, 0)
        self._asleep: set[str] = set()
        self._adapter: Any = None
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
            enable_sleep_mode=spec.sleeps,
            enable_prefix_caching=True,
            **({} if gpu else {"block_size": CPU_BLOCK, "compilation_config": {"custom_ops": ["all"]}}),
            enable_chunked_prefill=False,  # a seeded request cut in two fails on vLLM's CPU backend
            max_num_batched_tokens=max(BATCHED_TOKENS, spec.context),
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            **_constraint(spec, gpu),
            **_adapters(spec),
            worker_extension_cls="blade_dist.weights.receiver.WeightReceiver",
            disable_log_stats=True,
        )

    def generate(self, request: RolloutRequest) -> Rollouts:
        """``group_size`` lists per prompt."""
        began = time.perf_counter()
        samples = self.sample(request)
        tokens, logprobs = zip(*((sample.token_ids, sample.logprobs.logprobs) for sample in samples), strict=True)
        return self._rollouts(request, list(tokens), list(logprobs), began)

    def beam_search(self, request: RolloutRequest, width: int) -> Rollouts:
        """The best list of each prompt (``group_size`` 1) by beam search over legal tokens, at temperature 1.

        Raises:
            ValueError: lists are not constrained.
        """
        from vllm import SamplingParams

        if self._legality is None:
            raise ValueError("beam search needs lists.constrain = catalog")
        began = time.perf_counter()
        beams = Beams(self._legality, request.excluded, width)
        while len(slots := beams.undecided()):
            prompts, params = [], []
            for slot in slots.tolist():
                row, written = beams.prompt_of(slot), beams.tokens(slot)
                prompts.append({"prompt_token_ids": [*request.tokens[row].tolist(), *written]})
                arguments = {EXCLUDED: request.excluded[row].tolist(), WRITTEN: len(written)}
                params.append(SamplingParams(max_tokens=1, logprobs=width, detokenize=False, extra_args=arguments))
            outputs = self._write(prompts, params)
            beams.extend(slots, [{t: p.logprob for t, p in o.outputs[0].logprobs[0].items()} for o in outputs])
        tokens, logprobs = beams.best()
        return self._rollouts(request, tokens, logprobs, began)

    def sample(self, request: RolloutRequest) -> list[Any]:
        """vLLM's completions, group after group: one request per prompt, so that the prompt's cache is shared."""
        from vllm import SamplingParams

        request.check_fits(self._longest_list, self._spec.context)
        params = [
            SamplingParams(
                n=request.group_size,
                temperature=request.temperature,
                top_p=1.0,
                min_p=0.0,
                seed=int(seed),
                max_tokens=request.max_tokens or self._longest_list,
                stop_token_ids=[self._codec.end],
                detokenize=False,
                logprobs=0,
                flat_logprobs=True,
                extra_args=None if self._legality is None else {EXCLUDED: request.excluded[row].tolist()},
            )
            for row, seed in enumerate(request.seed)
        ]
        prompts = [{"prompt_token_ids": request.tokens[row].tolist()} for row in range(len(request))]
        outputs = self._write(prompts, params)
        return [sample for output in outputs for sample in sorted(output.outputs, key=lambda s: s.index)]

    def _rollouts(self, request: RolloutRequest, tokens: list[Any], logprobs: list[Any], began: float) -> Rollouts:
        return to_rollouts(
            request,
            tokens,
            logprobs,
            self._version,
            self._codec,
            self._spec.lists,
            self._legality,
            self._rules,
            time.perf_counter() - began,
        )

    def _write(self, prompts: list[Any], params: list[Any]) -> list[Any]:
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        return outputs

    def sleep(self) -> None:
        """Gives the GPU memory of weights and KV cache back; the next push brings new ones, and no prefix stays.

        (Where only adapters are pushed, the weights wait in the memory of the host.)
        """
        self._version = NO_VERSION
        self._llm.sleep(level=2 if self._spec.lora is None else 1)
        self._asleep = {"weights", "kv_cache"}

    def wake(self, part: str) -> None:
        """Takes the memory of ``weights`` (before a push) or ``kv_cache`` (after it) again, where it was given back."""
        if part in self._asleep:
            self._llm.wake_up(tags=[part])
            self._asleep.remove(part)

    def describe(self) -> dict[str, Any]:
        """Node address, GPU identities and number of workers: what a transport must know to reach it."""
        workers = self._llm.collective_rpc("blade_describe")
        return {"node_ip": ray.util.get_node_ip_address(), "gpus": workers, "world_size": len(workers)}

    def connect(self, transport: str, info: dict[str, Any]) -> None:
        """Joins the learner's transfer group (blocks until the learner joins too)."""
        alpha = {} if self._spec.lora is None else {"alpha": self._spec.lora.alpha}
        self._llm.collective_rpc("blade_connect", args=(transport, info | alpha))

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
        if self._spec.lora is not None:
            self._adapter = _adapter_of(self._version)
        return seconds

    def digests(self) -> dict[str, tuple[int, int]]:
        """Digest of each parameter that arrived in the last update, by Hugging Face name."""
        digests: dict[str, tuple[int, int]] = self._llm.collective_rpc("blade_digests")[0]
        return digests


def _constraint(spec: EngineSpec, gpu: bool) -> dict[str, Any]:
    """The engine arguments that make it write legal lists only; model runner V2 has an interface of its own."""
    if spec.lists.constrain == "none":
        return {}
    runner = 2 if gpu and find_spec("vllm.v1.worker.gpu.sample.logits_processor") else 1
    options = constraint_options(spec.lists, spec.codec, spec.trie, spec.catalog)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(runner - 1)
    return {
        "logits_processors": [f"blade_dist.rollouts.processor_v{runner}:CatalogProcessor"],
        "additional_config": {OPTION: options},
    }


def _adapters(spec: EngineSpec) -> dict[str, Any]:
    """The engine arguments that make room for the one adapter that is pushed."""
    return {} if spec.lora is None else {"enable_lora": True, "max_loras": 1, "max_lora_rank": spec.lora.rank}


def _adapter_of(version: tuple[int, int]) -> Any:
    """What a request says to be written with the pushed adapter.

    vLLM knows prefixes apart by the adapter's name, and loads an adapter from its path only where none has its number.
    """
    from vllm.lora.request import LoRARequest

    from blade_dist.weights.load import AdapterLoader

    return LoRARequest(lora_name=str(version), lora_int_id=AdapterLoader.NUMBER, lora_path="pushed")


RolloutEngine: Any = ray.remote(Engine)
