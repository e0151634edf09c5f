"""An export with the items of the day: what there was stays what it was, what is new is legal, what is gone is not."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.batches import Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.errors import UserError
from blade_dist.learners.policy import build_model
from blade_dist.rollouts.constrain import LegalMask
from blade_dist.serving.grown_weights import Tables
from blade_dist.serving.manifest import WEIGHTS, check_files, read_manifest
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.serving.request import ListRequest, Resolver
from blade_dist.settings import DataSettings, ModelSettings
from blade_dist.stages.catalog import catalog_stage
from blade_dist.stages.recommend import say_new
from tests.helpers.exports import ITEMS, KINDS, renew, rows_of, small_export, write_items

GONE, RENAMED, NEW = 2, 5, 3


@dataclass(frozen=True)
class Case:
    kind: str
    before: OpenedExport
    after: OpenedExport
    said: str


def of_the_day(before: OpenedExport) -> list[dict[str, str]]:
    """Two items are gone, one has another title, three are new: one as an old one, one as a withdrawn one."""
    rows = rows_of(before.catalog, range(GONE, ITEMS))
    rows[RENAMED - GONE]["title"] = "A changed title"
    titles = [before.catalog.titles[7], before.catalog.titles[0], "Something else"]
    return rows + [rows[0] | {"item": f"n{number}", "title": title} for number, title in enumerate(titles)]


def legal_items(opened: OpenedExport, legality: Legality) -> set[int]:
    """Items whose tokens are all legal, one after another, where a list begins."""
    blocks = opened.codec.item_blocks
    sets = legality.sets(blocks, Ragged.of([[]] * len(blocks)))
    allowed = LegalMask(legality, "cpu").allowed(sets, int(blocks.flat.max()) + 1).numpy()
    legal = allowed[np.arange(len(blocks.flat)), blocks.flat]
    return {item for item in range(len(blocks)) if legal[blocks.offsets[item] : blocks.offsets[item + 1]].all()}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    before = open_export(small_export(folder, request.param))
    said = renew(before.folder, of_the_day(before), folder / "today")
    return Case(request.param, before, open_export(folder / "today"), said)


def test_it_says_what_it_is(case: Case) -> None:
    before, after = case.before.manifest, case.after.manifest
    check_files(case.after.folder, after)
    assert after.day is not None
    assert after.trained is not None
    assert after.day.model_dump() == {"on_sale": ITEMS - GONE + NEW, "new": NEW, "changed": 1, "withdrawn": GONE}
    assert (after.trained.weights, after.trained.codec) == (before.weights, before.codec)
    assert (after.trained.catalog, after.trained.items) == (before.catalog, ITEMS)
    assert after.codec == case.after.codec.fingerprint() != before.codec
    assert after.catalog == case.after.catalog.fingerprint() != before.catalog
    assert f"{ITEMS - GONE + NEW} items are on sale: 3 new since the training, 1 changed; 2 withdrawn" in case.said
    told = Console(file=io.StringIO(), record=True)
    for opened in (case.before, case.after):
        say_new(opened, told)
    assert told.export_text() == f"recommend: 3 of {ITEMS - GONE + NEW} items came after the training\n"
    assert "3 of them came after" in (case.after.folder / "README.md").read_text()


def test_items_keep_their_rows_and_new_ones_follow(case: Case) -> None:
    before, after = case.before.catalog, case.after.catalog
    assert after.item_ids.tolist() == [*before.item_ids, "n0", "n1", "n2"]
    kept = [item for item in range(ITEMS) if item != RENAMED]
    assert after.titles[kept].tolist() == before.titles[kept].tolist()
    more = [f"{before.titles[7]} (2)", f"{before.titles[0]} (2)", "Something else"]
    assert [after.titles[RENAMED], *after.titles[ITEMS:]] == ["A changed title", *more]
    assert after.withdrawn is not None
    assert np.flatnonzero(after.withdrawn).tolist() == [0, 1]


def test_no_list_may_hold_what_is_gone_and_histories_may(case: Case) -> None:
    after = case.after
    legality = after.book.terms(after.manifest.lists).legality
    assert legality is not None

    def items(*listed: int) -> list[int]:
        tokens = after.codec.encode_list(np.array(listed, np.int32))
        return legality.read(Ragged.of([tokens]), Ragged.of([[]]))[0][0].tolist()

    # a writer reads tokens and checks no set: what is legal is asked at each of them
    assert items(ITEMS, ITEMS + 1, ITEMS + 2) == [ITEMS, ITEMS + 1, ITEMS + 2]
    assert not {0, 1} & legal_items(after, legality)
    assert {7, ITEMS} <= legal_items(after, legality)
    (one,) = Resolver(after).resolve([ListRequest(history=["n2", after.catalog.item_ids[0]])], [""])
    assert one.history.tolist() == [ITEMS + 2, 0]
    with pytest.raises(UserError, match=f"k: 42 items, and there are {ITEMS - GONE + NEW}"):
        Resolver(after).resolve([ListRequest(history=["n2"], k=42)], [""])


def test_the_policy_is_what_it_was(case: Case) -> None:
    """Weights are the same bytes, or rows that have moved; so the logits of old items are the same."""
    files = sorted(path.name for path in case.before.folder.glob(f"*{WEIGHTS}"))
    assert sorted(path.name for path in case.after.folder.glob(f"*{WEIGHTS}")) == files
    same = all((case.before.folder / name).read_bytes() == (case.after.folder / name).read_bytes() for name in files)
    assert same == (case.kind != "one")
    logits = []
    for opened in (case.before, case.after):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(opened.folder).eval()
        assert len(opened.codec.tokenizer) == len(model.get_input_embeddings().weight)
        prompt = torch.from_numpy(opened.codec.encode_prompt(np.array([9, 12, 30], np.int32))[None].astype(np.int64))
        first = opened.codec.item_tokens.flat[opened.codec.item_tokens.offsets[:-1]]
        kept = [item for item in range(ITEMS) if item != RENAMED]
        with torch.no_grad():
            logits.append(model(input_ids=prompt).logits[0, -1][torch.from_numpy(first[kept].astype(np.int64))])
    # a wider head may add in another order
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_tables_of_a_model_are_found_by_the_names_that_its_files_have(tmp_path: Path, tied: bool) -> None:
    build = {"hidden_size": 32, "layers": 1, "heads": 1, "kv_heads": 1, "ffn_size": 32, "context": 32, "tied": tied}
    build_model(ModelSettings.model_validate({"build": build}), 20, pad=0, end=1).save_pretrained(tmp_path)
    tables = Tables.of(tmp_path)
    assert (tables.embedding, tables.head) == ("model.embed_tokens.weight", None if tied else "lm_head.weight")
    assert load_file(tmp_path / "model.safetensors").keys() >= {*tables.all}


def test_the_next_day_starts_from_this_one(case: Case, tmp_path: Path) -> None:
    """Who was gone comes back, who came goes, and the policy is still the one that was trained."""
    rows = rows_of(case.after.catalog, range(ITEMS + 1))
    said = renew(case.after.folder, [*rows, rows[0] | {"item": "n9", "title": "Another day"}], tmp_path / "next")
    found = open_export(tmp_path / "next")
    assert found.manifest.trained == case.after.manifest.trained
    assert found.manifest.day is not None
    assert found.manifest.day.model_dump() == {"on_sale": ITEMS + 2, "new": 2, "changed": 0, "withdrawn": 2}
    assert found.catalog.item_ids.tolist()[ITEMS:] == ["n0", "n1", "n2", "n9"]
    assert "2 withdrawn" in said
    for item in range(ITEMS + NEW):
        names = [
            opened.codec.tokenizer.convert_ids_to_tokens(opened.codec.item_tokens[item].tolist())
            for opened in (case.after, found)
        ]
        assert names[0] == names[1]
    assert (found.folder / "README.md").read_text().count("## The catalog of the day") == 1


@pytest.mark.parametrize("case", ["title"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "it has no items"),
        (lambda rows: [row | {"item": "x" + row["item"]} for row in rows], "none of its 40 ids is an item of"),
        (lambda rows: rows[:2], "2 items are on sale, fewer than the 3 of a list"),
        (lambda rows: [*rows, rows[3], rows[3]], "1 ids stand there more than once, as 'i"),
        (lambda rows: [*rows[1:], rows[0] | {"title": "<br>"}], "1 of 40 items have no title, as 'i"),
        (lambda rows: [{"item": row["item"], "groups": row["groups"]} for row in rows], "no column 'title'"),
        (lambda rows: [{"title": row["title"]} for row in rows], "no column 'item'"),
        (lambda rows: [*rows, rows[0] | {"item": None}], "item 41 of 41 has no id"),
    ],
)
def test_bad_items_are_refused_and_nothing_is_written(case: Case, tmp_path: Path, change, message: str) -> None:
    with pytest.raises(UserError, match=message):
        renew(case.before.folder, change(rows_of(case.before.catalog, range(ITEMS))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["title"], indirect=True)
def test_bad_folders_are_refused(case: Case, tmp_path: Path) -> None:
    def says(message: str, served: Path, items: Path, out: Path) -> None:
        with pytest.raises(UserError, match=message):
            catalog_stage(served, items, out, DataSettings(), Console(quiet=True))

    served, items = case.before.folder, write_items(rows_of(case.before.catalog, range(ITEMS)), tmp_path / "a.parquet")
    says("nowhere.csv: no such file", served, tmp_path / "nowhere.csv", tmp_path / "out")
    says("no export there", tmp_path / "nowhere", items, tmp_path / "out")
    says("is, or is in, the export that is read", served, items, served)
    says("is, or is in, the export that is read", served, items, served / "inside")
    (tmp_path / "mine").mkdir()
    says("exists and is not an export", served, items, tmp_path / "mine")
    damaged = shutil.copytree(served, tmp_path / "damaged")
    (damaged / "trie" / "rank.npy").write_bytes(b"")
    says("rank.npy has 0 bytes instead of", damaged, items, tmp_path / "out")
    assert read_manifest(served).day is None
