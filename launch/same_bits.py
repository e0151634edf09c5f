"""Runs two checkouts on this machine and compares what they make, bit for bit. See --help."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]

HELP = """\
Runs two checkouts on this machine, with the same Python and the same seed, and compares what they make bit for bit:
prepared data, prior, the rows of SFT and of each target (all columns but the timings), the weights of each policy, and
the per-user values of the evaluation. Prints a table. Exit status 1 and the first difference where there is one, 2
where a side could not run.

OLD and NEW are folders of checkouts or git revisions of this repository. No golden file could do this: processors
round differently. A change that is meant to change numbers says so in CHANGELOG.md and proves itself otherwise.
"""
EXAMPLES = """\
examples:
  .venv/bin/python launch/same_bits.py HEAD .               # uncommitted work against the last commit
  .venv/bin/python launch/same_bits.py main my-branch
  .venv/bin/python launch/same_bits.py ../before . --case limits --keep /tmp/same-bits
"""

TINY = """
run: {dir: run, seed: 3}
data:
  synthetic: {users: 120, items: 40, groups: 4, interactions: 24}
  k_core: 2
  max_history: 8
  targets: 3
  windows: 3
lists: {k: 3}
model:
  build: {hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, ffn_size: 64, context: 128}
sft: {epochs: 4, batch_size: 32, lr: 5.0e-3, dropout: 0.05, patience: 4}
reward:
  weights: {"ndcg@3": 1.0, "ild@3": 0.3, "mgu@3": -0.2}
prior: {size: 4}
rollout: {group_size: 4, max_num_seqs: 64, cpus_per_engine: 1}
learner: {workers: 1, cpus_per_worker: 1}
train: {steps: 6, prompts: 24, prompts_per_step: 12, checkpoint_every: 3}
evaluate: {metrics: ["ndcg@3", "recall@3", "ild@3"]}
tracking: {tensorboard: false}
"""
"""A run of seconds, but for the engines' start. Prompts come back within its steps, which carried evidence requires;
longer trainings than some ten steps are not bit-equal even to themselves: the engine's batches follow the clock."""

CASES = {
    "targets": {"run.compare": "[static, grpo, bond, best_of_n_sft]", "posterior.carry": "0.5"},
    "limits": {
        "reward.at_least": "{ild@3: 0.1}",
        "reward.normalise": "true",
        "prior.prompts": "12",
        "prior.cold_size": "2",
        "lists.at_most": '{"*": 2}',
        "codec": "{kind: semantic_id, levels: 2, codes: 6}",
        "learner.lora": "{rank: 8}",
        "posterior.tau": "auto",
        "posterior.ties": "exact",
    },
    "renewed": {
        "prior.refresh_every": "2",
        "train.validation_prompts": "16",
        "learner.zero_stage": "2",
        "learner.epochs": "2",
        "posterior.proxy": "mean_log",
        "advantage.scale": "none",
        "lists.exclude_history": "shown",
        "evaluate.beam_width": "4",
    },
}
"""What each case sets beside :data:`TINY`, so that together they walk through most of the program."""

TIMINGS = ("seconds", "_per_second")
"""What a column's name begins or ends with that holds times."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        sides = {name: _checkout(given, folder / name) for name, given in (("old", options.old), ("new", options.new))}
        differ = [case for case in options.case or ["targets"] if not _same(case, sides, folder)]
    sys.exit(1 if differ else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/same_bits.py",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="folder of a checkout, or git revision")
    parser.add_argument("new", metavar="NEW", help="folder of a checkout, or git revision")
    parser.add_argument(
        "--case", action="append", choices=list(CASES), help="which settings; may be repeated (default: targets)"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keeps both runs and their logs in a new folder")
    options = parser.parse_args()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep}: the folder is not empty; give a new one")
    return options


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _checkout(given: str, folder: Path) -> Path:
    """The folder of a checkout: ``given`` itself, or the files of that revision, unpacked below ``folder``."""
    if (Path(given) / "blade_dist").is_dir():
        return Path(given).resolve()
    archive = subprocess.run(["git", "-C", ROOT, "archive", given], capture_output=True, check=False)
    if archive.returncode:
        _stop(f"{given}: neither a folder with blade_dist/ nor a git revision ({archive.stderr.decode().strip()})")
    source = folder / "source"
    source.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    return source


def _same(case: str, sides: dict[str, Path], folder: Path) -> bool:
    """Runs both sides, one after the other, and prints the table; whether nothing differs."""
    runs = {name: _run(case, checkout, folder / name / case) for name, checkout in sides.items()}
    rows = list(_compare(runs["old"], runs["new"]))
    width = max(len(name) for name, *_ in rows)
    print(f"\n{case}: {sides['old']} and {sides['new']}")
    for name, compared, difference in rows:
        print(f"  {name:{width}}  {compared:>24}  {'DIFFERENT' if difference else 'equal'}", flush=True)
    first = next(((name, difference) for name, _, difference in rows if difference), None)
    print(f"{case}: " + (f"first difference: {first[0]}: {first[1]}" if first else "equal, bit for bit"), flush=True)
    return first is None


def _run(case: str, checkout: Path, folder: Path) -> Path:
    """Runs every stage of ``checkout`` in a folder of its own; returns the run's folder."""
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(TINY)
    changes = [part for name, value in CASES[case].items() for part in ("--set", f"{name}={value}")]
    # PYTHONPATH precedes an editable install, and Ray's workers inherit it; the folder itself holds no blade_dist
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    python = f'source "{checkout}/launch/env.sh" && exec "{sys.executable}" "$@"'

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = ["bash", "-c", python, "bash", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, check=False, **options)

    imported = run("-c", "import blade_dist; print(blade_dist.__file__)", capture_output=True).stdout.decode().strip()
    if not Path(imported).is_relative_to(checkout):
        _stop(f"{checkout}: Python imports {imported or 'no blade_dist'} instead")
    print(f"{case}: running {checkout}", file=sys.stderr, flush=True)
    with (folder / "log").open("wb") as log:
        if run("-m", "blade_dist", "run", "settings.yaml", *changes, stdout=log, stderr=log).returncode:
            tail = (folder / "log").read_text(errors="replace").splitlines()[-20:]
            print("\n".join(tail), file=sys.stderr)
            _stop(f"{checkout}: the run failed; its last lines are above")
    return folder / "run"


def _compare(old: Path, new: Path) -> Iterator[tuple[str, str, str]]:
    """Name, extent and first difference (empty: none) of all that both runs have made, in the order of the stages."""
    tables = ["data/**/*.arrow", "sft/metrics.parquet", "prior.arrow", "*/metrics.parquet", "evaluation/*.parquet"]
    names = list(dict.fromkeys(name for pattern in tables for name in _files(old, new, pattern)))
    policies = list(_files(old, new, "*/policy/*.safetensors"))
    for name in [*names, *policies]:
        if missing := [side for side, run in (("OLD", old), ("NEW", new)) if not (run / name).is_file()]:
            yield name, "", f"{missing[0]} has no such file"
        elif name in policies:
            yield name, *_compare_weights(old / name, new / name)
        else:
            yield name, *_compare_tables(_table(old / name), _table(new / name))


def _files(old: Path, new: Path, pattern: str) -> list[str]:
    """Files of either run that match, but a trainer's checkpoints, which hold the same weights once more."""
    found = {str(path.relative_to(run)) for run in (old, new) for path in run.glob(pattern)}
    return sorted(name for name in found if "learners" not in Path(name).parts)


def _table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _compare_tables(old: pa.Table, new: pa.Table) -> tuple[str, str]:
    """Extent, and the first difference: of the earliest row, as all that follows comes of it."""
    names = [name for name in old.column_names if not name.startswith(TIMINGS[0]) and not name.endswith(TIMINGS[1])]
    extent = f"{old.num_rows} rows, {len(names)} columns"
    if old.column_names != new.column_names:
        differ = sorted(set(old.column_names) ^ set(new.column_names)) or "their order"
        return extent, f"columns differ: {differ}"
    if old.num_rows != new.num_rows:
        return extent, f"{old.num_rows} rows, then {new.num_rows}"
    for name in names:
        if old[name].type != new[name].type:
            return extent, f"column {name}: {old[name].type}, then {new[name].type}"
    first: tuple[int, str] | None = None
    for name in names:
        pairs = enumerate(zip(old[name].to_pylist(), new[name].to_pylist(), strict=True))
        row = next((row for row, (before, after) in pairs if _exact(before) != _exact(after)), None)
        if row is not None and (first is None or row < first[0]):
            first = row, name
    if first is None:
        return extent, ""
    row, name = first
    where = f"step {old['step'][row].as_py()}" if "step" in old.column_names else f"row {row}"
    return extent, f"column {name}, {where}: {old[name][row].as_py()!r}, then {new[name][row].as_py()!r}"


def _exact(value: object) -> object:
    """Equal only for equal bits: NaN equals itself, and 0.0 is not -0.0."""
    if isinstance(value, float):
        return value.hex()
    return [_exact(part) for part in value] if isinstance(value, list) else value


def _compare_weights(old: Path, new: Path) -> tuple[str, str]:
    before, after = load_file(old), load_file(new)
    extent = f"{len(before)} tensors"
    if before.keys() != after.keys():
        return extent, f"tensors differ: {sorted(before.keys() ^ after.keys())}"
    for name, weights in before.items():
        if weights.dtype != after[name].dtype or weights.shape != after[name].shape:
            return extent, f"{name}: {weights.dtype}{weights.shape}, then {after[name].dtype}{after[name].shape}"
        if weights.tobytes() != after[name].tobytes():
            return extent, f"{name}: up to {abs(weights - after[name]).max():g} apart"
    return extent, ""


if __name__ == "__main__":
    main()
