"""What each demo service answers: small JSON documents of a fixed shape."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

Document = dict[str, Any]
Query = Mapping[str, str]

_KNOWN_WORD = "ship"


def answer(
    service: str, path: str, query: Query, *, version: str, tenant: str, blind: bool = False
) -> Document | None:
    """Return the document for `path` below the service's prefix, or None where there is none.

    Every document starts with `service`, `version` and `tenant`. A `blind` search knows one word only.
    """
    if is_health(path):
        body: Document | None = {"status": "ok"}
    else:
        make = _PAGES.get((service, path.strip("/")))
        body = make(query, tenant) if make is not None else None
        if blind and body is not None and "hits" in body and body["query"] != _KNOWN_WORD:
            body |= {"total": 0, "hits": []}
    if body is None:
        return None
    return {"service": service, "version": version, "tenant": tenant, **body}


def is_health(path: str) -> bool:
    """Tell whether `path`, below the service's prefix, asks only whether the pod is alive."""
    return path.strip("/") == "healthz"


def _number(*parts: str) -> int:
    # The same question gets the same answer from every pod of either version.
    return zlib.crc32("\0".join(parts).encode("utf-8", "surrogatepass"))


def _session(_: Query, tenant: str) -> Document:
    return {"user": f"user-{_number(tenant) % 100}", "permissions": ["read", "search"], "expires_in_s": 900}


def _page(query: Query, tenant: str) -> Document:
    return {"title": "Cases", "tenant_items": _number(tenant, "items") % 40, "page": query.get("page", "1")}


def _search(query: Query, tenant: str) -> Document:
    question = query.get("q", "")[:200]
    hits = [
        {"id": f"doc-{_number(tenant, question, str(rank)) % 10_000}", "score": round(1 / (rank + 1), 3)}
        for rank in range(3 if question else 0)
    ]
    return {"query": question, "total": len(hits), "hits": hits}


def _events(query: Query, tenant: str) -> Document:
    since = query.get("since", "0")
    start = int(since) if since.isascii() and since.isdigit() and len(since) < 12 else 0
    events = [{"seq": start + step, "kind": "case.updated", "tenant": tenant} for step in (1, 2)]
    return {"events": events, "resume": start + len(events)}


def _report(query: Query, tenant: str) -> Document:
    name = query.get("name", "weekly")[:60]
    return {"report": name, "pages": 1 + _number(tenant, name) % 9, "format": "pdf", "status": "ready"}


def _items(_: Query, tenant: str) -> Document:
    return {"accepted": 1, "duplicate": False, "stream": f"ingest-{tenant}"}


_PAGES: dict[tuple[str, str], Callable[[Query, str], Document]] = {
    ("gateway", "session"): _session,
    ("web", "cases"): _page,
    ("search", "query"): _search,
    ("realtime", "events"): _events,
    ("reports", "render"): _report,
    ("ingest", "items"): _items,
}

USER_PATHS: dict[str, tuple[str, ...]] = {
    "gateway": ("/gateway/session",),
    "web": ("/web/cases?page=1", "/web/cases?page=2"),
    "search": ("/search/query?q=ship", "/search/query?q=harbour", "/search/query?q=ownership"),
    "realtime": ("/realtime/events?since=0", "/realtime/events?since=40"),
    "reports": ("/reports/render?name=weekly",),
    "ingest": ("/ingest/items",),
}
"""What users ask of each service."""
