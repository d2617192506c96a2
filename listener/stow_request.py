"""Who may send by STOW-RS, and what a request's head asks for (PS3.18 section 10.5.1). Reads no body.

HTTP has no AE titles: a sender is known by its address and by the token.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from ichor.config import SenderSettings, is_loopback
from ichor.uids import is_valid_uid
from listener.admission import Hosts
from listener.multipart import is_boundary, media_type
from listener.stow_transaction import DICOM

_PATH = re.compile(r"/dicom-web/studies(?:/([^/]+))?/?")
RETRY_AFTER = {"Retry-After": "60"}


class Refusal(Exception):
    """A request that is answered without storing anything; the text is one of few and goes to the client."""

    def __init__(self, status: HTTPStatus, text: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class Asked(NamedTuple):
    """What a request's head asks for, once it is found good."""

    study: str
    boundary: str
    accept: str


class Desk:
    """Judges requests. Safe from any thread.

    Parameters
    ----------
    token
        What a request must bear; None: any, but it must name a loopback host.
    senders
        Whose addresses may send; empty: anybody.
    is_congested
        True while no further request should be taken.
    room
        Bytes that a body may have now.
    """

    def __init__(
        self, *, token: str | None, senders: Sequence[SenderSettings], is_congested: Callable[[], bool],
        room: Callable[[], int],
    ) -> None:  # fmt: skip
        self._token = token
        self._senders = tuple(senders)
        self._hosts = Hosts([sender.host for sender in senders])
        self._is_congested = is_congested
        self._room = room

    def sender(self, address: str) -> SenderSettings | None:
        """The first entry of that host; one that must show who it is over DICOM needs the token here."""
        for sender in self._senders:
            if self._hosts.has(sender.host, address) and (not sender.username or self._token is not None):
                return sender
        return None

    def judge(self, request: h11.Request, sender: SenderSettings | None) -> Asked:
        """What a request of ``sender`` asks for; Refusal when it is not taken."""
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        if self._senders and sender is None:
            raise Refusal(HTTPStatus.FORBIDDEN, "address not recognised")
        if self._token is not None:
            scheme, _, given = fields.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode("latin-1"), self._token.encode()
            ):
                needs = {"WWW-Authenticate": 'Bearer realm="ichor"'}
                raise Refusal(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer ...", headers=needs)
        elif not is_loopback(_host(fields.get("host", ""))):
            # No web page may reach this by a name that it binds to this machine.
            raise Refusal(HTTPStatus.FORBIDDEN, "without a token only a loopback host name may be used")
        path = _path(request.target.decode("latin-1"))
        if path is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "here is only /dicom-web/studies")
        if request.method != b"POST":
            raise Refusal(
                HTTPStatus.METHOD_NOT_ALLOWED, "only POST: nothing is retrieved here", headers={"Allow": "POST"}
            )
        study = path[1] or ""
        if study and not is_valid_uid(study):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the study of the request's path is no UID")
        boundary = _boundary(fields)
        if self._is_congested():
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no space for the moment", headers=RETRY_AFTER)
        length = fields.get("content-length", "")
        if length.isdigit() and int(length) > self._room():
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "more than there is space for")
        return Asked(study, boundary, fields.get("accept", ""))


def _boundary(fields: dict[str, str]) -> str:
    """Boundary of a body that can be read; Refusal otherwise."""
    if fields.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content encodings are not taken: send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )  # fmt: skip
    kind, parameters = media_type(fields.get("content-type", ""))
    inner = parameters.get("type", DICOM).strip().lower()
    if kind != "multipart/related" or inner != DICOM:
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            'only multipart/related; type="application/dicom": whole DICOM files, '
            "no metadata and bulk data apart, no other types",
        )
    boundary = parameters.get("boundary", "")
    if not is_boundary(boundary):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the Content-Type has no valid boundary")
    return boundary


def _path(target: str) -> re.Match[str] | None:
    try:
        return _PATH.fullmatch(urlsplit(target).path)
    except ValueError:
        return None


def _host(value: str) -> str:
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0]
