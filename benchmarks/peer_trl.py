"""TRL's GRPOTrainer on the workload of throughput.py: a process of its own, that prints its result as JSON.

Same model, number and length of prompts, group size, list length, optimizer, KL weight and precision; gradient
checkpointing off; TRL generates by itself (transformers), as it does without a vLLM server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.workload import PRESETS, Workload

MICROBATCHES = (16, 32, 64, 128)
"""Sequences per forward that are tried; the fastest counts."""


class StepClock(TrainerCallback):
    """Wall seconds between the ends of optimizer steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def word_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One word, one token: a prompt's text has exactly as many tokens as it should."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{number}": number for number in range(3, vocab)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def save_model(work: Workload, folder: Path) -> None:
    """The workload's Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=work.vocab,
        hidden_size=work.hidden,
        intermediate_size=work.ffn,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.kv_heads,
        max_position_embeddings=work.prompt_tokens + 2 * work.list_tokens + 64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer(work.vocab).save_pretrained(folder)


def prompts(work: Workload, steps: int) -> Dataset:
    """Random words."""
    rng = np.random.default_rng(0)
    rows = rng.integers(3, work.vocab, (work.prompts * (steps + 1), work.prompt_tokens))
    return Dataset.from_dict({"prompt": [" ".join(f"w{token}" for token in row) for row in rows]})


def run(work: Workload, model: Path, microbatch: int, steps: int, out: Path) -> list[float]:
    """Seconds of each of ``steps`` optimizer steps."""
    lists = work.prompts * work.group
    clock = StepClock()
    config = GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=lists // microbatch,
        num_generations=work.group,
        max_completion_length=work.list_tokens,
        generation_kwargs={"min_new_tokens": work.list_tokens},
        temperature=1.0,
        beta=work.kl_coef,
        learning_rate=work.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_steps=steps,
        gradient_checkpointing=False,
        bf16=work.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": work.dtype},
    )
    trainer = GRPOTrainer(
        model=str(model),
        args=config,
        train_dataset=prompts(work, steps),
        processing_class=word_tokenizer(work.vocab),
        reward_funcs=lambda completions, **_: [float(len(set(text.split()))) for text in completions],
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds


def main() -> None:
    """Tries the micro-batches for two steps each, then measures the fastest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", required=True, help="a Workload as JSON, or the name of a preset")
    parser.add_argument("--steps", type=int, default=3, help="measured steps; the median counts")
    arguments = parser.parse_args()
    work = PRESETS.get(arguments.workload) or Workload(**json.loads(arguments.workload))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    lists = work.prompts * work.group
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        save_model(work, model)
        sizes = [size for size in MICROBATCHES if size <= lists and lists % size == 0] or [lists]
        tried = {size: run(work, model, size, 2, Path(name) / "out")[-1] for size in sizes}
        best = min(tried, key=tried.__getitem__)
        seconds = statistics.median(run(work, model, best, arguments.steps + 1, Path(name) / "out")[1:])
    result = {
        "version": version("trl"),
        "lists_per_second": lists / seconds,
        "seconds_per_step": seconds,
        "microbatch": best,
        "tried": {size: lists / taken for size, taken in tried.items()},
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
