"""A tokenizer of a model that was tuned on conversations."""

from __future__ import annotations

from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from blade_dist.catalog.tokenizer import train_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|start|>system\nBe short.<|stop|>\n{% endif %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""Brings a system's turn of its own where none is given; ends a turn with another token than eos."""
TURNS = ["<|start|>", "<|stop|>"]


def chat_tokenizer(folder: Path, texts: list[str], template: str | None = TEMPLATE) -> Path:
    """Puts ``<bos>`` before every text, which the template does too; eos is ``<eos>``, the end of a turn another."""
    backend = train_tokenizer(texts, 400).backend_tokenizer
    backend.add_special_tokens(["<bos>", *TURNS])
    bos = backend.token_to_id("<bos>")
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", extra_special_tokens=TURNS
    )
    made.chat_template = template
    made.save_pretrained(folder)
    return folder
