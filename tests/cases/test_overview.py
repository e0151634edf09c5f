"""What went, and why: the table, the warnings, users with the whole catalog, who is at work in a folder."""

import multiprocessing
import re
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.store.lock import held
from tests.cases.wild import ROWS, START, Outcome, Wild, log, write_csv

NAMES = ["user", "item", "time"]


def _row(made: Outcome, name: str) -> list[str]:
    """Cells of a row of the table that are not empty."""
    lines = made.said[made.said.index("for example") :].splitlines()[2:]
    for line in lines[: lines.index(next(line for line in lines if line.startswith("data: ")))]:
        if line.strip().startswith(name):
            return re.split(r"  +", line.strip())
    raise AssertionError(f"no row {name!r} in\n{made.said}")


def test_the_table_says_what_went_and_why(wild: Wild) -> None:
    wild.items([(f"i{n}", f"Title {n}", "ab"[n % 2]) for n in range(15)])
    again = [(user, item, time + 10**6) for user, item, time in log()]
    write_csv(wild.folder / "log.csv", NAMES, [*log(), *again, ("NA", "i1", 5)])
    made = wild.data("data.k_core=7", "data.min_history=1", "data.targets=1")
    missing = sum(2 for _, item, _ in log() if int(item[1:]) >= 15)
    assert _row(made, "read")[1:4] == [f"{2 * ROWS + 1}", "30", "24"]
    assert _row(made, "- item without")[1] == str(missing)
    assert _row(made, "- item without")[-1].startswith("item 'i")
    assert _row(made, "- repeated")[1] == str(ROWS - missing // 2)
    assert re.match(r"user 'u\d+' had 'i\d+' 2 times", _row(made, "- repeated")[-1])
    assert _row(made, "- user is a null")[1] == "1"
    rows = [
        int(_row(made, name)[1].replace(",", "")) for name in ("- item", "- repeated", "- user is", "- too few", "kept")
    ]
    assert sum(rows) == 2 * ROWS + 1
    assert max(map(len, (line for line in made.said.splitlines() if not line.startswith("data: ")))) <= 80
    assert max(map(len, made.said.replace(str(wild.folder), "").splitlines())) <= 240


def test_a_core_that_drops_many_says_what_others_would_keep(wild: Wild) -> None:
    rows = [row for row in log(users=40) if int(row[0][1:]) < 20 or row[2] % 1000 < 3]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    made = wild.data("data.k_core=4")
    line = made.line("warning: data.k_core=4")
    kept = {int(k): int(users) for k, users in re.findall(r"data\.k_core=(\d+) keeps (\d+)", line)}
    for k, users in kept.items():
        assert wild.data(f"data.k_core={k}").log["users"] == users
    assert kept[0] == 40 > made.log["users"]


def test_a_core_that_drops_everything_says_what_would_keep_some(wild: Wild) -> None:
    assert "data.k_core=3 keeps 30" in wild.refused("data.k_core=100")


def test_ratings_that_drop_most_are_said(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", [*NAMES, "rating"], [(*row, 1 + n % 4) for n, row in enumerate(log(each=20))])
    made = wild.data("data.min_rating=4", "data.k_core=0", "data.targets=1", "lists.k=1", "data.min_history=1")
    assert "data.min_rating=4 drops 450 of 600 rows; data.min_rating=3 keeps 300" in made.said


@pytest.mark.parametrize(("there", "said"), [(12, True), (20, True), (23, False)])
def test_a_file_that_lacks_items_is_said(wild: Wild, there: int, said: bool) -> None:
    wild.items([(f"i{n}", f"Title {n}", "a") for n in range(there)])
    made, lost = wild.data(), sum(int(item[1:]) >= there for _, item, _ in log())
    line = (
        f"warning: data.items has a title for {there} of the log's 24 items, and {lost} of {ROWS} rows go with the "
        "others: is it whole, and of this log?"
    )
    assert (line in made.said) == said


@pytest.mark.parametrize(("nobody", "share", "said"), [("-", 3, True), ("guest", 5, True), ("0", 40, False)])
def test_a_user_with_a_tenth_of_the_log_is_said(wild: Wild, nobody: str, share: int, said: bool) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(u if n % share else nobody, i, t) for n, (u, i, t) in enumerate(log())])
    line = f"warning: user '{nobody}' has {ROWS // share} of {ROWS} rows: if it stands for nobody, add it to data.null_"
    assert (line in wild.data("data.k_core=0", "data.targets=1").said) == said
    assert line not in wild.data(f"data.null_words=['{nobody}']", "data.k_core=0", "data.targets=1").said


def test_targets_and_windows_that_do_not_fit_are_said(wild: Wild) -> None:
    rows = [row for row in log(each=20) if int(row[0][1:]) < 5 or row[2] % 1000 < 12]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    made = wild.data("data.targets=5", "lists.k=5", "data.windows=1")
    assert "data.targets=5 fits 5 of 30 users, the others hold out fewer; data.targets=4 fits 30" in made.said
    write_csv(wild.folder / "log.csv", NAMES, log(each=20))
    made = wild.data("data.targets=1", "lists.k=1", "data.windows=1")
    assert "data.windows=1 gives 30 training prompts; a run visits each 213 times" in made.said


@pytest.mark.parametrize("more", [[], ["data.targets=1", "lists.k=5"], ["data.repeats=all"]])
def test_a_user_with_the_whole_catalog_is_left_out(wild: Wild, plain: Outcome, more: list[str]) -> None:
    bot = [("bot", f"i{n % 24}", START + n) for n in range(48)]
    write_csv(wild.folder / "log.csv", NAMES, [*log(), *bot])
    made = wild.data(*more)
    assert made.bundle.card["users"]["dropped_with_all_items"] == 1
    assert _row(made, "- user has nearly")[-1] == "user 'bot': 24 of 24"
    if not more:
        assert made.bundle.card["fingerprints"]["test"] == plain.bundle.card["fingerprints"]["test"]


def test_nobody_is_left_out_where_all_have_everything_or_may_have_it_again(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", NAMES, log(each=24))
    assert wild.data().log["users"] == 30
    write_csv(wild.folder / "log.csv", NAMES, [*log(), *(("bot", f"i{n}", START + n) for n in range(24))])
    assert wild.data("lists.exclude_history=false").log["users"] == 31


def test_leave_one_out_with_lists_of_five(wild: Wild) -> None:
    assert set(wild.data("data.targets=1", "lists.k=5").bundle.test.rows([0]).targets.lengths) == {1}


def _hold(folder: str, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with held(Path(folder), "blade-dist data", "run.dir"):
        ready.set()
        done.wait(60)


def test_a_second_command_says_who_is_at_work(wild: Wild) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    folder = wild.folder / "runs" / "1" / "data"
    holder = context.Process(target=_hold, args=(str(folder), ready, done))
    holder.start()
    assert ready.wait(120)
    text = wild.refused()
    assert "is in use by blade-dist data (process" in text
    assert str(holder.pid) in text
    done.set()
    holder.join()
    with held(folder, "blade-dist data", "run.dir"):
        pass
    assert not list(folder.parent.glob(".*"))


def test_changed_settings_are_named_and_nothing_finished_is_thrown_away(wild: Wild) -> None:
    wild.data()
    wild._runs = 0
    with pytest.raises(UserError, match=r"data\.k_core: 2 there, 3 now") as error:
        wild.data("data.k_core=3")
    assert "delete" not in str(error.value)
    assert "run.dir" in str(error.value)
