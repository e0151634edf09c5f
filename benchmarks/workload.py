"""What a measured step does: the sizes of the model, the prompts, the lists and the catalog. No Ray, no vLLM."""

from __future__ import annotations

from dataclasses import dataclass, replace

ITEM_TOKENS = 3
"""At most: a semantic ID of two levels, and the code that tells its items apart."""


@dataclass(frozen=True)
class Workload:
    """What one step does, and with what."""

    hidden: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 480
    vocab: int = 2048
    dtype: str = "float32"
    prompts: int = 8
    prompt_tokens: int = 250
    group: int = 16
    k: int = 5
    items: int = 10_000
    zero_stage: int = 0
    engines: int = 1
    learners: int = 1
    max_staleness: int = 0
    constrain: str = "catalog"
    shared_prefix: bool = True
    microbatch_tokens: int = 16384
    lr: float = 1e-4
    kl_coef: float = 1 / 15
    lora_rank: int = 0

    @property
    def list_tokens(self) -> int:
        """Tokens of a list, at most."""
        return self.k * ITEM_TOKENS


LLAMA_1B = Workload(
    hidden=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    ffn=8192,
    vocab=128_256,
    dtype="bfloat16",
    prompts=512,
    prompt_tokens=300,
    k=13,
    microbatch_tokens=16_384,
)
"""The shape of Llama-3.2-1B, with lists of up to 39 tokens."""

PRESETS = {
    "recsys-cpu": Workload(),
    "recsys-gpu": replace(LLAMA_1B, prompts=256, prompt_tokens=1000, k=10, items=100_000, microbatch_tokens=65_536),
}
"""``recsys-cpu``: a Llama of 2.7 M parameters that two cores can train; ``recsys-gpu``: the shape of Llama-3.2-1B."""
