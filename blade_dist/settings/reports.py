"""What is measured and written down."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blade_dist.settings.section import Fraction, NonNegative, Positive, Rate, Section

BEAMS = 4

Decode = Literal["list", "rank", "beam"]
"""``evaluate.decode``."""
Way = Decode | Literal["sampled"]
"""Of decoding: what may be served, and what is reported beside it."""
Reranker = Literal["mmr", "dpp", "utility", "calibrated"]
"""Of ``evaluate.rerank``."""


class EvaluateSettings(Section):
    metrics: list[str] = ["ndcg@5", "recall@5", "hr@5", "mrr@5", "ild@5", "mgu@5", "dgu@5"]
    """Columns of the table, besides the reward: any metric that the reward may have. Add those that the alignment must
    not harm."""
    decode: Decode = "list"
    """How recommendations are decoded where they are served: the report's first numbers are those, ``export`` says it,
    and fine-tuning keeps the checkpoint whose lists are then the best. list: item by item; rank: the K best first
    items, one forward pass where an item is one token; beam: the likeliest list. Alignment trains for list; take rank
    to serve the fine-tuned model as a ranker."""
    beam_width: NonNegative = 0
    """Lists that beam search keeps per prompt; 0: no beam search is reported (with ``decode: beam``, 4). Set it to
    compare with what a search at serving time would reach; its cost grows in proportion."""
    best_of: list[Annotated[int, Field(ge=2)]] = []
    """N of the Best-of-N searches that are shown too: N lists sampled from the first policy that is compared with (the
    reference, say), of which the best one is taken. They show what the alignment is to save at serving time."""
    select_by: dict[str, float] = {}
    """How such a search chooses: metric to weight. None: by the reward. One that looks at held-out items is called an
    oracle, as no one can choose so when lists are served."""
    rerank: dict[Reranker, list[Annotated[float, Field(gt=0, le=1)]]] = {
        "mmr": [0.1, 0.3, 0.7],
        "dpp": [0.01, 0.1, 0.5],
        "utility": [0.05, 0.1, 0.2],
        "calibrated": [0.3, 0.5, 0.8],
    }
    """Re-rankers that are shown too, over the best items of the policy that ``best_of`` samples, each with its
    trade-offs: the weight, above 0, of diversity (mmr, dpp, utility) or of the history's shares of groups (calibrated);
    1 minus it is that of relevance, which for utility is the expected NDCG by the policy's own probabilities. Give
    other weights to see more of the trade-off, ``{}`` to leave them out. Distances are by groups, or by embeddings in a
    catalog without; what has neither to go by is left out."""
    rerank_pool: Positive | None = None
    """Items that they choose from, ``lists.k`` at least. None: 100 where an item is one token, as one forward pass
    finds them; else none, and no re-ranker is shown. A search for items of several tokens extends as many beginnings
    at every token: set it to a few times ``lists.k`` to have it."""
    max_prompts: Positive | None = None
    """Test prompts, drawn with ``run.seed``; none is all of them. Fewer are faster and give wider intervals."""
    bootstrap: Positive = 2000
    """Resamples of the paired bootstrap over users. More of them make the ends of the intervals steadier, not
    narrower."""

    @property
    def beams(self) -> int:
        """Lists that beam search keeps per prompt; 0: there is none."""
        return self.beam_width or (BEAMS if self.decode == "beam" else 0)


class TrackingSettings(Section):
    tensorboard: bool = True
    """Whether every step's numbers are also written for TensorBoard, besides ``metrics.parquet``. Turn it off where
    nobody looks at them."""


class WarnSettings(Section):
    window: Positive = 20
    """Steps over whose mean the others look; nothing is said before so many are done. Raise it where single steps make
    warnings come that the next ones take back."""
    logprob_gap: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Warns where learners and engines differ by more than this share of ``weights.tolerance``. Each warning is said
    once and marked in the step log (``warning/...``); None turns one off."""
    kl: Rate | None = 5.0
    """Warns where the KL to the reference is larger, in nats per token. Runs that became better had up to 3.6 in the
    results; lower it where other qualities of the lists matter."""
    length: Annotated[float, Field(gt=1)] | None = 2.0
    """Warns where lists have so many times the tokens that they had at first, or that part of them. Only with
    ``lists.constrain: none``."""
    reward: Fraction | None = 0.5
    """Warns where the reward has fallen by more than this share of its best mean. Raise it where the reward is near
    0."""
    miscalibration: Fraction | None = 0.8
    """Warns where the estimator's belief is further from calibrated, from 0 to 1 (``posterior/miscalibration``). Runs
    that became better had up to 0.64 in the results."""
