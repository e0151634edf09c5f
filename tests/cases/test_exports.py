"""Logs as shops' programs and public data sets export them."""

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blade_dist.data.list_text import parsed
from blade_dist.data.times import microseconds
from blade_dist.settings.inputs import NULL_WORDS
from tests.cases.wild import ROWS, START, Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]


def day(time: int, form: str) -> str:
    return dt.datetime.fromtimestamp(time, dt.UTC).strftime(form)


def _retail_rocket(wild: Wild) -> list[str]:
    rows = [(1000 * t, u, "view", i, "") for u, i, t in log()]
    write_csv(wild.folder / "events.csv", ["timestamp", "visitorid", "event", "itemid", "transactionid"], rows)
    return [wild.path("events.csv")]


def _last_fm(wild: Wild) -> list[str]:
    rows = [(u, i, n, 1000 * t) for n, (u, i, t) in enumerate(log())]
    write_csv(wild.folder / "tags.dat", ["userID", "artistID", "tagID", "timestamp"], rows, "\t")
    write_csv(wild.folder / "artists.dat", ["id", "name", "url"], [(i, t, "x") for i, t in titles().items()], "\t")
    return [wild.path("tags.dat"), f"data.items={wild.folder / 'artists.dat'}", "data.columns.groups=null"]


def _steam(wild: Wild) -> list[str]:
    """Lines of Python 2."""
    lines = (f"{{u'username': u'{u}', u'product_id': u'{i}', u'date': u'{day(t, '%Y-%m-%d')}'}}" for u, i, t in log())
    (wild.folder / "reviews.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    games = (f"{{u'app_name': u'{t}', u'genres': [u'Action'], u'id': u'{i}'}}" for i, t in titles().items())
    (wild.folder / "games.json").write_text("\n".join(games))
    return [wild.path("reviews.json.gz"), f"data.items={wild.folder / 'games.json'}", "data.columns.groups=genres"]


def _fashion(wild: Wild) -> list[str]:
    rows = [(day(t, "%Y-%m-%d"), u, f"0{i[1:]}", 0.05) for u, i, t in log()]
    write_csv(wild.folder / "transactions_train.csv", ["t_dat", "customer_id", "article_id", "price"], rows)
    articles = [(i[1:], t, "x") for i, t in titles().items()]
    write_csv(wild.folder / "articles.csv", ["article_id", "prod_name", "genre"], articles)
    return [wild.path("transactions_train.csv"), f"data.items={wild.folder / 'articles.csv'}"]


def _orders(wild: Wild) -> list[str]:
    """Of Shopify, with a zone in every time and titles that hold quotes."""
    rows = [(f"#{n}", u, f"{day(t, '%Y-%m-%d %H:%M:%S')} -0500", f'{i} "L"', i) for n, (u, i, t) in enumerate(log())]
    write_csv(wild.folder / "orders.csv", ["Name", "Email", "Created at", "Lineitem name", "Lineitem sku"], rows)
    products = [(i, t, "a") for i, t in titles().items()]
    write_csv(wild.folder / "products.csv", ["Variant SKU", "Title", "genre"], products)
    columns = {"user": "Email", "item": "Lineitem sku", "id": "Variant SKU", "title": "Title"}
    settings = [f"data.columns.{role}='{name}'" for role, name in columns.items()]
    return [wild.path("orders.csv"), f"data.items={wild.folder / 'products.csv'}", *settings]


def _retail(wild: Wild) -> list[str]:
    """Where items are what the log calls them."""
    rows = [(u, i, f"About {i}", day(t, "%m/%d/%Y %H:%M")) for u, i, t in log()]
    write_csv(wild.folder / "retail.csv", ["CustomerID", "StockCode", "Description", "InvoiceDate"], rows)
    return [wild.path("retail.csv"), f"data.items={wild.folder / 'retail.csv'}", "data.columns.groups=null"]


def _warehouse(wild: Wild) -> list[str]:
    rows = [(f'"{u}"', i, day(t, "%Y-%m-%d %H:%M:%S.000000 UTC")) for u, i, t in log()]
    text = "".join(",".join(row) + "\n" for row in [("USER_PSEUDO_ID", "ITEM_ID", "EVENT_TIMESTAMP"), *rows])
    (wild.folder / "data_0_0_0.csv.gz").write_bytes(gzip.compress(text.encode()))
    return [wild.path("data_0_0_0.csv.gz")]


EXPORTS = [_retail_rocket, _last_fm, _steam, _fashion, _orders, _retail, _warehouse]


@pytest.mark.parametrize("made", EXPORTS)
def test_exports(wild: Wild, plain: Outcome, made: Callable[[Wild], list[str]]) -> None:
    outcome = wild.data(*made(wild))
    assert outcome.log["left"] == ROWS
    histories = {user: [f"i{item.lstrip('i')}" for item in row] for user, row in outcome.histories.items()}
    assert histories == plain.histories
    assert max(map(len, outcome.said.replace(str(wild.folder), "").splitlines())) <= 240


SPELT: list[tuple[Callable[[int], Any], Callable[[int], Any]]] = [
    (lambda n: f"gid://shopify/Product/{n}", lambda n: n),
    (lambda n: f'="{n:03}"', lambda n: n),
    (lambda n: f"#{n}", lambda n: n),
    (lambda n: f"{1000 + n:,}", lambda n: 1000 + n),
    (lambda n: f"<{n}>", lambda n: n),
]


@pytest.mark.parametrize(("in_log", "in_items"), SPELT)
def test_item_ids_as_programs_dress_them(
    wild: Wild, plain: Outcome, in_log: Callable[[int], Any], in_items: Callable[[int], Any]
) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(u, in_log(int(i[1:])), t) for u, i, t in log()])
    wild.items([(in_items(int(i[1:])), title, "a") for i, title in titles().items()])
    made = wild.data()
    assert made.histories == {u: [str(in_items(int(i[1:]))) for i in row] for u, row in plain.histories.items()}
    assert f"{ROWS} item ids joined by other zeros, case or marks" in made.said


@pytest.mark.parametrize("word", ["NONE", "(null)", "[null]", "(not set)"])
def test_words_that_say_nobody(wild: Wild, plain: Outcome, word: str) -> None:
    assert word in NULL_WORDS
    write_csv(wild.folder / "log.csv", NAMES, [*log(), *((word, f"i{n}", START) for n in range(20))])
    made = wild.data()
    assert (made.log["unreadable"], made.histories) == (20, plain.histories)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("2020-09-13T12:00", "%Y%m%d%H"),
        ("2020-09-13T12:26", "%Y%m%d%H%M"),
        ("2020-09-13T12:26:40", "%d/%b/%Y:%H:%M:%S +0000"),
    ],
)
def test_times_of_partitions_and_web_servers(written: str, form: str) -> None:
    times, _ = microseconds(pa.array([day(START, form)]))
    assert times.to_pylist() == [round(dt.datetime.fromisoformat(f"{written}+00:00").timestamp() * 1e6)]


def test_seconds_and_milliseconds_are_no_dates() -> None:
    """Though they have as many digits: hour 26 of a day, and month 87 of a year."""
    whole = [1_400_000_000, 2_020_091_326], [874_724_710_000, 202_009_131_226]
    scaled = [[time * unit for time in times] for times, unit in zip(whole, (10**6, 10**3), strict=True)]
    assert [microseconds(pa.array(times))[0].to_pylist() for times in whole] == scaled


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"Science Fiction",Drama}', ["Science Fiction", "Drama"]),
        ("[Drama, Children's]", ["Drama", "Children's"]),
        ('{"Bed, Bath",Home}', ["Bed, Bath", "Home"]),
        ("['Sci-Fi' \"Children's\"]", ["Sci-Fi", "Children's"]),
    ],
)
def test_lists_whose_values_are_partly_quoted(text: str, values: list[str]) -> None:
    assert parsed(text) == values


def test_orders_as_objects_with_lists_of_items(wild: Wild, plain: Outcome) -> None:
    """Of one user in each row, as Steam's libraries and carts are."""
    of: dict[str, list[dict[str, Any]]] = {}
    for user, item, time in log():
        of.setdefault(user, []).append({"item_id": item, "item_name": "x", "at": time})
    lines = (json.dumps({"user_id": user, "items": rows}) for user, rows in of.items())
    Path(wild.folder / "carts.jsonl").write_text("\n".join(lines))
    settings = ("data.per_user=true", "data.columns.item=items", "data.columns.time=null")
    assert wild.data(wild.path("carts.jsonl"), *settings).histories == plain.histories
