"""User ids that are spelt in two ways, in one log and in a log and its ready split."""

import pytest

from tests.cases.wild import Wild, log, write_csv


def spelt(wild: Wild, **users: str) -> None:
    """The log with some users named otherwise in the second half of their rows."""
    rows = [(users.get(u, u) if place % 12 > 5 else u, i, t) for place, (u, i, t) in enumerate(log())]
    write_csv(wild.folder / "log.csv", ["user", "item", "time"], rows)


def test_blanks_and_points_are_no_part_of_an_id(wild: Wild) -> None:
    rows = [(u[1:], i, t) for u, i, t in log()]
    rows[0] = (f" {rows[0][0]}\u200b", *rows[0][1:])
    rows[1] = (f"{rows[1][0]}.0", *rows[1][1:])
    write_csv(wild.folder / "log.csv", ["user", "item", "time"], rows)
    data = wild.data()
    assert data.bundle.card["users"]["read"] == 30
    assert data.line("user ids with blanks or .0").startswith("data: repaired: 2 user ids with blanks or .0: ' 0")
    assert "differ from another's" not in data.said


@pytest.mark.parametrize("rows", [10**6, 50])
def test_users_of_one_log_who_are_alike_are_counted(wild: Wild, rows: int) -> None:
    spelt(wild, u3="U3", u4="#u4")
    data = wild.data(f"data.partition_rows={rows}")
    assert data.bundle.card["users"]["read"] == 32
    (line,) = [hint for hint in data.bundle.card["remarks"]["hints"] if "users have ids" in hint]
    assert line.startswith("4 users have ids that differ from another's by zeros, case or marks alone, and count as ")
    assert line.endswith(("(as 'U3' and 'u3')", "(as '#u4' and 'u4')"))


def split(wild: Wild, spelling: dict[str, str]) -> list[str]:
    """A ready split of each user's last two items, with some users spelt as given."""
    own: dict[str, list[str]] = {}
    for user, item, _ in log():
        own.setdefault(user, []).append(item)
    rows = []
    for user, items in own.items():
        named = spelling.get(user, user)
        rows += [("valid", named, "|".join(items[:-2]), items[-2]), ("test", named, "|".join(items[:-1]), items[-1])]
    write_csv(wild.folder / "splits.csv", ["split", "user", "history", "item"], rows)
    return [f"data.splits={wild.folder / 'splits.csv'}", "data.k_core=null"]


@pytest.mark.parametrize("rows", [10**6, 50])
def test_a_splits_users_are_those_of_the_log(wild: Wild, rows: int) -> None:
    asked = wild.data(*split(wild, {}), f"data.partition_rows={rows}")
    data = wild.data(*split(wild, {"u3": "U3", "u4": '"u4"'}), f"data.partition_rows={rows}")
    assert data.histories == asked.histories
    assert data.bundle.sequences.fingerprint() == asked.bundle.sequences.fingerprint()  # nothing held out is trained on
    line = data.line("joined by other zeros")
    assert "4 user ids joined by other zeros, case or marks (data.splits): 'U3' in data.splits is user 'u3'" in line


def test_a_splits_user_who_is_one_of_two_is_nobody(wild: Wild) -> None:
    spelt(wild, u3="U3")
    assert "user '#u3' has no interaction in the log (data.path)" in wild.refused(*split(wild, {"u3": "#u3"}))


def test_a_split_says_what_was_repaired_in_it(wild: Wild) -> None:
    given = split(wild, {"u3": "u3 "})
    path = wild.folder / "splits.csv"
    path.write_text(path.read_text().replace("i1|", "I1|").replace("|", " | "))
    said = wild.data(*given).said
    assert "user ids with blanks or .0 (data.splits)" in said
    assert "'I1' in data.splits is item 'i1'" in said
