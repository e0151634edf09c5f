"""Log-probs over legal tokens: the same as a masked, renormalised vocabulary; packed rows the same as single ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.trie import build_trie
from blade_dist.learners import legal_head
from blade_dist.learners.packing import PromptLists, collate, legal_tokens, microbatches
from blade_dist.learners.policy import Policy, sequence_logprobs, why_not_packed
from blade_dist.rollouts.constrain import LegalMask
from tests.helpers.catalogs import coded

SCALED = {"embedding_multiplier": 5.0, "attention_multiplier": 0.25, "logits_scaling": 2.0}
SEPARATOR, END, VOCAB = 60, 61, 64
TEMPERATURE = 0.7


def random_legality(rng: np.random.Generator, items: int, k: int) -> Legality:
    """A catalog with common beginnings: items that begin others, and a separator, or codes that are prefix-free."""
    rows = {tuple(rng.integers(0, 40, rng.integers(1, 4)).tolist()) for _ in range(items)}
    rows |= {row[:1] for row in list(rows)[: items // 4]}
    written = coded(sorted(rows), SEPARATOR if rng.random() < 0.5 else None)
    return Legality(build_trie(Ragged.of(written)), k, END)


def random_lists(rng: np.random.Generator, legality: Legality, histories: Ragged) -> Ragged:
    """Legal lists, drawn by the rule; some with the end after them."""
    writers = legality.writers(len(histories))
    writers.start(np.arange(len(histories)), histories)
    mask = LegalMask(legality, "cpu")
    rows: list[list[int]] = [[] for _ in range(len(histories))]
    while going := [row for row, tokens in enumerate(rows) if END not in tokens]:
        slots = np.array(going)
        allowed = mask.allowed(writers.legal(slots), VOCAB).numpy()
        chosen = np.array([rng.choice(np.flatnonzero(line)) for line in allowed])
        writers.write(slots, chosen)
        for row, token in zip(going, chosen.tolist(), strict=True):
            rows[row].append(token)
    return Ragged.of(rows)


def random_batch(seed: int, prompts: int = 3, group: int = 3) -> tuple[PromptLists, Legality, Ragged]:
    rng = np.random.default_rng(seed)
    legality = random_legality(rng, int(rng.integers(8, 80)), k=2)
    histories = Ragged.of([rng.integers(0, len(legality.trie), rng.integers(0, 4)) for _ in range(prompts)])
    owner = np.repeat(np.arange(prompts), group)
    tokens = random_lists(rng, legality, histories.take(owner))
    prompt = Ragged.of([rng.integers(0, VOCAB, rng.integers(2, 9)) for _ in range(prompts)])
    legal = legal_tokens(legality, tokens, histories.take(owner))
    return PromptLists(prompt, tokens, owner, legal), legality, histories.take(owner)


def model(kind: str, tied: bool = True, **changed: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "head_dim": 16,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**sizes, "tie_word_embeddings": tied, **changed})
    network = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # far from uniform
    return network.eval()


def dense_reference(network: Any, batch: PromptLists, legality: Legality, histories: Ragged) -> torch.Tensor:
    """Every list by itself through the Hugging Face model, masked and renormalised over the whole vocabulary."""
    sets = legality.sets(batch.tokens, histories)
    allowed = LegalMask(legality, "cpu").allowed(sets, VOCAB)
    computed = []
    for number in range(len(batch)):
        prompt, tokens = batch.prompt[batch.owner[number]], batch.tokens[number]
        ids = torch.from_numpy(np.concatenate([prompt, tokens]).astype(np.int64))[None]
        logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / TEMPERATURE
        legal = allowed[batch.tokens.offsets[number] : batch.tokens.offsets[number + 1]]
        logprobs = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), dim=1)
        computed.append(logprobs.gather(1, torch.from_numpy(tokens.astype(np.int64))[:, None])[:, 0])
    return torch.cat(computed)


def gradient_of(network: Any, loss: torch.Tensor) -> torch.Tensor:
    network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])


def learner_values(policy: Policy, batch: PromptLists, budget: int, shared: bool) -> torch.Tensor:
    """``[T]`` with gradient."""
    result = torch.zeros(len(batch.tokens.flat))
    for cut in microbatches(batch, budget, shared):
        micro = collate(batch, cut, pad=0)
        result = result.index_add(0, micro.flat, policy(micro))
    return result


@pytest.mark.parametrize(
    ("wide", "block"),
    [(2, 2**19), (2, 100), (2, 1), (10**9, 2**19)],
    ids=["all wide", "all wide, few rows a block", "all wide, a row a block", "all narrow"],
)
@pytest.mark.parametrize("family", ["llama, tied", "llama, untied", "granite, tied"])
@pytest.mark.parametrize("seed", range(3))
def test_the_legal_head_is_the_dense_masked_one(
    monkeypatch: pytest.MonkeyPatch, wide: int, block: int, family: str, seed: int
) -> None:
    monkeypatch.setattr(legal_head, "WIDE", wide)
    monkeypatch.setattr(legal_head, "BLOCK", {"cpu": block})
    batch, legality, histories = random_batch(seed)
    kind, tied = family.split(", ")
    scaled = SCALED if kind == "granite" else {}
    network = model(kind, tied == "tied", **scaled)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=len(batch.tokens.flat)).astype(np.float32))
    expected = dense_reference(network, batch, legality, histories)
    expected_gradient = gradient_of(network, (expected * weights).sum())
    assert (expected != 0).any()
    for shared, budget in ((False, 1000), (True, 1000), (True, 25)):
        policy = Policy(model(kind, tied == "tied", **scaled), TEMPERATURE)
        computed = learner_values(policy, batch, budget, shared)
        torch.testing.assert_close(computed, expected, rtol=0, atol=1e-5)
        gradient = gradient_of(policy.model, (computed * weights).sum())
        assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-5


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
@example(5989)  # a trie of the root alone
def test_the_head_alone_for_random_tries(seed: int) -> None:
    batch, legality, histories = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((VOCAB, 8), generator=generator)
    (cut,) = microbatches(batch, 10_000, shared=True)
    micro = collate(batch, cut, pad=0)
    hidden = torch.randn((len(micro.wanted), 8), generator=generator)
    assert micro.head is not None
    bias = torch.randn(VOCAB, generator=generator) if seed % 2 else None
    computed = legal_head.legal_logprobs(hidden, weight, bias, micro.head, micro.label, micro.place, TEMPERATURE)
    sets = legality.sets(batch.tokens, histories).take(micro.flat.numpy())
    logits = torch.nn.functional.linear(hidden[micro.place], weight, bias) / TEMPERATURE
    logits = logits.masked_fill(~LegalMask(legality, "cpu").allowed(sets, VOCAB), -torch.inf)
    expected = torch.log_softmax(logits, dim=1).gather(1, micro.label[:, None])[:, 0]
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-5)


FAMILIES = {
    "llama": {},
    "granite": SCALED,
    "qwen2": {},
    "qwen3": {},
    "mistral, window": {"sliding_window": 4},
    "qwen3, some windows": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_exact(family: str) -> None:
    batch, _, _ = random_batch(5)
    policy = Policy(model(family.split(",", maxsplit=1)[0], **FAMILIES[family]), TEMPERATURE)
    assert why_not_packed(policy) is None
    alone, packed = (sequence_logprobs(policy, batch, 0, 1000, shared) for shared in (False, True))
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    weights = torch.randn(len(alone), generator=torch.Generator().manual_seed(0))
    one, other = (
        gradient_of(policy.model, (learner_values(policy, batch, 1000, shared) * weights).sum())
        for shared in (False, True)
    )
    assert float((one - other).norm() / one.norm()) < 1e-5


def test_a_family_that_cannot_be_packed_says_why() -> None:
    why = why_not_packed(Policy(model("mamba", num_heads=2), TEMPERATURE))
    assert why is not None


def test_flex_attention_gets_the_same_rule() -> None:
    from torch.nn.attention.flex_attention import create_mask

    from blade_dist.learners.attention import attention_mask, visible

    batch, _, _ = random_batch(3)
    (cut,) = microbatches(batch, 1000, shared=True)
    micro = collate(batch, cut, pad=0)
    rows, width = micro.input_ids.shape
    for window in (None, 3):
        dense = attention_mask(micro, window, flex=False)
        torch.testing.assert_close(create_mask(visible(micro, window), rows, 1, width, width, device="cpu"), dense)
    assert attention_mask(micro, None, flex=True).to_dense().shape[0] == rows
