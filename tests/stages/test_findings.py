"""What an evaluation shows: a first look that fits a screen, and all of it in a report."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blade_dist.evaluation.cold import ASKED, HIT, LISTED
from blade_dist.evaluation.decoding import Cost, decodes
from blade_dist.evaluation.per_user import differences
from blade_dist.settings.load import load_config
from blade_dist.stages.findings import REPORT, Findings, difference_key
from blade_dist.tracking.lasting import beneath
from blade_dist.tracking.say import Voice

CONFIG = load_config(None, ["evaluate.bootstrap=50"])
METRICS = ["ndcg@5", "recall@5", "hr@5", "mrr@5", "ild@5", "mgu@5", "dgu@5"]
SIMPLE = ["popularity", "co-occurrence", "successors", "EASE"]
MEANS = {"blade": 0.5, "sft": 0.4, "popularity": 0.1, "co-occurrence": 0.2, "successors": 0.7, "EASE": 0.3}


@pytest.fixture(scope="module")
def found() -> Findings:
    draw, users = np.random.default_rng(0), [f"u{n}" for n in range(40)]
    rows = [
        {"user": user, "prompt": n, "policy": name, "decode": way, "items": [1], "reward": mean + draw.normal(0, 0.01)}
        | {metric: mean + draw.normal(0, 0.01) for metric in METRICS}
        for way in decodes(CONFIG)
        for name, mean in (MEANS | ({"sft mmr 0.3": 0.4} if way == "rank" else {})).items()
        for n, user in enumerate(users)
    ]
    table = pa.Table.from_pylist(rows)
    summary = {difference_key(CONFIG, way): differences(table, way, "blade", "sft", 50, 0) for way in decodes(CONFIG)}
    costs = {(name, way): Cost(40, 200, 0.5) for name in ("blade", "sft") for way in decodes(CONFIG)}
    trained = {"blade": ["list"], "sft": ["list", "rank"]}
    return Findings(CONFIG, table, summary, ["blade", "sft"], SIMPLE, ["sft mmr 0.3"], costs, trained, METRICS)


def terminal(verbose: bool) -> Voice:
    voice = Voice(io.StringIO(), quiet=False, verbose=verbose)
    voice._force_terminal, voice._width, voice._color_system = True, 80, None
    return voice


def shown(found: Findings, verbose: bool) -> list[str]:
    voice = terminal(verbose)
    found.show(Path("runs/mine/evaluation"), voice)
    text = beneath(voice.file)
    assert isinstance(text, io.StringIO)
    return text.getvalue().splitlines()


def test_a_first_look_fits_a_screen_and_has_everybody_once(found: Findings) -> None:
    lines = shown(found, verbose=False)
    assert len(lines) <= 46
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.count("│ popularity") == text.count("┏") - 1  # once in each table of as many metrics as have room
    assert "ndcg@5 ↑" in text
    assert "mgu@5 ↓" in text
    assert text.count("minus") == text.count("list: blade minus sft, per user") == 1
    assert " ".join(text.split()).endswith("other ways of decoding (rank, sampled), re-rankers, and what each costs")


def test_all_tables_are_in_the_report_and_on_a_verbose_terminal(found: Findings, tmp_path: Path) -> None:
    found.write(tmp_path)
    report, verbose = (tmp_path / REPORT).read_text(), shown(found, verbose=True)
    assert max(map(len, verbose)) <= 80
    for text in (report, "\n".join(verbose)):
        words = " ".join(text.split())
        for title in ("list: blade minus sft", "sampled: blade minus sft", "rank, re-ranked", "cost of decoding"):
            assert title in words
        assert words.count("without a model: mean") == 1


def test_the_report_has_a_table_of_cold_items_where_there_are_some(found: Findings) -> None:
    assert "never trained on" not in "".join(shown(found, verbose=True))
    numbers = {name: {ASKED: 0.25, LISTED: 0.015, HIT: 0.125} for name in MEANS}
    summary = found.summary | numbers | {"rank": numbers, "sampled": numbers}
    words = " ".join(" ".join(shown(replace(found, summary=summary), verbose=True)).split())
    assert words.count("list: items that were never trained on, 25.0% of what was held out") == 1
    assert words.count("items that were never trained on") == 3
    assert words.count("1.50% │ 12.50%") == len(MEANS) * 3


def test_the_last_sentence_is_about_what_needs_no_model(found: Findings) -> None:
    number, against, counted = found.sentences()
    assert number.startswith("blade has ndcg@5 0.")
    assert "than sft's" in against
    assert counted.startswith("blade's lists are fairer to groups than successors'")
    assert "less accurate" in counted
