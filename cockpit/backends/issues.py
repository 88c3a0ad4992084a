"""Issues on a forge that speaks GitHub's REST API: filed once each, found again by a key in their body.

The key stands in an HTML comment at the beginning of a body and is looked for among the issues with the label
`cockpit`. On such forges only people with write access can set labels, so a stranger's issue cannot pose as
one that was filed already. What is found after a crash between creating an issue and recording it is `known`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit

from cockpit.backends.http import hung_up
from cockpit.backends.issue_answers import (
    MAX_TITLE,
    Comment,
    Issue,
    accepted,
    array,
    body_of,
    bounded,
    check_key,
    comment_of,
    document,
    headers_of,
    issue_of,
    labels_of,
    marker,
    origin_of,
)
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, BackendGarbage, BackendUnreachable, UsageError
from cockpit.base.text import visible

LABEL = "cockpit"
"""The label of everything filed here, and what is listed to find it again."""

Kind = Literal["incident", "regression", "fix_train", "drill"]
State = Literal["open", "closed", "all"]

_PER_PAGE = 100
_MOST_PAGES = 20
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?next"?')
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ATTEMPTS = 4
_FIRST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Filed:
    """An issue that is there now: `known` when it was before; `problem` says what it lacks."""

    number: int
    url: str
    known: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RepositorySeen:
    """The repository as its forge shows it to us; `may` is what we may there, empty when it does not say."""

    name: str
    has_issues: bool
    may: Mapping[str, bool]
    date: str


class IssueReader(Protocol):
    """Reads issues; every method raises BackendError."""

    async def issues(self, *, labels: Sequence[str] = (), state: State = "all") -> list[Issue]:
        """Return the issues that have all of `labels`, newest first; pull requests are left out."""
        ...

    async def get(self, number: int) -> Issue:
        """Return an issue; raises BackendRefused with status 404 when there is none."""
        ...

    async def comments(self, number: int) -> list[Comment]:
        """Return an issue's comments, oldest first."""
        ...

    async def find(self, key: str) -> Issue | None:
        """Return the issue filed under a key, whatever its state."""
        ...


class IssueTracker(IssueReader, Protocol):
    """Reads and files issues."""

    async def create(self, title: str, body: str, labels: Sequence[str]) -> Issue:
        """Create an issue."""
        ...

    async def comment(self, number: int, body: str) -> Comment:
        """Comment on an issue."""
        ...

    async def close(self, number: int, *, reason: Literal["completed", "not_planned"] = "completed") -> Issue:
        """Close an issue."""
        ...

    async def add_labels(self, number: int, labels: Sequence[str]) -> tuple[str, ...]:
        """Add labels; return all it has then."""
        ...

    async def file_once(
        self, kind: Kind, key: str, title: str, body: str, labels: Sequence[str] = ()
    ) -> Filed:
        """File an issue unless one with this key is there; `kind` becomes a label beside `labels`."""
        ...

    async def comment_once(self, number: int, key: str, body: str) -> bool:
        """Comment unless a comment with this key is there; tell whether it was made now."""
        ...


class GitHubIssues:
    """The real client. `deadline` seconds bound one exchange, `max_wait` all waiting for a rate limit.

    `url` is the base of the REST API (`https://api.github.com`), `repository` is `owner/name`. A 429, and a
    403 that names a time to come back or an exhausted limit, is tried again after that time; nothing else is
    repeated. Redirects are not followed, and the token is sent to no other origin.
    """

    def __init__(
        self,
        url: str,
        repository: str,
        token: str,
        *,
        clock: Clock,
        deadline: float = 10.0,
        max_wait: float = 30.0,
        tls: Tls = USUAL,
    ) -> None:
        self._tls = tls
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UsageError(
                "the issues URL is not an http(s) URL without credentials", where="targets.issues.url"
            )
        self._base = url.rstrip("/")
        owner, _, name = repository.partition("/")
        self._root = f"{self._base}/repos/{quote(owner, safe='')}/{quote(name, safe='')}"
        self._token = token
        self._clock = clock
        self._deadline = deadline
        self._max_wait = max_wait
        self._local = parts.hostname in _LOOPBACK

    # -- reading --------------------------------------------------------------------------------------

    async def repository(self) -> RepositorySeen:
        """Return the repository whose issues these are; raises BackendError."""
        _, headers, raw = await self._exchange("GET", self._root)
        found = document(raw, self._root)
        if not isinstance(found, dict) or not isinstance(found.get("full_name"), str):
            raise BackendGarbage("the answer is no repository", where=self._root)
        may = found.get("permissions")
        return RepositorySeen(
            visible(found["full_name"], limit=200),
            found.get("has_issues") is not False,
            {str(name): value is True for name, value in may.items()} if isinstance(may, dict) else {},
            headers.get("date", ""),
        )

    async def issues(self, *, labels: Sequence[str] = (), state: State = "all") -> list[Issue]:
        """Return issues; see IssueReader. At most the newest 2,000 are read."""
        asked = {"state": state, "per_page": str(_PER_PAGE), "sort": "created", "direction": "desc"}
        if labels:
            asked["labels"] = ",".join(labels)
        rows = await self._pages(f"{self._root}/issues", asked)
        return [issue_of(row, self._root) for row in rows if "pull_request" not in row]

    async def get(self, number: int) -> Issue:
        """Return an issue; see IssueReader."""
        return issue_of(await self._object("GET", f"{self._root}/issues/{number:d}"), self._root)

    async def comments(self, number: int) -> list[Comment]:
        """Return an issue's comments; see IssueReader."""
        where = f"{self._root}/issues/{number:d}/comments"
        return [comment_of(row, where) for row in await self._pages(where, {"per_page": str(_PER_PAGE)})]

    async def find(self, key: str) -> Issue | None:
        """Return the issue filed under a key; of several the oldest counts."""
        check_key(key)
        found = [issue for issue in await self.issues(labels=(LABEL,)) if issue.key == key]
        return min(found, key=lambda issue: issue.number) if found else None

    # -- filing ---------------------------------------------------------------------------------------

    async def create(self, title: str, body: str, labels: Sequence[str]) -> Issue:
        """Create an issue; see IssueTracker."""
        sent = {
            "title": visible(title, limit=MAX_TITLE),
            "body": bounded(body),
            "labels": list(dict.fromkeys(labels)),
        }
        return issue_of(await self._object("POST", f"{self._root}/issues", sent), self._root)

    async def comment(self, number: int, body: str) -> Comment:
        """Comment on an issue; see IssueTracker."""
        where = f"{self._root}/issues/{number:d}/comments"
        return comment_of(await self._object("POST", where, {"body": bounded(body)}), where)

    async def close(self, number: int, *, reason: Literal["completed", "not_planned"] = "completed") -> Issue:
        """Close an issue; see IssueTracker."""
        sent = {"state": "closed", "state_reason": reason}
        return issue_of(await self._object("PATCH", f"{self._root}/issues/{number:d}", sent), self._root)

    async def add_labels(self, number: int, labels: Sequence[str]) -> tuple[str, ...]:
        """Add labels; see IssueTracker."""
        where = f"{self._root}/issues/{number:d}/labels"
        _, _, raw = await self._exchange("POST", where, sent={"labels": list(labels)})
        return labels_of(array(raw, where))

    async def file_once(
        self, kind: Kind, key: str, title: str, body: str, labels: Sequence[str] = ()
    ) -> Filed:
        """File an issue once; see IssueTracker."""
        known = await self.find(key)
        if known is not None:
            return Filed(known.number, known.url, known=True, problem=await self._labelled(known))
        wanted = (LABEL, kind, *labels)
        try:
            made = await self.create(title, f"{marker(key)}\n{body}", wanted)
        except BackendUnreachable:
            # It may have been made: an answer that got lost must not lead to a second issue.
            made_unseen = await self.find(key)
            if made_unseen is None:
                raise
            made = made_unseen
        return Filed(made.number, made.url, known=False, problem=await self._labelled(made))

    async def comment_once(self, number: int, key: str, body: str) -> bool:
        """Comment once; see IssueTracker."""
        check_key(key)
        if any(one.key == key for one in await self.comments(number)):
            return False
        await self.comment(number, f"{marker(key)}\n{body}")
        return True

    async def _labelled(self, issue: Issue) -> str:
        """Return why an issue cannot be found again, empty when it can.

        Forges drop labels silently where the token may not set them.
        """
        if LABEL in issue.labels:
            return ""
        try:
            if LABEL in await self.add_labels(issue.number, (LABEL,)):
                return ""
            why = "the forge did not take it"
        except BackendError as error:
            why = error.what
        return f"it has no label {LABEL!r}, so it would not be found again: {why}"

    # -- exchanges ------------------------------------------------------------------------------------

    async def _pages(self, url: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        asked: Mapping[str, str] | None = params
        for _ in range(_MOST_PAGES):
            _, headers, raw = await self._exchange("GET", url, params=asked)
            rows += array(raw, url)
            following = _NEXT.search(headers.get("link", ""))
            if following is None:
                break
            url, asked = following[1], None
            if origin_of(url) != origin_of(self._base):
                raise BackendGarbage("the next page is on another host", where=visible(url, limit=200))
        return rows

    async def _object(self, method: str, url: str, sent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        _, _, raw = await self._exchange(method, url, sent=sent)
        found = document(raw, url)
        if not isinstance(found, dict):
            raise BackendGarbage("the answer is not a JSON object", where=url)
        return found

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send until it is not rate-limited; return status, headers and body of a 2xx answer."""
        waited = 0.0
        for attempt in range(_ATTEMPTS):
            status, headers, raw = await self._once(method, url, params, sent)
            wait = self._come_back(status, headers, attempt)
            if wait is None:
                return accepted(status, headers, raw, url)
            if attempt + 1 == _ATTEMPTS or waited + wait > self._max_wait:
                raise BackendUnreachable(
                    f"the forge is rate-limited: it answered {status} and wants {wait:.0f} s of patience",
                    where=url,
                    hint="try again later: nothing is filed twice",
                )
            waited += wait
            await self._clock.sleep(wait)
        raise AssertionError("unreachable")  # the last attempt returns or raises

    def _come_back(self, status: int, headers: Mapping[str, str], attempt: int) -> float | None:
        """Return how many seconds to wait, None when the answer is no rate limit."""
        if status not in (403, 429):
            return None
        after = headers.get("retry-after", "")
        if after.strip().isdigit():
            return min(float(after), 1e6)
        if after:
            try:
                moment = parsedate_to_datetime(after)
            except ValueError:
                return _FIRST_WAIT
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, (moment - self._clock.now()).total_seconds())
        if headers.get("x-ratelimit-remaining", "") == "0":
            reset = headers.get("x-ratelimit-reset", "")
            if reset.isdigit() and len(reset) < 12:
                until = datetime.fromtimestamp(int(reset), UTC) - self._clock.now()
                return max(_FIRST_WAIT, until.total_seconds())
            return _FIRST_WAIT
        return _FIRST_WAIT * 2.0**attempt if status == 429 else None

    async def _once(
        self, method: str, url: str, params: Mapping[str, str] | None, sent: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        import httpx

        headers = {
            "Accept": "application/vnd.github+json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._token}",
            "User-Agent": "release-cockpit",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        content = (
            None if sent is None else json.dumps(dict(sent), ensure_ascii=False).encode("utf-8", "replace")
        )
        if content is not None:
            headers["Content-Type"] = "application/json"
        where = visible(f"{method} {url.partition('?')[0]}", limit=300)
        try:
            async with (
                asyncio.timeout(self._deadline),
                httpx.AsyncClient(
                    timeout=self._deadline,
                    trust_env=not self._local,
                    verify=self._tls.context(environment=not self._local),
                ) as client,
                client.stream(method, url, params=params, content=content, headers=headers) as answer,
            ):
                return answer.status_code, headers_of(answer), await body_of(answer, where)
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=where) from None
        except (httpx.DecodingError, httpx.RemoteProtocolError, httpx.LocalProtocolError) as error:
            text = visible(str(error), limit=200)
            if hung_up(error):
                raise BackendUnreachable(f"cut off: {text}", where=where) from None
            raise BackendGarbage(f"not HTTP: {text}", where=where) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise BackendUnreachable(f"{type(error).__name__} while asking the forge", where=where) from None
