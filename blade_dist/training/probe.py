"""The log-prob probe: do the engines serve the weights that the learner holds?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.batches import Ragged, Rollouts
from blade_dist.catalog.legality import Legality
from blade_dist.learners.packing import PromptLists, legal_tokens
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.training.prompter import Prompter
from blade_dist.weights.push import largest_gap

PROBE_TOKENS = 4
"""A list's first tokens are enough: every parameter has a part in each of them."""

PROBE_PROMPT_TOKENS = 64
"""Of a prompt, its end, for the same reason. (Whole prompts are compared as they are learnt from: ``rollout_gap``.)"""


def probe_request(prompter: Prompter, rows: NDArray[np.int64], temperature: float) -> RolloutRequest:
    """The beginning of one list for the end of each of the given prompts."""
    request = prompter.request(rows, 1, temperature, "probe")
    ends = Ragged.of([request.tokens[row][-PROBE_PROMPT_TOKENS:] for row in range(len(request))])
    return replace(request, tokens=ends, max_tokens=PROBE_TOKENS)


def probe_gap(
    answers: list[Rollouts],
    request: RolloutRequest,
    logprobs: Callable[[PromptLists], Tensor],
    legality: Legality | None,
) -> float:
    """Largest difference (nats) between any engine's log-probs and the learner's for the same tokens.

    Args:
        answers: every engine's, to the whole request.
        request: with ``group_size`` 1.
        logprobs: the learner's, ``[T]`` for the tokens of some sequences; collective where the learner is.
        legality: of constrained lists.
    """
    gaps = []
    for answer in answers:
        legal = legal_tokens(legality, answer.tokens, request.excluded)
        learner = logprobs(PromptLists.single(request.tokens, answer.tokens, legal)).numpy()
        gaps.append(largest_gap(answer.logprobs, learner))
    return float(np.max(gaps))
