"""What the policy learns from, and how it is written: data, codec, lists, model, fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from blade_dist.batches import ExcludeHistory
from blade_dist.settings.section import Fraction, Name, NonNegative, Positive, Rate, Section


class SyntheticSettings(Section):
    users: Positive = 2000
    """Users."""
    items: Positive = 200
    """Items."""
    groups: Positive = 8
    """Item groups (genres, providers)."""
    interactions: Positive = 30
    """Mean interactions of a user."""
    popularity_skew: Annotated[float, Field(ge=0)] = 0.8
    """Exponent of the Zipf law of item popularity; 0 is uniform."""
    taste_concentration: Rate = 0.3
    """Dirichlet concentration of a user's taste over groups; small is a narrow taste."""
    sequence_strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of interactions that follow from the one before (an item's successors) rather than from taste."""


class ColumnSettings(Section):
    user: str = "user"
    """Log: user id."""
    item: str = "item"
    """Log and items: item id."""
    time: str = "time"
    """Log: timestamp (a number, larger is later)."""
    rating: str | None = None
    """Log: rating, where there is one."""
    title: str = "title"
    """Items: title."""
    groups: str | None = None
    """Items: groups, joined by ``data.group_separator``, or a list column in Parquet."""
    embedding: str | None = None
    """Items: a list-of-floats column in Parquet, read by the metric ``ild_embedding`` and by
    ``codec.kind: semantic_id`` (without it the codes follow groups and titles)."""


class DataSettings(Section):
    source: Literal["synthetic", "movielens", "amazon", "table"] = "synthetic"
    """Format of the raw log: a generated one, MovieLens, Amazon Reviews 2023, or any CSV / Parquet with ``columns``."""
    path: Path | None = None
    """movielens: the folder; amazon: the reviews ``.jsonl[.gz]``; table: the log (CSV or Parquet file or folder)."""
    items: Path | None = None
    """amazon: the meta ``.jsonl[.gz]``; table: the items (CSV or Parquet)."""
    columns: ColumnSettings = ColumnSettings()
    """table: which column is which."""
    group_separator: str = "|"
    """table: what joins an item's groups in a text column."""
    min_rating: float | None = None
    """Interactions rated lower are dropped."""
    k_core: NonNegative = 5
    """Users and items with fewer interactions are dropped, until none is left to drop."""
    split: Literal["leave_last", "global_time"] = "leave_last"
    """leave_last: each user's last ``targets`` are test, those before validation. global_time: two points in time."""
    test_windows: Positive = 1
    """leave_last: test prompts per user at most, of ``targets`` items each, one after another; a later one's history
    holds the earlier one's items."""
    validation_fraction: Fraction = 0.1
    """global_time: share of interactions between the two points."""
    test_fraction: Fraction = 0.1
    """global_time: share of interactions after the second point."""
    targets: Positive = 5
    """Held-out items per prompt."""
    min_history: Positive = 3
    """Prompts with a shorter history are not made."""
    max_history: Positive = 20
    """Older items are cut from the prompt."""
    windows: NonNegative = 10
    """Training prompts per user, the latest ones; 0 is every prefix."""
    partition_rows: Positive = 5_000_000
    """Rows that one pass holds in memory; a larger log is partitioned by user."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """The generated catalog and log."""


class CodecSettings(Section):
    kind: Literal["title", "semantic_id"] = "title"
    """How a list is written: item titles, or a few new code tokens per item."""
    tokenizer: Path | None = None
    """A Hugging Face tokenizer folder; none: ``model.path``'s, or else a BPE trained on the catalog's titles."""
    vocab_size: Positive = 2048
    """Size of the trained BPE, special tokens included."""
    prompt: str = "{history}\n"
    """Text of a prompt; ``{history}`` stands for the items. Shown around it: instructions for a pretrained model."""
    levels: Positive = 3
    """semantic_id: residual k-means levels; a last code that tells equal items apart is added where needed."""
    codes: Positive = 32
    """semantic_id: codes per level."""


class ListSettings(Section):
    k: Positive = 5
    """Items per list."""
    exclude_history: ExcludeHistory = True
    """true: no list holds an item that the user has had, however long ago; shown: none that the prompt shows, the last
    ``data.max_history``; false: all may come again. With ``constrain: none`` such an item counts as repeated."""
    exclude: list[Name] = []
    """Items that no list may hold, though a history may: item ids, and ``group:NAME`` for all items of a group."""
    at_most: dict[Name, NonNegative] = {}
    """How many items of a group a list may hold at most, by group; ``*`` is every group that is not named. An item in
    several groups counts in each."""
    constrain: Literal["catalog", "none"] = "catalog"
    """catalog: only lists of K different items can be written (shorter where ``at_most`` leaves nothing to go on with),
    and log-probs are over what is legal; none: free text, matched to the catalog afterwards, where a position that
    breaks ``exclude`` or ``at_most`` is a miss."""


class BuildSettings(Section):
    hidden_size: Positive = 128
    """Width."""
    layers: Positive = 2
    """Decoder layers."""
    heads: Positive = 4
    """Attention heads."""
    kv_heads: Positive = 2
    """Key / value heads."""
    ffn_size: Positive = 384
    """Width of the feed-forward block."""
    context: Positive = 512
    """Longest sequence."""
    tied: bool = True
    """Whether the output head is the input embedding."""

    @model_validator(mode="after")
    def _serveable(self) -> BuildSettings:
        if self.hidden_size % (32 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"model.build: hidden_size / heads must be a multiple of 32 (vLLM's attention kernels) and heads a "
                f"multiple of kv_heads; got {self.hidden_size} / {self.heads}, kv_heads {self.kv_heads}"
            )
        return self


class ModelSettings(Section):
    path: Path | None = None
    """Base checkpoint: a Hugging Face folder. None: a small Llama is built from ``build``."""
    build: BuildSettings = BuildSettings()
    """The small Llama."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's forward, the rollouts and the checkpoint."""
    trust_remote_code: bool = False
    """Whether code inside a checkpoint may run."""


class SftSettings(Section):
    epochs: Positive = 20
    """Passes over the training prompts at most."""
    batch_size: Positive = 64
    """Sequences per step, over all ranks."""
    lr: Rate = 2e-3
    """Peak learning rate."""
    warmup: Fraction = 0.05
    """Share of the steps that warm up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay."""
    dropout: Fraction = 0.0
    """Share of the embeddings and of each sub-layer's output that is zeroed while fine-tuning; a small model that is
    trained from nothing on few users needs it."""
    patience: Positive = 3
    """Validations without a better loss before it stops; the best checkpoint is kept."""
    validations_per_epoch: Positive = 1
    """How often the validation loss is taken."""
    max_seconds: Rate | None = None
    """Stops at the next validation after this time."""
