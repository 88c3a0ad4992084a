"""What a forge answers about issues, read with care; and the key in an issue's body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible

if TYPE_CHECKING:
    import httpx

MAX_TITLE = 240
_MAX_BODY = 60_000
"""Characters; GitHub takes 65,536."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,199}")
_MARKER = re.compile(r"<!-- cockpit:key=([A-Za-z0-9._:/+-]{1,200}) -->")
_HINTS = {
    401: "check the token of targets.issues",
    403: "the token needs to read and write issues",
    404: "check targets.issues.repository, and that the token may see it",
    410: "issues are switched off for this repository",
}


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue; times are RFC 3339, `raw` the JSON the forge gave."""

    number: int
    url: str
    title: str
    body: str
    state: str
    labels: tuple[str, ...]
    created_at: str
    closed_at: str
    raw: bytes

    @property
    def key(self) -> str:
        """Return the key it was filed under, empty when it has none."""
        return key_in(self.body)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on an issue."""

    url: str
    body: str
    created_at: str
    raw: bytes

    @property
    def key(self) -> str:
        """Return the key it was made under, empty when it has none."""
        return key_in(self.body)


def marker(key: str) -> str:
    """Return the comment that carries a key; raises UsageError for what cannot be one."""
    check_key(key)
    return f"<!-- cockpit:key={key} -->"


def key_in(body: str) -> str:
    """Return the key at the very beginning of a body, empty when there is none."""
    found = _MARKER.match(body)
    return found[1] if found else ""


def check_key(key: str) -> None:
    # Two hyphens would end the comment it stands in.
    if not _KEY.fullmatch(key) or "--" in key or key.endswith("-"):
        raise UsageError(f"not a key: {visible(key, limit=80)!r}")


def bounded(text: str) -> str:
    clean = text.replace("\x00", "␀")
    if len(clean) <= _MAX_BODY:
        return clean
    return clean[: _MAX_BODY - 40] + "\n\n… cut: the whole is in the run folder\n"


def headers_of(answer: httpx.Response) -> dict[str, str]:
    return {name.lower(): value[:4000] for name, value in answer.headers.items()}


async def body_of(answer: httpx.Response, where: str) -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise BackendGarbage("the answer is compressed, which was not asked for", where=where)
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise BackendGarbage(f"an answer of more than {MAX_ANSWER_BYTES} bytes", where=where)
    return bytes(body)


def accepted(
    status: int, headers: Mapping[str, str], raw: bytes, url: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Return a 2xx answer; raise what any other means."""
    where = visible(url, limit=300)
    if 200 <= status < 300:
        return status, headers, raw
    said = _message(raw)
    if status >= 500 or status == 429:
        raise BackendUnreachable(f"the forge answered {status}: {said}", where=where)
    if status >= 400:
        hint = _HINTS.get(status, "")
        raise BackendRefused(f"the forge answered {status}: {said}", where=where, hint=hint, status=status)
    if status >= 300:
        raise BackendGarbage(
            f"the forge answered {status}; redirects are not followed", where=where, hint="name the final URL"
        )
    raise BackendGarbage(f"the forge answered {status}", where=where)


def _message(raw: bytes) -> str:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return "no reason given"
    if not isinstance(found, dict):
        return "no reason given"
    errors = found.get("errors")
    more = f" {json.dumps(errors)[:200]}" if errors else ""
    return visible(f"{found.get('message', 'no reason given')}{more}", limit=400)


def document(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise BackendGarbage("the answer is not JSON", where=where) from None


def array(raw: bytes, where: str) -> list[dict[str, Any]]:
    found = document(raw, where)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise BackendGarbage("the answer is not a list of JSON objects", where=where)
    return found


def issue_of(row: Mapping[str, Any], where: str) -> Issue:
    number, title, state = row.get("number"), row.get("title"), row.get("state")
    if type(number) is not int or not isinstance(title, str) or state not in ("open", "closed"):
        raise BackendGarbage("the answer is no issue", where=where)
    labels = row.get("labels")
    return Issue(
        number=number,
        url=visible(_text(row.get("html_url")), limit=500),
        title=title[:1000],
        body=_text(row.get("body"))[:MAX_ANSWER_BYTES],
        state=str(state),
        labels=labels_of(labels if isinstance(labels, list) else []),
        created_at=visible(_text(row.get("created_at")), limit=40),
        closed_at=visible(_text(row.get("closed_at")), limit=40),
        raw=json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace"),
    )


def comment_of(row: Mapping[str, Any], where: str) -> Comment:
    body = row.get("body")
    if not isinstance(body, str):
        raise BackendGarbage("the answer is no comment", where=where)
    return Comment(
        url=visible(_text(row.get("html_url")), limit=500),
        body=body,
        created_at=visible(_text(row.get("created_at")), limit=40),
        raw=json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace"),
    )


def labels_of(rows: Sequence[Any]) -> tuple[str, ...]:
    # A label is an object with a name, or, in old answers, the name itself.
    names = (row.get("name") if isinstance(row, dict) else row for row in rows)
    return tuple(name[:200] for name in names if isinstance(name, str))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def origin_of(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return "", "", None
