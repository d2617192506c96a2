"""TLS of the listener by BCP 195 (PS3.15 B.12: RFC 8996, RFC 9325). Makes contexts and names what is wrong; no sockets."""

from __future__ import annotations

import logging
import os
import re
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

from ichor import metrics
from ichor.config import TLSSettings
from ichor.errors import ConfigError

_LOG = logging.getLogger(__name__)
# RFC 9325 section 4.2: forward secrecy and AEAD only. TLS 1.3 has no other suites.
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
_SOON = 30 * 86400.0
_LOOK_AGAIN = 5.0  # seconds between looks at the files
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18  # X.690

NOT_TLS = "not TLS"
NO_CERTIFICATE = "no client certificate"
CERTIFICATE_EXPIRED = "client certificate expired"
CERTIFICATE_NOT_TRUSTED = "client certificate not trusted"
VERSION_TOO_OLD = "TLS version too old"
NO_COMMON_SUITE = "no common cipher suite"
OURS_REJECTED = "the peer rejects our certificate"
HANDSHAKE_FAILED = "TLS handshake failed"

_BY_REASON = {
    "HTTP_REQUEST": NOT_TLS,
    "HTTPS_PROXY_REQUEST": NOT_TLS,
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "RECORD_LAYER_FAILURE": NOT_TLS,
    "UNKNOWN_PROTOCOL": NOT_TLS,
    "UNSUPPORTED_PROTOCOL": VERSION_TOO_OLD,
    "VERSION_TOO_LOW": VERSION_TOO_OLD,
    "NO_SHARED_CIPHER": NO_COMMON_SUITE,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
}


def check(settings: TLSSettings) -> None:
    """Read certificate, key and authorities once, so that what is wrong is said at the start.

    Raises
    ------
    ConfigError
        Names the setting and what is wrong with its file.
    """
    server_context(settings)
    expiry(settings)


def server_context(settings: TLSSettings) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; clients need a certificate when ``ca`` is set.

    Raises
    ------
    ConfigError
        Names the setting and what is wrong with its file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # No tickets: whoever opens an association shows its certificate. What is left are sessions of TLS 1.2 by number, which
    # `ssl` cannot switch off: they end with the connection that made them.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    for name in ("cert", "key", "ca"):
        path = getattr(settings, name)
        if path is not None:
            _readable(name, path)
    try:
        context.load_cert_chain(settings.cert, settings.key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"listener.tls.key = '{settings.key}': not the key of listener.tls.cert") from error
        raise ConfigError(
            f"listener.tls: '{settings.cert}' and '{settings.key}' are not a PEM certificate and its key"
        ) from error
    if settings.ca is not None:
        try:
            context.load_verify_locations(settings.ca)
        except ssl.SSLError as error:
            raise ConfigError(f"listener.tls.ca = '{settings.ca}': no PEM certificates") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def expiry(settings: TLSSettings) -> float:
    """When the listener's certificate ends, POSIX seconds.

    Raises
    ------
    ConfigError
        When the file has no certificate that can be read.
    """
    try:
        text = settings.cert.read_text("ascii", "replace")
        block = re.search(f"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", text, re.DOTALL)
        if block is None:
            raise ValueError("no certificate")
        return _not_after(ssl.PEM_cert_to_DER_cert(block[0]))
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"listener.tls.cert = '{settings.cert}': no PEM certificate that can be read") from error


def failure(error: OSError) -> str:
    """Why a handshake failed, as one of few texts without anything that the peer wrote."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            CERTIFICATE_EXPIRED if error.verify_code == 10 else CERTIFICATE_NOT_TRUSTED
        )  # X509_V_ERR_CERT_HAS_EXPIRED
    if isinstance(error, ssl.SSLError):
        # The alerts of RFC 8446 section 6.2 by which a client says so; certificate_required is only ours to send.
        if re.search("ALERT_(.*CERTIFICATE|UNKNOWN_CA)", error.reason or ""):
            return OURS_REJECTED
        return _BY_REASON.get(error.reason or "", HANDSHAKE_FAILED)
    return HANDSHAKE_FAILED


class Certificates:
    """The context for new connections; files that changed are read again, without a restart. One thread.

    Raises
    ------
    ConfigError
        When the files cannot be used at the start; later such files leave the context as it was, with a log line.
    """

    def __init__(self, settings: TLSSettings) -> None:
        self._settings = settings
        self._seen = self._stamps()
        self._looked = time.monotonic()
        self._context = self._read()

    def current(self) -> ssl.SSLContext:
        now = time.monotonic()
        if now - self._looked >= _LOOK_AGAIN:
            self._looked = now
            self.refresh()
        return self._context

    def refresh(self) -> None:
        """Look at the files now."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._context = self._read()
        except ConfigError as error:
            _LOG.warning("the listener keeps its certificate: %s", error)
        else:
            _LOG.info("the listener's certificate was read again")

    def _read(self) -> ssl.SSLContext:
        context = server_context(self._settings)
        ends = expiry(self._settings)
        metrics.TLS_CERTIFICATE_EXPIRES.set(ends)
        if ends < time.time() + _SOON:
            word = "ended" if ends < time.time() else "ends"
            _LOG.warning("the listener's certificate %s on %s", word, datetime.fromtimestamp(ends, UTC).date())
        return context

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        stamps = []
        for path in (self._settings.cert, self._settings.key, self._settings.ca):
            if path is not None:
                try:
                    status = os.stat(path)
                except OSError:
                    stamps.append((0, 0))
                else:
                    stamps.append((status.st_mtime_ns, status.st_ino))
        return tuple(stamps)


def _readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"listener.tls.{name} = '{path}': {error.strerror}") from error


def _no_passphrase() -> str:
    raise ConfigError("listener.tls.key: the key is encrypted; a listener that starts by itself needs one that is not")


def _not_after(certificate: bytes) -> float:
    """notAfter of a DER certificate: RFC 5280 section 4.1."""
    _, fields, _ = _element(certificate, 0)
    _, fields, _ = _element(certificate, fields)
    kind, _, after = _element(certificate, fields)
    position = after if kind == 0xA0 else fields  # version, explicit [0], absent in version 1
    for _ in range(3):  # serialNumber, signature, issuer
        position = _element(certificate, position)[2]
    _, validity, _ = _element(certificate, position)
    kind, start, end = _element(certificate, _element(certificate, validity)[2])
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("no time")
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    moment = datetime.strptime(certificate[start:end].decode("ascii"), form)
    if kind == _UTC_TIME and moment.year >= 2050:  # RFC 5280: 50 to 99 are of the last century
        moment = moment.replace(year=moment.year - 100)
    return moment.replace(tzinfo=UTC).timestamp()


def _element(der: bytes, position: int) -> tuple[int, int, int]:
    """(identifier, where the contents begin, where they end) of a DER element."""
    length, start = der[position + 1], position + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if start + length > len(der):
        raise ValueError("cut short")
    return der[position], start, start + length
