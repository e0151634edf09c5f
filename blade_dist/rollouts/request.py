"""What an engine is requested to write, and how what it wrote becomes arrays. No vLLM import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Rollouts, ranges
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.mask import mask_illegal
from blade_dist.catalog.terms import Terms
from blade_dist.errors import UserError
from blade_dist.settings import ListSettings


@dataclass(frozen=True)
class RolloutRequest:
    """``B`` prompts, ``group_size`` lists wanted for each."""

    prompt: NDArray[np.int64]
    """``[B]`` prompt index."""
    tokens: Ragged
    """int32, ``B`` rows: the prompts' tokens."""
    excluded: Ragged
    """int32 indices of items that a list may not hold, ``B`` rows, none twice in a row."""
    seed: NDArray[np.int64]
    """``[B]`` sampling seed of each prompt; list ``i`` uses ``seed + i``."""
    group_size: int
    """G."""
    temperature: float
    """T; 0 is greedy."""
    max_tokens: int | None = None
    """Lists are cut off here; None: they are written to the end."""
    lists: ListSettings | None = None
    """K and the rules of these lists; None: those that the engine was started with."""

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
            self.excluded.take(rows),
            self.seed[rows],
            self.group_size,
            self.temperature,
            self.max_tokens,
            self.lists,
        )


def to_rollouts(
    request: RolloutRequest,
    tokens: list[Any],
    logprobs: list[Any],
    version: tuple[int, int],
    codec: Codec,
    terms: Terms,
    seconds: float,
) -> Rollouts:
    """Token rows and their log-probs, group after group, as one typed batch with the lists read and checked.

    Args:
        request: what the lists were written for.
        tokens: ``B * G`` rows of token ids.
        logprobs: ``B * G`` rows of floats, one per token.
        version: (attempt, step) of the weights.
        codec: reads items out of tokens.
        terms: of the lists; where they are not constrained, every token was a decision.
        seconds: how long the engine wrote.
    """
    shape = (len(request), request.group_size)
    ragged, values = Ragged.of(tokens), _flat(logprobs)
    if terms.legality is None:
        read, decision = codec.parse(ragged, terms.lists.k), np.ones(len(ragged.flat), dtype=bool)
    else:
        excluded = request.excluded.take(np.repeat(np.arange(shape[0]), shape[1]))
        read, decision = terms.legality.read(ragged, excluded)
        ragged, values, decision = _completed(ragged, values, decision, read, codec)
    items, invalid, duplicate = mask_illegal(read, request.excluded, terms.rules)
    return Rollouts(
        prompt=request.prompt,
        items=items.reshape(*shape, terms.lists.k),
        tokens=ragged,
        logprobs=values,
        decision=decision,
        version=np.tile(np.asarray(version, dtype=np.int64), (shape[0], 1)),
        invalid=invalid.reshape(shape),
        duplicate=duplicate.reshape(shape),
        seconds=np.array([seconds]),
    )


def ranked_lists(
    request: RolloutRequest, items: NDArray[np.int32], version: tuple[int, int], codec: Codec, seconds: float
) -> Rollouts:
    """Items ``[B, K]`` that were ranked and not written, as lists: no token is a decision, and log-probs are 0."""
    tokens = codec.encode_lists(Ragged.of([row[row != MISS] for row in items]))
    missing = (items == MISS).sum(axis=1, keepdims=True, dtype=np.int32)
    return Rollouts(
        prompt=request.prompt,
        items=items[:, None],
        tokens=tokens,
        logprobs=np.zeros(len(tokens.flat), np.float32),
        decision=np.zeros(len(tokens.flat), bool),
        version=np.tile(np.asarray(version, dtype=np.int64), (len(request), 1)),
        invalid=missing,
        duplicate=np.zeros_like(missing),
        seconds=np.array([seconds]),
    )


def _flat(rows: list[Any]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(row, dtype=np.float32) for row in rows])


def _completed(
    tokens: Ragged, logprobs: NDArray[np.float32], decision: NDArray[np.bool_], items: NDArray[np.int32], codec: Codec
) -> tuple[Ragged, NDArray[np.float32], NDArray[np.bool_]]:
    """Lists as the codec writes them: engines leave out what follows the last decision (log-prob 0, no decision).

    Of the items ``a b`` and ``c d``, where nothing else begins with ``c``, separated by ``|`` and ended by ``E``::

        written     a b | c E          the end comes as soon as only one item is left
        completed   a b | c d | E
        kept        4 tokens: the early E is no token of the completed list
        logprobs    those of the 4, then 0 0 0
    """
    # Lists with a miss stay as they are, as nobody knows how they would go on; so the two kinds are apart in `full`,
    # and `order` brings them back among each other.
    whole = (items != MISS).all(axis=1)
    written = codec.encode_lists(Ragged.of(list(items[whole]))) if whole.any() else Ragged.of([])
    full = Ragged.concat([written, tokens.take(np.flatnonzero(~whole))])
    order = np.empty(len(whole), dtype=np.int64)
    order[np.concatenate([np.flatnonzero(whole), np.flatnonzero(~whole)])] = np.arange(len(whole))
    full = full.take(order)
    ended = tokens.flat[np.maximum(tokens.offsets[1:] - 1, 0)] == codec.end
    kept = tokens.lengths - (whole & ended)
    old = ranges(0, tokens.lengths) < np.repeat(kept, tokens.lengths)
    new = ranges(0, full.lengths) < np.repeat(kept, full.lengths)
    values, decided = np.zeros(len(full.flat), np.float32), np.zeros(len(full.flat), bool)
    values[new], decided[new] = logprobs[old], decision[old]
    return full, values, decided
