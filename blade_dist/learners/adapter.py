"""LoRA by PEFT: low-rank adapters on a frozen policy, which without them is the reference.

A layer of weight W computes ``W x + (alpha / rank) B A x`` (Hu et al., ICLR 2022); B starts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blade_dist.errors import UserError
from blade_dist.learners.policy import model_without_weights
from blade_dist.settings import LoraSettings, ModelSettings


def check_modules(checkpoint: Path, lora: LoraSettings, settings: ModelSettings) -> None:
    """Whether the checkpoint's model has the layers that are to be adapted; loads no weights.

    Raises:
        UserError: it lacks some; says which linear layers it has.
    """
    model = model_without_weights(checkpoint, settings)
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    if missing := [name for name in lora.modules if name not in linear]:
        raise UserError(
            f"learner.lora.modules: {checkpoint} has no linear layer {', '.join(missing)}; "
            f"it has {', '.join(sorted(linear))}"
        )


def add_adapter(model: Any, lora: LoraSettings) -> None:
    """Freezes ``model`` and gives its layers adapters of its own dtype, which are all that is trained then."""
    from peft import inject_adapter_in_model

    dtype = next(model.parameters()).dtype
    inject_adapter_in_model(_peft_config(lora), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Within, ``model`` computes as if it had no adapters."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(directory: Path, state: dict[str, Tensor], lora: LoraSettings, base: Path) -> None:
    """Writes an adapter folder as PEFT and ``vllm serve --enable-lora`` load it.

    Args:
        directory: is made.
        state: ``<layer>.lora_A.weight`` ``[rank, in]`` and ``<layer>.lora_B.weight`` ``[out, rank]``.
        lora: as it was trained.
        base: the checkpoint that it adapts.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    config = _peft_config(lora)
    config.base_model_name_or_path = str(base)
    config.save_pretrained(directory)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_config(lora: LoraSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.modules), task_type="CAUSAL_LM")
