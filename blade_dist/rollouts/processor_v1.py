"""Legal lists as a logits processor of vLLM's V1 batch interface (0.24; 0.32 on CPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from blade_dist.rollouts.constrain import EXCLUDED, WRITTEN, ConstrainedLists


class CatalogProcessor(LogitsProcessor):
    """Row ``i`` of the logits is the request at index ``i`` of vLLM's persistent batch."""

    def __init__(self, vllm_config: Any, device: torch.device, _is_pin_memory: bool) -> None:
        self._lists = ConstrainedLists.of(vllm_config, device)
        self._written: dict[int, tuple[list[int], list[int]]] = {}
        """Tokens of each index's list: those at the end of its prompt, and vLLM's list of its output.

        The latter is vLLM's object, not a copy: it grows by itself between two calls.
        """

    def is_argmax_invariant(self) -> bool:
        """Never: the mask changes the likeliest token. (With True vLLM would leave it out of greedy sampling.)"""
        return False

    def arguments(self, params: Any) -> dict[str, Any]:
        """What a request says of its list; without :data:`EXCLUDED` it is free text."""
        return params.extra_args or {}

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Requests that left, came (anew, or back after preemption with part of their output) and moved."""
        if batch_update is None:
            return
        # in the order that vLLM prescribes: removed, added, moved; an index may be named by all three in one update
        for index in batch_update.removed:
            self._written.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            arguments = self.arguments(params)
            if EXCLUDED not in arguments:
                self._written.pop(index, None)  # an added request replaces another without its removal
                continue
            already = arguments.get(WRITTEN, 0)
            self._lists.begin(index, arguments)
            self._written[index] = (list(prompt or [])[-already:] if already else [], output)
        for source, target, direction in batch_update.moved:
            swap = direction == MoveDirectionality.SWAP
            self._lists.move(source, target, swap)
            moved, replaced = self._written.pop(source, None), self._written.pop(target, None)
            if moved is not None:
                self._written[target] = moved
            if swap and replaced is not None:
                self._written[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Reads what was written since the last time, then masks; drops tokens that no list of the batch may hold.

        Not in :meth:`update_state`: with asynchronous scheduling that runs before the last token is known, and shows a
        placeholder in its place.
        """
        if not self._written:
            return logits
        slots = np.array(sorted(self._written), dtype=np.int64)
        self._lists.catch_up(slots, [self._news(slot) for slot in slots.tolist()])
        if len(slots) == len(logits):
            # drawing a token takes as long as its logits are wide, and tokens of histories alone stand behind these
            logits = logits[:, : self._lists.width].contiguous()
        return self._lists.apply(logits, slots, slots)

    def _news(self, slot: int) -> list[int]:
        """What the list has gained: it begins with the end of the prompt and continues in the output."""
        before, output = self._written[slot]
        read = self._lists.read(slot)
        return output[read - len(before) :] if read >= len(before) else before[read:] + output
