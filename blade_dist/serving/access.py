"""Who may ask a server: anybody on a loopback address, else those who have the token. Pure."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping

from blade_dist.errors import UserError

TOKEN = "BLADE_SERVE_TOKEN"
"""Environment variable of the token: a command line could be read by everybody on the machine."""
SHORTEST = 16
"""Characters of a token."""


def is_loopback(host: str) -> bool:
    """Whether nobody outside the machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def expected_digest(host: str, environment: Mapping[str, str]) -> bytes | None:
    """SHA-256 of the token that requests must bring; None where they need none.

    What is handed on to other processes, and kept by Ray, is not the token.

    Raises:
        UserError: the server would be open to others, or the token is none.
    """
    token = environment.get(TOKEN)
    if token is None:
        if not is_loopback(host):
            raise UserError(
                f"--host {host}: others can reach it, and {TOKEN} is not set; set it to a secret of {SHORTEST} "
                "characters or more, as of `openssl rand -hex 32`"
            )
        return None
    if len(token) < SHORTEST or not all("!" <= character <= "~" for character in token):
        raise UserError(f"{TOKEN}: must be {SHORTEST} or more printable ASCII characters without spaces")
    return digest(token.encode())


def digest(token: bytes) -> bytes:
    """What tokens are compared by."""
    return hashlib.sha256(token).digest()


def is_allowed(headers: Iterable[tuple[bytes, bytes]], expected: bytes) -> bool:
    """Whether ``Authorization: Bearer`` brings the token; takes as long for a wrong one."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return hmac.compare_digest(digest(token.strip()), expected) and scheme.lower() == b"bearer"


def check_free(host: str, port: int) -> None:
    """
    Raises:
        UserError: something listens there, or this machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: not for connections that ended
            trial.bind(address)
    except socket.gaierror:
        raise UserError(f"--host {host}: no such address; 127.0.0.1 is this machine alone, 0.0.0.0 all") from None
    except OSError as error:
        raise UserError(f"--host {host}, --port {port}: cannot listen there: {error.strerror}") from None
