"""moto's S3 server as a process on this machine; not a mock inside the test's own process."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from ichor.store.bucket import Bucket

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "ichor",
    "AWS_SECRET_ACCESS_KEY": "ichor-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3:
    """Holds everything in memory: what was put is gone when it ends."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | CREDENTIALS,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{self.endpoint}/moto-api/data.json", timeout=30).close()
                return
            except (URLError, OSError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.end()
                    raise
                time.sleep(0.1)

    def make(self, bucket: str) -> None:
        """moto asks for no signature."""
        urlopen(Request(f"{self.endpoint}/{bucket}", method="PUT"), timeout=60).close()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server for the tests that share one; each makes its own bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = S3(port)
    yield server
    server.end()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def new_bucket(s3: S3, s3_credentials: None) -> Bucket:
    """A place in a bucket of its own."""
    name = f"images-{secrets.token_hex(4)}"
    s3.make(name)
    return Bucket(f"s3://{name}/some/site", endpoint=s3.endpoint)
