"""A place in an S3-compatible object store: whole objects by key, put, put if absent, read in ranges, listed, deleted.

Not a spool and not blobs: `ichor.store.bucket_spool` and `ichor.store.bucket_blobs` are made of it. By fsspec's s3fs, an
optional dependency that is imported here alone. Credentials are found as every AWS SDK finds them: environment, shared
files, the pod's or the machine's role; no setting holds one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from ichor.errors import CannotStart, TransientError

if TYPE_CHECKING:
    from ichor.config import StoreSettings

_T = TypeVar("_T")
_PART = 16 << 20  # bytes: a longer object than two of these goes in parts
_PARTS_AT_ONCE = 2
# A request ends within half a minute, whatever the endpoint does: a sender waits for it.
_CONNECT, _READ, _TRIES = 3.0, 10.0, 3
_CONFLICTS = 3  # times that a conditional PUT is tried while others do the same


class Listed(NamedTuple):
    """An object as a list shows it. ``modified_at``: POSIX seconds, the store's clock."""

    key: str
    size: int
    modified_at: float


class Bucket:
    """Objects below ``url``, ``s3://bucket/prefix``; thread-safe, for one process. Keys are relative to it.

    Every method raises TransientError, with one line, when the store is away, the bucket is not there or the credentials
    are refused; KeyError for an object that is not there.
    """

    def __init__(self, url: str, *, endpoint: str = "", region: str = "") -> None:
        try:
            from s3fs import S3FileSystem
        except ImportError as error:
            raise CannotStart(f"store.url = {url!r} needs the extra s3: pip install 'ichor[s3]' ({error})") from None
        self.url = url
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        config: dict[str, Any] = {
            "connect_timeout": _CONNECT, "read_timeout": _READ, "max_pool_connections": 64,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
        }  # fmt: skip
        if endpoint:
            config["s3"] = {"addressing_style": "path"}  # a name for each bucket is what Amazon has, and few others
        self._fs: Any = S3FileSystem(
            endpoint_url=endpoint or None, client_kwargs={"region_name": region} if region else {},
            config_kwargs=config, use_listings_cache=False, skip_instance_cache=True,
        )  # fmt: skip
        self._fs.retries = 1  # botocore tries again itself

    def put(self, key: str, data: bytes) -> None:
        """Durable, and whole or not there, when it returns. After an error it may be there or come yet."""
        self._ask(lambda: self._fs.pipe_file(self._path(key), data, chunksize=_PART, max_concurrency=_PARTS_AT_ONCE))

    def put_file(self, key: str, file: IO[bytes]) -> None:
        """`put` of an open, flushed file, from its begin."""
        path = f"/proc/self/fd/{file.fileno()}"
        self._ask(lambda: self._fs.put_file(path, self._path(key), chunksize=_PART, max_concurrency=_PARTS_AT_ONCE))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """False when an object is there already (``If-None-Match: *``); it stays as it is."""
        for left in reversed(range(_CONFLICTS)):
            try:
                self._ask(lambda: self._fs.pipe_file(self._path(key), data, mode="create"))
            except _Answer as answer:
                if answer.status == 412:
                    return False
                if answer.status != 409 or not left:
                    raise
            else:
                return True
        raise AssertionError

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """All of it, or its bytes from ``start`` to before ``end``; fewer where it ends before."""
        if end is not None and end <= start:
            self.look(key)
            return b""
        whole = not start and end is None
        try:
            if whole:
                return self._ask(lambda: bytes(self._fs.cat_file(self._path(key), max_concurrency=1)), key)
            return self._ask(lambda: bytes(self._fs.cat_file(self._path(key), start=start, end=end)), key)
        except _Answer as answer:
            if answer.status == 416:  # it ends before ``start``
                return b""
            raise

    def look(self, key: str) -> Listed:
        """What is there."""
        found = self._ask(lambda: self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._prefix + key), key)
        return Listed(key, found["ContentLength"], found["LastModified"].timestamp())

    def names(self, prefix: str, *, most: int = 1000) -> Iterator[Listed]:
        """All whose key begins with ``prefix``, sorted; ``most`` in one request."""
        more: dict[str, str] = {}
        while True:
            page = self._ask(
                lambda more=more: self._fs.call_s3(  # type: ignore[misc]
                    "list_objects_v2", Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=most, **more
                )
            )
            for one in page.get("Contents", ()):
                yield Listed(one["Key"][len(self._prefix) :], one["Size"], one["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Also when it is not there."""
        self._ask(lambda: self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._prefix + key))

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{self._prefix}{key}"

    def _ask(self, request: Callable[[], _T], key: str | None = None) -> _T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return request()
        except (OSError, BotoCoreError, ClientError) as error:
            raise self._translated(error, key) from error

    def _translated(self, error: Exception, key: str | None) -> Exception:
        """``key``: of an object that is read, which may be absent."""
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        if response is None:
            return TransientError(f"store {self.url}: {_SAID.get(type(error).__name__) or _plain(error)}")
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if key is not None and status == 404 and code != "NoSuchBucket":
            return KeyError(key)
        said = _SAID.get(code) or (_REFUSED if status in (401, 403) else "an error")
        return _Answer(f"store {self.url}: {said} ({code or status})", status)


class _Answer(TransientError):
    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


_REFUSED = "the credentials are refused, or may not do that"
_AWAY = "the endpoint cannot be reached"
_SAID = {
    "NoSuchBucket": "the bucket is not there",
    "InvalidAccessKeyId": "the credentials are refused",
    "SignatureDoesNotMatch": "the credentials are refused",
    "ExpiredToken": "the credentials have expired",
    "NotImplemented": "it cannot do what is needed: a PUT with If-None-Match",
    "NoCredentialsError": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
    "PartialCredentialsError": "credentials are incomplete",
    "EndpointConnectionError": _AWAY,
    "ConnectTimeoutError": _AWAY,
    "ConnectionClosedError": _AWAY,
    "ReadTimeoutError": "the endpoint does not answer",
    "SSLError": "the endpoint's certificate is not trusted (AWS_CA_BUNDLE names another authority)",
}


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def open_bucket(settings: StoreSettings) -> Bucket:
    """That of ``store.url``, one for this process: several users share its connections.

    Raises
    ------
    CannotStart
        When the extra ``s3`` is not installed.
    """
    return _opened(os.getpid(), settings.url, settings.s3.endpoint, settings.s3.region)


@functools.lru_cache(maxsize=8)
def _opened(_: int, url: str, endpoint: str, region: str) -> Bucket:
    return Bucket(url, endpoint=endpoint, region=region)
