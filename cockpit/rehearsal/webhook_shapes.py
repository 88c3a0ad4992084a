"""What the receivers of messages insist on: each shape's rules, as its makers publish them.

Written from the receivers' side, without looking at how the cockpit makes its messages: Slack's incoming
webhooks, Alertmanager's API v2, PagerDuty's Events API v2, and CDEvents 0.4.1 in CloudEvents 1.0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jsonschema import Draft202012Validator

_SEVERITIES = ("critical", "error", "warning", "info")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MENTION = re.compile(r"<[!@#]|@(?:channel|here|everyone)\b")


class ShapeWrong(Exception):
    """A message a receiver of this kind answers with 400."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a message is to its receiver: `identities` are what it knows it by when it comes again."""

    kind: str
    identities: tuple[str, ...]
    secret: str = ""
    """The secret it came with, where that is in the body."""


def _need(truth: object, what: str) -> None:
    if not truth:
        raise ShapeWrong(what)


def _time(value: object, what: str) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise ShapeWrong(f"{what} is no RFC 3339 time") from None
    _need(moment.tzinfo is not None, f"{what} has no zone")
    return moment


# -- Slack --------------------------------------------------------------------------------------------


def slack(message: Any, key: str) -> Taken:
    """Check an incoming webhook's message. A mention in it means that text was not escaped."""
    _need(isinstance(message, dict), "invalid_payload")
    _need(isinstance(message.get("text"), str) and message["text"], "no_text")
    _need(len(message["text"]) <= 40_000, "msg_too_long")
    blocks = message.get("blocks", [])
    _need(isinstance(blocks, list) and len(blocks) <= 50, "invalid_blocks")
    texts = [message["text"]]
    for block in blocks:
        _need(
            isinstance(block, dict) and block.get("type") in ("section", "context", "divider"),
            "invalid_blocks",
        )
        inside = [block["text"]] if "text" in block else []
        for one in [*inside, *block.get("elements", [])]:
            _need(isinstance(one, dict) and one.get("type") in ("mrkdwn", "plain_text"), "invalid_blocks")
            _need(0 < len(str(one.get("text", ""))) <= 3000, "invalid_blocks")
            if one["type"] == "mrkdwn":
                texts.append(one["text"])
    _need(not any(_MENTION.search(text) for text in texts), "a mention nobody meant")
    return Taken("message", (key,) if key else ())


# -- Alertmanager -------------------------------------------------------------------------------------


def alertmanager(message: Any) -> Taken:
    """Check a POST of alerts; an alert is known by its labels and whether it is over."""
    _need(isinstance(message, list) and message, "an array of alerts is wanted")
    known, states = [], []
    for alert in message:
        _need(isinstance(alert, dict) and isinstance(alert.get("labels"), dict), "labels missing")
        labels = alert["labels"]
        _need(labels.get("alertname"), "label alertname missing")
        for pairs in (labels, alert.get("annotations", {})):
            for name, value in pairs.items():
                _need(_LABEL.fullmatch(name) and isinstance(value, str), f"invalid label {name!r}")
        starts, ends = _time(alert.get("startsAt"), "startsAt"), _time(alert.get("endsAt"), "endsAt")
        _need(starts <= ends, "start time must be before end time")
        link = alert.get("generatorURL", "http://x")
        _need(isinstance(link, str) and re.match(r"https?://", link), "generatorURL is no URL")
        state = "resolved" if ends <= datetime.now(UTC) else "firing"
        print_ = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]
        known.append(f"{print_}:{state}")
        states.append(state)
    return Taken("+".join(sorted(set(states))), tuple(known))


# -- PagerDuty ----------------------------------------------------------------------------------------


def pager(message: Any) -> Taken:
    """Check an event of the Events API v2."""
    _need(isinstance(message, dict), "Event object is invalid")
    key = message.get("routing_key")
    _need(
        isinstance(key, str) and len(key) == 32,
        "Length of 'routing_key' is incorrect (should be 32 characters)",
    )
    action = message.get("event_action")
    _need(action in ("trigger", "acknowledge", "resolve"), "'event_action' is invalid")
    dedup = message.get("dedup_key")
    _need(isinstance(dedup, str) and 0 < len(dedup) <= 255, "'dedup_key' is missing or too long")
    if action == "trigger":
        payload = message.get("payload")
        _need(isinstance(payload, dict), "'payload' is missing or blank")
        summary = payload.get("summary")
        _need(
            isinstance(summary, str) and 0 < len(summary) <= 1024, "'payload.summary' is missing or too long"
        )
        _need(
            isinstance(payload.get("source"), str) and payload["source"],
            "'payload.source' is missing or blank",
        )
        _need(payload.get("severity") in _SEVERITIES, "'payload.severity' is invalid")
        if "timestamp" in payload:
            _time(payload["timestamp"], "'payload.timestamp'")
    return Taken(str(action), (f"{dedup}:{action}",), str(key))


# -- CDEvents -----------------------------------------------------------------------------------------

_TEXT = {"type": "string", "minLength": 1}
_REFERENCE = {
    "type": "object",
    "properties": {"id": _TEXT, "source": _TEXT},
    "required": ["id"],
    "additionalProperties": False,
}
_RUN = {"pipelineName": {"type": "string"}, "url": {"type": "string"}}
_SERVICE: tuple[str, dict[str, Any], list[str]] = (
    "service",
    {"environment": _REFERENCE, "artifactId": _TEXT},
    ["environment", "artifactId"],
)
_INCIDENT = {
    "description": {"type": "string"},
    "environment": _REFERENCE,
    "service": _REFERENCE,
    "artifactId": _TEXT,
}
_EVENTS: Mapping[str, tuple[str, dict[str, Any], list[str]]] = {
    "dev.cdevents.pipelinerun.started.0.2.0": ("pipelineRun", _RUN, ["pipelineName", "url"]),
    "dev.cdevents.pipelinerun.finished.0.2.0": (
        "pipelineRun",
        {**_RUN, "outcome": {"enum": ["success", "error", "failure"]}, "errors": {"type": "string"}},
        [],
    ),
    "dev.cdevents.environment.modified.0.2.0": (
        "environment",
        {"name": {"type": "string"}, "url": {"type": "string"}},
        [],
    ),
    "dev.cdevents.service.deployed.0.2.0": _SERVICE,
    "dev.cdevents.service.upgraded.0.2.0": _SERVICE,
    "dev.cdevents.service.rolledback.0.2.0": _SERVICE,
    "dev.cdevents.incident.detected.0.2.0": ("incident", _INCIDENT, ["environment"]),
    "dev.cdevents.incident.reported.0.2.0": (
        "incident",
        {**_INCIDENT, "ticketURI": {"type": "string", "pattern": "^https?://"}},
        ["environment", "ticketURI"],
    ),
    "dev.cdevents.incident.resolved.0.2.0": ("incident", _INCIDENT, ["environment"]),
}


def cdevents(message: Any, content_type: str) -> Taken:
    """Check a CloudEvent in structured mode whose data is a CDEvent; it is known by source and id."""
    kind = content_type.partition(";")[0].strip()
    _need(kind == "application/cloudevents+json", f"{kind!r} is not structured mode")
    _need(isinstance(message, dict), "no CloudEvent")
    for name in ("specversion", "id", "source", "type", "subject", "time", "data"):
        _need(message.get(name), f"attribute {name} missing")
    _need(message["specversion"] == "1.0", "specversion is not 1.0")
    _need(message.get("datacontenttype") == "application/json", "datacontenttype")
    _time(message["time"], "time")
    event = message["data"]
    _need(
        isinstance(message["type"], str) and message["type"] in _EVENTS, f"unknown type {message['type']!r}"
    )
    wrong = next(iter(Draft202012Validator(_schema(message["type"])).iter_errors(event)), None)
    _need(wrong is None, wrong.message[:300] if wrong is not None else "")
    context = event["context"]
    _time(context["timestamp"], "context.timestamp")
    pairs = (("id", "id"), ("source", "source"), ("type", "type"), ("time", "timestamp"))
    for outer, inner in pairs:
        _need(message[outer] == context[inner], f"{outer} is not the CDEvent's {inner}")
    _need(message["subject"] == event["subject"]["id"], "subject is not the CDEvent's subject id")
    return Taken(message["type"], (f"{message['source']} {message['id']}",))


def _schema(type_: str) -> dict[str, Any]:
    subject, content, required = _EVENTS[type_]

    def closed(properties: dict[str, Any], needed: list[str]) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}

    context = {
        **dict.fromkeys(("id", "source", "timestamp", "schemaUri", "chainId"), _TEXT),
        "version": {"const": "0.4.1"},
        "type": {"const": type_},
        "links": {"type": "array"},
    }
    about = {"id": _TEXT, "source": _TEXT, "type": {"const": subject}, "content": closed(content, required)}
    return closed(
        {
            "context": closed(context, ["version", "id", "source", "type", "timestamp"]),
            "subject": closed(about, ["id", "type", "content"]),
            "customData": {"type": ["object", "string"]},
            "customDataContentType": {"type": "string"},
        },
        ["context", "subject"],
    )
