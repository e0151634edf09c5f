"""What an engine is asked, and how its answer becomes arrays. No vLLM import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged, Rollouts
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.lists import mask_illegal
from blade_dist.errors import UserError
from blade_dist.settings import ListSettings


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

    def check_fits(self, longest_list: int, context: int) -> None:
        """Raises UserError where a prompt and the longest list are longer than the engine's longest sequence."""
        needed = self.tokens.lengths + longest_list
        if len(needed) and needed.max() > context:
            row = int(needed.argmax())
            raise UserError(
                f"prompt {self.prompt[row]}: its {self.tokens.lengths[row]} tokens and the {longest_list} of the "
                f"longest list are more than the model's longest sequence, {context} (max_model_len); lower "
                "data.max_history or lists.k"
            )

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
    lists: ListSettings,
    legality: Legality | None,
    seconds: float,
) -> Rollouts:
    """Token rows and their log-probs, group after group, as one typed batch with the lists read and checked.

    Args:
        request: what was asked.
        tokens: ``B * G`` rows of token ids.
        logprobs: ``B * G`` rows of floats, one per token.
        version: (attempt, step) of the weights.
        codec: reads items out of tokens.
        lists: items per list, and whether an item of the history counts as repeated.
        legality: of constrained lists; None: every token was a decision.
        seconds: how long the engine wrote.
    """
    shape = (len(request), request.group_size)
    ragged = Ragged.of(tokens)
    histories = request.history.take(np.repeat(np.arange(shape[0]), shape[1]))
    if legality is None:
        read, decision = codec.parse(ragged, lists.k), np.ones(len(ragged.flat), dtype=bool)
    else:
        read, decision = legality.read(ragged, histories)
    items, invalid, duplicate = mask_illegal(read, histories, lists.exclude_history)
    return Rollouts(
        prompt=request.prompt,
        items=items.reshape(*shape, lists.k),
        tokens=ragged,
        logprobs=np.concatenate([np.asarray(row, dtype=np.float32) for row in logprobs]),
        decision=decision,
        version=np.tile(np.asarray(version, dtype=np.int64), (shape[0], 1)),
        invalid=invalid.reshape(shape),
        duplicate=duplicate.reshape(shape),
        seconds=np.array([seconds]),
    )
