"""The pages for people: studies, one study, refusals, sign-in. Rendered here, readable without a script."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from console import words
from console.api import bounded_body, known_study, parse_state
from console.guard import COOKIE, page_cookie, same
from console.sources import Sources
from ichor import __version__
from ichor.history import Study
from ichor.types import StudyState
from ichor.uids import accession_digest, is_valid_uid

_HERE = Path(__file__).parent
_STATIC = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
_PER_PAGE = 50
_MOST_IN_FLIGHT = 200
_SIGNED_IN_SECONDS = 12 * 3600


class Pages:
    """Routes and templates of the page."""

    def __init__(self, sources: Sources, *, token: str | None) -> None:
        self._sources = sources
        self._token = token
        self._static = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= words.FILTERS
        version = hashlib.sha256(b"".join(self._static.values())).hexdigest()[:12]
        self._templates.globals |= {"version": __version__, "static_version": version, "flow": words.FLOW}

    def routes(self) -> list[Route]:
        def get(path: str, answer: Callable[[Request], Response]) -> Route:
            return Route(path, answer, methods=["GET"])

        return [
            get("/", self.studies),
            get("/studies/{uid}", self.study),
            get("/refusals", self.refusals),
            get("/static/{name}", self.static),
            get("/sign-in", self.sign_in),
            Route("/sign-in", self.signed_in, methods=["POST"]),
            Route("/find", self.find, methods=["POST"]),
        ]

    def studies(self, request: Request) -> Response:
        """Studies in flight, then finished ones, page by page."""
        text = request.query_params.get("page", "1")
        page = int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 7 else 1
        state = parse_state(request.query_params.get("state", ""))
        everything = self._sources.projection.studies()
        flight = [s for s in everything if not s.final]
        failed = [s for s in everything if s.state is StudyState.FAILED]
        finished = failed if state is StudyState.FAILED else [s for s in everything if s.final]
        first = (max(page, 1) - 1) * _PER_PAGE
        ready, detail = self._sources.state()
        return self._page(
            "studies.html",
            flight=sorted(flight, key=lambda s: (s.priority.rank, -s.received_at))[:_MOST_IN_FLIGHT],
            in_flight=len(flight),
            finished=finished[first : first + _PER_PAGE],
            finished_count=len(finished),
            failed_count=len(failed),
            refusals_count=len(self._sources.projection.refusals()),
            only_failed=state is StudyState.FAILED,
            page=page,
            more=len(finished) > first + _PER_PAGE,
            ready=ready,
            ready_detail=detail,
            reading=not self._sources.projection.caught_up.is_set(),
        )

    def study(self, request: Request) -> Response:
        """One study with its steps, evidence, results and history."""
        study = known_study(self._sources, request)
        answer = self._sources.why(study.study_instance_uid)
        events = answer["events"] if answer else []
        return self._page("study.html", study=study, events=events, steps=words.steps(study))

    def refusals(self, _: Request) -> Response:
        """What was not accepted, and why."""
        return self._page("refusals.html", refusals=self._sources.projection.refusals()[:500])

    async def find(self, request: Request) -> Response:
        """To the study of an Accession Number or a UID; to a list when there are several."""
        form = parse_qs((await bounded_body(request)).decode("utf-8", "replace"))
        return await run_in_threadpool(self._found, form.get("what", [""])[0].strip())

    def _found(self, text: str) -> Response:
        found: list[Study] = []
        place = self._sources.locate(text) if is_valid_uid(text) else None
        if place is not None and self._sources.projection.study(place[1]) is not None:
            return RedirectResponse(f"/studies/{place[1]}", status_code=303)
        if digest := accession_digest(text):
            found = self._sources.projection.find(digest)
        if len(found) == 1:
            return RedirectResponse(f"/studies/{found[0].study_instance_uid}", status_code=303)
        if not found:
            return self.message(404, "No study has this accession number or UID.")
        return self._page("found.html", found=found)

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404, "there is no such file")
        headers = {"Cache-Control": "public, max-age=3600"}
        return Response(self._static[name], media_type=_STATIC[name], headers=headers)

    def sign_in(self, _: Request) -> Response:
        return self._page("sign_in.html", status=200, wrong=False)

    async def signed_in(self, request: Request) -> Response:
        """The token, exchanged for a cookie that a browser can send."""
        form = parse_qs((await bounded_body(request)).decode("utf-8", "replace"))
        given = form.get("token", [""])[0].strip()
        if self._token is None:
            return RedirectResponse("/", status_code=303)
        if not same(given, self._token):
            return self._page("sign_in.html", status=401, wrong=True)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE, page_cookie(self._token), max_age=_SIGNED_IN_SECONDS, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    def message(self, status: int, text: str) -> Response:
        """A page with one sentence; for 401 the way in."""
        if status == 401:
            return self._page("sign_in.html", status=401, wrong=False)
        return self._page("message.html", status=status, text=text)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        now = self._sources.clock.time()
        return HTMLResponse(
            self._templates.get_template(template).render(now=now, status=status, **values), status_code=status
        )
