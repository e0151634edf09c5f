"""The data stage, whole, on small logs and on MovieLens."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from blade_dist.batches import MISS
from blade_dist.data.prepare import DataBundle, load_data, prepare_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage
from blade_dist.store.arrow import arrow_to_ragged, read_table
from blade_dist.store.run import RunPaths

LOGS = os.environ.get("BLADE_LOGS")
"""Folder of real logs, ``ml-latest-small`` among them; they are outside the project."""
SMALL = ["data.synthetic.users=60", "data.synthetic.items=30", "data.synthetic.interactions=20"]


def _config(folder: Path, *overrides: str) -> Config:
    return load_config(None, [f"run.dir={folder}", *SMALL, *overrides])


def test_the_stage_writes_whole_data_and_skips_it_next_time(tmp_path: Path) -> None:
    config = _config(tmp_path)
    prepare_data(config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    bundle = load_data(tmp_path)
    assert len(bundle.catalog) == len(bundle.codec.item_tokens) == 30
    sizes = {"train": len(bundle.train), "validation": len(bundle.validation), "test": len(bundle.test)}
    assert sizes == bundle.card["prompts"]
    later: dict[str, Any] = {"header": True, "items_header": True, "quoted": True, "day_first": True, "columns": {"id"}}
    assert bundle.card["settings"]["data"] == config.data.model_dump(mode="json", exclude=later)
    assert bundle.card["fingerprints"]["catalog"] == bundle.catalog.fingerprint()
    assert bundle.card["fingerprints"]["codec"] == bundle.codec.fingerprint()
    assert bundle.card["fingerprints"]["test"] == bundle.test.fingerprint()
    assert bundle.card["fingerprints"]["sequences"] == bundle.sequences.fingerprint()
    assert len(bundle.sequences) == bundle.card["sequences"] > 0
    prompts = bundle.codec.encode_prompts(bundle.train.rows(np.arange(len(bundle.train))).history)
    assert prompts.lengths.max() <= bundle.card["tokens"]["longest_prompt"]
    before = (tmp_path / "data" / "card.json").stat().st_mtime_ns
    prepare_data(config)
    assert (tmp_path / "data" / "card.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"data was made with other settings: data.k_core: None there, 4 now; it stays"):
        prepare_data(_config(tmp_path, "data.k_core=4"))
    with pytest.raises(UserError, match=r"model.build.context is 20"):
        prepare_data(_config(tmp_path, "model.build.context=20"))
    (tmp_path / "data" / "sequences.arrow").unlink()
    for read in (lambda: prepare_data(config), lambda: load_data(tmp_path)):
        with pytest.raises(UserError, match=r"sequences.arrow: written by another version .*: delete .*/data and run"):
            read()


def test_the_same_seed_gives_the_same_data(tmp_path: Path) -> None:
    cards = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_data(_config(tmp_path / name, f"run.seed={seed}"))
        cards.append(load_data(tmp_path / name).card["fingerprints"])
    assert cards[0] == cards[1] != cards[2]


def _held_out(folder: Path) -> tuple[dict[str, set[str]], dict[str, set[str]], np.ndarray]:
    """Items by id: all of each user's training prompts; all held-out ones; and the catalog's popularity."""
    bundle = load_data(folder)
    sides: tuple[dict[str, set[str]], dict[str, set[str]]] = ({}, {})
    for side, tables in ((0, [bundle.train]), (1, [bundle.validation, bundle.test])):
        for table in tables:
            prompts = table.rows(np.arange(len(table)))
            for row, user in enumerate(prompts.user):
                items = [*prompts.targets[row], *(prompts.history[row] if side == 0 else [])]
                sides[side].setdefault(user, set()).update(bundle.catalog.item_ids[items])
    return *sides, bundle.catalog.popularity


@pytest.mark.parametrize("split", ["leave_last", "global_time"])
def test_nothing_leaks_and_partitions_change_nothing(tmp_path: Path, split: str) -> None:
    results = []
    for name, rows in (("one", 5_000_000), ("many", 200)):
        prepare_data(
            _config(tmp_path / name, f"data.split={split}", f"data.partition_rows={rows}", "data.windows=0",
                    "data.max_history=100")
        )  # fmt: skip
        trained, held, popularity = _held_out(tmp_path / name)
        assert trained
        assert held
        assert not any(held[user] & trained.get(user, set()) for user in held)
        results.append((trained, held, popularity.tolist()))
    assert load_data(tmp_path / "many").card["log"]["partitions"] > 1
    assert results[0] == results[1]


@pytest.mark.parametrize("prompts_from", ["held_out", "all"])
def test_an_item_that_the_alignment_asks_for_is_not_fine_tuned_on(tmp_path: Path, prompts_from: str) -> None:
    """Nobody else's prompt or sequence changes by it, and the card counts the prompts of each kind."""
    prepare_data(plain := _config(tmp_path / "plain"))
    prepare_data(kept := _config(tmp_path / "kept", f"train.prompts_from={prompts_from}"))
    before, after = load_data(plain.run.dir), load_data(kept.run.dir)
    counts = after.card["training_prompts"]
    assert before.card["training_prompts"] == {"train": len(before.train), "held_out": 0}
    assert sum(counts.values()) == len(after.train)
    assert (counts["train"] > 0) is (prompts_from == "all")
    prompts = after.train.rows(np.arange(counts["train"], len(after.train)))
    whole, fitted = (_sequences(config) for config in (plain, kept))
    asked = {user for user, items in whole.items() if len(items) > kept.data.min_history}
    assert set(prompts.user) == asked < whole.keys()
    assert all(fitted[user] == whole[user] for user in whole.keys() - asked)
    for row, user in enumerate(prompts.user):
        ids = [after.catalog.item_ids[items[row]].tolist() for items in (prompts.seen, prompts.targets)]
        assert whole[user] == ids[0] + ids[1]
        assert fitted[user] == ids[0]
    assert [before.validation.fingerprint(), before.test.fingerprint()] == [
        after.validation.fingerprint(),
        after.test.fingerprint(),
    ]
    again = f"train.prompts_from: {prompts_from} there, train now"
    with pytest.raises(UserError, match=rf"data was made with other settings: {again}; .* choose another run\.dir"):
        prepare_data(_config(tmp_path / "kept"))


def _sequences(config: Config) -> dict[str, list[str]]:
    """Item ids that are fine-tuned on, by user."""
    table, ids = read_table(RunPaths(config.run.dir).sequences), load_data(config.run.dir).catalog.item_ids
    return {
        user: ids[items].tolist()
        for user, items in zip(table["user"].to_pylist(), table["items"].to_pylist(), strict=True)
    }


def test_popularity_counts_the_training_part_only(tmp_path: Path) -> None:
    prepare_data(_config(tmp_path, "data.windows=0", "data.max_history=100"))
    bundle = load_data(tmp_path)
    assert bundle.catalog.popularity.sum() == bundle.card["log"]["left"] - _held(bundle)


def _held(bundle: DataBundle) -> int:
    """Held-out items of all users."""
    tables = (bundle.validation, bundle.test)
    return sum(len(table.rows(np.arange(len(table))).targets.flat) for table in tables)


def test_synthetic_items_follow_from_one_another(tmp_path: Path) -> None:
    prepare_data(_config(tmp_path, "data.synthetic.sequence_strength=1", "data.k_core=0"))
    bundle = load_data(tmp_path)
    ids = read_table(tmp_path / "data" / "synthetic" / "successors.arrow")
    follow = arrow_to_ragged(ids.column("successors"))
    name_of = dict(zip(ids.column("item").to_pylist(), range(len(ids)), strict=True))
    prompts = bundle.test.rows(np.arange(len(bundle.test)))
    rank = np.zeros(4)
    for row in range(len(prompts)):
        walk = [name_of[name] for name in bundle.catalog.item_ids[[*prompts.history[row], *prompts.targets[row]]]]
        for before, after in pairwise(walk):
            rank[([*follow[before].tolist(), after]).index(after)] += 1
    assert rank[0] > rank[1] > rank[2]
    assert rank[:3].sum() > 0.8 * rank.sum()  # the rest: every successor was seen already
    assert len(set(bundle.catalog.titles)) == 30
    assert all(len(title.split()) == 2 for title in bundle.catalog.titles)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.k_core=61"], r"no interaction is left: of \d+ .*data.k_core \(61\) \d+"),
        (
            ["data.min_history=40"],
            r"train split is empty: .* 60 users left .*; with data.min_history 40 .* with 43 items, or with 51 or more",
        ),
        (["lists.k=31"], r"lists.k: a list of 31 items needs a larger catalog than the 30 items here"),
        (["model.build.context=20"], r"data.max_history: the longest prompt .* model.build.context is 20"),
    ],
)
def test_bad_settings_say_so_and_leave_nothing(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare_data(_config(tmp_path, *overrides))
    assert not list(tmp_path.iterdir())


def test_the_base_models_context_counts(tmp_path: Path) -> None:
    base = tmp_path / "base"
    backend = Tokenizer(models.WordLevel({"?": 0, "\n": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?").save_pretrained(base)
    config = _config(tmp_path / "run", f"model.path={base}", "codec.kind=semantic_id")
    with pytest.raises(UserError, match=r"base: no Hugging Face checkpoint there \(config.json is missing\)"):
        prepare_data(config)
    (base / "config.json").write_text(json.dumps({"max_position_embeddings": 10}))
    with pytest.raises(UserError, match=r"max_position_embeddings of .*config.json is 10"):
        prepare_data(config)
    (base / "config.json").write_text(json.dumps({"max_position_embeddings": 300}))
    prepare_data(config)
    assert "<a_0>" in load_data(config.run.dir).codec.tokenizer.get_vocab()


def test_missing_titles_are_counted_and_all_missing_is_an_error(tmp_path: Path) -> None:
    log = "user,item,time\n" + "".join(f"u{u},i{(u + t) % 9},{t}\n" for u in range(9) for t in range(9))
    (tmp_path / "log.csv").write_text(log)
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},Title {n}\n" for n in range(8)))
    table = ["data.source=table", f"data.path={tmp_path}/log.csv", f"data.items={tmp_path}/items.csv"]
    short = ["data.targets=2", "lists.k=2", "data.min_history=1", "data.k_core=0"]
    prepare_data(_config(tmp_path / "run", *table, *short))
    counts = load_data(tmp_path / "run").card["log"]
    assert (counts["read"], counts["without_title"], counts["items_without_title"], counts["left"]) == (81, 9, 1, 72)
    (tmp_path / "items.csv").write_text("item,title\nother,Title\n")
    with pytest.raises(UserError, match=r"of 81 interactions.*items without a title 81"):
        prepare_data(_config(tmp_path / "none", *table, *short))


def test_repeats_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    """Everybody buys i0 on every other day: it is shown again and again, and held out only where lists may hold it."""
    days = [f"u{u},{'i0' if day % 2 else f'i{1 + (u + day // 2) % 9}'},{day}\n" for u in range(9) for day in range(14)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(days))
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},Title {n}\n" for n in range(10)))
    table = ["data.source=table", f"data.path={tmp_path}/log.csv", f"data.items={tmp_path}/items.csv"]
    kept = [*table, "data.targets=2", "lists.k=2", "data.repeats=all"]
    for name, exclude in (("new", "true"), ("again", "false")):
        prepare_data(_config(tmp_path / name, *kept, f"lists.exclude_history={exclude}"))
        bundle = load_data(tmp_path / name)
        prompts = bundle.test.rows(np.arange(len(bundle.test)))
        often = bundle.catalog.item_ids.tolist().index("i0")
        assert bundle.card["log"]["left"] == 9 * 14
        assert (bundle.sequences.rows(np.arange(9)).flat == often).sum() == 9 * 5  # ten of fourteen days
        assert all((history == often).sum() == 6 for history in prompts.history)
        assert all(len(set(row)) == len(row) for part in (True, "shown") for row in prompts.excluded(part))
        assert all((often in row) == (name == "again") for row in prompts.targets)
    with pytest.raises(UserError, match=r"with other settings: .*lists.exclude_history: False there, shown now"):
        prepare_data(_config(tmp_path / "again", *kept, "lists.exclude_history=shown"))
    once = [*table, "data.targets=2", "lists.k=2", "data.k_core=0"]
    prepare_data(_config(tmp_path / "first", *once))
    prepare_data(_config(tmp_path / "first", *once, "lists.exclude_history=shown"))
    assert load_data(tmp_path / "first").card["log"]["repeated"] == 9 * 6


def test_items_without_a_group_are_counted_and_named(tmp_path: Path) -> None:
    prepare_data(_config(tmp_path / "whole"))
    made = tmp_path / "whole" / "data" / "synthetic"
    items = pq.read_table(made / "items.parquet").to_pylist()
    bare = [row | {"groups": [] if row["item"] in ("i3", "i20", "i7", "i11") else row["groups"]} for row in items]
    pq.write_table(pa.Table.from_pylist(bare), tmp_path / "items.parquet")
    table = [f"data.path={made / 'log.parquet'}", f"data.items={tmp_path / 'items.parquet'}"]
    config = _config(tmp_path / "bare", "data.source=table", *table, "data.columns.groups=groups")
    console = Console(record=True, width=800)
    data_stage(config, console)
    titles = {row["item"]: row["title"] for row in items}
    named = ", ".join(f"{item} ({titles[item]})" for item in ("i3", "i7", "i11"))
    ids = tmp_path / "bare" / "data" / "items_without_group.txt"
    assert f"4 of 30 items have no group: {named}, ... (all ids: {ids}); " in console.export_text()
    assert set(ids.read_text().split()) == {"i3", "i20", "i7", "i11"}
    assert not (tmp_path / "whole" / "data" / "items_without_group.txt").exists()


def test_nothing_prepared_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data: no prepared data there"):
        load_data(tmp_path)


def test_a_folder_that_is_no_data_is_left_alone(tmp_path: Path) -> None:
    stray = tmp_path / "data" / "notes.txt"
    stray.parent.mkdir()
    stray.touch()
    with pytest.raises(UserError, match=r"data is no prepared data, card\.json is missing: choose"):
        prepare_data(load_config(None, [f"run.dir={tmp_path}"]))
    assert list(stray.parent.iterdir()) == [stray]


@pytest.mark.skipif(LOGS is None, reason="needs real logs: set BLADE_LOGS to their folder")
def test_movielens_small_is_the_known_five_core(tmp_path: Path) -> None:
    settings = ["data.source=movielens", f"data.path={LOGS}/ml-latest-small", "model.build.context=1024"]
    prepare_data(load_config(None, [f"run.dir={tmp_path}", *settings]))
    bundle = load_data(tmp_path)
    assert bundle.card["log"]["read"] == 100_836
    assert (bundle.card["log"]["users"], len(bundle.catalog), bundle.card["log"]["left"]) == (610, 3650, 90_274)
    assert bundle.catalog.n_groups == 19
    assert bundle.catalog.popularity.sum() == 90_274 - _held(bundle)
    lists = bundle.test.rows(np.arange(len(bundle.test))).targets
    read = bundle.codec.parse(bundle.codec.encode_lists(lists), 5)
    np.testing.assert_array_equal(read[read != MISS], lists.flat)
