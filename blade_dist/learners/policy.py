"""The policy: a Hugging Face causal LM that reports log-probs of list tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blade_dist.errors import UserError
from blade_dist.learners.sequences import MicroBatch
from blade_dist.settings import ModelSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """Wraps the model so that the output head runs inside the wrapped forward, on the wanted positions only.

    (Under ZeRO-3 a head's weight exists only inside a forward.)
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, batch: MicroBatch) -> Tensor:
        """Log-probs (nats, float32) of the batch's list tokens at the sampling temperature, ``[D]``."""
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        hidden = decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)[0]
        logits = head(hidden[batch.row, batch.column]).float() / self.temperature
        return logits.gather(1, batch.label[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)


def build_model(settings: ModelSettings, vocab_size: int, pad: int, end: int) -> Any:
    """A small Llama with random weights (seed it first)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    build = settings.build
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=build.hidden_size,
        intermediate_size=build.ffn_size,
        num_hidden_layers=build.layers,
        num_attention_heads=build.heads,
        num_key_value_heads=build.kv_heads,
        max_position_embeddings=build.context,
        tie_word_embeddings=build.tied,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).to(DTYPES[settings.dtype])


def load_model(path: Path, settings: ModelSettings) -> Any:
    """A causal LM from a Hugging Face folder, safetensors only.

    Raises:
        UserError: not such a folder, or one that needs code of its own without ``model.trust_remote_code``.
    """
    from transformers import AutoModelForCausalLM

    if not (path / "config.json").is_file():
        raise UserError(f"{path}: no Hugging Face checkpoint there (config.json is missing)")
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[settings.dtype], use_safetensors=True, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
