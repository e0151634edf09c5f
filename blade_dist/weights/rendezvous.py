"""Where the two ends of a transport group meet: a key-value store on the learner's node.

A port that is chosen by opening and closing a socket may be taken by somebody else before it is used. So the listening
socket itself is handed to the store: from the moment at which the port is known it is never free again.
"""

from __future__ import annotations

import socket
from datetime import timedelta

from torch.distributed import TCPStore

CONNECT_TIMEOUT_S = 120.0
"""How long the two ends of a transport wait for each other."""


def open_store(address: str, world_size: int, timeout_s: float = CONNECT_TIMEOUT_S) -> tuple[TCPStore, int]:
    """A store that listens on ``address`` only, and the free port that it took.

    Returns at once: it does not wait for the others to join.
    """
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        host_name=address,
        port=port,
        world_size=world_size,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),  # without it the store would listen on every address of the node
    )
    return store, port


def join_store(address: str, port: int, world_size: int, timeout_s: float = CONNECT_TIMEOUT_S) -> TCPStore:
    """The same store, from another process."""
    return TCPStore(
        host_name=address,
        port=port,
        world_size=world_size,
        is_master=False,
        timeout=timedelta(seconds=timeout_s),
    )
