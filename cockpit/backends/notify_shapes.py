"""The shapes receivers want: Slack, Alertmanager, PagerDuty, CDEvents, and the cockpit's own signed JSON.

Text from outside is escaped for each: no shape lets it become a mention, a link or formatting.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cockpit.backends import cdevents
from cockpit.backends.notices import Alert, Message, Part, plain
from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import BackendRefused
from cockpit.base.limits import MAX_MESSAGE_BYTES
from cockpit.base.text import visible

SLACK_TEXT = 3000
"""Most characters of a section's text (Slack, Block Kit)."""
PAGER_SUMMARY = 1024
"""Most characters of `payload.summary` (PagerDuty, Events API v2)."""
PAGER_KEY = 255
ALERT_LASTS = timedelta(hours=24)
"""An alert nobody ends is over by then; without an end Alertmanager would clear it after minutes."""

_CALLS = re.compile(r"@(?=(?:channel|here|everyone|group)\b)", re.IGNORECASE)
_FORMAT = re.compile(r"(?<!\w)[*_~`]|[*_~`](?!\w)")
_BREAK = "\u200b"
_LABEL = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP POST of a message."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def posts(kind: str, url: str, secret: str, message: Message) -> list[Post]:
    """Return what is posted, in order; empty when a receiver of this kind has no use for the message.

    `secret` is, by kind: generic: the key of the signature; slack: the end of the address, put behind `url`;
    alertmanager, cdevents: a bearer token; pager: the routing key. Raises BackendRefused for a message that
    cannot be written or a pager without its routing key.
    """
    if not speaks(kind, message):
        return []
    if kind == "slack":
        return [Post(_joined(url, secret), _json(slack(message)))]
    if kind == "alertmanager":
        return [Post(_alerts_url(url), _json(alertmanager(message)), _bearer(secret))]
    if kind == "pager":
        if not secret:
            raise BackendRefused("a pager needs `secret`: its routing key", status=401)
        return [Post(url, _json(pager(alert, message, secret))) for alert in message.alerts if _pages(alert)]
    if kind == "cdevents":
        headers = {**_bearer(secret), "Content-Type": cdevents.CONTENT_TYPE}
        return [
            Post(url, _json(event), {**headers, "Idempotency-Key": header(id_, "key")})
            for id_, event in cdevents.events(message)
        ]
    return [signed(url, message.kind, generic(message), secret)]


def speaks(kind: str, message: Message) -> bool:
    """Tell whether a receiver of this kind has a use for the message."""
    if kind == "alertmanager":
        return bool(message.alerts)
    if kind == "pager":
        return any(_pages(alert) for alert in message.alerts)
    return kind != "cdevents" or bool(message.occurrences)


def generic(message: Message) -> dict[str, Any]:
    """Return the cockpit's own JSON; `text` is the seed's Markdown and must not be rendered unescaped."""
    return {
        "kind": message.kind,
        "key": message.key,
        "text": message.text,
        "at": message.at,
        "version": message.about.version,
        "repo": message.about.repo,
        "run": message.about.run_id,
        "env": message.about.environment,
        "rehearsal": message.about.rehearsal,
        "step": message.step,
        "weight": message.weight,
        "gate": message.gate,
        "trace_id": message.trace_id,
        "status": message.alerts[0].status if message.alerts else "",
        "facts": {visible(name, limit=100): visible(text) for name, text in message.facts.items()},
    }


def signed(url: str, kind: str, payload: Mapping[str, Any], secret: str) -> Post:
    """Return a POST of JSON with `X-Cockpit-Kind`; with a secret, signed as `X-Hub-Signature-256`."""
    body = _json(payload)
    headers = {"X-Cockpit-Kind": header(kind, "kind")}
    if secret:
        headers["X-Hub-Signature-256"] = (
            f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
        )
    return Post(url, body, headers)


# -- Slack --------------------------------------------------------------------------------------------


def slack(message: Message) -> dict[str, Any]:
    """Return an incoming webhook's message (docs.slack.dev): `text` to notify, `blocks` to be shown."""
    text = mrkdwn(message.parts)
    about = message.about
    small = [f"{about.repo} {about.version}", about.run_id]
    if about.rehearsal:
        small.insert(0, "REHEARSAL")
    return {
        "text": text,
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}},
            {
                "type": "context",
                "elements": [
                    {"type": "plain_text", "text": visible(" · ".join(small), limit=300), "emoji": False}
                ],
            },
        ],
    }


def mrkdwn(parts: tuple[Part, ...], *, limit: int = SLACK_TEXT) -> str:
    """Return a text in Slack's own markup, at most `limit` characters, cut between characters only."""
    room = limit
    while True:
        text = "".join(_mrkdwn(part, room) for part in parts)
        if len(text) <= limit:
            return text
        room //= 2  # an escaped character may be five long: cut before escaping, never within


def _mrkdwn(part: Part, limit: int) -> str:
    text = slack_escape(visible(part.text, limit=max(1, limit)), outside=part.style in ("outside", "code"))
    if part.style == "bold":
        return f"*{text}*"
    return f"`{text}`" if part.style == "code" else text


def slack_escape(text: str, *, outside: bool = True) -> str:
    """Escape `&`, `<` and `>`, which also disarms `<!channel>`, `<@U…>` and links.

    Text from outside also loses its `@channel` and its formatting: a zero-width space is put where either
    would begin or end.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if not outside:
        return text
    return _FORMAT.sub(lambda found: f"{_BREAK}{found[0]}{_BREAK}", _CALLS.sub(f"@{_BREAK}", text))


# -- Alertmanager -------------------------------------------------------------------------------------


def alertmanager(message: Message) -> list[dict[str, Any]]:
    """Return the alerts of a message for `POST /api/v2/alerts` (prometheus.io, Alertmanager API v2).

    The labels identify an alert and are the same from its beginning to its end; all that changes is in the
    annotations. An acknowledged alert is one that still fires.
    """
    return [_alert(message, alert) for alert in message.alerts]


def _alert(message: Message, alert: Alert) -> dict[str, Any]:
    about = message.about
    over = alert.status == "resolved"
    ends = message.at if over else iso(parse_iso(message.at) + ALERT_LASTS)
    annotations = {"summary": plain(message.parts), "status": alert.status, "gate": message.gate}
    annotations |= {_LABEL.sub("_", name)[:60]: visible(text) for name, text in message.facts.items()}
    return {
        "labels": {
            "alertname": alert.name,
            "severity": alert.severity,
            "matter": visible(alert.matter, limit=200),
            "run": about.run_id,
            "release": about.version,
            "repo": visible(about.repo, limit=200),
            "env": about.environment,
        },
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": min(alert.since or message.at, ends),
        "endsAt": ends,
        "generatorURL": about.link,
    }


def _alerts_url(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/api/v2/alerts"):
        path += "/api/v2/alerts"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


# -- PagerDuty ----------------------------------------------------------------------------------------


def pager(alert: Alert, message: Message, routing_key: str) -> dict[str, Any]:
    """Return an event of PagerDuty's Events API v2; acknowledge and resolve need only the key."""
    about = message.about
    action = {"firing": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}[alert.status]
    key = alert.dedup(about)
    if len(key) > PAGER_KEY:
        key = hashlib.sha256(key.encode()).hexdigest()
    event: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": key}
    if action != "trigger":
        return event
    return event | {
        "payload": {
            "summary": visible(plain(message.parts), limit=PAGER_SUMMARY),
            "source": visible(f"{about.repo} {about.environment}", limit=255),
            "severity": alert.severity,
            "timestamp": alert.since or message.at,
            "component": about.version,
            "group": visible(about.repo, limit=255),
            "class": alert.name,
            "custom_details": {
                "run": about.run_id,
                "step": message.step,
                "weight": message.weight,
                "gate": message.gate,
                "rehearsal": about.rehearsal,
                **{visible(name, limit=100): visible(text) for name, text in message.facts.items()},
            },
        },
        "client": "Release Cockpit",
    }


def _pages(alert: Alert) -> bool:
    # What is merely told, e.g. that a release began, wakes nobody.
    return alert.severity != "info"


# -- all ----------------------------------------------------------------------------------------------


def _json(payload: object) -> bytes:
    try:
        body = json.dumps(payload, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BackendRefused(f"the message cannot be written as JSON: {error}", status=400) from None
    if len(body) > MAX_MESSAGE_BYTES:
        raise BackendRefused(f"a message of {len(body)} bytes, more than {MAX_MESSAGE_BYTES}", status=413)
    return body


def _joined(url: str, secret: str) -> str:
    return f"{url.rstrip('/')}/{secret.strip('/')}" if secret else url


def _bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {header(secret, 'token')}"} if secret else {}


def header(text: str, what: str) -> str:
    """Return `text` if it may stand in a header; raises BackendRefused else."""
    if not 0 < len(text) <= 500 or not text.isascii() or not text.isprintable():
        raise BackendRefused(f"a message's {what} is printable ASCII", status=400)
    return text
