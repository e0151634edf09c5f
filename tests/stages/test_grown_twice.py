"""A log that grows twice, from a run or from an export: earlier policies are opened, and mean what they meant."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from blade_dist.catalog.growth import writes_as
from blade_dist.data.bundle import DataBundle, load_data
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.stages.export import export_stage
from blade_dist.stages.grown import known_to, say_new, with_todays_items
from blade_dist.stages.opened import open_run
from blade_dist.store.exported import MANIFEST
from tests.helpers.exports import KINDS, renew
from tests.helpers.months import Shop, first_logits, names, prepared
from tests.helpers.runs import random_policy

JUNE = list(range(24))
JULY = [24, 25, 26, *range(2, 24)]
AUGUST = [27, 26, 25, 0, *range(3, 24)]
"""One is new, one that was new in July is gone, one that was gone is back."""
LASTING = [f"i{item}" for item in range(3, 24)]
"""On sale in all months."""


class Year:
    """Three months; a policy of June and one of July, each also as an export."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.folder, self.shop = kind, folder, Shop(folder, kind)
        self.june, self.of_june, june = self._month("june", JUNE)
        self.july, self.of_july, july = self._month("july", JULY, f"codec.grown_from={folder / 'june'}")
        self.policies = {"june": june, "july": july}
        for name, config in (("june", self.june), ("july", self.july)):
            export_stage(config, self.policies[name], folder / f"{name}-served", Console(quiet=True))
            self.policies[f"{name}-served"] = folder / f"{name}-served"
        self.august = self.shop.month("august", AUGUST, f"codec.grown_from={folder / 'july'}")
        self.of_august, _ = prepared(self.august)

    def _month(self, name: str, items: list[int], *settings: str) -> tuple[Config, DataBundle, Path]:
        config = self.shop.month(name, items, *settings)
        data, _ = prepared(config)
        policy = random_policy(config, data, config.run.dir / "sft" / "policy", tied=False, seed=len(items))
        return config, data, policy

    def written(self, name: str, source: str, *settings: str) -> tuple[Config, DataBundle, str]:
        """August's items in another run, grown from what ``source`` names."""
        config = self.shop.month(name, AUGUST, f"codec.grown_from={self.folder / source}", *settings)
        return config, *prepared(config)


@pytest.fixture(scope="module", params=list(KINDS))
def year(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Year:
    return Year(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("name", ["june", "july", "june-served", "july-served"])
def test_every_policy_on_the_way_writes_known_items_as_it_did(year: Year, name: str) -> None:
    before = year.of_june if name.startswith("june") else year.of_july
    opened = with_todays_items(year.policies[name], year.august, year.of_august)
    assert not (opened / MANIFEST).exists()  # a copy of an export is none: it has no items
    was, now = first_logits(year.policies[name], before, LASTING), first_logits(opened, year.of_august, LASTING)
    torch.testing.assert_close(now, was, rtol=0, atol=1e-5)
    assert open_run(year.august, year.policies[name]).reference.codec == year.of_august.codec.fingerprint()


@pytest.mark.parametrize(("name", "known", "new"), [("june", 22, {"i25", "i26", "i27"}), ("july", 24, {"i27"})])
def test_it_is_said_what_is_new_to_each(year: Year, name: str, known: int, new: set[str]) -> None:
    said = io.StringIO()
    say_new("evaluate", year.policies[name], year.august, year.of_august, Console(width=400, file=said))
    line = said.getvalue()
    assert f"knows {known} of the items; {len(new)} are new (" in line
    assert set(line.split("(")[-1].split(")")[0].split(", ")) == new


@pytest.mark.parametrize("year", ["one"], indirect=True)
def test_items_that_came_between_get_the_vectors_that_they_got_then(year: Year) -> None:
    vectors = []
    for config, data in ((year.july, year.of_july), (year.august, year.of_august)):
        row = {item: number for number, item in enumerate(data.catalog.item_ids.tolist())}
        model = AutoModelForCausalLM.from_pretrained(with_todays_items(year.policies["june"], config, data))
        tokens = [data.codec.item_tokens[row[item]][0] for item in ("i24", "i25", "i26")]  # the first is gone again
        vectors.append(model.get_output_embeddings().weight[np.array(tokens)])
    assert not torch.equal(vectors[0][0], vectors[0][1])
    torch.testing.assert_close(vectors[1], vectors[0], rtol=0, atol=1e-5)


def test_a_run_grows_from_an_export_as_from_its_run(year: Year) -> None:
    config, data, said = year.written("from-export", "july-served")
    assert "know 24 of 25 items; 1 are new (i27)" in said
    assert data.catalog.item_ids.tolist() == year.of_august.catalog.item_ids.tolist()
    for item in range(len(data.catalog)):
        for shown in (False, True):
            assert names(data, item, shown) == names(year.of_august, item, shown)
    for name in ("june", "july", "june-served", "july-served"):
        assert known_to(year.policies[name], config, data) is not None


def test_a_run_grows_from_the_catalog_of_a_day(year: Year, tmp_path: Path) -> None:
    """New items get their tokens from ``blade-dist catalog``; the policy of before is known by its own items."""
    rows = [{"item": f"i{item}", "title": f"Title {item} of {item % 5}", "groups": "a"} for item in (*JUNE, 30)]
    renew(year.policies["june-served"], rows, year.folder / "june-today")
    config, data, said = year.written("from-day", "june-today")
    assert "know 22 of 25 items; 3 are new (" in said
    assert "i30" in data.catalog.item_ids
    today = year.folder / "june-today"
    opened = with_todays_items(today, config, data)
    was = first_logits(year.policies["june"], year.of_june, LASTING)
    torch.testing.assert_close(first_logits(opened, data, LASTING), was, rtol=0, atol=1e-5)
    for name in ("june", "june-served"):
        opened = with_todays_items(year.policies[name], config, data)
        torch.testing.assert_close(first_logits(opened, data, LASTING), was, rtol=0, atol=1e-5)


@pytest.mark.parametrize("year", ["one"], indirect=True)
def test_policies_whose_tokens_mean_other_items_are_refused(year: Year) -> None:
    other = year.shop.month("reversed", JUNE[::-1])
    data, _ = prepared(other)
    policy = random_policy(other, data, other.run.dir / "sft" / "policy", tied=False)
    assert known_to(policy, year.august, year.of_august) is None
    with pytest.raises(UserError, match="no fine-tuned model there"):
        open_run(year.august, policy)
    early, late = (year.of_june.codec, year.of_june.catalog), (year.of_august.codec, year.of_august.catalog)
    assert writes_as(*early, *late)
    assert not writes_as(*late, *early)


@pytest.mark.parametrize("year", ["one"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["codec.kind=title"], "july-served writes its items otherwise: codec.kind: semantic_id there, title here"),
        (["codec.levels=2"], "july-served writes its items otherwise: codec.levels: 1 there, 2 here; set 1"),
        (["codec.prompt=user {history}"], "prompts of .*july-served have other tokens than those of codec.prompt"),
    ],
)
def test_an_export_that_does_not_fit_is_refused(year: Year, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        year.written("refused", "july-served", *settings)
    assert not (year.folder / "refused" / "data").exists()


@pytest.mark.parametrize("year", ["one"], indirect=True)
@pytest.mark.parametrize("spoil", ["a missing file", "another byte", "another schema", "no files"])
def test_a_damaged_export_is_refused_in_one_line(year: Year, spoil: str, tmp_path: Path) -> None:
    served = Path(shutil.copytree(year.policies["july-served"], tmp_path / "served"))
    manifest, items = json.loads((served / MANIFEST).read_text()), served / "catalog" / "items.arrow"
    if spoil == "a missing file":
        (served / "codec" / "codec.arrow").unlink()
    elif spoil == "another byte":
        items.write_bytes(items.read_bytes()[:-1] + b"!")
    else:
        changed = {"schema_version": 99} if spoil == "another schema" else {"files": None}
        (served / MANIFEST).write_text(json.dumps(manifest | changed))
    message = {
        "a missing file": "codec/codec.arrow is missing; copy the export again",
        "another byte": "catalog/items.arrow has another checksum",
        "another schema": "schema_version: 99",
        "no files": "recommender.json is damaged: files; copy",
    }[spoil]
    config = year.shop.month("damaged", AUGUST, f"codec.grown_from={served}")
    with pytest.raises(UserError, match=message) as raised:
        prepared(config)
    assert "\n" not in str(raised.value)
    assert not (config.run.dir / "data").exists()


def test_what_was_grown_keeps_all_that_it_grew_from(year: Year) -> None:
    """The runs of before may be gone: the policies are enough."""
    moved = year.folder / "moved"
    for name in ("june", "july"):
        shutil.copytree(year.policies[name], moved / name)
    for name in ("june", "july"):
        found = known_to(moved / name, year.august, load_data(year.august.run.dir))
        assert found is not None
        assert len(found.catalog) == len(year.of_june.catalog if name == "june" else year.of_july.catalog)
