"""A finished run's evaluation as a result file: every mean with its interval, beside hardware and versions."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from benchmarks.report import write_result
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.evaluation.per_user import metric_names

ORDER = ("popularity", "co-occurrence", "successors", "EASE", "sft", "static", "bond", "grpo", "best_of_n_sft", "blade")
RESAMPLES = 2000


def intervals(run: Path, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Decode -> policy -> metric -> mean, low, high, from the rows of every user."""
    table = pq.read_table(run / "per_user.parquet")
    rows, names = table.to_pandas(), metric_names(table)
    return {
        decode: {
            policy: {
                name: interval.as_dict()
                for name, interval in Resamples(part["user"].to_numpy(), RESAMPLES, seed)
                .each_mean({name: part[name].to_numpy() for name in names})
                .items()
            }
            for policy, part in sorted(of_decode.groupby("policy"), key=lambda pair: _place(pair[0]))
        }
        for decode, of_decode in rows.groupby("decode")
    }


def _place(policy: str) -> int:
    """In the table; what is not in :data:`ORDER` comes last."""
    return ORDER.index(policy) if policy in ORDER else len(ORDER)


def main(
    run: Annotated[Path, typer.Argument(help="Folder of the run: summary.json and per_user.parquet.")],
    out: Annotated[Path, typer.Argument(help="Where the result is written.")],
    command: Annotated[str, typer.Option(help="The command that made the run.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Records a run of `blade-dist run`.

    Examples:

      python -m benchmarks.record runs/quickstart quickstart.json --command "bash launch/quickstart.sh"
    """
    summary = jsonlib.loads((run / "summary.json").read_text())
    write_result(out, "evaluation", {"command": command}, {"tables": intervals(run, seed), "summary": summary})


if __name__ == "__main__":
    typer.run(main)
