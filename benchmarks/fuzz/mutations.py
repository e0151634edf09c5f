"""How an input is spoiled: bytes of any file, and text as careless programs write it. Each follows from its seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NASTY = (
    *(
        "",
        " ",
        "\x00",
        "\ufeff",
        '"',
        "'",
        '""',
        ",",
        ";",
        "\t",
        "\r\n",
        "\n\n",
        "\\",
        "\u202e",
        "\U0001f4a5",
        "a" * 5000,
    ),
    *("NaN", "inf", "-inf", "1e999", "-1", "0", "2**31", str(2**63), "-" + str(2**70), "1e-320", "0x10", "1_000", "٣"),
    *(
        "null",
        "None",
        "true",
        "~",
        "{}",
        "[]",
        "[",
        "}",
        ": ",
        "- ",
        "!!python/object/apply:os.system ['true']",
        "&a *a",
    ),
    *("../../etc/passwd", "/dev/null", "2026-11-30", "1970-01-01T00:00:00Z", "user", "item", "time", "\ud7ff", "é"),
)
"""Pieces of text that have broken parsers."""


def _cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _flip(data: bytes, draw: Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if spoiled:
            spoiled[draw.randrange(len(spoiled))] ^= 1 << draw.randrange(8)
    return bytes(spoiled)


def _drop(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 3, 40, 400)) :]


def _double(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start : start + draw.choice((1, 40, 400))] * 2 + data[start:]


def _noise(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    noise = draw.randbytes(draw.choice((1, 4, 64)))
    return data[:start] + noise + data[start + (len(noise) if draw.random() < 0.5 else 0) :]


def _nasty(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + draw.choice(NASTY).encode() + data[start:]


def _cell(data: bytes, draw: Random) -> bytes:
    """A word of the text becomes a nasty one, once or everywhere."""
    words = data.replace(b"\n", b",").replace(b":", b",").replace(b" ", b",").split(b",")
    word = draw.choice([word for word in words if word] or [b""])
    return data.replace(word, draw.choice(NASTY).encode(), draw.choice((1, -1))) if word else data


def _lines(data: bytes, draw: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    how = draw.randrange(4)
    if how == 0:
        draw.shuffle(lines)
    elif how == 1:
        lines = lines[: draw.choice((0, 1, 2))]
    elif how == 2:
        lines = lines[1:]
    else:
        lines = [line.rstrip(b"\n") + b",more\n" if draw.random() < 0.1 else line for line in lines]
    return b"".join(lines)


def _other(data: bytes, draw: Random) -> bytes:
    """Something else altogether, or another encoding."""
    whole: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: draw.randbytes(draw.choice((1, 100, 5000))),
        lambda: b"PK\x03\x04" + data,
        lambda: b"\x1f\x8b" + data,
        lambda: b"PAR1" + data + b"PAR1",
        lambda: b"ARROW1\x00\x00" + data + b"ARROW1",
        lambda: data.decode(errors="replace").encode("utf-16"),
        lambda: bytes(len(data)),
    )
    return draw.choice(whole)()


BINARY = (_cut, _flip, _flip, _drop, _double, _noise, _other)
TEXT = (_cut, _flip, _drop, _double, _noise, _nasty, _nasty, _cell, _cell, _cell, _lines, _other)


def spoil(data: bytes, draw: Random, text: bool) -> tuple[bytes, str]:
    """The spoiled bytes, and how; ``text``: whether they are one."""
    names = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        how = draw.choice(TEXT if text else BINARY)
        data = how(data, draw)
        names.append(how.__name__.strip("_"))
    return data, " ".join(names)
