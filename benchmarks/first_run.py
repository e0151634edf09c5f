"""What a new user sees: the commands from a log to an export, each in a terminal of 80 columns, as a page."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
import pyarrow.csv
import typer

from benchmarks.terminal import COLUMNS, LINES, Recording, record
from blade_dist.store.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-run.md"
LOG, SETTINGS = "ml-third", "my.yaml"
"""In the user's folder."""

LAST = "export"
"""The command that the path ends with."""

BARS = {"data": ["data"], "sft": ["sft"], "train": ["prior", "train"], "evaluate": ["evaluate"]}
"""Of each command: the stages that have a bar."""

YAML = f"""\
# {SETTINGS}
run: {{dir: runs/mine}}
data: {{source: movielens, path: {LOG}}}
model:
  build: {{hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, ffn_size: 192, context: 64}}
sft: {{lr: 4.0e-3, epochs: 15}}
reward:
  weights: {{"ndcg@5": 1.0, "ild@5": 0.3}}
prior: {{size: 16}}
rollout: {{temperature: 0.5, group_size: 16}}
learner: {{lr: 1.0e-3, bon_n: 4}}
train: {{steps: 20, prompts: 320, prompts_per_step: 32}}
"""

INTRODUCTION = """\
# A first run

<!-- only checked: takes minutes -->
```bash
python -m benchmarks.first_run --data ml-latest-small
```

That command wrote this page. It took every third user of MovieLens latest-small, typed what is shown here into a
terminal of {columns} columns and {lines} lines, and copied what stood there: in the middle of each stage that shows a
bar, and at its end. Each command but the first is the one that the command before it says comes next. The model is tiny
and its training short, so that the whole takes minutes on two cores. The numbers show what is printed, not how good or
how fast anything is; [Results](results.md) has what was measured.

The settings, beside the folder `{log}`:

```yaml
{settings}```
"""


@dataclass(frozen=True)
class Step:
    """A command as it was typed, and what came of it."""

    typed: str
    recording: Recording

    @property
    def name(self) -> str:
        return shlex.split(self.typed)[1]


def main(
    data: Annotated[Path, typer.Option(help="MovieLens latest-small: a folder with ratings.csv and movies.csv.")],
    page: Annotated[Path, typer.Option(help="Where it is written.", show_default="docs/first-run.md")] = PAGE,
) -> None:
    """Runs data, sft, train, evaluate and export on a third of MovieLens, and writes the page of what they said.

    Examples:

      python -m benchmarks.first_run --data ml-latest-small --page page.md
    """
    if not (data / "ratings.csv").is_file():
        raise typer.BadParameter(f"{data}: no ratings.csv there; give a folder of MovieLens", param_hint="--data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a_third(data, folder / LOG)
        (folder / SETTINGS).write_text(YAML)
        steps = path(folder)
    write_text(page, page_of(YAML, steps))
    print(f"{page}: what {len(steps)} commands said")


def a_third(data: Path, out: Path) -> None:
    """Every third user of MovieLens, with all items, as a folder like it."""
    out.mkdir()
    ratings = pyarrow.csv.read_csv(data / "ratings.csv")
    user = ratings["userId"]
    third = pc.equal(pc.subtract(user, pc.multiply(pc.divide(user, 3), 3)), 0)
    pyarrow.csv.write_csv(ratings.filter(third), out / "ratings.csv")
    shutil.copy(data / "movies.csv", out)


def path(folder: Path) -> list[Step]:
    """Types one command after another in the folder, each as the one before it says.

    Raises:
        RuntimeError: a command failed, or does not say what comes next.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    typed, steps = f"blade-dist data {SETTINGS}", []
    while not steps or steps[-1].name != LAST:
        print(f"$ {typed}", flush=True)
        words = [sys.executable, "-m", "blade_dist", *shlex.split(typed.replace("\\\n", " "))[1:]]
        steps.append(Step(typed, record(words, folder, environment)))
        if steps[-1].recording.code:
            raise RuntimeError(f"{typed}: exit code {steps[-1].recording.code}\n{steps[-1].recording.text}")
        typed = following(steps[-1].recording.text)
    return steps


def following(text: str) -> str:
    """The command that the last lines name, as they are broken.

    Raises:
        RuntimeError: they name none.
    """
    _, found, command = text.rpartition("\nnext: ")
    if not found:
        raise RuntimeError(f"no command is said to come next:\n{text}")
    return command.removeprefix("\\\n").strip()


def page_of(settings: str, steps: Sequence[Step]) -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION.format(columns=COLUMNS, lines=LINES, log=LOG, settings=settings)]
    for step in steps:
        parts.append(f"## {step.name}\n")
        frames = filter(None, map(step.recording.middle, BARS.get(step.name, [])))
        parts += [f"After {frame.seconds:.0f} seconds:\n\n{_block(step.typed, frame.text)}" for frame in frames]
        parts.append(f"At the end:\n\n{_block(step.typed, step.recording.text)}")
    return "\n".join(parts)


def _block(typed: str, text: str) -> str:
    return f"```text\n$ {typed}\n{text}\n```\n"


if __name__ == "__main__":
    typer.run(main)
