"""README and docs: every command block that needs no cluster runs, and what the pages name exists."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

import blade_dist.cli
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import make_rules
from blade_dist.data.bundle import load_data
from blade_dist.evaluation.bootstrap import Interval
from blade_dist.evaluation.per_user import render_differences
from blade_dist.evaluation.sentences import comparison
from blade_dist.rewards.composite import Composite
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.sft import sft_stamp
from blade_dist.store.run import RunPaths
from blade_dist.store.stage import mark
from tests.docs.naming import check_line, check_name
from tests.docs.pages import PAGES, Block, anchors, blocks, links, names
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
SMALL = [
    "model.path=null",
    "model.dtype=float32",
    "data.k_core=2",
    "data.max_history=5",
    "data.targets=5",
    "evaluate.bootstrap=20",
]
"""What lets a page's settings run on a small log without a pretrained model."""
TRAINS = ("sft", "train", "evaluate", "export", "run")
"""Commands that run in the folder of a tiny run, where all but the evaluation and the export is done."""
FOLLOWED = {"data": "sft", "sft": "train", "prior": "train", "train": "evaluate", "evaluate": "export"}
FOLLOWED |= {"export": "recommend"}
"""What each command says that comes next."""


def shown(block: Block) -> str:
    return str(block)


@pytest.fixture(scope="module")
def columns(trained: dict[int, RunPaths]) -> set[str]:
    return set(pq.read_schema(trained[1].target("blade") / "metrics.parquet").names)


@pytest.fixture(scope="module")
def desk(trained: dict[int, RunPaths], tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a log and items as ``my.yaml`` names them, and a finished training in ``runs/mine``."""
    folder = tmp_path_factory.mktemp("desk")
    rows = [(f"u{user}", f"i{(user * 7 + visit) % 30}", visit) for user in range(30) for visit in range(24)]
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    pq.write_table(pa.table({"customer": users, "sku": items, "ts": times}), folder / "log.parquet")
    named = {"sku": [f"i{n}" for n in range(30)], "name": [f"title {n}" for n in range(30)]}
    groups = [f"g{n % 4}" for n in range(30)]
    pyarrow.csv.write_csv(pa.table(named | {"categories": groups}), folder / "items.csv")
    shutil.copytree(trained[1].root, folder / "runs" / "mine")
    values = load_config(trained[1].target("blade") / "config.yaml").model_dump()
    values["run"]["dir"] = folder / "runs" / "mine"
    values["evaluate"].update(max_prompts=8, bootstrap=20)
    config = Config.model_validate(values)
    (folder / "tiny.yaml").write_text(dump_config(config))
    # the shared training took over a reference of the same run but for learner.clip_grad: here the two are one run
    mark(RunPaths(config.run.dir).sft, sft_stamp(config, load_data(config.run.dir)), done=True)
    return folder


@pytest.mark.parametrize("block", blocks("bash"), ids=shown)
def test_the_commands_exist(block: Block) -> None:
    for line in block.text.splitlines():
        check_line(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_exists(page: Path, columns: set[str]) -> None:
    wrong = []
    for name in names(page):
        try:
            check_name(name, columns)
        except Exception as error:
            wrong.append(f"`{name}`: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("block", blocks("yaml"), ids=shown)
def test_the_settings_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.yaml").write_text(block.text)
    config = load_config(tmp_path / "page.yaml")
    for module in blocks("python"):
        if name := re.match(r"# (my_\w+\.py)\n", module.text):
            (tmp_path / name[1]).write_text(module.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = config.reward
    groups = [["Drama", "Comedy", "House brand", "Recalled"][n % 4] for n in range(40)]
    catalog = Catalog.build(
        [f"sku-{n}" for n in range(40)], [f"title {n}" for n in range(40)], [[g] for g in groups], np.ones(40, np.int64)
    )
    named = {"distributions": reward.distributions, "boosts": reward.boosts}
    Composite(reward.scored, catalog, config.lists.k, **named).check()
    make_rules(config.lists, catalog)


def page_settings(block: Block, desk: Path) -> None:
    """Writes the ``my.yaml`` of the block's page, or else the one of docs/your-data.md."""
    files = {other.page: other.text for other in blocks("yaml") if other.text.startswith("# my.yaml")}
    values = yaml.safe_load(files.get(block.page, files["docs/your-data.md"]))
    values["run"]["dir"] = str(desk / "runs" / "page")
    # the session's Ray was not started in this folder, as a reader's is
    values["data"].update({name: str(desk / values["data"][name]) for name in ("path", "items")})
    (desk / "my.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("block", [block for block in blocks("bash") if block.is_run], ids=shown)
def test_the_commands_run(
    block: Block,
    desk: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page_settings(block, desk)
    monkeypatch.chdir(desk)
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True)
        elif words[:1] == ["blade-dist"]:
            runs(words[1:], monkeypatch)
            said = capsys.readouterr().out
            assert said.strip(), line
            if words[1] in ("sft", "train"):
                assert "already there" in said
            if words[1] in FOLLOWED:  # the first line says what is done, the last one what comes next
                first, *_, last = said.strip().splitlines()
                assert first.startswith(f"{words[1]}: ")
                assert last.startswith(f"next: blade-dist {FOLLOWED[words[1]]} "), last


def runs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of the program, with settings that are small."""
    command, *rest = words
    if command in TRAINS:
        rest = ["tiny.yaml" if word == "my.yaml" else word for word in rest]
    elif "my.yaml" in rest:
        rest += [part for setting in SMALL for part in ("--set", setting)]
    monkeypatch.setattr("sys.argv", ["blade-dist", command, *rest])
    ended = 0
    try:
        blade_dist.cli.main()
    except SystemExit as stop:
        ended = stop.code or 0
    # the doctor's verdict is about the machine
    assert ended == 0 or (command, ended) == ("doctor", 1), f"{words}: {ended}"


@pytest.mark.parametrize("block", blocks("python"), ids=shown)
def test_the_python_runs_and_prints_what_is_shown(block: Block, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, str(block), "exec"), {"__name__": "page"})
    page = next(page for page in PAGES if page.samefile(ROOT / block.page)).read_text()
    following = page.partition(block.text + "```\n")[2].lstrip("\n")
    if following.startswith("```text\n"):
        assert following.split("```")[1] == "text\n" + printed.getvalue()


class TestReadme:
    def test_it_fits_a_screen_or_two(self) -> None:
        text = README.read_text()
        assert len(text.splitlines()) <= 115
        assert len(text.split()) <= 1000

    def test_its_results_are_those_of_the_tables(self) -> None:
        tables = "\n".join(
            re.findall(r"<!-- table \S+ -->\n(.*?)<!-- end -->", (ROOT / "docs/results.md").read_text(), re.DOTALL)
        )
        section = README.read_text().partition("## Results\n")[2].partition("\n## ")[0]
        results = [line.split("|")[3].strip() for line in section.splitlines() if line.startswith("| ")][2:]
        assert len(results) == 6
        for result in results:
            assert f"| {result} |" in tables, result

    def test_the_quickstart_s_table_is_the_recorded_one(self) -> None:
        recorded = json.loads((ROOT / "benchmarks/results/cpu/quickstart.json").read_text())["summary"]["difference"]
        printed = io.StringIO()
        Console(file=printed, width=80).print(render_differences("", recorded, {}))
        rows = [line for line in README.read_text().splitlines() if line.startswith("│")]
        assert len(rows) >= 3
        assert set(rows) <= set(printed.getvalue().splitlines())
        said = comparison("blade", "sft", {name: Interval(**of) for name, of in recorded.items()}, {})
        (shown,) = [line for line in README.read_text().splitlines() if line.startswith("evaluate: blade's lists")]
        assert said.startswith(shown.removeprefix("evaluate: ").removesuffix("..."))
