"""The one exception that means: the user can fix this; what its message needs, a nearest valid name and no secrets; and
the first cause of other exceptions."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

LONGEST_NAME = 100
"""Characters of somebody's name for a thing that a message shows."""
SECRET = r"[\w.-]*(?:key|secret|token|password|credential(?!_kind)|sig|sas)[\w.-]*"
"""Names of a URI's parameters whose values nobody shall read, as a pattern."""
WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__")
"""Attributes in which Ray's exceptions, and Python's, hold another one; ``worker_failures`` holds one per rank."""


class UserError(ValueError):
    """Bad input: the message says what is wrong, where, and what would be right.

    Commands print it as one line and exit with code 2; anything else is a bug and keeps its traceback.
    """


class DivergedError(UserError):
    """A number that should be finite is not. Raised by all ranks at the same step, so that a restart would not help."""


class FullDiskError(UserError):
    """There is no room for what should be saved. Raised by one learner at least, so that a restart would not help."""


class RoleLostError(UserError):
    """A process of the run was lost too often, or its node was."""


class NodeLostError(UserError):
    """A node of the cluster died, and the same command would find room on the others."""


def redacted(text: str) -> str:
    """Without the credentials of URIs, for what is printed or kept in a log.

    >>> redacted("no such place: s3://key:secret@bucket/run")
    'no such place: s3://***@bucket/run'
    >>> redacted("no such place: s3://bucket/run?region=us-east-1&secret_key=secret")
    'no such place: s3://bucket/run?region=us-east-1&secret_key=***'
    """
    text = re.sub(r"(\b[A-Za-z][A-Za-z0-9+.-]*://?)[^\s/@'\"]+@", r"\1***@", text)
    return re.sub(rf"([?&]{SECRET}=)[^\s&'\"]+", r"\1***", text, flags=re.IGNORECASE)


def nearest(name: str, valid: Iterable[str]) -> str:
    """The one of the ``valid`` names (at least one) that is most like ``name``, for "did you mean ...?"."""
    # whatever is longer was not meant as a name, and takes as long to compare as it is long
    return difflib.get_close_matches(name[:LONGEST_NAME], list(valid), n=1, cutoff=0.0)[0]


def quoted(name: str) -> str:
    """A name in quotes, its middle left out where it is long.

    >>> quoted("a" * 1000)[:4], len(quoted("a" * 1000))
    ("'aaa", 100)
    """
    short = reprlib.Repr()
    short.maxstring = LONGEST_NAME
    return short.repr(name)


def origin(error: BaseException) -> BaseException:
    """The error that caused ``error``, through all exceptions that wrap it: a UserError, where there is one.

    Ray's wrapping of an actor's error is an instance of the error's class too, and its text is a traceback. Where
    several learners failed and none of them with a UserError, the first of them counts.
    """
    if isinstance(error, UserError) and getattr(error, "cause", None) is None:
        return error
    inside = [*getattr(error, "worker_failures", {}).values(), *(getattr(error, name, None) for name in WRAPPED)]
    origins = [origin(one) for one in inside if isinstance(one, BaseException)]
    return next((one for one in origins if isinstance(one, UserError)), origins[0] if origins else error)
