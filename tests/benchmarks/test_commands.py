"""The benchmarks run, and their files say what they should; how fast anything is, is no matter of tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import gpu, saving
from benchmarks.measure import numbers, overhead, useful_flops
from tests.helpers.paths import ROOT

SMALL = {
    "rewards": ["--lists", "64", "--items", "50", "--repeats", "1"],
    "posterior": ["--prompts", "50", "--repeats", "1"],
    "trie": ["--items", "500", "--no-generate"],
    "learner": ["--prompts", "2", "--prompt-tokens", "20", "--group", "2", "--items", "100", "--repeats", "1"],
}


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for each other take minutes on a busy machine
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT, env=alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_benchmark_writes_its_result(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = run(name, *SMALL[name], "--json", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["benchmark"] == name
    assert result["hardware"]["cores"] >= 1
    assert {"ray", "torch", "numpy"} <= result["versions"].keys()
    exact = {"rewards": "ndcg_difference", "posterior": "largest_difference", "learner": "logprob_difference"}
    if name in exact:
        assert result[exact[name]] < 1e-5
    else:
        assert result["by_items"]["500"]["megabytes"] > 0


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What every command says with --help, all in one process, as each imports PyTorch."""
    wide = os.environ | {"COLUMNS": "400", "NO_COLOR": "1"}
    command = [sys.executable, "-c", SAY_HELP, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False, cwd=ROOT, env=wide)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


SPEED = ["throughput", "learner", "trie", "posterior", "rewards", "push", "gpu", "peer_trl"]
PROBES = ["quality.probes.gated_start", "quality.probes.front"]
QUALITY = ["quality", "quality.recommenders", "quality.ranking", *PROBES]
OTHERS = ["first_run", "smollm2", "catalog"]
COMMANDS = [
    *SPEED,
    *OTHERS,
    "record",
    "tables",
    "serving",
    "catalog",
    "resume",
    "chaos",
    "fuzz",
    "separators",
    *QUALITY,
]
SAY_HELP = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    sys.argv[1:] = ["--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    said[name] = out.getvalue()[out.getvalue().lower().index("usage:"):]  # before it, libraries may warn
print()
print(json.dumps(said))
"""


@pytest.mark.slow
def test_every_help_names_only_commands_options_and_files_that_exist(helps: dict[str, str]) -> None:
    for name, text in helps.items():
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text.split("Options")[-1].split("options:")[-1]))
        assert "--help" in options, name
        for command, rest in re.findall(r"python -m (benchmarks[\w.]*)([^\n|│]*)", text):
            assert find_spec(command) is not None, (name, command)
            assert command == f"benchmarks.{name}", name
            assert set(re.findall(r"--[a-z][\w-]*", rest)) <= options, (name, rest)
        for path in re.findall(r"[\w.-]+/[\w./-]*\.\w+|\b(?:benchmarks|launch|docs|blade_dist)/[\w/-]+", text):
            assert (ROOT / path).exists(), (name, path)
        for module in re.findall(r"(?<![\w/])(\w+\.py)\b", text):
            assert list((ROOT / "benchmarks").rglob(module)), (name, module)
        assert "../" not in text, name


@pytest.mark.parametrize("line", range(1, 8))
def test_a_gpu_line_says_that_it_needs_one(line: int, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = CliRunner().invoke(gpu.app, ["--line", str(line), "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 3
    assert f"line {line} (" in done.output
    assert "needs an NVIDIA GPU" in done.output
    assert not (tmp_path / "out.json").exists()


def test_every_gpu_line_has_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, module, function in gpu.LINES.values():
        assert callable(getattr(import_module(module), function))


def test_useful_flops_of_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 weights on 4 tokens, 3 pairs in each of 2 layers of width 5, one decision over a head of 7 weights:
    # forward 2 * (40 + 2 * 5 * 2 * 3 + 7) operations, backward twice as many
    assert useful_flops(10, 4, 3, 2, 5, 1, 7) == 3 * 2 * (40 + 60 + 7)


def test_numbers_are_medians_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        **{f"seconds/{name}": 1.0 for name in ("generate", "score", "estimate", "learn", "push")},
        "seconds/step": 4.0,
        **dict.fromkeys(("invalid", "duplicate", "staleness", "logprob_gap"), 0.0),
        "lists": 128.0,
        "list_tokens": 16.0,
        "push_bytes": 2e9,
        "group": 16,
    }
    slow = row | {"seconds/step": 40.0}
    measured = numbers([slow, row, row, row | {"seconds/step": 5.0}], warmup=1, parameters=10, prompt_tokens=250)
    assert overhead(row) == 0.25
    assert (measured["lists_per_second"], measured["overhead"], measured["idle"]["engine"]) == (32, 0.25, 0.75)
    assert measured["push_gb_per_second"] == 2
    assert measured["generated_tokens_per_second"] == 2048


def test_what_a_checkpoint_costs_is_in_the_rows_after_it() -> None:
    warm, plain = {"seconds/step": 9.0, "seconds/save": 0.0}, {"seconds/step": 1.0, "seconds/save": 0.0}
    after = {"seconds/step": 1.5, "seconds/save": 0.25}
    rows = [warm] * 4 + [after, plain, plain, plain] * 2
    expected = {"share": 0.5 / 9.5, "wait_seconds": 0.25, "step_seconds": 1.0, "step_seconds_beside": 1.5}
    assert saving.numbers(rows, 4) == pytest.approx(expected)


@pytest.mark.slow
def test_throughput_runs_as_a_file_too() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), "--help"]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT / "tests", env=plain
    )
    assert done.returncode == 0, done.stderr[-2000:]
