"""The REST API of docs/contract.md: thin handlers that ask history and answer JSON. No page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.exposition import CONTENT_TYPE, Exposition
from console.sources import Sources
from ichor.clock import rfc3339
from ichor.errors import TransientError
from ichor.history import Study, as_json
from ichor.types import StudyState
from ichor.uids import accession_digest, is_valid_uid

_LONGEST_BODY = 4096  # bytes; an Accession Number has 16 characters


def routes(sources: Sources) -> list[Route]:
    """Every path of the API, and the three that probes and scrapers ask."""
    projection = sources.projection
    exposition = Exposition(sources.bus, sources.waiting)

    def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_: Request) -> Response:
        ready, detail = sources.ready()
        return JSONResponse({"ready": ready, "detail": detail}, status_code=200 if ready else 503)

    def metrics(_: Request) -> Response:
        return Response(exposition.text(), media_type=CONTENT_TYPE)

    def studies(request: Request) -> Response:
        state = parse_state(request.query_params.get("state", ""))
        since = parse_since(request.query_params.get("since", ""))
        whole_log(sources)
        return JSONResponse([as_json(s) for s in projection.studies(state=state, since=since)])

    def study(request: Request) -> Response:
        return JSONResponse(as_json(known_study(sources, request)))

    def image(request: Request) -> Response:
        pictures = known_study(sources, request).pictures
        n = request.path_params["n"]
        if not 1 <= n <= len(pictures):
            raise HTTPException(404, f"this study has {len(pictures)} pictures")
        key = pictures[n - 1][0]
        try:
            return Response(
                sources.blobs.get(key), media_type="image/png", headers={"Cache-Control": "private, max-age=60"}
            )
        except (KeyError, ValueError):
            raise HTTPException(404, "this picture is not kept any more") from None
        except TransientError as error:
            raise HTTPException(503, str(error)) from None

    def ask_why(request: Request) -> Response:
        answer = sources.why(request.path_params["uid"])
        if answer is None:
            raise HTTPException(404, "nothing is known of this UID")
        return JSONResponse(answer)

    def refusals(_: Request) -> Response:
        return JSONResponse(
            [
                {"time": rfc3339(r.time), "calling_ae": r.calling_ae, "status": r.status, "reason": r.reason}
                for r in projection.refusals()
            ]
        )

    async def find(request: Request) -> Response:
        digest = accession_digest(_accession(await bounded_body(request)))
        whole_log(sources)
        found = await run_in_threadpool(projection.find, digest) if digest else []
        return JSONResponse([as_json(s) for s in found])

    def get(path: str, answer: Callable[[Request], Response]) -> Route:
        return Route(path, answer, methods=["GET"])

    return [
        get("/healthz", healthz),
        get("/readyz", readyz),
        get("/metrics", metrics),
        get("/api/v1/studies", studies),
        get("/api/v1/studies/{uid}", study),
        get("/api/v1/studies/{uid}/images/{n:int}.png", image),
        get("/api/v1/why/{uid}", ask_why),
        get("/api/v1/refusals", refusals),
        Route("/api/v1/find", find, methods=["POST"]),
    ]


def known_study(sources: Sources, request: Request) -> Study:
    """The study that the path names.

    Raises
    ------
    HTTPException
        404 when there is none.
    """
    uid = request.path_params["uid"]
    found = sources.projection.study(uid) if is_valid_uid(uid) else None
    if found is None:
        raise HTTPException(404, "no study with this UID")
    return found


def whole_log(sources: Sources) -> None:
    """Lists are whole or not given.

    Raises
    ------
    HTTPException
        503 while a long log is still being read after a start.
    """
    if not sources.projection.caught_up.is_set():
        raise HTTPException(503, "the log of events is still being read", headers={"Retry-After": "1"})


def parse_state(text: str) -> StudyState | None:
    """A study state, None for no text; 400 for anything else."""
    if not text:
        return None
    try:
        return StudyState(text)
    except ValueError:
        raise HTTPException(400, f"state: one of {', '.join(StudyState)}") from None


def parse_since(text: str) -> float | None:
    """POSIX seconds of an RFC 3339 time, None for no text; 400 for anything else."""
    if not text:
        return None
    try:
        # An unescaped + of an offset reaches us as a space.
        stamp = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", text))
        if stamp.tzinfo is None:
            raise ValueError("no offset")
        return stamp.timestamp()
    except (ValueError, OverflowError):
        raise HTTPException(400, "since: an RFC 3339 time with offset, like 2026-01-02T03:04:05Z") from None


async def bounded_body(request: Request) -> bytes:
    """The body of a request, at most 4 KiB; 413 for more, as soon as it is more."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise HTTPException(413, f"the body is longer than {_LONGEST_BODY} bytes")
    return body


def _accession(body: bytes) -> str:
    try:
        number = json.loads(body)["accession_number"]
    except (ValueError, KeyError, TypeError, RecursionError):
        number = None
    if not isinstance(number, str):
        raise HTTPException(400, 'a JSON object is needed: {"accession_number": "..."}')
    return number
