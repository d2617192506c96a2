"""A bucket that is not there, not ours, or away: one line that says so, and nothing is taken for absent meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3 import CREDENTIALS, S3

from ichor.errors import CannotStart, OutOfResources, TransientError
from ichor.store.bucket import Bucket
from ichor.store.bucket_blobs import BucketBlobs
from ichor.store.bucket_receivers import open_store, try_bucket
from ichor.store.bucket_spool import BucketSpool
from ichor.store.spool import Address

ADDRESS = Address("1.2.200", "1.2.100", "1.2.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")


def requests_of(bucket: Bucket, folder: Path) -> list[object]:
    spool, blobs = BucketSpool(bucket, staging=folder), BucketBlobs(bucket)
    place = "1.2.200/1.2.100/w-0.seg@0+10"
    return [
        lambda: spool.open(place), lambda: spool.read_range(place, 0, 10), lambda: list(spool.segments()),
        lambda: blobs.get("a/b"), lambda: blobs.put("a/b", b"x"), lambda: blobs.put_set("a", {"b": b"x"}),
        lambda: list(blobs.keys("a")), lambda: blobs.delete("a"),
    ]  # fmt: skip


def check_every_verb(bucket: Bucket, folder: Path, *, says: str) -> None:
    """All are transient, name the store and say what is wrong in one line; a sender gets 0xA700."""
    for request in requests_of(bucket, folder):
        with pytest.raises(TransientError, match=says) as caught:
            request()  # type: ignore[operator]
        assert bucket.url in str(caught.value)
        assert "\n" not in str(caught.value)
    spool = BucketSpool(bucket, staging=folder)
    told: list[object] = []
    for pieces in ([b"x"], [b"x", b"y"]):
        incoming = spool.begin(ADDRESS)
        for piece in pieces[:-1]:
            incoming.write([piece])
        with pytest.raises(OutOfResources, match=says) as refused:
            incoming.finish(pieces[-1:], confirm=lambda *_: told.append(1))
        assert refused.value.status == 0xA700
    assert told == []
    assert spool.is_there() is False
    with pytest.raises(CannotStart, match=says):
        open_store(bucket, folder)
    assert says in try_bucket(bucket)


@pytest.mark.usefixtures("s3_credentials")
def test_a_bucket_that_is_not_there(s3: S3, tmp_path: Path) -> None:
    check_every_verb(Bucket("s3://nobodys-bucket", endpoint=s3.endpoint), tmp_path, says="the bucket is not there")


@pytest.mark.usefixtures("s3_credentials")
def test_an_endpoint_that_is_away(tmp_path: Path) -> None:
    with answering(403, "x") as endpoint:
        pass  # nobody listens there now
    bucket, says = Bucket("s3://images", endpoint=endpoint), "the endpoint cannot be reached"
    with pytest.raises(OutOfResources, match=says) as refused:
        BucketSpool(bucket, staging=tmp_path).put(ADDRESS, [b"x"])
    assert refused.value.status == 0xA700
    with pytest.raises(TransientError, match=says):
        BucketSpool(bucket, staging=tmp_path).open("1.2.200/1.2.100/w-0.seg@0+10")
    with pytest.raises(CannotStart, match=says):
        open_store(bucket, tmp_path)


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "InvalidAccessKeyId", "the credentials are refused"),
        (403, "SignatureDoesNotMatch", "the credentials are refused"),
        (403, "AccessDenied", "may not do that"),
        (501, "NotImplemented", "If-None-Match"),
    ],
)
def test_a_store_that_refuses(tmp_path: Path, status: int, code: str, says: str) -> None:
    with answering(status, code) as endpoint:
        bucket = Bucket("s3://images", endpoint=endpoint)
        with pytest.raises(TransientError, match=says):
            BucketBlobs(bucket).put("a", b"x")
        with pytest.raises(OutOfResources, match=code):
            BucketSpool(bucket, staging=tmp_path).put(ADDRESS, [b"x"])
        with pytest.raises(CannotStart, match=code):
            open_store(bucket, tmp_path)


def test_no_credentials_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(CannotStart, match="AWS_ACCESS_KEY_ID"):
        open_store(Bucket("s3://images", endpoint="http://127.0.0.1:9"), tmp_path)


def test_a_store_that_writes_over_what_is_there_is_not_used(new_bucket: Bucket, tmp_path: Path) -> None:
    """As one does that knows no If-None-Match; what was there is as it was."""

    class Careless(Bucket):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    open_store(new_bucket, tmp_path / made(tmp_path, "a"))
    stamp = new_bucket.get("STORE")
    careless = Careless.__new__(Careless)
    careless.__dict__.update(new_bucket.__dict__)
    with pytest.raises(CannotStart, match="If-None-Match"):
        open_store(careless, tmp_path / made(tmp_path, "b"))
    assert new_bucket.get("STORE") == stamp
    assert "write over" in try_bucket(careless)
    assert try_bucket(new_bucket) == ""
    assert [one.key for one in new_bucket.names("")] == ["STORE"]


def test_another_bucket_in_its_place_is_refused(s3: S3, new_bucket: Bucket, tmp_path: Path) -> None:
    open_store(new_bucket, tmp_path)
    open_store(new_bucket, tmp_path)
    other = Bucket(f"s3://{s3.make()}", endpoint=s3.endpoint)
    with pytest.raises(CannotStart, match="not the one"):
        open_store(other, tmp_path)
    assert list(other.names("")) == []


def test_two_places_in_one_bucket_do_not_see_each_other(s3: S3, new_bucket: Bucket) -> None:
    other = Bucket(new_bucket.url + "-b", endpoint=s3.endpoint)
    new_bucket.put("x", b"1")
    assert list(other.names("")) == []
    with pytest.raises(KeyError):
        other.get("x")


def made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """A server that says the same to all."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
