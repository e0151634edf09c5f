"""A branch of the settings, and the kinds of numbers in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from blade_dist.errors import SECRET

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def finite(given: object) -> object:
    """An error for a float that is no number."""
    if isinstance(given, float) and not math.isfinite(given):
        raise PydanticCustomError("finite_number", "Input should be a finite number")
    return given


Name = Annotated[str, Field(coerce_numbers_to_str=True), BeforeValidator(finite)]
"""Of an item or a group, which a log may number."""


def local(given: object) -> object:
    """A path with ``~`` as the home folder; an error for a URI, of which a path would make folders here."""
    text = str(given)
    if "\0" in text:
        raise PydanticCustomError("null_character", "no path has a null character in it")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise PydanticCustomError(
            "uri", "a path of this machine is needed, not a URI: mount the storage, or copy the files"
        )
    if text.startswith("~"):
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise PydanticCustomError("home", "no such user; write the home folder in full") from None
    return given


def place(given: object) -> object:
    """An error for a URI with credentials in it: settings are printed, and written into the run's folder."""
    text = str(given)
    scheme, there, rest = text.partition("://")
    user = rest.partition("/")[0].rpartition("@")[0] if there else ""
    # abfs://container@account has no secret before the @, and neither has a user's name
    if ":" in user or (user and scheme == "s3") or re.search(rf"[?&]{SECRET}=", text, re.IGNORECASE):
        raise ValueError(
            "run.copy_to: a URI with credentials in it would be printed and kept: leave them out, and give them in the "
            "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return given


def encoding(name: str) -> str:
    """A name by which Python knows an encoding of text."""
    try:
        b"text".decode(name, "replace")
    except (LookupError, UnicodeError):
        raise PydanticCustomError(
            "encoding", "no encoding of that name; write utf-8, latin-1, cp1252, utf-16, gbk or shift_jis, say"
        ) from None
    return name


Encoding = Annotated[str, AfterValidator(encoding)]
"""Of a text file."""
LocalPath = Annotated[Path, BeforeValidator(local)]
"""A file or folder that is mounted here."""
Place = Annotated[str, BeforeValidator(place)]
"""A folder here, or of a storage that pyarrow knows, by its URI."""


LARGEST = 2**31 - 1
"""Of integers: what NumPy, scikit-learn and tokenizers all take."""


class Strict(BaseModel):
    """What is given from outside: immutable, no unknown keys, documented fields; true and false are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, given: object, info: ValidationInfo) -> object:
        """An error for true and false where numbers are wanted: pydantic takes them for 1 and 0."""
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if kinds & {int, float} and not any(kind in (True, False, bool) for kind in kinds) and _has_bool(given):
            raise PydanticCustomError("boolean", "a number is needed, and true and false are none")
        return given


class Section(Strict):
    """A branch of the settings."""

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, given: object, info: ValidationInfo) -> object:
        """A section with nothing below it has its defaults, as where all of its lines are remarks."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        nothing = given is None and isinstance(annotation, type) and issubclass(annotation, Section)
        return {} if nothing else given

    @field_validator("*", mode="after")
    @classmethod
    def _not_too_large(cls, value: object) -> object:
        """An error for integers that libraries can't take."""
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, int) and one > LARGEST for one in values):
            raise PydanticCustomError("too_large", f"at most {LARGEST}")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """A type and all that stands in its brackets: int, float, text of a ``Literal``."""
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


def _has_bool(given: object) -> bool:
    if isinstance(given, dict | list | tuple):
        return any(map(_has_bool, given.values() if isinstance(given, dict) else given))
    return isinstance(given, bool)
