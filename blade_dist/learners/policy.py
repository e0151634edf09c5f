"""The policy: a Hugging Face causal LM that reports log-probs of list tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn

from blade_dist.batches import Ragged
from blade_dist.errors import UserError
from blade_dist.learners.attention import ON_CPU, ON_GPU, attention_mask, causal_columns, layer_windows
from blade_dist.learners.dense_head import dense_logprobs
from blade_dist.learners.generation import plain_generation
from blade_dist.learners.imitation import imitation
from blade_dist.learners.legal_head import HeadPlan, legal_logprobs
from blade_dist.learners.packing import PADDING, Beginnings, MicroBatch, PromptLists, collate, microbatches
from blade_dist.settings import ModelSettings
from blade_dist.store.base_files import check_weights

UNREADABLE = (OSError, ValueError, TypeError, AttributeError, ImportError, StrictDataclassError)
"""What Transformers raises where a configuration is none, or asks for a package that is not there."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """Wraps the model so that the output head runs inside the wrapped forward, on the decisions only."""

    def __init__(self, model: Any, temperature: float) -> None:
        """Takes the model over: its output head returns log-probs from now on.

        (Under ZeRO-3 the head's weight exists only inside the head's own forward, so that the log-probs are taken
        there.) Its last layer's feed-forward block runs for the positions that predict a decision: no other position's
        output is read by anything.
        """
        super().__init__()
        self.model = model
        head = model.get_output_embeddings()
        # Granite divides its logits by a constant, after the head
        scaling = getattr(model.config, "logits_scaling", None) or 1.0
        head.forward = partial(_head_logprobs, head, temperature * scaling)
        self._wanted: Tensor | None = None
        last = getattr(model.get_decoder(), "layers", [None])[-1]
        if isinstance(getattr(last, "mlp", None), nn.Module):
            last.mlp.forward = partial(self._wanted_only, last.mlp.forward)

    def forward(self, batch: MicroBatch | Beginnings) -> Tensor:
        """Log-probs (nats, float32) of the batch's decisions at the sampling temperature, ``[D]``.

        Of beginnings, the logits of what may follow each, float32 ``[n, V]``; of lists that are to go on as they begin,
        how well they do, see :func:`~blade_dist.learners.imitation.imitation`.
        """
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        if isinstance(batch, Beginnings):
            row, width = torch.arange(len(batch.last), device=batch.last.device), batch.input_ids.shape[1]
            self._wanted = row * width + batch.last
            # causal attention needs no mask here: what fills a row stands to the right of all that is read
            hidden = decoder(input_ids=batch.input_ids, use_cache=False)[0]
            return head(hidden[row, batch.last], None, None)
        self._wanted = batch.wanted  # stays until the next batch: a checkpointed layer runs again in the backward
        if batch.packed:
            windows = layer_windows(self.model.config)
            mask = attention_mask(batch, windows, flex=self.model.config._attn_implementation == ON_GPU)
            with causal_columns(batch, windows):
                hidden = decoder(
                    input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position, use_cache=False
                )[0]
        else:
            mask = (batch.segment != PADDING).long()
            hidden = decoder(input_ids=batch.input_ids, attention_mask=mask, use_cache=False)[0]
        hidden = hidden.flatten(0, 1)[batch.wanted]
        if batch.imitating is not None:
            of_list = hidden[batch.place].unflatten(0, (-1, batch.imitating))
            return head(of_list[:, 1:].flatten(0, 1), None, None, imitated=of_list[:, 0])
        return head(hidden, batch.label, batch.head, batch.share, place=batch.place)

    def _wanted_only(self, mlp: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """``mlp`` of the wanted positions of ``hidden`` ``[rows, width, H]``; 0 elsewhere."""
        flat = hidden.flatten(0, 1)
        result = torch.zeros_like(flat).index_copy(0, self._wanted, mlp(flat.index_select(0, self._wanted)[None])[0])
        return result.view_as(hidden)


def _head_logprobs(
    head: Any,
    temperature: float,
    hidden: Tensor,
    label: Tensor | None,
    plan: HeadPlan | None,
    share: Tensor | None = None,
    imitated: Tensor | None = None,
    place: Tensor | None = None,
) -> Tensor:
    bias = getattr(head, "bias", None)
    if imitated is not None:
        return imitation(hidden / temperature, imitated / temperature, head.weight, bias)
    if label is None:
        return nn.functional.linear(hidden, head.weight, bias).float() / temperature
    if plan is None:
        return dense_logprobs(hidden[place], head.weight, bias, label, temperature, share)
    return legal_logprobs(hidden, head.weight, bias, plan, label, place, temperature)


def sequence_logprobs(policy: Policy, sequences: PromptLists, pad: int, budget: int, shared: bool) -> Tensor:
    """Log-probs of every list token, float32 ``[T]`` on the CPU, without gradient; 0 where it was no decision."""
    result = torch.zeros(len(sequences.tokens.flat))
    device = next(policy.parameters()).device
    with torch.no_grad():
        for cut in microbatches(sequences, budget, shared):
            batch = collate(sequences, cut, pad)
            result[batch.flat] = policy(batch.to(device)).float().cpu()
    return result


def choose_attention(policy: Policy) -> None:
    """The model's attention for packed rows, by where its weights will be."""
    policy.model.set_attn_implementation(ON_GPU if torch.cuda.is_available() else ON_CPU)


def why_not_packed(policy: Policy) -> str | None:
    """Chooses the attention and tries the model on two prompts with lists.

    Call it before the model is sharded.

    Returns:
        None where packed rows give the same log-probs, else what is wrong.
    """
    rng = np.random.default_rng(0)
    vocab = len(policy.model.get_output_embeddings().weight)  # of tokens that may be written
    prompt = Ragged.of([rng.integers(0, vocab, size) for size in (7, 4)])
    tokens = Ragged.of([rng.integers(0, vocab, size) for size in (3, 2, 4, 3)])
    sequences = PromptLists(prompt, tokens, np.array([0, 0, 1, 1]))
    trained = policy.training
    try:
        choose_attention(policy)
        policy.eval()  # dropout would differ between the two
        alone, packed = (sequence_logprobs(policy, sequences, 0, 10_000, shared) for shared in (False, True))
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        return " ".join(str(error).split())[:200]
    finally:
        policy.train(trained)
    gap = float((alone - packed).abs().max())
    tolerance = 1e-3 if next(policy.parameters()).dtype == torch.float32 else 0.25
    return None if gap <= tolerance else f"its log-probs differ by {gap:.2g} in packed rows"


def build_model(settings: ModelSettings, vocab_size: int, pad: int, end: int) -> Any:
    """A small Llama with scaled input embeddings and random weights (seed it first).

    The embedding of a token is multiplied by ``sqrt(hidden_size)`` (Vaswani et al., 2017, section 3.4); the output
    head, which shares it, is not. So items stand apart at the input while the logits start near 0. Granite is Llama
    with such a factor, and both Transformers and vLLM load it.
    """
    from transformers import GraniteConfig, GraniteForCausalLM

    build = settings.build
    config = GraniteConfig(
        vocab_size=vocab_size,
        hidden_size=build.hidden_size,
        intermediate_size=build.ffn_size,
        num_hidden_layers=build.layers,
        num_attention_heads=build.heads,
        num_key_value_heads=build.kv_heads,
        max_position_embeddings=build.context,
        embedding_multiplier=build.hidden_size**0.5,
        attention_multiplier=(build.hidden_size // build.heads) ** -0.5,
        residual_multiplier=1.0,
        logits_scaling=1.0,
        tie_word_embeddings=build.tied,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
    )
    return GraniteForCausalLM(config).to(DTYPES[settings.dtype])


def load_model(path: Path, settings: ModelSettings) -> Any:
    """A causal LM from a Hugging Face folder, safetensors only.

    Raises:
        UserError: not such a folder, one that needs code of its own without ``model.trust_remote_code``, or one whose
            weights are not whole: Transformers would make those that it lacks at random.
    """
    from transformers import AutoModelForCausalLM

    check_weights(path)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            path,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            dtype=DTYPES[settings.dtype],
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            **plain_generation(path),
        )
    except UNREADABLE as error:
        raise UserError(f"{path}: {_sentence(error)}") from None
    except (SafetensorError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: its weights can't be read: {reason}; are they whole? fetch or save them again"
        ) from None
    if other := sorted(told["mismatched_keys"]):
        name, there, wanted = other[0]
        raise UserError(
            f"{path}: {len(other)} of its weights have other shapes than its config.json says, as {name}: "
            f"{tuple(there)}, and not {tuple(wanted)}; fetch or save them again"
        )
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"{path}: {len(missing)} of its weights are missing, as {missing[0]}; fetch or save them again")
    # a sum is a number only where all that is added up are, and it needs no second tensor of that size
    sums = ((name, float(part.detach().sum(dtype=torch.float32))) for name, part in model.named_parameters())
    if broken := [name for name, total in sums if not math.isfinite(total)]:
        raise UserError(
            f"{path}: {len(broken)} of its weights hold what is no number (NaN or infinite), as {broken[0]}; fetch or "
            "make them again"
        )
    return model


def model_without_weights(path: Path, settings: ModelSettings) -> Any:
    """The modules of a Hugging Face folder's causal LM on torch's meta device: no weights are read, none are made.

    Raises:
        UserError: an architecture that Transformers doesn't know, or that is no causal LM.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    except (*UNREADABLE, KeyError) as error:
        raise UserError(f"model.path: {path}: {_sentence(error)}") from None


def _sentence(error: Exception) -> str:
    """The first one of Transformers': a list of all that it knows may follow."""
    sentence = " ".join(str(error).split()).partition(". ")[0]
    if sentence.startswith("Unrecognized configuration class"):
        return "its architecture is no causal language model that Transformers knows"
    return sentence
