"""Checkpoints that are evaluated without fine-tuning: which ones can be, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blade_dist.catalog.build import build_codec
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings
from blade_dist.settings.load import load_config
from blade_dist.stages.base import after_evaluation, checkpoint_of, is_base, read_checkpoint
from blade_dist.store.files import write_json
from blade_dist.store.policy import STAMP
from tests.helpers.tokenizers import chat_tokenizer

TITLES = ["Toy Story (1995)", "Heat", "Up!"]


def checkpoint(folder: Path, texts: list[str] = TITLES) -> Path:
    """As far as it is read here: no model loads it."""
    chat_tokenizer(folder, texts)
    write_json(folder / "config.json", {})
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def codec_of(tokenizer: Path, kind: str) -> Codec:
    catalog = Catalog.build(["a", "b", "c"], TITLES, [[]] * 3, np.zeros(3, np.int64), None)
    wanted = CodecSettings.model_validate({"kind": kind})
    return build_codec(catalog, wanted, CodecChoice.of(wanted, True, 3), tokenizer, 0).codec


def test_a_pretrained_model_is_evaluated_as_it_is(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "llm")
    codec = codec_of(base, "title")
    stamp = read_checkpoint(base, codec)
    assert (stamp.policy, stamp.step, stamp.codec) == ("base", 0, codec.fingerprint())
    (base / "model.safetensors").write_bytes(b"others")
    assert read_checkpoint(base, codec).weights != stamp.weights


def test_one_that_writes_other_tokens_is_refused(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "llm")
    with pytest.raises(UserError, match=f"{STAMP} is missing"):  # codes that it has never seen
        read_checkpoint(base, codec_of(base, "semantic_id"))
    other = checkpoint(tmp_path / "other", ["Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich"])
    with pytest.raises(UserError, match=r"other: (it knows no token|a checkpoint of another tokenizer)"):
        read_checkpoint(other, codec_of(base, "title"))
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors are missing"):
        read_checkpoint(base, codec_of(base, "title"))
    with pytest.raises(UserError, match="no checkpoint there"):
        read_checkpoint(tmp_path / "nothing", codec_of(base, "title"))


def test_base_is_the_model_of_the_settings(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "llm")
    config = load_config(None, [f"model.path={base}", f"run.dir={tmp_path / 'run'}"])
    assert checkpoint_of(config, Path("base")) == base
    assert checkpoint_of(config, tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"--checkpoint base: there is no model\.path"):
        checkpoint_of(load_config(None, []), Path("base"))


def test_what_comes_next_is_training_or_an_export(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "llm")
    config = load_config(None, [f"model.path={base}", f"run.dir={tmp_path / 'run'}"])
    (tmp_path / "run" / "data").mkdir(parents=True)
    assert is_base(base)
    assert after_evaluation(config, base) == ["sft"]
    write_json(base / STAMP, {})
    assert after_evaluation(config, base) == [
        "export",
        "--checkpoint",
        str(base),
        "--out",
        str(tmp_path / "run" / "export"),
    ]
