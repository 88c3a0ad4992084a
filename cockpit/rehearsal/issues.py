"""A forge's issues as GitHub's REST API has them: list, get, create, change, comments and labels.

Beyond what is asked of it here a request is answered 404, as the real one does for what it does not know.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from cockpit.rehearsal.sigstore.faulty import Fault, FaultyService

_MOST_PER_PAGE = 100
_MAX_TITLE = 256
_MAX_BODY = 65_536
_DOCS = "https://docs.github.com/rest/issues"

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass
class _Stored:
    number: int
    title: str
    body: str
    labels: list[str]
    created_at: str
    state: str = "open"
    state_reason: str | None = None
    closed_at: str | None = None
    comments: list[dict[str, Any]] = field(default_factory=list)
    pull_request: bool = False


@dataclass
class _Answer:
    """A fault: `times` requests of a method get `status`; with `drop` the work is done and the answer cut."""

    status: int
    times: int
    method: str
    headers: dict[str, str]
    drop: bool


class _Refused(Exception):
    def __init__(self, status: int, message: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"message": message, "documentation_url": _DOCS}
        if errors:
            self.body["errors"] = errors


class IssuesServer:
    """Listens on a free loopback port. `record` (e.g. `world/issues.jsonl`) takes each change as a JSON line.

    An empty `token` makes one. `may_label` false: the token may not set labels, and as on the real one they
    are dropped without a word.
    """

    def __init__(
        self,
        repository: str = "intelgraph/platform",
        *,
        token: str = "",
        record: Path | None = None,
        may_label: bool = True,
    ) -> None:
        self.repository = repository
        self.token = token or secrets.token_urlsafe(16)
        self.may_label = may_label
        self._record = record
        self._issues: list[_Stored] = []
        self._faults: list[_Answer] = []
        self._comments = 0
        one = "/repos/{owner}/{name}/issues/{number:\\d+}"
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/repos/{owner}/{name}", self._about),
            ("GET", "/repos/{owner}/{name}/issues", self._list),
            ("POST", "/repos/{owner}/{name}/issues", self._create),
            ("GET", one, self._get),
            ("PATCH", one, self._change),
            ("GET", f"{one}/comments", self._list_comments),
            ("POST", f"{one}/comments", self._comment),
            ("GET", f"{one}/labels", self._list_labels),
            ("POST", f"{one}/labels", self._add_labels),
        ]
        self._service = FaultyService(
            [web.route(method, path, self._guarded(act)) for method, path, act in routes]
        )

    async def __aenter__(self) -> IssuesServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
        await self._service.start()

    async def stop(self) -> None:
        """Close the port."""
        await self._service.stop()

    @property
    def url(self) -> str:
        """Base of the API."""
        return self._service.url

    @property
    def requests(self) -> int:
        """How many requests have come."""
        return self._service.requests

    # -- what tests and scenarios do ------------------------------------------------------------------

    async def fault(self, kind: Fault | None) -> None:
        """Answer 500 (`error`), `hang` or `refuse`; `None` mends it."""
        await self._service.fault(kind)

    def answer_next(
        self, status: int, *, times: int = 1, method: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next `times` requests (of `method`) with `status`, e.g. 401, 404, 422, 429."""
        self._faults.append(_Answer(status, times, method, headers or {}, drop=False))

    def drop_next(self, method: str = "POST") -> None:
        """Do what the next request of `method` asks, and cut the connection instead of answering."""
        self._faults.append(_Answer(0, 1, method, {}, drop=True))

    def add(
        self, title: str, body: str = "", labels: tuple[str, ...] = (), *, pull_request: bool = False
    ) -> int:
        """Add an issue, or a pull request, as somebody else would; return its number."""
        stored = _Stored(len(self._issues) + 1, title, body, list(labels), _now(), pull_request=pull_request)
        self._issues.append(stored)
        return stored.number

    def change(self, number: int, **fields: Any) -> None:
        """Change an issue as somebody else would: `state`, `closed_at`, `labels`, `body`."""
        stored = self._issues[number - 1]
        for name, value in fields.items():
            setattr(stored, name, value)

    def all(self) -> list[dict[str, Any]]:
        """Return every issue with its comments (`notes`), oldest first."""
        return [{**self._shown(one), "notes": list(one.comments)} for one in self._issues]

    # -- the API --------------------------------------------------------------------------------------

    def _guarded(self, act: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            fault = self._fault_for(request.method)
            if fault is not None and not fault.drop:
                body = {"message": f"rehearsal fault: {fault.status}", "documentation_url": _DOCS}
                return web.json_response(body, status=fault.status, headers=fault.headers)
            try:
                self._authorise(request)
                answer: web.StreamResponse = await act(request)
            except _Refused as refused:
                answer = web.json_response(refused.body, status=refused.status)
            if fault is not None and request.transport is not None:
                request.transport.abort()
            return answer

        return handle

    def _fault_for(self, method: str) -> _Answer | None:
        for fault in self._faults:
            if fault.method in ("", method):
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                return fault
        return None

    def _authorise(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or given != self.token:
            raise _Refused(401, "Bad credentials")
        if f"{request.match_info['owner']}/{request.match_info['name']}" != self.repository:
            raise _Refused(404, "Not Found")

    async def _about(self, request: web.Request) -> web.Response:
        name = self.repository.partition("/")[2]
        may = {"admin": False, "push": self.may_label, "pull": True}
        return web.json_response(
            {"name": name, "full_name": self.repository, "has_issues": True, "permissions": may}
        )

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = {label for label in query.get("labels", "").split(",") if label}
        state = query.get("state", "open")
        if state not in ("open", "closed", "all"):
            raise _Refused(422, "Validation Failed", [_wrong("state", "invalid")])
        rows = [one for one in self._issues if wanted <= set(one.labels) and state in ("all", one.state)]
        # As on the real one, creation is the order unless asked otherwise; numbers grow with it.
        rows.sort(key=lambda one: one.number, reverse=query.get("direction", "desc") != "asc")
        return self._page(request, [self._shown(one) for one in rows])

    def _page(self, request: web.Request, rows: list[dict[str, Any]]) -> web.Response:
        size = min(_MOST_PER_PAGE, max(1, _number(request.query.get("per_page"), 30)))
        page = max(1, _number(request.query.get("page"), 1))
        headers = {}
        if page * size < len(rows):
            url = request.url.update_query(page=str(page + 1))
            last = request.url.update_query(page=str(-(-len(rows) // size)))
            headers["Link"] = f'<{url}>; rel="next", <{last}>; rel="last"'
        return web.json_response(rows[(page - 1) * size : page * size], headers=headers)

    async def _create(self, request: web.Request) -> web.Response:
        sent = await _object(request)
        title, body, labels = sent.get("title"), sent.get("body") or "", sent.get("labels") or []
        if not isinstance(title, str) or not title.strip():
            raise _Refused(422, "Validation Failed", [_wrong("title", "missing_field")])
        if len(title) > _MAX_TITLE:
            raise _Refused(422, "Validation Failed", [_wrong("title", "too_long")])
        self._check_text(body, "body")
        number = self.add(title, body, tuple(_names(labels)) if self.may_label else ())
        self._keep("created", number)
        return web.json_response(self._shown(self._issues[number - 1]), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown(self._one(request)))

    async def _change(self, request: web.Request) -> web.Response:
        one, sent = self._one(request), await _object(request)
        state = sent.get("state", one.state)
        if state not in ("open", "closed"):
            raise _Refused(422, "Validation Failed", [_wrong("state", "invalid")])
        if "title" in sent:
            one.title = str(sent["title"])
        if "body" in sent:
            self._check_text(sent["body"], "body")
            one.body = sent["body"]
        if "labels" in sent and self.may_label:
            one.labels = _names(sent["labels"])
        if state != one.state:
            one.state = state
            one.closed_at = _now() if state == "closed" else None
            one.state_reason = str(sent.get("state_reason", "completed")) if state == "closed" else "reopened"
        self._keep("changed", one.number)
        return web.json_response(self._shown(one))

    async def _list_comments(self, request: web.Request) -> web.Response:
        return self._page(request, self._one(request).comments)

    async def _comment(self, request: web.Request) -> web.Response:
        one, sent = self._one(request), await _object(request)
        body = sent.get("body")
        if not isinstance(body, str) or not body.strip():
            raise _Refused(422, "Validation Failed", [_wrong("body", "missing_field")])
        self._check_text(body, "body")
        self._comments += 1
        url = f"{self._where(one)}#issuecomment-{self._comments}"
        made = {
            "id": self._comments,
            "html_url": url,
            "body": body,
            "created_at": _now(),
            "updated_at": _now(),
        }
        one.comments.append(made)
        self._keep("commented", one.number)
        return web.json_response(made, status=201)

    async def _list_labels(self, request: web.Request) -> web.Response:
        return self._page(request, [{"name": name} for name in self._one(request).labels])

    async def _add_labels(self, request: web.Request) -> web.Response:
        one, sent = self._one(request), await _object(request)
        if not self.may_label:
            raise _Refused(403, "Must have push access to label issues")
        one.labels = list(dict.fromkeys([*one.labels, *_names(sent.get("labels") or [])]))
        self._keep("labelled", one.number)
        return web.json_response([{"name": name} for name in one.labels])

    # -- helpers --------------------------------------------------------------------------------------

    def _one(self, request: web.Request) -> _Stored:
        number = int(request.match_info["number"])
        if not 1 <= number <= len(self._issues):
            raise _Refused(404, "Not Found")
        return self._issues[number - 1]

    def _check_text(self, text: object, name: str) -> None:
        if not isinstance(text, str):
            raise _Refused(422, "Validation Failed", [_wrong(name, "invalid")])
        if len(text) > _MAX_BODY:
            raise _Refused(422, f"Validation Failed: {name} is too long (maximum is 65536 characters)")

    def _where(self, one: _Stored) -> str:
        kind = "pull" if one.pull_request else "issues"
        return f"{self.url}/{self.repository}/{kind}/{one.number}"

    def _shown(self, one: _Stored) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "number": one.number,
            "title": one.title,
            "body": one.body,
            "state": one.state,
            "state_reason": one.state_reason,
            "labels": [{"name": name, "color": "ededed"} for name in one.labels],
            "html_url": self._where(one),
            "created_at": one.created_at,
            "closed_at": one.closed_at,
            "comments": len(one.comments),
        }
        if one.pull_request:
            shown["pull_request"] = {"html_url": self._where(one)}
        return shown

    def _keep(self, what: str, number: int) -> None:
        if self._record is None:
            return
        one = self._issues[number - 1]
        line = {"time": _now(), "what": what, **self._shown(one), "notes": one.comments}
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise _Refused(400, "Problems parsing JSON") from None
    if not isinstance(found, dict):
        raise _Refused(422, "Invalid request: not an object")
    return found


def _names(labels: object) -> list[str]:
    rows = labels if isinstance(labels, list) else []
    names = [row.get("name") if isinstance(row, dict) else row for row in rows]
    if not all(isinstance(name, str) and 0 < len(name) <= 50 for name in names):
        raise _Refused(422, "Validation Failed", [_wrong("labels", "invalid")])
    return list(dict.fromkeys(str(name) for name in names))


def _wrong(name: str, code: str) -> dict[str, str]:
    return {"resource": "Issue", "field": name, "code": code}


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isdigit() and len(text) < 9 else otherwise


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
