"""moto's S3 server as a process on this machine; not a mock inside the test's own process."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from ichor.store.bucket import Bucket, Listed

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

    def make(self) -> str:
        """A new bucket; moto asks for no signature."""
        name = f"images-{secrets.token_hex(4)}"
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT"), timeout=60).close()
        return name

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Way:
    """The network between a process and the server: it may be cut, and answers may be kept back."""

    def __init__(self, to: S3) -> None:
        self._target = int(to.endpoint.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.answers = threading.Event()
        self._open: set[socket.socket] = set()
        self.begin()

    def begin(self) -> None:
        self.answers.set()
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Connections end, and none is taken."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, waits in ((near, far, False), (far, near, True)):
                    self._open.add(source)
                    threading.Thread(target=self._forward, args=(source, sink, waits), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, waits: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if waits and not data.startswith(b"HTTP/1.1 100"):  # before that, no body is sent
                    self.answers.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@pytest.fixture
def way(s3: S3) -> Iterator[Way]:
    made = Way(s3)
    yield made
    made.answers.set()
    made.cut()


@pytest.fixture(scope="session")
def s3(free_port: Callable[[], int]) -> Iterator[S3]:
    """A server for the tests that share one; each makes its own bucket."""
    server = S3(free_port())
    yield server
    server.end()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def new_bucket(s3: S3, s3_credentials: None) -> Bucket:  # noqa: ARG001 - needed, not used
    """A place in a bucket of its own."""
    return Bucket(f"s3://{s3.make()}/some/site", endpoint=s3.endpoint)


class AgedBucket(Bucket):
    """Says of what begins so that it was put earlier than it was; empty: of everything."""

    def __init__(self, url: str, *, endpoint: str) -> None:
        super().__init__(url, endpoint=endpoint)
        self.older: dict[str, float] = {}  # beginning of a key -> seconds

    def look(self, key: str) -> Listed:
        return self._aged(super().look(key))

    def names(self, prefix: str, *, most: int = 1000) -> Iterator[Listed]:
        return map(self._aged, super().names(prefix, most=most))

    def _aged(self, one: Listed) -> Listed:
        ages = [age for start, age in self.older.items() if one.key.startswith(start)]
        return one._replace(modified_at=one.modified_at - max(ages, default=0.0))


@pytest.fixture
def aged_bucket(s3: S3, s3_credentials: None) -> AgedBucket:  # noqa: ARG001 - needed, not used
    bucket = AgedBucket(f"s3://{s3.make()}", endpoint=s3.endpoint)
    bucket.older[""] = time.time()
    return bucket
