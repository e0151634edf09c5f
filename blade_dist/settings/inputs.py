"""What the policy learns from, and how it is written: data, codec, lists, model, fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blade_dist.batches import ExcludeHistory
from blade_dist.settings.section import Encoding, Fraction, LocalPath, Name, NonNegative, Positive, Rate, Section

NULL_WORDS = (
    *("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "Null", "null", "None", "none", "nil", "\\N"),
    *("undefined", "NONE", "(null)", "[null]", "(not set)"),
)
"""What programs write where there is nothing."""


class SyntheticSettings(Section):
    users: Positive = 2000
    """Users of the generated log. More of them give more training prompts and a less noisy report."""
    items: Positive = 200
    """Items of the generated catalog. More of them make the next item harder to guess."""
    groups: Positive = 8
    """Item groups, as genres or providers are. Metrics of diversity and fairness need at least two."""
    interactions: Positive = 30
    """Mean interactions of a user. Longer histories give more prompts per user (``data.windows``)."""
    popularity_skew: Annotated[float, Field(ge=0)] = 0.8
    """Exponent of the Zipf law of item popularity; 0 is uniform. Raise it to make popularity a stronger baseline."""
    taste_concentration: Rate = 0.3
    """Dirichlet concentration of a user's taste over groups. Small: each user keeps to few groups; large: all users are
    alike."""
    sequence_strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of interactions that follow from the one before (an item's successors) rather than from taste. Raise it to
    make the order of the history matter more."""


class ColumnSettings(Section):
    user: str = "user"
    """Log: column of the user id. Change it, and those below, to the names in your files."""
    item: str = "item"
    """Log and items: column of the item id, by which the two files are joined."""
    id: str | None = None
    """Items: column of the item id, where the items call it otherwise than the log. None: as ``item``."""
    time: str | None = "time"
    """Log: column of the time, by which each user's interactions are ordered: a number (larger is later), a timestamp,
    or text as 2024-01-31 or 2024-01-31T10:00:00+02:00. null: the log has none, and its rows stand in order."""
    rating: str | None = None
    """Log: column of the rating; required by ``data.min_rating``. None: no ratings are read."""
    title: str = "title"
    """Items: column of the title, which is what the model reads and, with ``codec.kind: title``, writes."""
    groups: str | None = None
    """Items: column of the groups, joined by ``data.group_separator``, or lists (also as text). Metrics of
    diversity and fairness, and rules about groups, require it."""
    embedding: str | None = None
    """Items: a list-of-floats column in Parquet, read by the metric ``ild_embedding`` and by ``codec.kind:
    semantic_id`` (without it the codes follow groups and titles)."""


class DataSettings(Section):
    source: Literal["synthetic", "movielens", "amazon", "table"] = "synthetic"
    """Format of the raw log: a generated one, MovieLens or Amazon's reviews (all published forms), or any table with
    ``columns``. Your own data is a table."""
    path: LocalPath | None = None
    """Where the raw log is; every source but synthetic requires it. movielens: the folder or its zip; amazon: the
    reviews or ratings; table: the log (CSV, TSV, JSON lines, Parquet, Arrow or ORC; a file, a folder or a zip;
    perhaps compressed)."""
    items: LocalPath | None = None
    """Where the items with their titles are; amazon and table require it. amazon: the meta file; table: as ``path``.
    movielens has them in its folder."""
    columns: ColumnSettings = ColumnSettings()
    """table: the names of the columns in your files. Give those that differ from the names of these settings."""
    header: list[Name] | None = None
    """table: the names of the log's columns, in their order, where its first line is a row already, as in MovieLens'
    ``u.data``. None: the first line of a text file names them."""
    items_header: list[Name] | None = None
    """table: the same for the items, as in MovieLens' ``movies.dat``. None: the first line names them."""
    group_separator: str = "|"
    """table: what stands between two groups of an item in a text column. Change it where your file has another one; a
    list column needs none."""
    separator: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    """table: what stands between two fields of a text file. None: what the first line shows (a comma, tab, semicolon,
    ``|``, ``::``, ``^``, ``~`` or blanks). Set it where that goes wrong; a file whose first line lacks it is read by
    that line."""
    encoding: Encoding = "utf-8"
    """table: how a text file writes letters. Set ``latin-1`` where a row is refused as not UTF-8; a byte order mark is
    seen by itself."""
    quoted: bool | None = None
    """table: whether a field of a text file may stand in quotes. None: as the file shows. Set ``false`` where a quote
    is a letter like others, and the command says that one is not ended."""
    day_first: bool | None = None
    """table: whether the day comes first in dates as 01/02/2024. None: a number above 12 in one of the log's dates
    tells; set it where the command says that none does."""
    per_user: bool = False
    """table: whether a row of the log is a whole user, with lists of items, times and ratings. Set it where the log
    has a history in each row."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """What becomes of a row without a user or an item, with an unreadable time or rating, or with too many or too few
    fields. refuse: the command says where it is and stops; drop: such rows are left out and counted."""
    null_words: list[Name] = list(NULL_WORDS)
    """Users and items of these names are nobody and nothing: their rows are left out and counted. Set ``[]`` where one
    of them is a real id."""
    min_rating: float | None = None
    """Interactions rated lower are dropped, so that they are neither history nor target. Set it where a low rating
    means dislike. None keeps all."""
    repeats: Literal["first", "last", "all"] = "first"
    """Which interactions of a user with the same item stay. first: the first of them; last: the last; all: each, where
    people buy the same things again. A history then shows an item as often as it was had, and with
    ``lists.exclude_history: false`` such an item may be held out too."""
    k_core: NonNegative | None = None
    """Users and items with fewer interactions are dropped, until none is left to drop. Raise it where rare items and
    users are noise; 0 keeps all. None: 5, or 0 where there are ``splits``."""
    split: Literal["leave_last", "global_time"] = "leave_last"
    """leave_last: each user's last ``targets`` are test, those before validation. global_time: two points in time,
    which is closer to how a shop runs, as no list is learned from the future of another user."""
    splits: LocalPath | None = None
    """A ready split, kept as it is: a file (Parquet or CSV) with the columns split (valid, validation or test), user,
    history (item ids, oldest first), item (one id or several) and perhaps time. Give it to compare with published
    numbers. Each user trains on the log before the first of the user's held-out items; ``split`` is not read then."""
    test_windows: Positive = 1
    """leave_last: test prompts per user at most, of ``targets`` items each, one after another; a later one's history
    holds the earlier one's items. Raise it where there are too few users for narrow intervals. With ``splits``: test
    rows that a user may have."""
    validation_fraction: Fraction = 0.1
    """global_time: share of interactions between the two points. More of it steadies the choice of a checkpoint and
    leaves less to train on."""
    test_fraction: Fraction = 0.1
    """global_time: share of interactions after the second point. More of it narrows the report's intervals and leaves
    less to train on."""
    targets: Positive = 5
    """Held-out items per prompt at most, which are what counts as a hit; a user with a short history has fewer, at
    least one. 1 with ``min_history: 1`` is the leave-one-out of published tables. More of them tell more of a list."""
    min_history: Positive = 3
    """Prompts with a shorter history are not made, and so many items, at least 2, of each user stay to train on. Lower
    it to serve newer users, of whom a prompt says little."""
    max_history: Positive = 20
    """Older items are cut from the prompt. Raise it where old interactions still tell something; prompts then take more
    memory and time, and must fit into the model's context."""
    windows: NonNegative = 10
    """Training prompts per user, the latest ones; 0 is every prefix. Raise it where there are few users, lower it where
    heavy users would outweigh the others."""
    partition_rows: Positive = 5_000_000
    """Rows that one pass holds in memory; a larger log is partitioned by user. Lower it where preparing the data runs
    out of memory."""
    max_title_tokens: Positive | None = None
    """Titles are cut to so many tokens of the tokenizer. Set it where a few long titles make prompts too long for the
    model's context. None: titles stay whole."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """The generated catalog and log; read by ``source: synthetic`` only."""

    @model_validator(mode="after")
    def _periods(self) -> DataSettings:
        if self.split == "global_time" and (both := self.validation_fraction + self.test_fraction) >= 1:
            raise ValueError(
                f"data.validation_fraction: with data.test_fraction it is {both:g} of the log, which leaves nothing to "
                "train on; lower one of the two"
            )
        return self

    @property
    def core(self) -> int:
        """Interactions that a user or an item needs: ``k_core``, or its default."""
        return (5 if self.splits is None else 0) if self.k_core is None else self.k_core


class CodecSettings(Section):
    kind: Literal["title", "semantic_id"] | None = None
    """How a list is written. title: item titles, which a pretrained model can read; semantic_id: one new code token per
    item, or a few (``levels``), which are faster to decode and must be learned from the log. None: title where there
    is ``model.path``, else semantic_id."""
    tokenizer: LocalPath | None = None
    """A Hugging Face tokenizer folder; none: ``model.path``'s, or else a BPE trained on the catalog's titles. Set it to
    build a new model on a known vocabulary."""
    vocab_size: Positive = 2048
    """Size of the trained BPE, special tokens included. A larger one writes titles in fewer tokens and makes the
    embedding larger; not read where there is a tokenizer."""
    prompt: str = "{history}"
    """Text of a prompt; ``{history}`` stands for the items. By default a list goes on where the history stops; for a
    pretrained model write around it what is wanted, in words. With ``format: chat`` it is what the user says."""
    format: Literal["plain", "chat"] = "plain"
    """What stands around ``prompt``. plain: what the tokenizer itself puts before a text (bos), or nothing; chat: the
    tokenizer's chat template, in which the list is the assistant's turn. Set chat for a model that was tuned on
    conversations, which then reads what it knows."""
    system: str | None = None
    """``format: chat`` only: what the system says. None: what the template says by itself, which may be nothing."""
    levels: Positive | None = None
    """semantic_id: tokens per item. 1: each item has its own. More: residual k-means, a level each, so that similar
    items begin alike and a large catalog needs a small vocabulary; a last code that tells equal items apart is added
    where needed, and lists take longer to decode. None: 1 below 20,000 items, else 3."""
    codes: Positive | None = None
    """semantic_id with several ``levels``: codes of each. Raise it where the data card says that many items share all
    of their codes. None: 32, or as many as give twice as many combinations as there are items."""
    embedder: LocalPath | None = None
    """semantic_id: a Hugging Face folder of a sentence encoder, whose mean embedding of title and groups the codes
    follow, or with one token per item its vector (``sft.item_features``). Set it where words alone do not say what is
    alike. None: they follow ``data.columns.embedding``, or else the words of titles and groups."""

    grown_from: LocalPath | None = None
    """Folder of an earlier run or export: its items keep their tokens, and those that are new get theirs beside them.
    Set it so that checkpoints of it, and of what it grew from itself, can be evaluated on this data and trained further
    (``model.path``); the other settings of ``codec`` must be as there. None: items are written anew, and a checkpoint
    of another run knows them only where that comes to the same tokens."""

    @model_validator(mode="after")
    def _spoken(self) -> CodecSettings:
        if self.system is not None and self.format == "plain":
            raise ValueError("codec.system: only codec.format = chat has a system; set it, or leave codec.system out")
        return self


class ListSettings(Section):
    k: Positive = 5
    """Items per list (K), as it is served and reported; metrics may be cut off at up to K. The time to write a list
    grows with it."""
    exclude_history: ExcludeHistory = True
    """true: no list holds an item that the user has had, however long ago; shown: none that the prompt shows, the last
    ``data.max_history``; false: all may come again, as where people buy the same things every week. With ``constrain:
    none`` such an item counts as repeated."""
    exclude: list[Name] = []
    """Items that no list may hold, though a history may: item ids, and ``group:NAME`` for all items of a group. For
    what must never be shown (sold out, not allowed); for a mere wish there is ``reward.boosts``."""
    at_most: dict[Name, NonNegative] = {}
    """How many items of a group a list may hold at most, by group; ``*`` is every group that is not named. An item in
    several groups counts in each. No list breaks it; ``excess`` in the reward is the soft form."""
    constrain: Literal["catalog", "none"] = "catalog"
    """catalog: only lists of K different items can be written (shorter where ``at_most`` leaves no item), and log-probs
    are over what is legal; none: free text, matched to the catalog afterwards, where a position that breaks ``exclude``
    or ``at_most`` is a miss. none is for comparison: it wastes lists and learns from misses."""


class BuildSettings(Section):
    hidden_size: Positive = 128
    """Width of the model; divided by ``heads`` it must be a multiple of 32 (vLLM's attention kernels). Raise it, or
    ``layers``, where a large log is underfitted."""
    layers: Positive = 2
    """Decoder layers. Training and decoding take time in proportion. Raise it, or ``hidden_size``, where the validation
    NDCG of ``sft`` still rises at its end."""
    heads: Positive = 4
    """Attention heads of a layer, each ``hidden_size / heads`` wide."""
    kv_heads: Positive = 2
    """Key / value heads, which ``heads`` share evenly. Fewer of them make the engines' KV cache smaller."""
    ffn_size: Positive = 384
    """Width of the feed-forward block; about three times ``hidden_size`` is usual."""
    context: Positive = 512
    """Longest sequence in tokens, prompt and list together. Raise it where ``sft`` says that a prompt and its list do
    not fit."""
    tied: bool = True
    """Whether the output head is the input embedding. It saves parameters, which matters where the vocabulary is large
    beside the layers."""

    @model_validator(mode="after")
    def _serveable(self) -> BuildSettings:
        if self.hidden_size % (32 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"model.build: hidden_size / heads must be a multiple of 32 (vLLM's attention kernels) and heads a "
                f"multiple of kv_heads; got {self.hidden_size} / {self.heads}, kv_heads {self.kv_heads}"
            )
        return self


class ModelSettings(Section):
    path: LocalPath | None = None
    """Base checkpoint: a Hugging Face folder. Set it to align a pretrained model; learning rates and epochs are smaller
    then where nothing is set (``sft.lr``, ``sft.epochs``, ``learner.lr``). None: a small Llama is built from
    ``build``."""
    build: BuildSettings = BuildSettings()
    """The small Llama; read where there is no ``path``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the policy's forward, the rollouts and the checkpoint. Take bfloat16 for large models on GPUs:
    it takes half the memory and is faster. float32 lets the check after a weight push be strict."""
    trust_remote_code: bool = False
    """Whether code inside a checkpoint may run. Leave it off unless the checkpoint's architecture requires it and you
    trust its author."""


class SftSettings(Section):
    epochs: Positive | None = None
    """Passes over the training part of every user at most, over which the learning rate falls to 0; ``patience`` may
    stop it earlier. A pretrained model needs 1 to 3. None: 20 for a model that is built, 2 with ``model.path``."""
    max_steps: Positive | None = None
    """Steps at most, over which the learning rate falls then. Set it to try a pretrained model, of which a pass may
    take hours. None: ``epochs`` alone says how many."""
    max_examples: Positive | None = None
    """Sequences of a pass at most, drawn with ``run.seed``: the same ones in every pass. Set it where a pretrained
    model learns the task from some thousands and the log has millions. None: all."""
    batch_size: Positive = 256
    """Sequences per step, over all ranks: a user's items, long ones in windows of what a prompt and its list hold. A
    larger one gives steadier and fewer steps, and usually takes a higher ``lr``."""
    lr: Rate | None = None
    """Peak learning rate. None: 3e-3 for a model that is built from nothing; with ``model.path`` 1e-5, or 1e-4 where
    adapters are trained (``learner.lora``)."""
    warmup: Fraction = 0.05
    """Share of the steps over which the learning rate rises to its peak; it falls as a cosine afterwards. Raise it
    where the loss jumps at the beginning."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay. Raise it where the validation NDCG falls while the training loss still falls."""
    dropout: Fraction | None = None
    """Share of the embeddings and of each sub-layer's output that is zeroed while fine-tuning. None: 0.3 for a model
    that is built, which needs that much or 0.4 on a log of few users; 0 with ``model.path``."""
    item_features: bool = True
    """Whether an item's vector is trained as a free one plus a projection of what is known of the item: its embedding
    (``codec.embedder``, ``data.columns.embedding``), or else the words of its title and its groups. It helps most where
    items have few interactions. Read where a model is built and an item is one token; their sum is what is saved."""
    distillation: Fraction = 0.0
    """Share of the loss that imitates a count instead of what the user took: of what other users took after the last
    items, and of items with like words (or embeddings). Try 0.5 where items have few interactions, of which a model
    alone learns little. Read where an item is one token."""
    patience: Positive = 5
    """Validations without a better NDCG before it stops; the best checkpoint is kept. Raise it where the NDCG of so few
    prompts is noisy."""
    validations_per_epoch: Positive = 1
    """How often lists are written for validation prompts. Raise it where one epoch is long, so that it stops closer to
    the best point."""
    validation_prompts: Positive | None = None
    """Validation prompts whose lists are written, by ``evaluate.decode``, drawn with ``run.seed``. More of them choose
    the checkpoint with less noise and take longer, above all with titles. None: 2,000 for a model that is built, 200
    with ``model.path``; at most all."""
    max_seconds: Rate | None = None
    """Stops fine-tuning at the next validation after this time, in seconds. Set it where the machine is yours for a
    limited time. None: only ``epochs`` and ``patience`` stop it."""
