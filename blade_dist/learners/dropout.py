"""Dropout for models that are built without: it regularises the fine-tuning and is gone from what is saved."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from blade_dist.errors import UserError


def add_dropout(model: Any, probability: float) -> None:
    """Zeroes a share of the embeddings and of what each sub-layer adds to the residual stream, while training.

    Vaswani et al., "Attention Is All You Need" (2017), section 5.4. No parameter and no module is added: the model's
    state and its evaluation mode stay what they were.

    Args:
        model: a Hugging Face causal LM; its layers must have ``self_attn`` and ``mlp``, as Llama's do.
        probability: of a value to be zeroed, in [0, 1); the others are divided by ``1 - probability``.

    Raises:
        UserError: its layers are made otherwise.
    """
    parts = check_layers(model)

    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return functional.dropout(output, probability, module.training)
        return (functional.dropout(output[0], probability, module.training), *output[1:])

    for part in (model.get_input_embeddings(), *parts):
        part.register_forward_hook(hook)


def check_layers(model: Any) -> list[nn.Module]:
    """The sub-layers that dropout is put behind.

    Raises:
        UserError: the model's layers have no ``self_attn`` and ``mlp``.
    """
    layers = getattr(model.get_decoder(), "layers", [])
    parts = [getattr(layer, name, None) for layer in layers for name in ("self_attn", "mlp")]
    if not parts or None in parts:
        raise UserError(
            f"sft.dropout: the layers of {type(model).__name__} have no self_attn and mlp to put it behind; write 0"
        )
    return parts
