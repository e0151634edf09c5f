"""Legal lists as a logits processor of vLLM's model runner V2 (0.32 on a GPU)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from blade_dist.batches import offsets_of, ranges
from blade_dist.rollouts.constrain import EXCLUDED, WRITTEN, ConstrainedLists


class CatalogProcessor(LogitsProcessor):
    """A request keeps its slot; the rows of the logits come in another order every step.

    Tokens are on the GPU only. Each step copies the positions, and the few tokens that are new, to the host.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._states = req_states
        self._lists = ConstrainedLists.of(vllm_config, req_states.device)
        self._already: dict[int, int] = {}
        """Slot -> how many of the prompt's last tokens are already the list's."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A request comes (anew, or back after preemption): its list is read again from its first token."""
        arguments = sampling_params.extra_args or {}
        self._already.pop(req_idx, None)
        if EXCLUDED not in arguments:
            return False
        self._lists.begin(req_idx, arguments)
        self._already[req_idx] = arguments.get(WRITTEN, 0)
        return True

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Reads the tokens that were committed since the last time, then masks."""
        every = np.asarray(ctx.idx_mapping_np)
        rows = np.array([row for row, slot in enumerate(every) if int(slot) in self._already], dtype=np.int64)
        if not len(rows):
            return logits
        slots = every[rows].astype(np.int64)
        # a row's position is that of its last committed token
        length = (ctx.pos.cpu().numpy()[rows] + 1).astype(np.int64)
        prompt = self._states.prompt_len.np[slots]
        read = np.array([self._lists.read(slot) for slot in slots.tolist()])
        # the list begins `already` tokens before the prompt's end: beam search hands written tokens over as prompt
        first = prompt - np.array([self._already[slot] for slot in slots.tolist()]) + read
        self._lists.catch_up(slots, self._tokens(slots, first, length))
        return self._lists.apply(logits, rows, slots)

    def _tokens(self, slots: np.ndarray, first: np.ndarray, stop: np.ndarray) -> list[list[int]]:
        """``all_token_ids[slot, first:stop]`` of each slot, in one copy from the device."""
        counts = np.maximum(stop - first, 0)
        device = self._states.device
        where = (
            torch.from_numpy(np.repeat(slots, counts)).to(device),
            torch.from_numpy(ranges(first, counts)).to(device),
        )
        flat = self._states.all_token_ids.gpu[where].cpu().tolist()
        return [flat[start:end] for start, end in pairwise(offsets_of(counts).tolist())]
