"""Titles as a reader sees them: no HTML, no invisible characters, no escaped quotes. Pure."""

from __future__ import annotations

import html
import json
import re
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.ids import is_null_word
from blade_dist.data.remarks import Remarks, shown
from blade_dist.settings.inputs import NULL_WORDS

_INLINE = ["a", "abbr", "b", "big", "em", "font", "i", "mark", "small", "span", "strong", "sub", "sup", "u", "wbr"]
_TAGS = (
    "blockquote|body|br|button|center|cite|code|dd|del|div|dl|dt|h[1-6]|head|hr|html|img|input|ins|label|li|link|meta|nobr|ol|"
    "option|p|pre|q|s|section|strike|table|tbody|td|th|thead|title|tr|tt|ul|var"
)
"""Tags that are taken out. Others stay: a title may be ``<sep>`` or ``I <3 you``."""
_TAG = re.compile(rf"</?(?:{_TAGS}|{'|'.join(_INLINE)})(?:\s[^<>]*)?/?>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1>|$)", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ESCAPED = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
"""As JSON writes letters that are not ASCII."""
_LOST = r"\x{FFFD}|[\x{C2}\x{C3}][\x{80}-\x{BF}]|\x{E2}\x{20AC}"
"""A letter that could not be read, or UTF-8 that was read as Latin-1 or Windows-1252."""
_KEPT = "\u200c\u200d\ufe0f"
"""Invisible by themselves, but Persian words, Indian letters and emojis are made with them."""
_BLANK = "\u3164\u115f\u1160\u2800\u17b4\u17b5"
"""Letters and symbols that show nothing."""


def clean_titles(titles: pa.ChunkedArray | pa.Array, remarks: Remarks) -> pa.Array:
    """Titles without what was not meant for a reader; null where nothing visible is left.

    In this order: HTML tags and entities, ``\\"`` as ``"``, characters that show nothing, white space as one blank. A
    word for nothing (``nan``) that stands for two items or more is no title.
    """
    column = titles.combine_chunks() if isinstance(titles, pa.ChunkedArray) else titles
    encoded = column.cast(pa.string()).dictionary_encode()
    clean = []
    weights = pc.value_counts(encoded.indices)
    times = dict(zip(weights.field(0).to_pylist(), weights.field(1).to_pylist(), strict=True))
    for number, title in enumerate(encoded.dictionary.to_pylist()):
        clean.append(_clean(title, times.get(number, 0), remarks))
    made = pa.array(clean, pa.string()).take(encoded.indices)
    _hint_lost(made, remarks)
    return _without_null_words(made, remarks)


def _hint_lost(titles: pa.Array, remarks: Remarks) -> None:
    lost = pc.match_substring_regex(titles, _LOST).fill_null(False)
    if count := pc.sum(lost).as_py() or 0:
        example = shown(titles[pc.index(lost, True).as_py()].as_py())
        remarks.hint(f"{count:,} titles were read in a wrong encoding before they came here, as {example}")


def plain_html(title: str) -> str:
    """Without tags and entities, also where these were written twice (``&amp;amp;``)."""
    for _ in range(8):
        before = title
        if "<" in title:
            title = _TAG.sub(_gap, _SCRIPT.sub(" ", _CDATA.sub(r"\1", title)))
        if "&" in title:
            title = _ENTITY.sub(lambda found: html.unescape(found[0]), title)
        if title == before:
            break
    return title


def _gap(tag: re.Match[str]) -> str:
    """What a tag is in the text: one of letters is nothing, others part words."""
    name = re.match(r"</?([a-zA-Z0-9]+)", tag[0])
    return "" if name and name[1].lower() in _INLINE else " "


def visible(title: str) -> str:
    """Without control and format characters; empty where all that is left shows nothing."""
    if title.isascii() and title.isprintable():
        return title
    kept = [
        " " if one.isspace() else one
        for one in title
        if one.isspace() or one in _KEPT or unicodedata.category(one) not in ("Cc", "Cf", "Co")
    ]
    if any(not one.isspace() and one not in _KEPT + _BLANK for one in kept):
        return "".join(kept)
    return ""


def _unescaped(title: str) -> str:
    return _ESCAPED.sub(lambda found: str(json.loads(f'"{found[0]}"')), title) if "\\u" in title else title


def _clean(title: str, times: int, remarks: Remarks) -> str | None:
    for rule, change in (
        ("titles with HTML", plain_html),
        ("titles with \\u for a letter", _unescaped),
        ('titles with \\" for a quote', lambda text: text.replace('\\"', '"').replace("\\'", "'")),
        ("titles with invisible characters", visible),
    ):
        changed = change(title)
        if changed != title:
            if rule != "titles with invisible characters" or " ".join(changed.split()) != " ".join(title.split()):
                after = shown(" ".join(changed.split())) if changed.strip() else "no title"
                remarks.repair(rule, times, f"{shown(title)} read as {after}")
            title = changed
    return " ".join(title.split()) or None


def _without_null_words(titles: pa.Array, remarks: Remarks) -> pa.Array:
    mask = is_null_word(titles, NULL_WORDS)
    if (count := pc.sum(mask).as_py() or 0) < 2:
        return titles
    remarks.repair(
        "titles that are a null word", count, f"{shown(titles[pc.index(mask, True).as_py()].as_py())} read as no title"
    )
    return pc.if_else(mask, None, titles)
