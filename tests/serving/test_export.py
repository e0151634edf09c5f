"""An export is whole, says what it is, and is refused where it is damaged, foreign, or of another version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import load_trie
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.serving.card import Base
from blade_dist.serving.export import CATALOG, CODEC, TRIE
from blade_dist.serving.manifest import check_files, read_manifest
from blade_dist.settings import Config
from blade_dist.stages.export import export_stage
from blade_dist.store.exported import MANIFEST
from tests.helpers.program import Program
from tests.helpers.runs import random_policy


@pytest.fixture
def served(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(made, tmp_path / "copy")


def test_it_holds_what_the_run_knew(made: Path, tiny_config: Config, tiny_data: DataBundle) -> None:
    manifest = read_manifest(made)
    check_files(made, manifest)
    assert {path.suffix for path in made.rglob("*") if path.is_file()} <= {
        *(".safetensors", ".json", ".jinja", ".arrow", ".npy", ".md")
    }
    codec, catalog = Codec.load(made / CODEC), Catalog.load(made / CATALOG)
    assert codec.fingerprint() == manifest.codec == tiny_data.codec.fingerprint()
    assert catalog.fingerprint() == manifest.catalog
    assert catalog.titles.tolist() == tiny_data.catalog.titles.tolist()
    assert [row.tolist() for row in catalog.groups] == [row.tolist() for row in tiny_data.catalog.groups]
    assert len(load_trie(codec, made / TRIE)) == len(catalog)
    assert manifest.lists == tiny_config.lists
    assert (manifest.policy, manifest.max_history, manifest.repeats) == ("sft", 8, "first")


def test_its_card_says_what_is_not_known(made: Path, tiny_config: Config) -> None:
    card = (made / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "These weights have not been evaluated" in card
    assert "built from nothing" in card
    assert str(tiny_config.run.dir.parent) not in card
    assert "max_history: 8" in card


def test_the_licence_of_the_base_is_named_and_goes_along(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\nlanguage: [en]\n---\n# A model\n")
    (tmp_path / "LICENSE.txt").write_text("terms")
    base = Base.of(tmp_path)
    assert (base.licence, [file.name for file in base.files]) == ("llama3.2", ["LICENSE.txt"])
    assert "Licence: `llama3.2`, as its card says. Its text: `LICENSE.txt`." in base.describe()
    (tmp_path / "README.md").write_text("# no head ---\n a --- b ---")
    assert Base.of(tmp_path).licence is None
    assert Base.of(tmp_path / "gone").describe().startswith("`gone`. Licence: not named in its folder")


@pytest.mark.parametrize("name", ["model.safetensors", "catalog/items.arrow", "trie/token.npy", "codec/codec.json"])
def test_a_flipped_bit_is_found(served: Path, name: str) -> None:
    content = bytearray((served / name).read_bytes())
    content[len(content) // 2] ^= 1
    (served / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} has another checksum"):
        check_files(served, read_manifest(served))
    (served / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        check_files(served, read_manifest(served))


def test_weights_that_nobody_knows_are_refused_and_an_edited_card_is_not(served: Path) -> None:
    (served / "README.md").write_text("ours")
    check_files(served, read_manifest(served))
    shutil.copy(served / "model.safetensors", served / "more.safetensors")
    with pytest.raises(UserError, match="not a file of this export"):
        check_files(served, read_manifest(served))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "schema_version: 3; this version of blade_dist reads 1 and 2: write"),
        ({"schema_version": None}, "schema_version: an earlier version's"),
        ({"decode": "guess"}, "damaged: decode: Input should be"),
        ({"extra": 1}, "damaged: extra: Extra inputs"),
        ({"k": 99}, "damaged: k: 99, and lists.k: "),
    ],
)
def test_a_manifest_of_another_version_or_damaged(served: Path, change: dict, message: str) -> None:
    content = json.loads((served / MANIFEST).read_text())
    (served / MANIFEST).write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message):
        read_manifest(served)
    (served / MANIFEST).write_text("[]")
    with pytest.raises(UserError, match="schema_version"):
        read_manifest(served)
    (served / MANIFEST).unlink()
    with pytest.raises(UserError, match="no export there"):
        read_manifest(served)


def test_what_cannot_be_served_is_not_exported(ready: Program) -> None:
    arguments = ready.needs("export")
    assert "lists.constrain: none is for comparison" in ready.fails(
        "export", *arguments, "--set", "lists.constrain=none"
    )
    assert "there is no item 'nothing'" in ready.fails("export", *arguments, "--set", "lists.exclude=[nothing]")
    (ready.paths.reference / "model.safetensors").rename(ready.paths.reference / "pytorch_model.bin")
    assert "pickled weights are not exported" in ready.fails("export", *arguments)


def test_it_takes_the_place_of_an_export(made: Path, served: Path, tiny_config: Config, tiny_data: DataBundle) -> None:
    (served / "old").touch()
    checkpoint = random_policy(tiny_config, tiny_data, served.parent / "policy", tied=True, seed=1)
    export_stage(tiny_config, checkpoint, served, Console(quiet=True))
    assert not (served / "old").exists()
    assert read_manifest(served).weights != read_manifest(made).weights
    assert np.load(served / TRIE / "item.npy", allow_pickle=False).size == len(tiny_data.catalog)
