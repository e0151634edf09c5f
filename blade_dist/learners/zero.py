"""DeepSpeed around the policy: accumulate micro-batches, step, save, load. Knows no target and no reward."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.batches import Ragged
from blade_dist.learners.adapter import without_adapter
from blade_dist.learners.item_vectors import WrittenHead
from blade_dist.learners.packing import Beginnings, Cut, MicroBatch, PromptLists, in_step, microbatches
from blade_dist.learners.policy import Policy, why_not_packed
from blade_dist.learners.shares import copy_to_weights, load_shares, save_shares, shares_of
from blade_dist.settings import LearnerSettings
from blade_dist.store.checkpoints import Layout

_LOG = logging.getLogger(__name__)
# On a CPU, DeepSpeed compiles kernels of its inference when it is initialized, which no training calls. That needs a
# compiler, and one that is killed leaves a lock on which every later learner waits for ever.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
NO_CLIPPING = 1e12
"""DeepSpeed reports the gradient's norm only where it clips."""


@dataclass(frozen=True)
class Stepped:
    """What became of an optimizer step; the same on all ranks."""

    norm: float
    """Of the global gradient, before clipping; not finite where the step was left out."""
    not_finite: str | None
    """Why the step was left out: the first weight, the loss, or the first gradient that is not finite."""


class DeepSpeedLearner:
    """One rank of the data-parallel learner. Every method is collective: all ranks call it, in the same order."""

    def __init__(self, policy: Policy, settings: LearnerSettings, dtype: str, pad: int) -> None:
        """Wraps ``policy``; the process group must be up.

        Args:
            policy: on CPU; DeepSpeed moves it.
            settings: ZeRO stage, optimizer, clipping, token budget.
            dtype: ``float32`` or ``bfloat16``.
            pad: padding token.
        """
        self._budget = settings.tokens_per_microbatch
        self._pad = pad
        self.shares_prefix = settings.shared_prefix and _packs(policy)
        self.world_size = dist.get_world_size()
        self.rank = dist.get_rank()
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        if settings.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable()
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            model_parameters=[p for p in policy.parameters() if p.requires_grad],
            dist_init_required=False,
            config=_deepspeed_config(settings, dtype),
        )
        head = self.model.get_output_embeddings()
        if settings.zero_stage == 3 and isinstance(head, WrittenHead):
            # the head computes its weight from another module's, which ZeRO-3 cannot know
            for parameter in self.model.get_input_embeddings().parameters():
                deepspeed.zero.register_external_parameter(head, parameter)

    @property
    def model(self) -> Any:
        """The Hugging Face model inside (its parameters are shards under ZeRO-3)."""
        return self._engine.module.model

    @property
    def layout(self) -> Layout:
        """Over what the training is spread."""
        return Layout(self.world_size, int(self._engine.zero_optimization_stage()))

    def logprobs(self, sequences: PromptLists, policy: torch.nn.Module | None = None) -> Tensor:
        """Log-probs of every list token, without gradient, ``[T]`` in the order of ``sequences.tokens.flat``.

        0 where the token was the only legal one.

        Args:
            sequences: this rank's; may differ between ranks.
            policy: another policy (the reference); None is this one.
        """
        module = self._engine if policy is None else policy
        result = torch.zeros(len(sequences.tokens.flat), dtype=torch.float32)
        module.eval()
        with torch.no_grad():
            cuts = self._cut(sequences)
            for batch in in_step(cuts, sequences, self._pad, self._common_count(cuts)):
                values = module(batch.to(self.device)).float().cpu()
                # an idle micro-batch yields one value, of no token
                result[batch.flat] = values[: len(batch.flat)]
        module.train()
        return result

    def next_logits(self, rows: Ragged) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Logits of what may follow each row, without gradient: the numbers of some rows and their ``[n, V]``, in turn.

        Rows of about the same length come together. Exhaust it: all ranks compute equally many parts, whether their
        rows need as many or not.

        Args:
            rows: tokens, none empty; this rank's, may differ between ranks.
        """
        size = max(1, self._budget // int(rows.lengths.max(initial=1)))
        by_length = np.argsort(rows.lengths, kind="stable")
        parts = [by_length[start : start + size] for start in range(0, len(rows), size)]
        self._engine.eval()
        with torch.no_grad():
            for number in range(int(self.max_over_ranks(len(parts)))):
                if number < len(parts):
                    part = Beginnings.of(rows.take(parts[number]), self._pad)
                    yield parts[number], self._engine(part.to(self.device))
                else:
                    self._engine(Beginnings.of(Ragged.of([[self._pad]]), self._pad).to(self.device))
        self._engine.train()

    def base_logprobs(self, sequences: PromptLists) -> Tensor:
        """As :meth:`logprobs`, of the policy without its adapters."""
        with without_adapter(self.model):
            return self.logprobs(sequences)

    def update(
        self,
        sequences: PromptLists,
        loss: Callable[[MicroBatch, Tensor], Tensor],
        lr: float,
        imitating: tuple[PromptLists, float] | None = None,
    ) -> Stepped:
        """One optimizer step on the sum of ``loss`` over all decisions of all ranks.

        Where loss or gradient of any rank is not finite, weights and optimizer stay as they are on all ranks.

        Args:
            sequences: this rank's.
            loss: from a micro-batch (on CPU) and its log-probs ``[D]`` to per-token losses ``[D]``, already divided
                by the global number of tokens; the sum over micro-batches and ranks is what is differentiated.
            lr: learning rate of this step.
            imitating: lists that are to go on as they begin, each with as many decisions, and what a unit of
                cross-entropy at one of the later ones adds to the loss; on all ranks or none.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        cuts = self._cut(sequences)
        count, finite = self._common_count(cuts), True
        if imitating is not None:
            finite = self._imitate(*imitating)
        for number, batch in enumerate(in_step(cuts, sequences, self._pad, count)):
            # the number of micro-batches differs from step to step, so DeepSpeed's fixed count can't find the last one
            self._engine.set_gradient_accumulation_boundary(number == count - 1)
            logprob = self._engine(batch.to(self.device))
            # an idle micro-batch has a gradient of 0, but it has one: ZeRO's hooks wait for every parameter's
            total = loss(batch, logprob).sum() if len(batch.flat) else logprob.sum() * 0.0
            finite = finite and bool(total.isfinite())
            # DeepSpeed averages over ranks; the loss is already normalised over all of them
            self._engine.backward(total * self.world_size, scale_wrt_gas=False)
        gradients = self._own_gradients()
        if self.max_over_ranks(not (finite and _finite(*gradients))):
            why = self._first_not_finite(loss=bool(self.max_over_ranks(not finite)))
            self._leave_out(gradients)
            return Stepped(math.nan, why)
        norm = self._whole_gradient_norm()
        self._engine.step()
        return Stepped(float(self._engine.get_global_grad_norm() or norm), None)

    def _imitate(self, lists: PromptLists, weight: float) -> bool:
        """The gradient of lists that are to go on as they begin; whether their loss is finite on this rank."""
        finite, cuts = True, self._cut(lists)
        self._engine.set_gradient_accumulation_boundary(False)
        self._engine.eval()  # without dropout: what is imitated, and where, is what will be served
        for batch in in_step(cuts, lists, self._pad, self._common_count(cuts)):
            # an idle micro-batch has a beginning and nothing that imitates it
            each = int(lists.decision.sum()) // len(lists) if len(batch.flat) else 1
            cross_entropy = -self._engine(replace(batch, imitating=each).to(self.device)).sum() * weight
            finite = finite and bool(cross_entropy.isfinite())
            self._engine.backward(cross_entropy * self.world_size, scale_wrt_gas=False)
        self._engine.train()
        return finite

    def copy_state(self) -> Callable[[Path], None]:
        """Copies what the optimizer holds on this rank, of which the weights are copies, to the CPU's memory.

        Returns:
            What writes the copy into a folder, by the parameters' names; another thread may call it.
        """
        shares = shares_of(self._engine)
        # where all ranks hold the same, each writes a part
        own = shares if self._engine.zero_optimization_stage() else shares[self.rank :: self.world_size]
        held, file = [share.copied() for share in own], f"rank-{self.rank}.safetensors"
        return lambda directory: save_shares(held, directory / file)

    def load_state(self, directory: Path) -> None:
        """Takes what all ranks' :meth:`copy_state` wrote (collective); ZeRO stage and number of ranks may be others."""
        load_shares(shares_of(self._engine), directory)
        copy_to_weights(self._engine)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all ranks."""
        summed = values.to(self.device)
        dist.all_reduce(summed)
        return summed.cpu()

    def max_over_ranks(self, value: float) -> float:
        """Largest value of all ranks."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def _own_gradients(self) -> list[Tensor]:
        """Whole ones where nothing is sharded, else this rank's shares."""
        shares = getattr(self._engine.optimizer, "averaged_gradients", None)
        if shares is None:
            return [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return [share for group in shares.values() for share in group or () if share is not None]

    def _first_not_finite(self, loss: bool) -> str:
        """Of weights, loss (``loss``: it is not) and gradients, in this order, by name (collective)."""
        named = list(self.model.named_parameters())
        # under ZeRO-3 a rank holds a share of each weight
        if (name := self._first([name for name, p in named if not _finite(getattr(p, "ds_tensor", p))])) is not None:
            return f"the weight {name}"
        if loss:
            return "the loss"
        trained = [(name, p) for name, p in named if p.requires_grad]
        sharded = self._engine.zero_optimization_stage() > 0
        whole = [(name, safe_get_full_grad(p) if sharded else p.grad) for name, p in trained]
        name = self._first([name for name, gradient in whole if gradient is not None and not _finite(gradient)])
        return "a gradient" if name is None else f"the gradient of {name}"

    def _first(self, names: list[str]) -> str | None:
        """The first of all ranks' parameters, in the model's order (collective)."""
        order = [name for name, _ in self.model.named_parameters()]
        place = -self.max_over_ranks(-min(map(order.index, names), default=len(order)))
        return order[int(place)] if place < len(order) else None

    def _leave_out(self, gradients: list[Tensor]) -> None:
        """Forgets the gradients; weights and optimizer stay as they are."""
        if not hasattr(self._engine.optimizer, "overflow"):
            self._engine.zero_grad()
            return
        # DeepSpeed leaves a step out, and clears what it holds of it, where a gradient is not finite
        for gradient in gradients[:1]:
            gradient.fill_(math.nan)
        self._engine.step()
        if not self._engine.optimizer.overflow:
            raise RuntimeError("DeepSpeed took a step with a gradient that is not finite")

    def _whole_gradient_norm(self) -> float:
        """Norm of the gradients that every rank holds whole (stage 0, where DeepSpeed does not report it)."""
        norms = [p.grad.norm() for p in self._engine.module.parameters() if p.grad is not None and p.grad.numel()]
        return float(torch.stack(norms).norm()) if norms else 0.0

    def _cut(self, sequences: PromptLists) -> list[Cut]:
        return microbatches(sequences, self._budget, self.shares_prefix)

    def _common_count(self, cuts: list[Cut]) -> int:
        return int(self.max_over_ranks(max(1, len(cuts))))


def _finite(*tensors: Tensor) -> bool:
    """Of all their numbers; a GPU is waited for once."""
    return not tensors or bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _packs(policy: Policy) -> bool:
    """Whether prompts can be shared; says why not."""
    why = why_not_packed(policy)
    if why is not None:
        name = type(policy.model).__name__
        _LOG.warning("learner.shared_prefix: %s can't be packed (%s); every list computes its prompt anew", name, why)
    return why is None


def _deepspeed_config(settings: LearnerSettings, dtype: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.clip_grad or NO_CLIPPING,
        "bf16": {"enabled": dtype == "bfloat16", "check_grad_overflow": True},
        "zero_optimization": {"stage": settings.zero_stage},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 0.0,  # every update brings its own
                "betas": list(settings.betas),
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
            },
        },
    }
