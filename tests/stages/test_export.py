"""What an export says of how it is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.serving.manifest import read_manifest
from blade_dist.settings import Config
from blade_dist.stages.export import export_stage
from tests.helpers.runs import random_policy


def test_an_exported_ranker_generates_the_best_items(semantic_run: tuple[Config, DataBundle], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config, data = semantic_run
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"decode": "rank"})})
    checkpoint = random_policy(config, data, tmp_path / "policy", tied=True, seed=0)
    out = tmp_path / "export"
    export_stage(config, checkpoint, out, Console(quiet=True))
    manifest = read_manifest(out)
    assert (manifest.decode, manifest.separator_token_id) == ("rank", None)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    prompt = torch.from_numpy(data.codec.encode_prompts(data.test.rows(np.arange(1)).history)[0][None].astype(np.int64))
    written = model.generate(prompt)[:, prompt.shape[1] :]
    with torch.no_grad():
        best = model(input_ids=prompt).logits[0, -1].topk(config.lists.k).indices
    assert written[:, 0].tolist() == best.tolist()
    assert written.shape == (config.lists.k, 1)
