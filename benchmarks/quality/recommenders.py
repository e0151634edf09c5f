"""Recommenders of another library on the project's own prompts: RecTools' SASRec and BERT4Rec.

They need `pip install "rectools[torch]"`, in an environment of its own if need be, as it holds PyTorch Lightning back.
Each trains on the training part of every user, and holds the last training item of some users out. It stops when the
loss on these no longer falls, or when the time is over, and keeps the weights with the lowest.
"""

from __future__ import annotations

import time
from datetime import timedelta
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from benchmarks.report import show, write_result
from blade_dist.batches import MISS, Ragged, ranges
from blade_dist.data.bundle import DataBundle, load_data
from blade_dist.errors import UserError
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.store.files import whole_file

USER, ITEM, TIME, WEIGHT = "user_id", "item_id", "datetime", "weight"
VALIDATION_USERS = 2000
PATIENCE = 20
"""Epochs without a better loss after which it stops."""
RESAMPLES = 10_000


class Recommender(StrEnum):
    sasrec = "SASRec"
    bert4rec = "BERT4Rec"


def interactions(rows: Ragged) -> pd.DataFrame:
    """RecTools' table of ragged rows: the row number is the user, the place in the row the time."""
    user = np.repeat(np.arange(len(rows)), rows.lengths)
    columns = {USER: user, ITEM: rows.flat, WEIGHT: 1.0, TIME: pd.to_datetime(ranges(0, rows.lengths), unit="D")}
    return pd.DataFrame(columns)


def validation_mask(table: pd.DataFrame) -> NDArray[np.bool_]:
    """The last interaction of some users."""
    last = ~table.duplicated(USER, keep="last").to_numpy()
    users = np.random.default_rng(0).permutation(table[USER].unique())[:VALIDATION_USERS]
    return last & table[USER].isin(users).to_numpy()


def trainer(seconds: float, folder: str, loss: str) -> Any:
    """Lightning's, which stops after these seconds, and keeps the best weights in the folder."""
    lightning = import_module("pytorch_lightning")
    callbacks = import_module("pytorch_lightning.callbacks")
    return lightning.Trainer(
        max_epochs=1000,
        max_time=timedelta(seconds=seconds),
        callbacks=[
            callbacks.EarlyStopping(loss, patience=PATIENCE),
            callbacks.ModelCheckpoint(folder, monitor=loss),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
    )


def fitted(which: Recommender, sequences: Ragged, seconds: float, options: dict[str, Any]) -> Any:
    """RecTools' model, trained on the sequences.

    Raises:
        UserError: RecTools has no transformers here.
    """
    try:
        models, data = import_module("rectools.models"), import_module("rectools.dataset")
        import_module("pytorch_lightning")
    except ImportError as error:
        raise UserError(f'{which}: {error}; pip install "rectools[torch]" brings it') from error
    model_class = {Recommender.sasrec: "SASRecModel", Recommender.bert4rec: "BERT4RecModel"}[which]
    with TemporaryDirectory() as folder:
        model = getattr(models, model_class)(
            get_val_mask_func=validation_mask,
            get_trainer_func=trainer,
            get_trainer_func_kwargs={"seconds": seconds, "folder": folder, "loss": "val_loss"},
            recommend_torch_device="cpu",
            **options,
        )
        model.fit(data.Dataset.construct(interactions(sequences)))
        model.load_weights_from_checkpoint(model.fit_trainer.checkpoint_callback.best_model_path)
    return model


def top_lists(model: Any, seen: Ragged, k: int) -> NDArray[np.int32]:
    """The k best items after each row, without those of the row; misses where the model knows none of the row's items.

    Args:
        model: as :func:`fitted`.
        seen: catalog indices, oldest first, ``n`` rows.
        k: positions of a list.
    """
    data = import_module("rectools.dataset")
    table = model.recommend(
        users=np.arange(len(seen)),
        dataset=data.Dataset.construct(interactions(seen)),
        k=k,
        filter_viewed=True,
        on_unsupported_targets="ignore",
    )
    lists = np.full((len(seen), k), MISS, dtype=np.int32)
    lists[table[USER].to_numpy(), table["rank"].to_numpy() - 1] = table[ITEM].to_numpy()
    return lists


def row_of(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean and interval over users of every metric, all seeds together."""
    resamples = Resamples(rows["user"].to_numpy(), RESAMPLES, seed=0)
    metrics = {name: rows[name].to_numpy() for name in rows.columns if "@" in name}
    return {name: of.as_dict() for name, of in resamples.each_mean(metrics).items()}


def _trained(
    data: DataBundle, which: Recommender, seconds: float, k: int, metrics: list[str], seed: int, options: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per test prompt with the items of its list and their metrics; what the training took."""
    test = data.test.rows(np.arange(len(data.test)))
    torch.manual_seed(seed)
    began, cpu = time.perf_counter(), time.process_time()
    model = fitted(which, data.sequences.rows(np.arange(len(data.sequences))), seconds, options)
    cost = {"seed": seed, "seconds": time.perf_counter() - began, "core_seconds": time.process_time() - cpu}
    cost["epochs"] = model.fit_trainer.current_epoch
    items = top_lists(model, test.seen, k)
    shown = Lists(items, test.targets, test.history, data.catalog, test.user)
    _, scored = Composite(dict.fromkeys(metrics, 1.0), data.catalog, k).score(shown)
    rows = pd.DataFrame({"seed": seed, "user": test.user.astype(str), "prompt": test.index, "items": list(items)})
    return rows.assign(**scored), cost


def main(
    run: Annotated[Path, typer.Argument(help="Run folder with prepared data (`blade-dist data`).")],
    which: Annotated[Recommender, typer.Option(help="What is trained.")] = Recommender.sasrec,
    seconds: Annotated[float, typer.Option(help="Time that a training has at most.")] = 300.0,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings: of initialisation, order and dropout.")] = 1,
    k: Annotated[int, typer.Option(help="Items per list.")] = 10,
    metric: Annotated[list[str] | None, typer.Option(help="A metric; again for more of them.")] = None,
    history: Annotated[int, typer.Option(help="Items of a history that it looks at.")] = 50,
    hidden: Annotated[int, typer.Option(help="Width.")] = 64,
    layers: Annotated[int, typer.Option(help="Transformer layers.")] = 2,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 2,
    lr: Annotated[float, typer.Option(help="Learning rate, which stays as it is.")] = 1e-3,
    dropout: Annotated[float, typer.Option(help="Dropout.")] = 0.3,
    batch: Annotated[int, typer.Option(help="Users of a batch.")] = 128,
    negatives: Annotated[
        int | None, typer.Option(min=1, help="Items that the softmax is over, beside the right one. Default: all.")
    ] = None,
    lists: Annotated[Path | None, typer.Option(help="Parquet file for the lists of the test prompts.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Trains RecTools' SASRec or BERT4Rec on a run's data and measures its lists for the test prompts.

    Examples:

      python -m benchmarks.quality.recommenders runs/scientific --seconds 300 --json sasrec.json

      python -m benchmarks.quality.recommenders runs/scientific --which BERT4Rec --seeds 3 --lists bert4rec.parquet
    """
    data, metrics = load_data(run), metric or [f"hr@{k}", f"ndcg@{k}"]
    size = {"n_factors": hidden, "n_blocks": layers, "n_heads": heads, "session_max_len": history}
    options = {**size, "lr": lr, "dropout_rate": dropout, "batch_size": batch}
    if negatives is not None:
        options |= {"loss": "sampled_softmax", "n_negatives": negatives}
    trained = [_trained(data, which, seconds, k, metrics, seed, options) for seed in range(seeds)]
    rows = pd.concat([of for of, _ in trained], ignore_index=True)
    if lists is not None:
        with whole_file(lists) as temporary:
            rows.to_parquet(temporary, index=False)
    by_seed = [cost for _, cost in trained]
    found = row_of(rows)
    results = {"prompts": len(data.test), "users": rows["user"].nunique(), "methods": {str(which): found}}
    means = {name: of["mean"] for name, of in found.items()}
    show(f"RecTools' {which}, {len(data.catalog)} items", means | by_seed[-1])
    settings = {"which": str(which), "k": k, "seeds": seeds, **options, "limit": seconds}
    write_result(json, "recommenders", settings, results | {"by_seed": by_seed})


if __name__ == "__main__":
    typer.run(main)
