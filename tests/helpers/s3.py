"""A real S3 server on the loopback, and what a command needs to reach it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pyarrow.fs as pafs
from moto.server import ThreadedMotoServer

BUCKET = "runs"
SECRET = "verysecret-of-the-bucket"


@contextmanager
def s3_server() -> Iterator[str]:
    """The query that each URI of it ends with; it has the one bucket, and the environment has credentials."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    environment = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": SECRET}
    try:
        with mock.patch.dict(os.environ, environment):
            query = f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.get_host_and_port()[1]}"
            system, _ = pafs.FileSystem.from_uri(f"s3://{BUCKET}/{query}&allow_bucket_creation=true")
            system.create_dir(BUCKET)
            yield query
    finally:
        server.stop()
