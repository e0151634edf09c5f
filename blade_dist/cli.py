"""The program: one command per stage, each driven by the same YAML file. Bad input is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from blade_dist import __version__
from blade_dist.cluster import time_limit
from blade_dist.cluster.signals import Stopped, signals_raise
from blade_dist.errors import NodeLostError
from blade_dist.nodes.versions import versions
from blade_dist.settings import Config
from blade_dist.settings.explain import explain_config, file_and_names
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages import opening
from blade_dist.stages.catalog_command import catalog
from blade_dist.stages.ends import ending, keep_traceback, leave, start_again
from blade_dist.stages.folder import check_place, in_folder
from blade_dist.stages.loudness import begin, heard, loudness
from blade_dist.stages.prompt_command import prompt
from blade_dist.stages.recommend_command import recommend
from blade_dist.stages.serve_command import serve
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from blade_dist.tracking.bar import PROGRAM, RAY, waiting
from blade_dist.tracking.lasting import lasting, open_closed
from blade_dist.tracking.say import last_lines, say, say_command

app = typer.Typer(
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


def _version(wanted: bool) -> None:
    """Prints the versions of the program and of what it stands on, a line each."""
    if wanted:
        for name, number in {"blade-dist": __version__, **versions()}.items():
            typer.echo(f"{name} {number}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions, also the stack's.")
    ] = False,
) -> None:
    """Align an LLM recommender to list-wise metrics with BLADE, on Ray, vLLM and DeepSpeed."""


def main() -> None:
    """Runs a command; what it raises becomes three lines at most, exit code 2 (its user's) or 1 (a fault of ours).

    After SIGTERM, Ctrl-C or the end of its terminal it prints what is kept, exit code 143, 130 or 129. Where nobody
    can read it any more it is in the run's log.
    """
    open_closed()
    console, running = Console(file=lasting(sys.stderr)), begin()
    try:
        with signals_raise(), running:
            app()
    except Stopped as stopped:
        leave(console, [str(stopped)], stopped.exit_code, running.log)
    except NodeLostError as error:
        keep_traceback(running.log, error)
        say(console, str(error))
        start_again()
    except Exception as error:
        leave(console, *ending(error, running.log, running.has_noise, running.verbose), running.log)


def _read(path: Path | None, overrides: list[str] | None, logs: bool = True) -> tuple[Config, Console]:
    """The settings, and a console for messages; sets what the libraries read from the environment when imported.

    ``logs``: whether the command works in the run's folder: what others print goes to its log, and it has a copy where
    that is set.
    """
    # weights and tokenizers come from disk; a name that is not a folder must not become a download
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # Transformers' too: a bar for every file of weights
    # named, so that DeepSpeed does not warn on every import that it had to fall back to the CPU
    if not Path("/proc/driver/nvidia/version").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    config = load_config(path, overrides or [])
    check_place(config.run.dir)
    console = in_folder(config.run) if logs else loudness().console()
    time_limit.end_in_time(config.train, lambda why: say(console, why))
    return config, console


def _next(console: Console, command: str, path: Path, overrides: list[str] | None, *options: str) -> None:
    """Says which command comes next: with the file and the settings as they were typed for this one."""
    changed = [part for override in overrides or [] for part in ("--set", override)]
    say_command(last_lines(console), "next: ", ["blade-dist", command, str(path), *options, *changed])


@app.command()
@heard
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
    path, names = file_and_names(given or [], explain)
    settings, _ = _read(path, overrides, logs=False)
    typer.echo(explain_config(settings, names) if explain else dump_config(settings), nl=False)


@app.command()
@heard
def doctor(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file; else all defaults.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check whether a run can work here: versions, memory, storage, network, model, placement. Says how to fix each.

    Starts no engine and no learner. Exit status 1 where something would fail. Ends with the next command to type.

    Example: blade-dist doctor my.yaml --set rollout.engines=8
    """
    settings, _ = _read(path, overrides, logs=False)
    console = loudness().apart()
    from blade_dist.doctor.report import doctor as examined

    healthy = examined(settings, console)
    if path is not None:
        _next(console, opening.next_stage(settings) if healthy else "doctor", path, overrides)
    if not healthy:
        raise typer.Exit(1)


@app.command()
@heard
def data(path: ConfigFile, overrides: Overrides = None) -> None:
    """Prepare the raw log and the items: writes the catalog, prompts of each split and a data card.

    Example: blade-dist data launch/configs/movielens-small.yaml --set data.path=ml-latest-small
    """
    settings, console = _read(path, overrides)
    say(console, f"data: {opening.data_line(settings)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.data import data_stage

    data_stage(settings, console)
    _next(console, "sft", path, overrides)


@app.command()
@heard
def sft(path: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune the base checkpoint, or a small Llama, to write lists: the result is the reference policy.

    Example: blade-dist sft my.yaml --set model.path=Llama-3.2-1B-Instruct --set model.dtype=bfloat16
    """
    settings, console = _read(path, overrides)
    say(console, f"sft: {opening.sft_line(settings)}")
    with waiting(console, PROGRAM):
        from blade_dist.cluster.runtime import ray_runtime
        from blade_dist.stages.sft import sft_stage

    with ray_runtime(settings, waiting(console, RAY), engines=False):
        sft_stage(settings, console)
    _next(console, "train", path, overrides)


@app.command()
@heard
def prior(path: ConfigFile, overrides: Overrides = None) -> None:
    """Let the reference write prior.size lists per training prompt, and score them: the prior.

    Example: blade-dist prior my.yaml --set prior.size=64
    """
    settings, console = _read(path, overrides)
    say(console, f"prior: {opening.prior_line(settings)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.opened import open_run
        from blade_dist.stages.prior import prior_stage

    prior_stage(open_run(settings), console)
    _next(console, "train", path, overrides)


@app.command()
@heard
def train(path: ConfigFile, overrides: Overrides = None) -> None:
    """Align the reference to the reward. Makes a missing prior first. Run again to resume.

    Example: blade-dist train my.yaml --set target=static
    """
    settings, console = _read(path, overrides)
    say(console, f"train: {opening.train_line(settings)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.align import align_stage
        from blade_dist.stages.opened import open_run

    align_stage(open_run(settings), console)
    paths = RunPaths(settings.run.dir)
    checkpoints = ("--checkpoint", str(paths.policy(settings.target)), "--against", str(paths.reference))
    _next(console, "evaluate", path, overrides, *checkpoints)


@app.command()
@heard
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
    settings, console = _read(path, overrides)
    say(console, f"sweep: {opening.sweep_line(settings, over)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.opened import open_run
        from blade_dist.stages.sweep import sweep_stage

    outcomes = sweep_stage(open_run(settings), over, samples, by, early_stop, console)
    if any(outcome.ended == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
@heard
def evaluate(
    path: ConfigFile,
    checkpoint: Checkpoint,
    against: Annotated[
        list[Path] | None, typer.Option(help="Another checkpoint to compare with; may be repeated.", show_default=False)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compare checkpoints on held-out prompts, with paired-bootstrap intervals over users. base: model.path as it is.

    Example: blade-dist evaluate my.yaml --checkpoint runs/my/blade/policy --against runs/my/sft/policy

    Example: blade-dist evaluate my.yaml --checkpoint base
    """
    settings, console = _read(path, overrides)
    say(console, f"evaluate: {opening.evaluate_line(settings, [checkpoint, *(against or [])])}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.base import after_evaluation, checkpoint_of
        from blade_dist.stages.evaluate import evaluate_stage
        from blade_dist.stages.opened import open_run

    checkpoint, *others = (checkpoint_of(settings, given) for given in (checkpoint, *(against or [])))
    evaluate_stage(open_run(settings, checkpoint), checkpoint, others, console)
    command, *options = after_evaluation(settings, checkpoint)
    _next(console, command, path, overrides, *options)


@app.command()
@heard
def export(
    path: ConfigFile,
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Write a folder that holds all that serving needs: model, items, rules, model card.

    Example: blade-dist export my.yaml --checkpoint runs/my/blade/policy --out served
    """
    settings, console = _read(path, overrides)
    say(console, f"export: {opening.export_line(checkpoint, out)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.export import export_stage

    history = export_stage(settings, checkpoint, out, console)
    _next(console, "recommend", out, None, "--history", ",".join(history))


app.command()(heard(prompt))
app.command()(heard(catalog))
app.command()(heard(recommend))
app.command()(heard(serve))


@app.command()
@heard
def run(path: ConfigFile, overrides: Overrides = None) -> None:
    """Run data, sft, train (also for the targets of run.compare), evaluate and export; writes summary.json.

    Example: blade-dist run launch/configs/quickstart.yaml
    """
    settings, console = _read(path, overrides)
    say(console, f"run: {opening.run_line(settings)}")
    with waiting(console, PROGRAM):
        from blade_dist.stages.run import run_stages

    write_text(settings.run.dir / "config.yaml", dump_config(settings))
    run_stages(settings, console)
