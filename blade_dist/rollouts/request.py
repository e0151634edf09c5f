"""What an engine is asked, and how its answer becomes arrays. No vLLM import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.lists import mask_illegal


@dataclass(frozen=True)
class RolloutRequest:
    """``B`` prompts, ``group_size`` lists wanted for each."""

    prompt: NDArray[np.int64]
    """``[B]`` prompt index."""
    tokens: Ragged
    """int32, ``B`` rows: the prompts' tokens."""
    history: Ragged
    """int32 item indices, ``B`` rows."""
    seed: NDArray[np.int64]
    """``[B]`` sampling seed of each prompt; list ``i`` uses ``seed + i``."""
    group_size: int
    """G."""
    temperature: float
    """T; 0 is greedy."""

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, rows: NDArray[np.int64]) -> RolloutRequest:
        """The given rows."""
        return RolloutRequest(
            self.prompt[rows],
            self.tokens.take(rows),
            self.history.take(rows),
            self.seed[rows],
            self.group_size,
            self.temperature,
        )


def to_rollouts(
    request: RolloutRequest,
    tokens: list[Any],
    logprobs: list[Any],
    version: tuple[int, int],
    codec: Codec,
    k: int,
    exclude_history: bool,
) -> Rollouts:
    """Token rows and their log-probs, group after group, as one typed batch with the lists read and checked.

    Args:
        request: what was asked.
        tokens: ``B * G`` rows of token ids.
        logprobs: ``B * G`` rows of floats, one per token.
        version: (attempt, step) of the weights.
        codec: reads items out of tokens.
        k: items per list.
        exclude_history: whether an item of the history counts as repeated.
    """
    shape = (len(request), request.group_size)
    ragged = Ragged.of(tokens)
    read = codec.parse(ragged, k)
    histories = request.history.take(np.repeat(np.arange(shape[0]), shape[1]))
    items, invalid, duplicate = mask_illegal(read, histories, exclude_history)
    return Rollouts(
        prompt=request.prompt,
        items=items.reshape(*shape, k),
        tokens=ragged,
        logprobs=np.concatenate([np.asarray(row, dtype=np.float32) for row in logprobs]),
        version=np.tile(np.asarray(version, dtype=np.int64), (shape[0], 1)),
        invalid=invalid.reshape(shape),
        duplicate=duplicate.reshape(shape),
    )
