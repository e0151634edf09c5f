"""The program: one command per stage, each driven by the same YAML file. Bad input is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from blade_dist.errors import UserError, origin
from blade_dist.settings import Config
from blade_dist.settings.explain import explain_config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.store.files import check_folder, write_text
from blade_dist.tracking.say import say

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the entrypoint of a submitted job."""

app = typer.Typer(
    help="Align an LLM recommender to list-wise metrics with BLADE, on Ray, vLLM and DeepSpeed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of settings.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Changes one setting; may be repeated.", show_default=False
    ),
]
Checkpoint = Annotated[Path, typer.Option("--checkpoint", help="Checkpoint folder.", show_default=False)]


def main() -> None:
    """Runs a command; where a UserError is the cause of what it raises, prints that as one line, exit code 2."""
    console = Console(stderr=True)
    try:
        app()
    except Exception as error:
        cause = origin(error)
        if not isinstance(cause, UserError):
            raise
        say(console, f"error: {' '.join(str(cause).split())}")
        sys.exit(2)


def _read(path: Path | None, overrides: list[str] | None) -> tuple[Config, Console]:
    """The settings, and a console for messages; sets what the libraries read from the environment."""
    # weights and tokenizers come from disk; a name that is not a folder must not become a download
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # named, so that DeepSpeed does not warn on every import that it had to fall back to the CPU
    if not Path("/proc/driver/nvidia/version").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    config = load_config(path, overrides or [])
    if RAY_JOB in os.environ and not config.run.dir.is_absolute():
        raise UserError(
            f"run.dir: {config.run.dir} is below the folder of the submitted job, which is deleted with it; give an "
            "absolute path on storage that all nodes share"
        )
    check_folder(config.run.dir, "run.dir")
    return config, Console()


@app.command()
def config(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG|NAME",
            help="YAML file, else all defaults; with --explain, then sections or settings to show, else all.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Writes above each setting what it does.")] = False,
    overrides: Overrides = None,
) -> None:
    """Print the resolved settings, as YAML that the other commands read.

    Example: blade-dist config launch/configs/quickstart.yaml --set learner.zero_stage=2

    Example: blade-dist config my.yaml --explain posterior prior.size
    """
    path, names = _file_and_names(given or [], explain)
    settings, _ = _read(path, overrides)
    typer.echo(explain_config(settings, names) if explain else dump_config(settings), nl=False)


def _file_and_names(given: list[str], explain: bool) -> tuple[Path | None, list[str]]:
    """The settings file, where the first argument is or looks like one, and names of settings.

    Raises:
        UserError: names, without ``--explain``.
    """
    first = Path(given[0]) if given else None
    if explain and first and first.suffix not in (".yaml", ".yml") and first.name == given[0] and not first.is_file():
        return None, given
    if given[1:] and not explain:
        raise UserError(f"{given[1]}: one CONFIG is printed; sections or settings are named after --explain")
    return first, given[1:]


@app.command()
def doctor(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file; else all defaults.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check whether a run can work here: versions, memory, storage, network, model, placement. Says how to fix each.

    Starts no engine and no learner. Exit status 1 where something would fail.

    Example: blade-dist doctor my.yaml --set rollout.engines=8
    """
    from blade_dist.doctor.report import doctor as examined

    if not examined(*_read(path, overrides)):
        raise typer.Exit(1)


@app.command()
def data(path: ConfigFile, overrides: Overrides = None) -> None:
    """Prepare the raw log and the items: writes the catalog, prompts of each split and a data card.

    Example: blade-dist data launch/configs/movielens-small.yaml --set data.path=ml-latest-small
    """
    from blade_dist.stages.data import data_stage

    data_stage(*_read(path, overrides))


@app.command()
def sft(path: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune the base checkpoint, or a small Llama, to write lists: the result is the reference policy.

    Example: blade-dist sft my.yaml --set model.path=Llama-3.2-1B-Instruct --set model.dtype=bfloat16
    """
    from blade_dist.cluster.runtime import ray_runtime
    from blade_dist.stages.sft import sft_stage

    settings, console = _read(path, overrides)
    with ray_runtime(settings):
        sft_stage(settings, console)


@app.command()
def prior(path: ConfigFile, overrides: Overrides = None) -> None:
    """Let the reference write prior.size lists per training prompt, and score them: the prior.

    Example: blade-dist prior my.yaml --set prior.size=64
    """
    from blade_dist.stages.opened import open_run
    from blade_dist.stages.prior import prior_stage

    settings, console = _read(path, overrides)
    prior_stage(open_run(settings), console)


@app.command()
def train(path: ConfigFile, overrides: Overrides = None) -> None:
    """Align the reference to the reward. Makes a missing prior first. Run again to resume.

    Example: blade-dist train my.yaml --set target=static
    """
    from blade_dist.stages.align import align_stage
    from blade_dist.stages.opened import open_run

    settings, console = _read(path, overrides)
    align_stage(open_run(settings), console)


@app.command()
def sweep(
    path: ConfigFile,
    over: Annotated[
        list[str],
        typer.Option(
            metavar="SECTION.KEY=VALUE,VALUE", help="Values of a setting; may be repeated.", show_default=False
        ),
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Points of the grid, drawn with run.seed; each under all the seeds swept.", show_default="all"
        ),
    ] = None,
    by: Annotated[Literal["reward", "validation"], typer.Option(help="What points are compared by.")] = "reward",
    early_stop: Annotated[
        bool, typer.Option(help="Whether bad points are stopped early (by ASHA), where rewards can be compared.")
    ] = True,
    overrides: Overrides = None,
) -> None:
    """Run train over a grid of settings, as many at once as fit into the cluster, and print a table of them.

    Run again to resume; with more values only the new points run. Exit status 1 where one failed.

    With several values of run.seed, points are ranked by their mean over the seeds, and none is stopped early.

    Points that differ in weights, boosts, temperatures or prompts, or that have floors, can't be compared by reward:
    none is stopped early or called the best.

    Example: blade-dist sweep my.yaml --over posterior.tau=0.1,0.3,auto --over learner.lr=1e-3,2e-3 --samples 4

    Example: blade-dist sweep my.yaml --over posterior.tau=0.1,0.3 --over run.seed=0,1,2

    Example: blade-dist sweep my.yaml --over 'reward.weights.ild@5=0,0.3,1' --set train.validation_prompts=500
    """
    from blade_dist.stages.opened import open_run
    from blade_dist.stages.sweep import sweep_stage

    settings, console = _read(path, overrides)
    outcomes = sweep_stage(open_run(settings), over, samples, by, early_stop, console)
    if any(outcome.ended == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def evaluate(
    path: ConfigFile,
    checkpoint: Checkpoint,
    against: Annotated[
        list[Path] | None, typer.Option(help="Another checkpoint to compare with; may be repeated.", show_default=False)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compare checkpoints on held-out prompts, with paired-bootstrap intervals over users.

    Example: blade-dist evaluate my.yaml --checkpoint runs/my/blade/policy --against runs/my/sft/policy
    """
    from blade_dist.stages.evaluate import evaluate_stage
    from blade_dist.stages.opened import open_run

    settings, console = _read(path, overrides)
    evaluate_stage(open_run(settings), checkpoint, against or [], console)


@app.command()
def export(
    path: ConfigFile,
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Write a folder that holds all that serving needs: model, items, rules, model card.

    Example: blade-dist export my.yaml --checkpoint runs/my/blade/policy --out served
    """
    from blade_dist.stages.export import export_stage

    settings, console = _read(path, overrides)
    export_stage(settings, checkpoint, out, console)


@app.command()
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
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs of the engine.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine on a CPU.", show_default="all")] = None,
    kv_cache_gb: Annotated[int, typer.Option(min=1, help="KV cache in GiB on a CPU.")] = 1,
) -> None:
    """Recommend: an export's list for one history, or a file of lists for a file of histories.

    A file is read part by part and may be larger than memory; started again, a stopped command goes on. Its rows may
    also have user, k, exclude, at_most (a map), decode and seed.

    Example: blade-dist recommend served --history "sku-1,sku-7" --k 10

    Example: blade-dist recommend served --histories users.parquet --out lists.parquet
    """
    if (history is None) == (histories is None) or (histories is None) != (out is None):
        raise UserError("recommend: give --history, or both --histories and --out")
    from blade_dist.rollouts.environment import make_ready

    make_ready(threads, kv_cache_gb)  # before torch is imported
    from blade_dist.serving.opened import EngineOptions
    from blade_dist.stages.recommend import limits, recommend_many, recommend_one

    fields = {"k": k, "exclude": exclude, "at_most": limits(at_most or []), "decode": decode, "seed": seed}
    given = {name: value for name, value in fields.items() if value not in (None, {})}
    options = EngineOptions(tensor_parallel)
    if histories is not None and out is not None:
        recommend_many(served, histories, out, given, options, Console())
    else:
        ids = [item.strip() for item in (history or "").split(",") if item.strip()]
        recommend_one(served, {"history": ids, **given}, options, as_json, Console())


@app.command()
def run(path: ConfigFile, overrides: Overrides = None) -> None:
    """Run data, sft, train (also for the targets of run.compare), evaluate and export; writes summary.json.

    Example: blade-dist run launch/configs/quickstart.yaml
    """
    from blade_dist.stages.run import run_stages

    settings, console = _read(path, overrides)
    write_text(settings.run.dir / "config.yaml", dump_config(settings))
    run_stages(settings, console)
