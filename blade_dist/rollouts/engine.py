"""One vLLM engine in a Ray actor: writes lists, and lets its weights be replaced."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.batches import Ranked, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.terms import TermBook, Terms
from blade_dist.rollouts.beam import Beams
from blade_dist.rollouts.constrain import EXCLUDED, LISTS, WRITTEN
from blade_dist.rollouts.rank import best_items, first_fitting
from blade_dist.rollouts.request import RolloutRequest, ranked_lists, to_rollouts
from blade_dist.rollouts.spec import EngineSpec, engine_arguments
from blade_dist.weights.stream import Announcement

START_VERSION, NO_VERSION = (0, 0), (-1, -1)
"""Of an engine that has had no push yet (attempts count from 1), and of one that holds a part of a push."""

ITEMS_AT_ONCE = 2**17
"""Items that a search for single items holds at once, over all of its prompts: some 100 MiB."""

ADAPTER_NUMBER = 1
"""Of the one adapter that is pushed, in requests."""


class Engine:
    """vLLM behind four verbs: generate (or search), connect, update weights, describe.

    The process's environment is :func:`~blade_dist.rollouts.spec.engine_environment`, set before this is imported.
    """

    def __init__(self, spec: EngineSpec) -> None:
        import torch
        from vllm import LLM

        faulthandler.register(signal.SIGUSR1)  # one that hangs is asked for its stacks, where nobody else can read them
        self._spec = spec
        self._codec = Codec.load(spec.codec)
        self._book = TermBook(self._codec, spec.trie, spec.catalog)
        self._terms(None)  # rules that do not fit the catalog are refused before the engine starts
        self._version = START_VERSION
        self._asleep: set[str] = set()
        self._adapter: Any = None
        self._generated = 0
        self._llm: Any = LLM(**engine_arguments(spec, torch.cuda.is_available()))
        self._vocabulary = int(self._llm.llm_engine.model_config.get_vocab_size())

    def generate(self, request: RolloutRequest) -> Rollouts:
        """``group_size`` lists per prompt; ``logprobs`` are the engine's, in nats."""
        began = time.perf_counter()
        samples = self.sample(request)
        tokens, logprobs = zip(*((sample.token_ids, sample.logprobs.logprobs) for sample in samples), strict=True)
        return self._rollouts(request, list(tokens), list(logprobs), began)

    def beam_search(self, request: RolloutRequest, width: int) -> Rollouts:
        """The best list of each prompt (``group_size`` 1) by beam search over legal tokens, at temperature 1.

        Raises:
            ValueError: lists are not constrained.
        """
        began = time.perf_counter()
        tokens, logprobs = self._search(request, self._terms(request).lists.k, width).best()
        return self._rollouts(request, tokens, logprobs, began)

    def rank(self, request: RolloutRequest) -> Rollouts:
        """The K best first items of each prompt (``group_size`` 1) that rules allow together.

        Nobody wrote these items after each other, so that no token of the lists is a decision.

        Raises:
            ValueError: lists are not constrained.
        """
        began = time.perf_counter()
        items = self.best_items(request).items
        return ranked_lists(request, items, self._version, self._codec, time.perf_counter() - began)

    def best_items(self, request: RolloutRequest) -> Ranked:
        """What :meth:`rank` is made of, with log-probs in nats, each given the prompt alone; ``C`` is K.

        By :meth:`candidates` of the width that K items need: one forward pass where an item is one token.
        """
        terms = self._terms(request)
        return first_fitting(self.candidates(request, terms.lists.k), terms.lists.k, terms.rules)

    def candidates(self, request: RolloutRequest, size: int) -> Ranked:
        """The ``size`` best first items of each prompt with their log-probs, in nats.

        Beam search over single items of that width, so that of items of several tokens a larger ``size`` may find
        better ones, too. As many as a list holds fit together under the rules, where there are as many.

        Raises:
            ValueError: lists are not constrained.
        """

        def search(rows: NDArray[np.int64], width: int) -> Ranked:
            parts = np.array_split(rows, -(-len(rows) * width // ITEMS_AT_ONCE))
            return Ranked.concat([self._search(request.take(part), 1, width).ranked_items() for part in parts])

        terms = self._terms(request)
        return best_items(search, len(request), terms.lists.k, size, terms.rules)

    def _terms(self, request: RolloutRequest | None) -> Terms:
        return self._book.terms(self._spec.lists if request is None or request.lists is None else request.lists)

    def _arguments(self, request: RolloutRequest, row: int) -> dict[str, Any]:
        """What the logits processor needs to know of a prompt's lists."""
        own = {} if request.lists is None else {LISTS: request.lists.model_dump()}
        return {EXCLUDED: request.excluded[row].tolist(), **own}

    def _search(self, request: RolloutRequest, k: int, width: int) -> Beams:
        """Beam search over lists of ``k`` items, to its end."""
        from vllm import SamplingParams

        if (legality := self._terms(request).legality) is None:
            raise ValueError("a search needs lists.constrain = catalog")
        beams = Beams(replace(legality, k=k), request.excluded, width)
        while len(slots := beams.undecided()):
            prompts, params = [], []
            for slot in slots.tolist():
                row, written = beams.prompt_of(slot), beams.tokens(slot)
                prompts.append({"prompt_token_ids": [*request.tokens[row].tolist(), *written]})
                arguments = {**self._arguments(request, row), WRITTEN: len(written)}
                params.append(
                    SamplingParams(
                        max_tokens=1,
                        # more than are kept, so that equals at the edge are told apart by us and not by a kernel
                        logprobs=min(2 * width, self._vocabulary),
                        flat_logprobs=True,
                        detokenize=False,
                        extra_args=arguments,
                    )
                )
            answers = [output.outputs[0].logprobs for output in self._write(prompts, params)]
            beams.extend(slots, [dict(zip(a.token_ids, a.logprobs, strict=True)) for a in answers])
        return beams

    def sample(self, request: RolloutRequest) -> list[Any]:
        """vLLM's completions, group after group: one request per prompt, so that the prompt's cache is shared."""
        from vllm import SamplingParams

        terms = self._terms(request)
        request.check_fits(terms.longest, self._spec.context)
        params = [
            SamplingParams(
                n=request.group_size,
                temperature=request.temperature,
                # top-p, top-k and min-p stay off: the learner knows nothing of such a cut of the distribution
                top_p=1.0,
                min_p=0.0,
                seed=int(seed),  # vLLM seeds list i with seed + i
                max_tokens=request.max_tokens or terms.longest,
                stop_token_ids=[self._codec.end],
                detokenize=False,
                logprobs=0,  # of the sampled token, and of no other
                flat_logprobs=True,  # arrays instead of an object per token
                extra_args=None if terms.legality is None else self._arguments(request, row),
            )
            for row, seed in enumerate(request.seed)
        ]
        prompts = [{"prompt_token_ids": request.tokens[row].tolist()} for row in range(len(request))]
        outputs = self._write(prompts, params)
        # vLLM returns the lists of a prompt in the order in which they ended
        return [sample for output in outputs for sample in sorted(output.outputs, key=lambda s: s.index)]

    def _rollouts(self, request: RolloutRequest, tokens: list[Any], logprobs: list[Any], began: float) -> Rollouts:
        terms, seconds = self._terms(request), time.perf_counter() - began
        return to_rollouts(request, tokens, logprobs, self._version, self._codec, terms, seconds)

    def _write(self, prompts: list[Any], params: list[Any]) -> list[Any]:
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        self._generated += sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
        return outputs

    def forget(self) -> None:
        """Drops the cached prompts, so that what comes next costs what it would cost by itself."""
        self._llm.reset_prefix_cache()

    def generated(self) -> int:
        """Tokens that it has generated since its start, each a forward pass: what decoding costs."""
        return self._generated

    def sleep(self) -> None:
        """Gives the GPU memory of weights and KV cache back; the next push brings new weights, and no prefix stays."""
        self._version = NO_VERSION
        # level 2 drops the weights, which the next push brings; a push of adapters brings none, so that level 1 keeps
        # them in the host's memory
        self._llm.sleep(level=2 if self._spec.lora is None else 1)
        self._asleep = {"weights", "kv_cache"}

    def wake(self, part: str) -> None:
        """Takes the memory of ``weights`` (before a push) or ``kv_cache`` (after it) again, where it was given back.

        In two parts, because learner and engine share the GPU: during the push both hold weights, and there may be no
        room for the KV cache, too.
        """
        if part in self._asleep:
            self._llm.wake_up(tags=[part])
            self._asleep.remove(part)

    def describe(self) -> dict[str, Any]:
        """How to reach it, and its process.

        ``node_ip``, ``gpus`` (a UUID per worker, or ``cpu``), ``world_size`` (workers); ``node_id``, ``pid`` and
        ``log``, the file to which the process writes its errors.
        """
        workers = self._llm.collective_rpc("blade_describe")
        return {
            "node_ip": ray.util.get_node_ip_address(),
            "gpus": workers,
            "world_size": len(workers),
            "node_id": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "log": str(Path("/proc/self/fd/2").readlink()),
        }

    def connect(self, transport: str, info: dict[str, Any]) -> None:
        """Joins the learner's transfer group (blocks until the learner joins too)."""
        adapter = {} if self._spec.lora is None else {"alpha": self._spec.lora.alpha, "adapter": ADAPTER_NUMBER}
        self._llm.collective_rpc("blade_connect", args=(transport, info | adapter))

    def update(self, version: tuple[int, int], first: Announcement) -> dict[str, float]:
        """One whole push from a transport that streams (blocks until the stream ends); see :meth:`finish_update`.

        ``first`` announces the first piece (:mod:`blade_dist.weights.stream`). Where the update fails the engine leaves
        the group, so that the sender fails at once instead of at its deadline, and its lists belong to no version until
        a push succeeds.
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
        # an update leaves the prefix cache as it is: keys and values of the old weights would be read by new requests
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


def _adapter_of(version: tuple[int, int]) -> Any:
    """What a request carries to be written with the pushed adapter.

    vLLM tells cached prefixes apart by the adapter's name: hence a name per version. It loads an adapter from its path
    only where none has its number, and the pushed one has it: hence one number, and a path that is never read.
    """
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=str(version), lora_int_id=ADAPTER_NUMBER, lora_path="pushed")


RolloutEngine: Any = ray.remote(Engine)
