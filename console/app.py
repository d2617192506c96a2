"""The ASGI application: routes, guard and the form of errors put together. No logic of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from console import api
from console.guard import Guard
from console.pages import Pages
from console.sources import Sources
from ichor import metrics
from ichor.errors import TransientError

_LOG = logging.getLogger(__name__)


def build_app(sources: Sources, *, token: str | None) -> Starlette:
    """The console as an ASGI application.

    Parameters
    ----------
    sources
        What it reads from.
    token
        Needed for everything but probes and metrics; None: open (loopback only).
    """
    pages = Pages(sources, token=token)

    def answer(connection: HTTPConnection, status: int, text: str) -> Response:
        if wants_page(connection.scope["path"]):
            return pages.message(status, text)
        return JSONResponse({"error": text}, status_code=status)

    def refused(request: Request, error: Exception) -> Response:
        wrong = cast(HTTPException, error)
        made = answer(request, wrong.status_code, wrong.detail)
        made.headers.update(wrong.headers or {})
        return made

    def away(request: Request, error: Exception) -> Response:
        _LOG.warning("%s is not answered: %s", request.url.path, error)
        made = answer(request, 503, "the bus is away: ask again")
        made.headers["Retry-After"] = "5"
        return made

    def broken(request: Request, error: Exception) -> Response:
        metrics.LOOP_ERRORS.labels("console").inc()
        _LOG.error("%s failed: %s", request.url.path, type(error).__name__, exc_info=error)
        return answer(request, 500, "the console could not answer this; its log says why")

    handlers: dict[type[Exception] | int, Callable[[Request, Exception], Response]] = {
        HTTPException: refused,
        TransientError: away,
        Exception: broken,
    }
    return Starlette(
        routes=[*api.routes(sources), *pages.routes()],
        middleware=[Middleware(Guard, token=token, refuse=answer)],
        exception_handlers=cast("dict[type[Exception] | int, ExceptionHandler]", handlers),
    )


def wants_page(path: str) -> bool:
    """People ask for pages; everything below /api and the probes answers machines."""
    return not path.startswith("/api/") and path not in ("/healthz", "/readyz", "/metrics")
