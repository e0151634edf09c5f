"""The options of ``blade-dist recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from blade_dist.errors import UserError
from blade_dist.stages.loudness import loudness
from blade_dist.tracking.say import last_lines


def recommend(
    served: Annotated[Path, typer.Argument(help="Folder that export wrote.", show_default=False)],
    history: Annotated[
        str | None, typer.Option(help="Item ids with commas between them, oldest first.", show_default=False)
    ] = None,
    histories: Annotated[
        Path | None,
        typer.Option(help="Parquet or Arrow file with a column history, a list of ids a row.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File of the lists: .parquet, .arrow.", show_default=False)] = None,
    k: Annotated[int | None, typer.Option(help="Items per list.", show_default="the export's")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Item id or group:NAME to leave out; may be repeated.", show_default=False)
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=N", help="Most items of a group; may be repeated.", show_default=False),
    ] = None,
    decode: Annotated[
        Literal["list", "rank", "beam", "sampled"] | None, typer.Option(help="How.", show_default="the export's")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampled.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    engines: Annotated[
        int, typer.Option(min=1, help="For a file; several run on Ray, on the cluster that RAY_ADDRESS names.")
    ] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs of an engine.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of an engine on a CPU.", show_default="all, shared out")
    ] = None,
    kv_cache_gb: Annotated[int, typer.Option(min=1, help="KV cache in GiB on a CPU.")] = 1,
) -> None:
    """Recommend: an export's list for one history, or a file of lists for a file of histories.

    A file is read part by part and may be larger than memory; started again, a stopped command goes on. Its rows may
    also have user, k, exclude, at_most (a map), decode and seed.

    Example: blade-dist recommend served --history "sku-1,sku-7" --k 10

    Example: blade-dist recommend served --histories users.parquet --out lists.parquet

    Example: RAY_ADDRESS=auto blade-dist recommend served --histories users.parquet --out lists.parquet --engines 8
    """
    if (history is None) == (histories is None) or (histories is None) != (out is None):
        raise UserError("recommend: give --history, or both --histories and --out")
    from blade_dist.rollouts.environment import make_ready

    make_ready(threads)  # before torch is imported
    from blade_dist.serving.opened import EngineOptions
    from blade_dist.stages.recommend import Spread, limits, recommend_many, recommend_one

    fields = {"k": k, "exclude": exclude, "at_most": limits(at_most or []), "decode": decode, "seed": seed}
    given = {name: value for name, value in fields.items() if value not in (None, {})}
    options = EngineOptions(tensor_parallel, kv_cache_gb=kv_cache_gb)
    if histories is not None and out is not None:
        spread = Spread(engines, threads) if engines > 1 else None
        recommend_many(served, histories, out, given, options, spread, loudness().console())
    else:
        ids = [item.strip() for item in (history or "").split(",") if item.strip()]
        recommend_one(served, {"history": ids, **given}, options, as_json, last_lines(loudness().console()))
