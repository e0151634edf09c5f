"""The adapters to vLLM's two logits-processor interfaces, driven as vLLM drives them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from blade_dist.catalog.legality import Legality
from blade_dist.data.bundle import DataBundle
from blade_dist.rollouts.constrain import EXCLUDED, OPTION, WRITTEN, LegalMask, constraint_options
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths

SLOTS = 4


class Request:
    """A running request: a prompt, what is excluded, and the tokens so far."""

    def __init__(self, rng: np.random.Generator, items: int, already: list[int]) -> None:
        self.prompt = [*rng.integers(3, 200, 5).tolist(), *already]
        self.already = len(already)
        self.output: list[int] = []
        self.excluded = sorted(rng.choice(items, 3, replace=False).tolist())

    @property
    def params(self) -> Any:
        return SimpleNamespace(extra_args={EXCLUDED: self.excluded, WRITTEN: self.already})

    def list_tokens(self) -> list[int]:
        return self.prompt[len(self.prompt) - self.already :] + self.output


@pytest.fixture
def legality(tiny_config: Config, tiny_data: DataBundle) -> Legality:
    paths = RunPaths(tiny_config.run.dir)
    loaded = Legality.load(tiny_config.lists, tiny_data.codec, paths.trie, paths.catalog)
    assert loaded is not None
    return loaded


@pytest.fixture
def vllm_config(tiny_config: Config, tiny_data: DataBundle) -> Any:
    paths = RunPaths(tiny_config.run.dir)
    options = constraint_options(tiny_config.lists, paths.codec, paths.trie, paths.catalog)
    return SimpleNamespace(additional_config={OPTION: options}, scheduler_config=SimpleNamespace(max_num_seqs=SLOTS))


def legal_row(legality: Legality, request: Request, vocab: int) -> np.ndarray:
    """By the trie, from the list's first token."""
    writers = legality.writers(1, early=True)
    from blade_dist.batches import Ragged

    writers.start(np.array([0]), Ragged.of([request.excluded]))
    for token in request.list_tokens():
        writers.write(np.array([0]), np.array([token]))
    return LegalMask(legality, "cpu").allowed(writers.legal(np.array([0])), vocab).numpy()[0]


def write_one(rng: np.random.Generator, legality: Legality, request: Request, row: torch.Tensor) -> None:
    """Checks the row's mask and writes one of the legal tokens."""
    allowed = torch.isfinite(row).numpy()
    np.testing.assert_array_equal(allowed, legal_row(legality, request, len(row)))
    request.output.append(int(rng.choice(np.flatnonzero(allowed))))


def test_v1_follows_additions_removals_moves_and_preemption(
    legality: Legality, vllm_config: Any, tiny_data: DataBundle
) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from blade_dist.rollouts.processor_v1 import CatalogProcessor

    rng = np.random.default_rng(0)
    vocab, items = len(tiny_data.codec.tokenizer), len(tiny_data.catalog)
    processor = CatalogProcessor(vllm_config, torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    begun = tiny_data.codec.item_blocks[7].tolist()
    requests = [Request(rng, items, begun if number == 1 else []) for number in range(3)]
    requests[1].excluded = [0, 1]
    batch: dict[int, Request] = dict(enumerate(requests))

    def update(added: list[int] = (), removed: list[int] = (), moved: list[tuple] = ()) -> None:  # type: ignore[assignment]
        new = [(index, batch[index].params, batch[index].prompt, batch[index].output) for index in added]
        processor.update_state(BatchUpdate(len(batch), removed, new, moved))

    def step() -> None:
        logits = processor.apply(torch.zeros(len(batch), vocab))
        assert logits.shape == (len(batch), tiny_data.codec.item_tokens.flat.max() + 1)  # not the tokens of histories
        for index in sorted(batch):
            write_one(rng, legality, batch[index], logits[index])

    update(added=[0, 1, 2])
    for _ in range(3):
        step()
        processor.update_state(None)
    gone, batch = batch[0], {0: batch[2], 1: batch[1]}  # 0 is preempted, 2 takes its place
    update(removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)])
    step()
    batch = {0: batch[1], 1: batch[0]}
    update(moved=[(0, 1, MoveDirectionality.SWAP)])
    step()
    batch[2] = gone  # it comes back with what it had written
    update(added=[2])
    for _ in range(2):
        step()
    other = SimpleNamespace(extra_args=None)  # a request that is no list is left alone
    processor.update_state(BatchUpdate(3, [], [(2, other, [1], [])], []))
    logits = processor.apply(torch.zeros(3, vocab))
    assert torch.isfinite(logits[2]).all()
    assert not torch.isfinite(logits[:2]).all()


def test_v1_refuses_placeholders(legality: Legality, vllm_config: Any, tiny_data: DataBundle) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate

    from blade_dist.rollouts.processor_v1 import CatalogProcessor

    processor = CatalogProcessor(vllm_config, torch.device("cpu"), False)
    request = Request(np.random.default_rng(0), len(tiny_data.catalog), [])
    request.output.append(-1)
    processor.update_state(BatchUpdate(1, [], [(0, request.params, request.prompt, request.output)], []))
    with pytest.raises(RuntimeError, match="before it knows the last one"):
        processor.apply(torch.zeros(1, len(tiny_data.codec.tokenizer)))


class Runner:
    """The buffers of model runner V2, on the CPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.all_token_ids = SimpleNamespace(gpu=torch.zeros((SLOTS, 200), dtype=torch.int32))
        self.prompt_len = SimpleNamespace(np=np.zeros(SLOTS, dtype=np.int32))

    def show(self, slots: dict[int, Request], order: list[int]) -> Any:
        for slot, request in slots.items():
            tokens = request.prompt + request.output
            self.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
            self.prompt_len.np[slot] = len(request.prompt)
        lengths = [len(slots[slot].prompt + slots[slot].output) for slot in order]
        return SimpleNamespace(idx_mapping_np=np.array(order), pos=torch.tensor(lengths) - 1)


def test_v2_follows_slots_in_any_order(legality: Legality, vllm_config: Any, tiny_data: DataBundle) -> None:
    pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor", reason="vLLM before model runner V2's interface")
    from blade_dist.rollouts.processor_v2 import CatalogProcessor

    rng = np.random.default_rng(1)
    vocab, items = len(tiny_data.codec.tokenizer), len(tiny_data.catalog)
    runner = Runner()
    processor = CatalogProcessor(vllm_config, runner)
    begun = tiny_data.codec.item_blocks[7].tolist()
    slots = {slot: Request(rng, items, begun if slot == 2 else []) for slot in (3, 0, 2)}
    slots[2].excluded = [0, 1]
    assert all(processor.add_request(slot, request.params) for slot, request in slots.items())

    def step(order: list[int]) -> None:
        context = runner.show(slots, order)
        logits = processor.apply(torch.zeros(len(order), vocab), context)
        for row, slot in enumerate(order):
            write_one(rng, legality, slots[slot], logits[row])

    for order in ([3, 0, 2], [0, 2, 3], [2, 3], [2, 3, 0]):
        step(order)
    assert processor.add_request(3, slots[3].params)  # back after preemption, with its output
    step([3, 2, 0])
    assert not processor.add_request(1, SimpleNamespace(extra_args=None))
    slots[1] = Request(rng, items, [])
    context = runner.show(slots, [1, 0])
    logits = processor.apply(torch.zeros(2, vocab), context)
    assert torch.isfinite(logits[0]).all()
    assert not torch.isfinite(logits[1]).all()


def test_the_trie_of_other_tokens_is_refused(tiny_config: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    from dataclasses import replace

    from blade_dist.catalog.legality import load_trie
    from blade_dist.errors import UserError

    other = replace(tiny_data.codec, separator=tiny_data.codec.separator + 1)
    with pytest.raises(UserError, match="have changed since the trie was built"):
        load_trie(other, RunPaths(tiny_config.run.dir).trie)
    with pytest.raises(UserError, match="no trie of the catalog there"):
        load_trie(tiny_data.codec, tmp_path)
