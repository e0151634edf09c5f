"""Dropout is there while training, nowhere else."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from blade_dist.errors import UserError
from blade_dist.learners.dropout import add_dropout
from blade_dist.learners.policy import build_model
from blade_dist.settings import BuildSettings, ModelSettings

BUILD = BuildSettings(hidden_size=32, layers=2, heads=1, kv_heads=1, ffn_size=32, context=32)
TOKENS = torch.arange(24).reshape(2, 12)


def small(probability: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(ModelSettings(build=BUILD), 40, 0, 1)
    if probability:
        add_dropout(model, probability)
    return model


def test_nothing_is_dropped_in_evaluation_and_nothing_is_saved() -> None:
    plain, model = small().eval(), small(0.5).eval()
    assert torch.equal(plain(TOKENS).logits, model(TOKENS).logits)
    assert plain.state_dict().keys() == model.state_dict().keys()


def test_training_differs_by_the_seed_alone() -> None:
    model = small(0.5).train()

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(TOKENS).logits

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_the_share_and_the_scale_of_what_is_left() -> None:
    model = small(0.25).train()
    whole = small().get_input_embeddings()(TOKENS)
    output = model.get_input_embeddings()(TOKENS)
    left = output != 0
    assert abs(left.float().mean() - 0.75) < 0.06
    assert torch.allclose(output[left], whole[left] / 0.75)


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_every_sub_layer_is_behind_it(part: str) -> None:
    model = small(0.5).train()
    zeros = []
    for layer in model.get_decoder().layers:
        module = getattr(layer, part)
        module.register_forward_hook(
            lambda _, __, output: zeros.append(
                float(((output[0] if isinstance(output, tuple) else output) == 0).float().mean())
            )
        )
    model(TOKENS)
    assert len(zeros) == 2
    assert all(abs(share - 0.5) < 0.1 for share in zeros)


def test_a_model_with_other_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=1))
    with pytest.raises(UserError, match=r"sft\.dropout: the layers of GPT2LMHeadModel"):
        add_dropout(model, 0.1)
