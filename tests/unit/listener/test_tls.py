"""TLS of the listener, spoken to by DCMTK and openssl: what is let in, what is refused and how that is told."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from unit.listener.listening import Listening
from unit.listener.modality import EXPLICIT, Scu, encode, image

from ichor import metrics
from ichor.config import TLSSettings
from ichor.errors import ConfigError
from listener import lobby, tls


class Authority:
    """Makes keys and certificates with openssl in a folder."""

    def __init__(self, folder: Path, openssl: str, name: str) -> None:
        self.folder, self.openssl = folder, openssl
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                  f"/CN={name}", "-days", "30", "-keyout", self.key, "-out", self.certificate)  # fmt: skip

    def issue(self, name: str, *, days: int = 30, rsa: bool = False) -> tuple[Path, Path]:
        """(certificate, key)"""
        certificate, key, asked = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        self._run("req", "-newkey", *kind, "-nodes", "-subj", f"/CN=SECRET {name}", "-keyout", key, "-out", asked)
        self._run("x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                  "-days", str(days), "-out", certificate)  # fmt: skip
        return certificate, key

    def _run(self, *arguments: object) -> None:
        subprocess.run([self.openssl, *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, peer: Callable[[str, str], str]) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), peer("openssl", "openssl"), "hospital")


@pytest.fixture(scope="module")
def stranger(authority: Authority) -> Authority:
    return Authority(authority.folder, authority.openssl, "stranger")


@pytest.fixture(scope="module")
def server(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server", days=90, rsa=True)


@pytest.fixture
def open_door(server: tuple[Path, Path]) -> Iterator[Listening]:
    """TLS, any client."""
    with Listening(tls=TLSSettings(cert=server[0], key=server[1])) as listening:
        yield listening


@pytest.fixture
def guarded(authority: Authority, server: tuple[Path, Path]) -> Iterator[Listening]:
    """TLS, clients need a certificate."""
    with Listening(tls=TLSSettings(cert=server[0], key=server[1], ca=authority.certificate)) as listening:
        yield listening


@pytest.fixture(scope="module")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydicom.dataset import FileMetaDataset

    dataset = image("1.2.3.4.1", pixels=bytes(300_000))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    path = tmp_path_factory.mktemp("object") / "1.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


class SecureScu(Scu):
    """`Scu` over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        connect = socket.create_connection

        def secure(*arguments: object, **more: object) -> socket.socket:
            return context.wrap_socket(connect(*arguments, **more))  # type: ignore[arg-type]

        socket.create_connection = secure  # type: ignore[assignment]
        try:
            super().__init__(port)
        finally:
            socket.create_connection = connect


def trusting(certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def dropped(reason: str) -> float:
    return float(metrics.CONNECTIONS_DROPPED.labels(reason)._value.get())


def wait_dropped(reason: str, count: float) -> None:
    """The client may know before the server's thread has counted."""
    deadline = time.monotonic() + 60
    while dropped(reason) < count:
        assert time.monotonic() < deadline, reason
        time.sleep(0.01)


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_sends_by_each_of_its_current_profiles(
    open_door: Listening, authority: Authority, object_file: Path, peer: Callable[[str, str], str], profile: str
) -> None:
    certificate, key = authority.issue("ct", rsa=True)
    command = [peer("storescu", "dcmtk"), "-aec", "ICHOR", profile, "+cf", str(authority.certificate),
               "+tls", str(key), str(certificate), "127.0.0.1", str(open_door.port), str(object_file)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [a.command.sop_instance_uid for a in open_door.reception.arrivals] == ["1.2.3.4.1"]
    ((_, ended),) = open_door.receipts.wait_for(1)
    assert ended.released is True  # type: ignore[union-attr]


def test_a_client_with_our_certificate_sends_large_objects(guarded: Listening, authority: Authority) -> None:
    scu = SecureScu(guarded.port, trusting(authority.issue("ct")))
    data_set = encode(image(pixels=os.urandom(1_000_000)))
    for _ in range(5):
        assert scu.store(data_set, sop_instance="1.2.3.4.1") == 0
    scu.release()
    assert [a.data for a in guarded.reception.arrivals] == [data_set] * 5


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("nobody", tls.NO_CERTIFICATE),
        ("expired", tls.CERTIFICATE_EXPIRED),
        ("foreign", tls.CERTIFICATE_NOT_TRUSTED),
        ("self-signed", tls.CERTIFICATE_NOT_TRUSTED),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_good_certificate_is_refused_with_one_line_and_one_count(
    guarded: Listening, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture,
    who: str, reason: str, version: ssl.TLSVersion,
) -> None:  # fmt: skip
    certificate = {
        "nobody": lambda: None,
        "expired": lambda: authority.issue("old", days=-1),
        "foreign": lambda: stranger.issue("foreign"),
        "self-signed": lambda: (stranger.certificate, stranger.key),
    }[who]()
    context = trusting(certificate)
    context.minimum_version = context.maximum_version = version
    before = dropped(reason)
    with caplog.at_level(logging.INFO), pytest.raises(OSError):  # noqa: PT011 - an alert, a reset or the end
        SecureScu(guarded.port, context)
    wait_dropped(reason, before + 1)
    assert caplog.messages == [f"connection refused: {reason} address=127.0.0.1"]
    assert "SECRET" not in caplog.text
    assert guarded.receiver.open_associations() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], tls.VERSION_TOO_OLD),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], tls.VERSION_TOO_OLD),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], tls.NO_COMMON_SUITE),  # no forward secrecy
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"], tls.NO_COMMON_SUITE),  # no AEAD
    ],
)
def test_old_versions_and_weak_suites_are_refused(
    open_door: Listening, peer: Callable[[str, str], str], caplog: pytest.LogCaptureFixture,
    options: list[str], reason: str,
) -> None:  # fmt: skip
    before = dropped(reason)
    command = [peer("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{open_door.port}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    wait_dropped(reason, before + 1)
    assert caplog.messages == [f"connection refused: {reason} address=127.0.0.1"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_peer_that_does_not_trust_our_certificate_is_told_as_such(
    open_door: Listening, stranger: Authority, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=str(stranger.certificate))
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    before = dropped(tls.OURS_REJECTED)
    with pytest.raises(ssl.SSLCertVerificationError):
        SecureScu(open_door.port, context)
    wait_dropped(tls.OURS_REJECTED, before + 1)
    assert caplog.messages == [f"connection refused: {tls.OURS_REJECTED} address=127.0.0.1"]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_current_versions_are_spoken(open_door: Listening, peer: Callable[[str, str], str], version: str) -> None:
    command = [peer("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{open_door.port}", version, "-brief"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert "CONNECTION ESTABLISHED" in done.stderr, done.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_client_gets_a_ticket_by_which_to_resume(open_door: Listening, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    first = SecureScu(open_door.port, context)  # it has read what the server sends behind the handshake
    assert isinstance(first.socket, ssl.SSLSocket)
    session = first.socket.session
    assert session is not None
    assert not session.has_ticket
    if version is ssl.TLSVersion.TLSv1_3:  # 1.2 knows sessions by their number, too
        raw = socket.create_connection(("127.0.0.1", open_door.port), timeout=60)
        with context.wrap_socket(raw, session=session) as again:
            assert not again.session_reused
    first.release()


def test_a_client_cannot_renegotiate(
    open_door: Listening, server: tuple[Path, Path], peer: Callable[[str, str], str]
) -> None:
    # What OpenSSL refuses by itself from 3.0 on, an older one does for the option.
    assert tls.server_context(TLSSettings(cert=server[0], key=server[1])).options & ssl.OP_NO_RENEGOTIATION
    command = [peer("openssl", "openssl"), "s_client", "-tls1_2", "-connect", f"127.0.0.1:{open_door.port}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = b""
        while b"Verify return code" not in said:  # the handshake is over
            said += (line := client.stdout.readline())
            assert line, said
        client.stdin.write(b"R\n")
        client.stdin.flush()
        while b"no renegotiation" not in said:
            said += (line := client.stdout.readline())
            assert line, said[-500:]
            assert said.count(b"verify error") <= 2, said  # no second handshake
        client.stdin.close()
    assert client.returncode != 0


def test_plain_tcp_at_a_tls_port_is_refused(open_door: Listening, caplog: pytest.LogCaptureFixture) -> None:
    before = dropped(tls.NOT_TLS)
    with pytest.raises(OSError):  # noqa: PT011 - a reset or the end
        Scu(open_door.port)
    wait_dropped(tls.NOT_TLS, before + 1)
    assert caplog.messages == [f"connection refused: {tls.NOT_TLS} address=127.0.0.1"]


def test_tls_at_a_plain_port_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Listening() as plain:
        before = dropped(lobby.TLS_ON_PLAIN)
        with pytest.raises(OSError):  # noqa: PT011 - an SSL error
            SecureScu(plain.port, trusting())
        wait_dropped(lobby.TLS_ON_PLAIN, before + 1)
    assert caplog.messages == [f"connection refused: {lobby.TLS_ON_PLAIN} address=127.0.0.1"]


def test_one_who_stops_within_the_handshake_is_closed_and_holds_nobody_up(server: tuple[Path, Path]) -> None:
    with Listening(tls=TLSSettings(cert=server[0], key=server[1]), request_timeout=5.0) as listening:
        before = dropped(lobby.TOO_LATE)
        stalled = [socket.create_connection(("127.0.0.1", listening.port), timeout=60) for _ in range(20)]
        for connection in stalled[::2]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        SecureScu(listening.port, trusting()).release()
        for connection in stalled:
            assert connection.recv(10) == b""
        wait_dropped(lobby.TOO_LATE, before + 20)


def test_a_sender_that_stalls_within_a_pdu_is_let_go(server: tuple[Path, Path]) -> None:
    with Listening(tls=TLSSettings(cert=server[0], key=server[1]), network_timeout=1.0) as listening:
        scu = SecureScu(listening.port, trusting())
        scu.socket.sendall(b"\4\0\0\0\x10\0abc")
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended.released is False  # type: ignore[union-attr]


def test_a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"

    def put(pair: tuple[Path, Path]) -> None:
        shutil.copy(pair[0], cert)
        shutil.copy(pair[1], key)

    put(authority.issue("first", days=100))
    certificates = tls.Certificates(TLSSettings(cert=cert, key=key))
    first = certificates.current()
    certificates.refresh()
    assert certificates.current() is first
    put(authority.issue("second", days=3))
    certificates.refresh()
    second = certificates.current()
    assert second is not first
    assert metrics.TLS_CERTIFICATE_EXPIRES._value.get() == pytest.approx(time.time() + 3 * 86400, abs=3600)
    assert any(m.startswith("the listener's certificate ends on") for m in caplog.messages)
    key.write_text("half a key")
    certificates.refresh()
    assert certificates.current() is second
    assert caplog.messages[-1].startswith("the listener keeps its certificate")


def test_what_is_wrong_with_the_files_is_said_at_the_start(
    authority: Authority, stranger: Authority, server: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = server
    junk, encrypted = tmp_path / "junk.pem", tmp_path / "encrypted.key"
    junk.write_text("no certificate")
    subprocess.run([authority.openssl, "pkey", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", encrypted],
                   check=True, capture_output=True, timeout=60)  # fmt: skip
    for files, words in (
        ({"cert": tmp_path / "none.pem"}, ("listener.tls.cert", "No such file")),
        ({"key": tmp_path / "none.key"}, ("listener.tls.key", "No such file")),
        ({"key": stranger.key}, ("listener.tls", str(stranger.key))),
        ({"key": encrypted}, ("listener.tls.key", "encrypted")),
        ({"cert": junk}, ("listener.tls", "PEM")),
        ({"ca": junk}, ("listener.tls.ca", "PEM")),
        ({"ca": tmp_path}, ("listener.tls.ca", "directory")),
    ):
        with pytest.raises(ConfigError) as caught:
            tls.check(TLSSettings(**({"cert": cert, "key": key} | files)))  # type: ignore[arg-type]
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert caught.value.exit_code == 2


def test_the_end_of_a_certificate_is_what_openssl_says(authority: Authority) -> None:
    certificate, key = authority.issue("dated", days=40_000)  # beyond 2050: GeneralizedTime
    for path in (certificate, authority.certificate):
        said = subprocess.run([authority.openssl, "x509", "-in", str(path), "-noout", "-enddate"],
                              check=True, capture_output=True, text=True, timeout=60).stdout  # fmt: skip
        ends = datetime.strptime(said.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
        assert tls.expiry(TLSSettings(cert=path, key=key)) == ends.timestamp()
