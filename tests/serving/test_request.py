"""What is asked for, in the terms of the catalog; and what is refused, each with the field that is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blade_dist.catalog.terms import tightened
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.request import Resolved, Resolver, answer, notes
from blade_dist.settings import ListSettings


def resolved(opened: OpenedExport, **fields: Any) -> Resolved:
    resolver = Resolver(opened)
    return resolver.resolve([resolver.parse(fields, "request: ")], ["request: "])[0]


def under(opened: OpenedExport, **changes: Any) -> OpenedExport:
    """The export with other entries in its manifest."""
    return replace(opened, manifest=opened.manifest.model_copy(update=changes))


def ids(opened: OpenedExport, items: list[int]) -> list[str]:
    return opened.catalog.item_ids[items].tolist()


def test_a_held_out_users_request_is_the_prompt_that_evaluate_shows(
    opened: OpenedExport, tiny_data: DataBundle
) -> None:
    test = tiny_data.test.rows(np.arange(len(tiny_data.test)))
    assert (test.seen.lengths > opened.manifest.max_history).any()
    for row in range(len(test)):
        one = resolved(opened, history=ids(opened, test.seen[row].tolist()))
        assert one.history.tolist() == test.history[row].tolist()
        assert sorted(one.excluded.tolist()) == sorted(test.excluded(True)[row].tolist())
        assert one.cut == len(test.seen[row]) - len(test.history[row])
        assert (one.skipped, one.lists, one.decode) == ([], opened.manifest.lists, "list")


def test_repeats_are_shown_as_training_saw_them(opened: OpenedExport) -> None:
    history = ids(opened, [4, 7, 4, 5, 7])
    shown = {how: resolved(under(opened, repeats=how), history=history) for how in ("first", "last", "all")}
    assert {how: one.history.tolist() for how, one in shown.items()} == {
        "first": [4, 7, 5],
        "last": [4, 5, 7],
        "all": [4, 7, 4, 5, 7],
    }
    assert all(one.excluded.tolist() == [4, 5, 7] for one in shown.values())


def test_what_a_list_may_hold_again(opened: OpenedExport) -> None:
    history = ids(opened, list(range(12)))
    for exclude_history, excluded in ((True, range(12)), ("shown", range(4, 12)), (False, [])):
        lists = opened.manifest.lists.model_copy(update={"exclude_history": exclude_history})
        one = resolved(under(opened, lists=lists), history=history)
        assert one.excluded.tolist() == [*excluded]
        assert (one.cut, one.history.tolist()) == (4, [*range(4, 12)])


def test_unknown_ids_are_skipped_and_said(opened: OpenedExport) -> None:
    one = resolved(opened, history=["gone", *ids(opened, [3]), "gone too"], k=2)
    assert (one.history.tolist(), one.skipped, one.lists.k) == ([3], ["gone", "gone too"], 2)
    answered = answer(opened, one, [5, 6], [-0.5, -1.0])
    assert [entry["id"] for entry in answered["items"]] == ids(opened, [5, 6])
    assert answered["items"][1] == {
        "id": opened.catalog.item_ids[6],
        "title": opened.catalog.titles[6],
        "logprob": -1.0,
    }
    assert notes(answered) == ["2 ids of the history are no items and were skipped: 'gone', 'gone too'"]
    assert notes(answered | {"skipped": [], "cut": 3}) == [
        "the 3 oldest items of the history are not shown to the model"
    ]


def test_a_request_excludes_items_and_groups_and_limits_others(opened: OpenedExport) -> None:
    first, second = opened.catalog.group_names[:2]
    exclude = [*ids(opened, [9]), f"group:{first}", "gone"]
    one = resolved(opened, history=ids(opened, [1]), exclude=exclude, at_most={second: 1})
    members = {item for item in range(len(opened.catalog)) if 0 in opened.catalog.groups[item]}
    assert set(one.excluded.tolist()) == {1, 9} | members
    assert one.lists.at_most == {second: 1}


def test_a_history_is_cut_to_what_the_context_holds(opened: OpenedExport) -> None:
    codec, history = opened.codec, [*range(8)]
    longest = codec.max_list_tokens(3)
    tokens = int(codec.item_blocks.lengths[history[-2:]].sum()) + len(codec.prefix) + len(codec.suffix)
    short = under(opened, context=longest + tokens)
    one = resolved(short, history=ids(opened, history))
    assert (one.history.tolist(), one.cut) == (history[-2:], 6)
    assert len(codec.encode_prompt(one.history)) + longest <= short.context
    with pytest.raises(UserError, match=r"^request: k: a list of 12 items takes up to \d+ of the model's \d+ tokens"):
        resolved(short, history=ids(opened, history), k=12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "request: history: Field required"),
        ({"history": "i1"}, "request: history: Input should be a valid list"),
        ({"history": [None]}, "request: history[0]: Input should be a valid string"),
        ({"history": []}, "request: history: is empty; give at least one item"),
        ({"history": ["gone", "off"]}, "request: history: none of its 2 ids is an item ('gone', 'off')"),
        ({"history": ["a\x1b[31m"]}, "request: history: 'a\\x1b[31m' has a control character"),
        ({"history": ["1"], "exclude": ["a\n"]}, "request: exclude: 'a\\n' has a control character"),
        ({"history": ["1"], "k": 0}, "request: k: Input should be greater than 0"),
        ({"history": ["1"], "k": 41}, "request: k: 41 items, and there are 40; ask for fewer"),
        ({"history": ["1"], "k": 40}, "request: k: 40 items, and 39 of 40 may stand in this list; ask for fewer"),
        ({"history": ["1"], "at_most": {"*": 0}}, "request: k: 3 items, and 0 of 40 may stand in this list"),
        ({"history": ["1"], "at_most": {"x": 1}}, "request: at_most: there is no group 'x'; did you mean"),
        ({"history": ["1"], "exclude": ["group:x"]}, "request: exclude: there is no group 'x'; did you mean"),
        ({"history": ["1"], "decode": "guess"}, "request: decode: Input should be 'list', 'rank' or 'beam'"),
        ({"history": ["1"], "K": 3}, "request: K: Extra inputs are not permitted"),
        ({"history": ["1"], "seed": -1}, "request: seed: Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_the_name_of_the_field(
    opened: OpenedExport, fields: dict[str, Any], message: str
) -> None:
    known = opened.catalog.item_ids[1]
    filled = {name: [known if item == "1" else item for item in value] if isinstance(value, list) else value
              for name, value in fields.items()}  # fmt: skip
    with pytest.raises(UserError) as error:
        resolved(opened, **filled)
    assert str(error.value).startswith(message)


def test_a_request_tightens_the_rules_and_never_loosens_them() -> None:
    own = ListSettings(k=5, exclude=["x"], at_most={"a": 2, "*": 3})
    assert tightened(own, None, {"a": 4, "b": 5, "c": 1}).at_most == {"a": 2, "b": 3, "c": 1, "*": 3}
    assert tightened(own, None, {"*": 1}).at_most == {"a": 1, "*": 1}
    both = tightened(ListSettings(at_most={"a": 2}), 7, {"b": 1})
    assert (both.at_most, both.k) == ({"a": 2, "b": 1}, 7)
    assert tightened(own, 7, {}).exclude == ["x"]
