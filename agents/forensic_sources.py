"""What the Forensic Scribe can freeze: each source is read-only, bounded in time and size, and redacted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from cockpit.agentkit.context import Context
from cockpit.backends.cluster import (
    DEPLOYMENT,
    EVENT,
    HTTPROUTE,
    LEASE,
    POD,
    REPLICASET,
    SERVICE,
    Kind,
    Object,
)
from cockpit.base.errors import BackendError
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.journal.chain import CompactRange, leaf_hash
from cockpit.journal.heads import head_files
from cockpit.journal.reader import JOURNAL_NAME, verified_blocks
from cockpit.verdicts.questions import queries_for

MAX_BYTES = 4 << 20
"""Largest file of one source."""
MOST_PODS = 20
LOG_BYTES = 64 * 1024
METRIC_MINUTES = 15.0
_MOST_POINTS = 180
_MASK = "[redacted]"
_SECRET = re.compile(r"(?i)(passw(or)?d|secret|token|credential|api[_-]?key|private[_-]?key)")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a source gave: the bytes as they are kept, and a remark when they are not all of it."""

    data: bytes
    remark: str = ""


Backend = Literal["cluster", "metrics", "run"]


@dataclass(frozen=True, slots=True)
class Source:
    """Something to freeze: `path` within the capture; `needed`: a drill must have it."""

    name: str
    path: str
    read: Callable[[Context], Awaitable[Frozen]]
    needed: bool = False
    backend: Backend = "cluster"
    """Who is asked."""


class NothingThere(Exception):
    """The source has nothing to give, and why."""


def sources_of(context: Context, pods: list[Object]) -> list[Source]:
    """Return everything to freeze; `pods` are those whose logs are read."""
    kinds = (
        (DEPLOYMENT, True), (REPLICASET, True), (POD, True), (HTTPROUTE, True),
        (SERVICE, False), (EVENT, False), (LEASE, False),
    )  # fmt: skip
    found = [
        Source(kind.plural, f"objects/{kind.plural}.json", _objects(kind), needed) for kind, needed in kinds
    ]
    found.append(Source("journal head", "journal_head.json", _journal_head, needed=True, backend="run"))
    texts = queries_for(context.plan.canary, context.plan.canary.bake, weight=context.plan.canary.steps[0])
    for risk in context.plan.risks:
        for number, trigger in enumerate(risk.triggers):
            texts[f"risk.{risk.id}.{number}"] = trigger.query
    found += [
        Source(
            f"metric {name}", f"metrics/{_plain(name)}.json", _metric(text), needed=True, backend="metrics"
        )
        for name, text in sorted(texts.items())
    ]
    found += [_log_source(pod, container) for pod, container in _containers(pods)]
    return found


# -- objects ---------------------------------------------------------------------------------------------


def _objects(kind: Kind) -> Callable[[Context], Awaitable[Frozen]]:
    async def read(context: Context) -> Frozen:
        items = await context.cluster.list(kind)

        def write() -> Frozen:
            return _listed([_clean(item, context.handles.redactor) for item in items])

        return await _threaded(context, write)

    return read


def _listed(items: list[Any]) -> Frozen:
    """Return as many items as fit, and say how many did not."""
    lines: list[str] = []
    size = 0
    for item in items:
        line = json.dumps(item, sort_keys=True, ensure_ascii=False)
        size += len(line.encode("utf-8", "replace")) + 4
        if size > MAX_BYTES:
            break
        lines.append(line)
    text = '{"items": [\n' + ",\n".join(lines) + "\n]}\n"
    left = len(items) - len(lines)
    return Frozen(text.encode("utf-8", "replace"), f"{left} of {len(items)} objects left out" if left else "")


def _clean(value: Any, redactor: Redactor, *, name: str = "") -> Any:
    """Return an object with secrets masked: by where they stand, and by what they look like."""
    if isinstance(value, dict):
        # An environment variable has its name beside its value.
        own = str(value.get("name", "")) if set(value) <= {"name", "value"} else ""
        return {
            redactor.text(str(key)): _clean(item, redactor, name=own if key == "value" else str(key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_clean(item, redactor, name=name) for item in value]
    if isinstance(value, str):
        if name == _APPLIED:
            return _applied(value, redactor)
        return _MASK if value and _SECRET.search(name) and not name.endswith("Name") else redactor.text(value)
    return value


def _applied(text: str, redactor: Redactor) -> str:
    try:
        return json.dumps(_clean(json.loads(text), redactor), sort_keys=True)
    except (ValueError, RecursionError):
        return _MASK


# -- logs ------------------------------------------------------------------------------------------------


def _containers(pods: list[Object]) -> list[tuple[str, str]]:
    found = []
    for pod in pods[:MOST_PODS]:
        spec = pod.get("spec")
        containers = spec.get("containers") if isinstance(spec, dict) else None
        for one in containers if isinstance(containers, list) else []:
            if isinstance(one, dict) and isinstance(one.get("name"), str):
                found.append((str(pod["metadata"]["name"]), one["name"]))
    return found[: 2 * MOST_PODS]


def _log_source(pod: str, container: str) -> Source:
    async def read(context: Context) -> Frozen:
        raw = await context.cluster.pod_log(pod, container, limit_bytes=LOG_BYTES)
        text = context.handles.redactor.text(raw.decode("utf-8", "replace"))
        shown = visible(text, limit=2 * LOG_BYTES, newlines=True)
        return Frozen(shown.encode("utf-8", "replace"), "cut" if len(raw) >= LOG_BYTES else "")

    return Source(f"log {pod}/{container}", f"logs/{_plain(pod)}.{_plain(container)}.log", read)


# -- metrics ---------------------------------------------------------------------------------------------


def _metric(text: str) -> Callable[[Context], Awaitable[Frozen]]:
    async def read(context: Context) -> Frozen:
        end = context.clock.now()
        seconds = 60 * METRIC_MINUTES
        step = max(1.0, math.ceil(seconds / _MOST_POINTS))
        answer = await context.metrics.query_range(
            text,
            start=end - timedelta(seconds=seconds),
            end=end,
            step=step,
            deadline=context.plan.canary.query_deadline,
        )
        if len(answer.raw) > MAX_BYTES:
            raise NothingThere(f"the answer has {len(answer.raw)} bytes, more than {MAX_BYTES}")
        document = {
            "query": text,
            "asked_at": answer.asked_at,
            "minutes": METRIC_MINUTES,
            "step_s": step,
            "answer": json.loads(answer.raw),
        }
        remark = f"partial: {visible(answer.warnings[0], limit=200)}" if answer.warnings else ""
        if not answer.samples:
            remark = remark or "no series in this time"
        text_of = json.dumps(document, sort_keys=True, ensure_ascii=False)
        return Frozen(context.handles.redactor.text(text_of).encode("utf-8", "replace") + b"\n", remark)

    return read


# -- the journal -----------------------------------------------------------------------------------------


async def _journal_head(context: Context) -> Frozen:
    return await _threaded(context, lambda: _head_of(context.run_dir))


def _head_of(run_dir: Path) -> Frozen:
    """Return how far the journal goes, the RFC 6962 root over it, and the last head that was signed."""
    tree, last, records, size = CompactRange(), b"", 0, 0
    for block in verified_blocks(run_dir / JOURNAL_NAME):
        for line in block:
            last = leaf_hash(line)
            tree.append(last)
            records += 1
            size += len(line) + 1
    signed: dict[str, str] = {}
    heads = head_files(run_dir / "heads")
    if heads:
        path = heads[-1][1]
        signed = {"name": path.name, "checkpoint": path.read_text(encoding="utf-8", errors="replace")[:8000]}
    document: Mapping[str, Any] = {
        "records": records,
        "bytes": size,
        "last_leaf": last.hex(),
        "root": tree.root().hex(),
        "last_signed_head": signed,
    }
    return Frozen(json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")


async def pods_of(context: Context) -> list[Object]:
    """Return the pods whose logs are worth reading, canary first; none when they cannot be listed."""
    try:
        pods = await context.cluster.list(POD)
    except BackendError:
        return []
    canary = tuple(service.canary_deployment for service in context.plan.services)
    return sorted(pods, key=lambda pod: not str(pod["metadata"]["name"]).startswith(canary))


async def _threaded(context: Context, work: Callable[[], Frozen]) -> Frozen:
    # Writing out and hashing much must not hold up the loop that aborts.
    return await BoundedThreads("freezing", 1).run(work, deadline=context.plan.agent_deadline)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:120] or "x"
