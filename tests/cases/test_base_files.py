"""What people give as a base model and is none: pointers, adapters, halves, encoders, broken numbers. A line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, T5Config

from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.data.prepare import prepare_data
from blade_dist.doctor.findings import Finding, Level
from blade_dist.doctor.report import examine
from blade_dist.errors import UserError
from blade_dist.learners.policy import load_model
from blade_dist.settings.load import load_config
from blade_dist.store.files import write_json
from blade_dist.store.policy import check_base
from tests.cases.test_models import METRICS, base
from tests.cases.wild import Wild

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1234567890\n"
WEIGHT = "transformer.h.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of which nothing is wrong."""
    return base(tmp_path_factory.mktemp("whole") / "gpt2", 256)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "gpt2")


def changed(folder: Path, weight: torch.Tensor) -> None:
    save_file(
        load_file(folder / "model.safetensors") | {WEIGHT: weight}, folder / "model.safetensors", {"format": "pt"}
    )


def _pointer(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(POINTER) and None


def _adapter(folder: Path) -> None:
    """As PEFT leaves it, with the tokenizer beside it."""
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "llama", "r": 8})


def _merged_beside_its_adapter(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "llama", "r": 8})


def _adapter_with_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    _adapter(folder)
    write_json(folder / "config.json", config)


def _other_weights(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def _half(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})


def _no_index(folder: Path) -> None:
    for number in (1, 2):
        shutil.copy(folder / "model.safetensors", folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()


def _configuration(**values: object) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | values)

    return made


FILES: list[tuple[Callable[[Path], None], str]] = [
    *(
        (_pointer(name), f"{name}: it is a pointer of Git LFS, and not the file; fetch that with `git lfs pull`")
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    ),
    (_adapter, "it is a LoRA adapter alone, of llama: merge it into its base model first"),
    (_merged_beside_its_adapter, "whole weights stand beside a LoRA adapter, and Transformers would add it to them"),
    (_adapter_with_configuration, "it is a LoRA adapter alone, of llama: merge it into its base model first"),
    (_other_weights("pytorch_model.bin"), "*.safetensors are missing, only pytorch_model.bin: load it with"),
    (_other_weights("llama.Q4_K_M.gguf"), "*.safetensors are missing, only llama.Q4_K_M.gguf: load it with"),
    (_half, "1 of its files of weights are missing, as model-00002-of-00002.safetensors; fetch them again"),
    (_no_index, "model.safetensors.index.json is missing, by which the 2 files of weights are read"),
    (_configuration(quantization_config={"quant_method": "gptq"}), "its weights are quantized (quantization_config)"),
    (_configuration(architectures=["BertForMaskedLM"]), "BertForMaskedLM writes no text; give a causal language model"),
]


@pytest.mark.parametrize(("made", "said"), FILES)
def test_what_is_no_base_model_is_said_by_sft_and_doctor(folder: Path, made: Callable[[Path], None], said: str) -> None:
    made(folder)
    with pytest.raises(UserError) as error:
        check_base(folder, "x", tokenizer_of=folder)
    assert said in str(error.value)
    assert len(str(error.value).replace(str(folder), "")) <= 3 * 80
    found = next(f for f in _examined(folder) if f.what == "model")
    assert (found.level, said in found.result) == (Level.FAIL, True)


def _examined(folder: Path) -> Iterator[Finding]:
    return examine(load_config(None, [f"model.path={folder}", f"run.dir={folder.parent / 'run'}"]))


@pytest.mark.parametrize("made", [_adapter, _pointer("tokenizer.json"), _pointer("config.json")])
def test_data_says_it_before_it_reads_the_log(wild: Wild, folder: Path, made: Callable[[Path], None]) -> None:
    made(folder)
    (wild.folder / "log.csv").unlink()
    with pytest.raises(UserError, match=r"LoRA adapter alone|pointer of Git LFS"):
        prepare_data(wild.config(f"model.path={folder}", *METRICS))


def test_a_tokenizer_may_lie_beside_an_adapter_and_be_no_pointer(folder: Path) -> None:
    _adapter(folder)
    assert len(load_tokenizer(folder)) > 0
    (folder / "tokenizer.json").write_text(POINTER)
    with pytest.raises(UserError, match=r"tokenizer\.json: it is a pointer of Git LFS"):
        load_tokenizer(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers(folder: Path, value: float, dtype: str) -> None:
    weight = load_file(folder / "model.safetensors")[WEIGHT]
    changed(folder, weight.index_fill(0, torch.tensor([3]), value))
    said = rf"1 of its weights hold what is no number \(NaN or infinite\), as {WEIGHT}; fetch or make them again"
    with pytest.raises(UserError, match=said):
        load_model(folder, load_config(None, [f"model.dtype={dtype}"]).model)
    found = next(f for f in _examined(folder) if f.what == "model")
    assert (found.level, "NaN" in found.result) == (Level.FAIL, True)


def test_weights_of_other_shapes(folder: Path) -> None:
    changed(folder, torch.zeros(3, 4))
    with pytest.raises(
        UserError, match=rf"1 of its weights have other shapes .*, as {WEIGHT}: \(3, 4\), and not \(32,"
    ):
        load_model(folder, load_config(None).model)


@pytest.mark.parametrize(
    "shape", [T5Config(vocab_size=300), BertConfig(vocab_size=300, architectures=["BertForMaskedLM"])]
)
def test_other_architectures_end_in_one_short_line(folder: Path, shape: T5Config | BertConfig) -> None:
    shape.save_pretrained(folder)
    with pytest.raises(UserError, match=r"is no causal language model|writes no text") as error:
        load_model(folder, load_config(None).model)
    assert len(str(error.value).replace(str(folder), "")) <= 3 * 80
