"""A later run whose items are written as an earlier one's: its policies are opened with the items of the later one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from blade_dist.catalog.rules import load_rules
from blade_dist.data.bundle import load_data
from blade_dist.errors import UserError
from blade_dist.serving.opened import open_export
from blade_dist.stages.export import export_stage
from blade_dist.stages.grown import known_to, say_new, with_todays_items
from blade_dist.stages.opened import open_run
from blade_dist.store.policy import check_base, read_policy
from blade_dist.store.run import RunPaths
from blade_dist.training.sft import start_model, why_whole
from tests.helpers.exports import KINDS
from tests.helpers.months import Shop, first_logits, names, prepared
from tests.helpers.runs import random_policy

OLD, GONE, NEW = 24, 2, 3


class Case:
    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.shop = kind, Shop(folder, kind)
        self.june = self.shop.month("june", list(range(OLD)))
        self.before, _ = prepared(self.june)
        self.policy = random_policy(self.june, self.before, folder / "june" / "sft" / "policy", tied=False)
        # new items stand before the old ones, so that no row is the same
        items = [*range(OLD, OLD + NEW), *range(GONE, OLD)]
        self.july = self.shop.month("july", items, f"codec.grown_from={folder / 'june'}")
        self.after, self.said = prepared(self.july)

    @property
    def row(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.after.catalog.item_ids.tolist())}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp(request.param), request.param)


def test_known_items_keep_their_tokens_and_what_is_gone_stands_last(case: Case) -> None:
    before, after = case.before, case.after
    assert after.catalog.item_ids[-GONE:].tolist() == ["i0", "i1"]
    assert after.catalog.withdrawn is not None
    assert np.flatnonzero(after.catalog.withdrawn).tolist() == [OLD + NEW - GONE, OLD + NEW - 1]
    for old, item in enumerate(before.catalog.item_ids):
        assert after.catalog.titles[case.row[item]] == before.catalog.titles[old]
        for shown in (False, True):
            assert names(after, case.row[item], shown) == names(before, old, shown)
    assert len({after.codec.item_tokens[item].tobytes() for item in range(OLD + NEW)}) == OLD + NEW
    assert (
        after.codec.encode_prompt(np.zeros(0, np.int32)).tolist()
        == before.codec.encode_prompt(np.zeros(0, np.int32)).tolist()
    )
    assert (
        f"know {OLD - GONE} of {OLD + NEW - GONE} items; {NEW} are new (i24, i25, i26); {GONE} of theirs" in case.said
    )


def test_prompts_are_of_todays_items_and_no_list_holds_what_is_gone(case: Case) -> None:
    data = case.after
    rows = data.test.rows(np.arange(len(data.test)))
    assert max(rows.seen.flat.max(), rows.targets.flat.max()) < OLD + NEW - GONE
    rules = load_rules(case.july.lists, RunPaths(case.july.run.dir).catalog)
    assert rules is not None
    assert np.flatnonzero(rules.excluded).tolist() == [case.row["i0"], case.row["i1"]]


def test_a_policy_of_the_earlier_run_writes_known_items_as_it_did(case: Case) -> None:
    opened = with_todays_items(case.policy, case.july, case.after)
    stamp = read_policy(opened, case.after.codec.fingerprint())
    assert (stamp.policy, stamp.step) == ("sft", 0)
    assert with_todays_items(case.policy, case.july, case.after) == opened
    assert with_todays_items(opened, case.july, case.after) == opened
    known = [f"i{item}" for item in range(GONE, OLD)]
    before, after = first_logits(case.policy, case.before, known), first_logits(opened, case.after, known)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_it_is_said_what_is_new(case: Case) -> None:
    said = io.StringIO()
    console = Console(width=400, file=said)
    say_new("evaluate", case.policy, case.july, case.after, console)
    say_new("evaluate", with_todays_items(case.policy, case.july, case.after), case.july, case.after, console)
    lines = said.getvalue().splitlines()
    assert lines == [f"evaluate: {case.policy} knows {OLD - GONE} of the items; 3 are new (i24, i25, i26) to it"]


def test_an_evaluation_needs_no_fine_tuned_model_and_an_export_has_todays_items(case: Case, tmp_path: Path) -> None:
    run = open_run(case.july, case.policy)
    assert run.reference.codec == case.after.codec.fingerprint()
    with pytest.raises(UserError, match="no fine-tuned model there"):
        open_run(case.july)
    export_stage(case.july, case.policy, tmp_path / "served", Console(quiet=True))
    opened = open_export(tmp_path / "served")
    assert opened.catalog.on_sale == OLD + NEW - GONE


def test_fine_tuning_goes_on_from_it(case: Case) -> None:
    opened = with_todays_items(case.policy, case.july, case.after)
    check_base(opened, case.after.codec.fingerprint(), tokenizer_of=None)
    config = case.july.model_copy(update={"model": case.july.model.model_copy(update={"path": opened})})
    assert why_whole(config, case.after.codec) is None  # no token is new to it
    model = start_model(config, case.after.codec)
    assert model.get_input_embeddings().num_embeddings == case.after.codec.vocabulary


@pytest.mark.parametrize("case", ["one", "two"], indirect=True)
def test_checkpoints_whose_tokens_are_other_items_are_refused(case: Case) -> None:
    plain = case.shop.month("alone", list(range(OLD + NEW))[::-1])
    alone, _ = prepared(plain) if not (plain.run.dir / "data").exists() else (load_data(plain.run.dir), "")
    assert known_to(case.policy, plain, alone) is None
    assert with_todays_items(case.policy, plain, alone) == case.policy
    with pytest.raises(UserError, match="a checkpoint of another model"):
        read_policy(case.policy, alone.codec.fingerprint())


@pytest.mark.parametrize("case", ["one"], indirect=True)
def test_as_many_other_items_are_not_the_same(case: Case) -> None:
    """Their codecs are equal, as items with a token of their own are numbered."""
    other = case.shop.month("as-many", list(range(1, OLD + 1)))
    data, _ = prepared(other)
    assert data.codec.fingerprint() == case.before.codec.fingerprint()
    said = r"policy: a checkpoint of another catalog: .* as item \d+ is 'i\d+' there and 'i\d+' here; use the config"
    with pytest.raises(UserError, match=said):
        with_todays_items(case.policy, other, data)
    own = random_policy(other, data, other.run.dir / "sft" / "policy", tied=False)
    assert with_todays_items(own, other, data) == own


@pytest.mark.parametrize("case", ["one"], indirect=True)
@pytest.mark.parametrize("kind", [[], ["codec.kind=title"], ["codec.kind=semantic_id"]])
def test_a_policy_is_no_base_for_other_items_that_its_tokens_would_name(case: Case, kind: list[str]) -> None:
    config = case.shop.month("based", list(range(OLD)), f"model.path={case.policy}", "codec.kind=null", *kind)
    with pytest.raises(UserError, match=r"its tokens of items, as <a_0>, are of another run's items; set codec.grown"):
        prepared(config)


@pytest.mark.parametrize("case", ["one"], indirect=True)
@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (list(range(OLD)), ["codec.grown_from=nowhere"], "nowhere: no prepared data there, and no export"),
        (list(range(OLD)), ["codec.prompt=user {history}"], r"other settings: codec.prompt: .* there, user"),
        (list(range(100, 130)), [], "none of the 30 items here, as 'i100', is one of"),
    ],
)
def test_an_earlier_run_that_does_not_fit_is_refused(
    case: Case, items: list[int], settings: list[str], message: str
) -> None:
    config = case.shop.month("other", items, f"codec.grown_from={case.shop.folder / 'june'}", *settings)
    with pytest.raises(UserError, match=message):
        prepared(config)
    assert not (config.run.dir / "data").exists()
