"""Who may ask: the token, the page's cookie, and the headers that every answer carries. Knows no studies."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ichor.config import is_loopback

COOKIE = "ichor"
# Probes and scrapers ask without a token (docs/contract.md); the sign-in form and its looks hold nothing.
_OPEN = ("/healthz", "/readyz", "/metrics", "/sign-in")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Refuse = Callable[[HTTPConnection, int, str], Response]


class Guard:
    """ASGI middleware: 401 without the token, 403 for a foreign Host when there is none, headers on every answer.

    Parameters
    ----------
    app
        What is guarded.
    token
        None: open, but only to requests that name a loopback host, so that no web page can reach it by rebinding a
        name to this machine.
    refuse
        Makes the answer of (connection, status, text): JSON or a page.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, refuse: Refuse) -> None:
        self._app = app
        self._token = token
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        connection = HTTPConnection(scope)
        path = scope["path"]
        if path in _OPEN or path.startswith("/static/"):
            await self._app(scope, receive, send_with_headers)
        elif self._token is None and not is_loopback(_host(connection.headers)):
            answer = self._refuse(connection, 403, "without a token only a loopback host name may be used")
            await answer(scope, receive, send_with_headers)
        elif self._token is not None and not _allowed(connection, self._token):
            answer = self._refuse(connection, 401, "a token is needed: Authorization: Bearer ...")
            answer.headers["WWW-Authenticate"] = 'Bearer realm="ichor"'
            await answer(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def same(given: str, wanted: str) -> bool:
    """Equal, in a time that does not tell how much of it is."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def page_cookie(token: str) -> str:
    """What a signed-in browser holds: proves the token, does not give it away."""
    return hmac.new(token.encode(), b"ichor console page", hashlib.sha256).hexdigest()


def _allowed(connection: HTTPConnection, token: str) -> bool:
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and same(given.strip(), token):
        return True
    # A browser cannot send the header by itself. The cookie reads; verbs of the API need the token.
    reads = connection.scope["method"] in ("GET", "HEAD") or connection.scope["path"] == "/find"
    return reads and same(connection.cookies.get(COOKIE, ""), page_cookie(token))


def _host(headers: Headers) -> str:
    host = headers.get("host", "")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
