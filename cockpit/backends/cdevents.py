"""CDEvents 0.4.1 (cdevents.dev) in CloudEvents 1.0 over HTTP, structured mode.

An event says what happened to a subject: `dev.cdevents.<subject>.<predicate>.<version>`. The versions are
those of the types in the specification's release 0.4.1; context, subject and content have exactly the members
its schemas allow. What the cockpit knows beyond that travels in `customData`.
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import quote

from cockpit.backends.notices import About, Message, Occurrence, ServiceFact, plain
from cockpit.base.text import visible

SPEC = "0.4.1"
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
TYPES = {
    "pipelinerun.started": ("pipelineRun", "0.2.0"),
    "pipelinerun.finished": ("pipelineRun", "0.2.0"),
    "environment.modified": ("environment", "0.2.0"),
    "service.deployed": ("service", "0.2.0"),
    "service.upgraded": ("service", "0.2.0"),
    "service.rolledback": ("service", "0.2.0"),
    "incident.detected": ("incident", "0.2.0"),
    "incident.reported": ("incident", "0.2.0"),
    "incident.resolved": ("incident", "0.2.0"),
}
"""Event types the cockpit sends: the subject's type and the version of the event type."""

_CHAINS = uuid.UUID("6f1d3a52-6b0b-5d3e-9c55-0d7a5c9b2e41")
"""Namespace of chain ids: all events of one run are one chain."""


def events(message: Message) -> list[tuple[str, dict[str, Any]]]:
    """Return the CloudEvents of a message as (id, event); none when it says nothing CDEvents knows.

    The id is derived from the message's key: the same message sent again has the same ids and the same time,
    so that a receiver that looks at `source` + `id` takes each once.
    """
    found = []
    for occurrence in message.occurrences:
        id_ = ":".join(part for part in (message.key, occurrence.type, occurrence.name) if part)
        found.append((id_, _cloud_event(message, occurrence, id_)))
    return found


def _cloud_event(message: Message, occurrence: Occurrence, id_: str) -> dict[str, Any]:
    subject, version = TYPES[occurrence.type]
    type_ = f"dev.cdevents.{occurrence.type}.{version}"
    source = message.about.source
    return {
        "specversion": "1.0",
        "id": id_,
        "source": source,
        "type": type_,
        "subject": occurrence.subject,
        "time": message.at,
        "datacontenttype": "application/json",
        "data": {
            "context": {
                "version": SPEC,
                "id": id_,
                "source": source,
                "type": type_,
                "timestamp": message.at,
                "chainId": str(uuid.uuid5(_CHAINS, message.about.run_id)),
            },
            "subject": {"id": occurrence.subject, "type": subject, "content": occurrence.content},
            "customData": {
                "message": plain(message.parts),
                "version": message.about.version,
                "run": message.about.run_id,
                "rehearsal": message.about.rehearsal,
                "step": message.step,
                "weight": message.weight,
                "gate": message.gate,
                "traceId": message.trace_id,
            },
            "customDataContentType": "application/json",
        },
    }


def started(about: About) -> Occurrence:
    """Return: the release began."""
    return Occurrence(
        "pipelinerun.started", about.run_id, {"pipelineName": _pipeline(about), "url": about.link}
    )


def finished(about: About, outcome: str, errors: str = "") -> Occurrence:
    """Return: the release ended; outcome is success, failure or error."""
    content: dict[str, object] = {"pipelineName": _pipeline(about), "url": about.link, "outcome": outcome}
    if errors:
        content["errors"] = visible(errors)
    return Occurrence("pipelinerun.finished", about.run_id, content)


def modified(about: About, env: str = "") -> Occurrence:
    """Return: what the environment does with its traffic changed (a canary's weight)."""
    where = env or about.environment
    return Occurrence("environment.modified", where, {"name": where})


def service(about: About, predicate: str, one: ServiceFact, image: str) -> Occurrence:
    """Return: a service was deployed, upgraded or rolled back; `image` is what it runs by that."""
    content: dict[str, object] = {"environment": {"id": about.environment}, "artifactId": artifact(image)}
    return Occurrence(f"service.{predicate}", f"{about.environment}/{one.name}", content, one.name)


def incident(
    about: About, predicate: str, incident_id: str, description: str, ticket: str = ""
) -> Occurrence:
    """Return: an incident was detected, reported (with the address of its ticket) or resolved."""
    content: dict[str, object] = {
        "environment": {"id": about.environment},
        "description": visible(description),
    }
    if predicate == "reported":
        content["ticketURI"] = ticket
    return Occurrence(f"incident.{predicate}", incident_id, content)


def artifact(image: str) -> str:
    """Return a package URL (purl-spec, type oci) for an image reference; a bare digest stays as it is."""
    name, at, digest = image.partition("@")
    if not at:
        return image
    bare = name.rpartition("/")[2].partition(":")[0].lower()
    return f"pkg:oci/{bare}@{quote(digest, safe='')}?repository_url={quote(name, safe='/')}"


def _pipeline(about: About) -> str:
    return f"{about.repo} {about.version}"
