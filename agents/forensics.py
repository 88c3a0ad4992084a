"""Incidents: the Forensic Scribe (A38), who freezes what can be read at the moment of a stop.

EVIDENCE with the parameter `incident` takes a capture: at the moment of the stop (`moment: "stop"`, beside
the abort) and after it (`moment: "after"`). Each source has its deadline; one that gives nothing is in the
index as absent, with the reason. A capture once in the index is never taken again. VERIFY in P5 takes one as
a drill, reads it back from the disk and judges it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from cockpit.agentkit.agent import Outcome, ReadOnlyAgent
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.common import blocked, judge, query, reason_of, recorded, vouch
from cockpit.agents.forensic_sources import Frozen, NothingThere, Source, pods_of, sources_of
from cockpit.agents.incident_record import FOLDER, asked_of, identifier
from cockpit.base.errors import BackendUnreachable, CockpitError
from cockpit.base.files import sha256_file
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.rpc.messages import Artifact

FORENSICS = f"{FOLDER}/forensics"
INDEX = f"{FORENSICS}/index.json"
MAX_TOTAL = 64 << 20
"""Bytes of one capture; what comes after is absent."""
_AT_ONCE = 8
_METRICS_AT_ONCE = 2
_SOURCE_WITHIN = 5.0
"""Seconds one source has."""
_ALL_WITHIN = 30.0
"""Seconds a capture has; a source that did not begin by then is absent."""
_GIVE_UP_AFTER = 2
"""A back end that did not answer so often in a row is not asked any more."""

Moment = Literal["stop", "after", "drill"]
Row = dict[str, Any]


class ForensicScribe(ReadOnlyAgent):
    """A38: freezes objects, events, metric ranges, logs and the journal's head; read-only, hashed."""

    async def plan(self, context: Context) -> Outcome:
        """Say what would be frozen."""
        try:
            _ = context.cluster, context.metrics
        except BackendMissing as missing:
            return blocked(str(missing))
        named = ", ".join(source.name for source in sources_of(context, []))
        return Outcome(
            "ok", f"APPLY changes nothing. EVIDENCE freezes pod logs, {named}"[:2000], "run VERIFY"
        )

    async def verify(self, context: Context) -> Outcome:
        """Take a capture as a drill, read it back and judge it; for a stop, hash what was frozen again."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return Outcome("fail", str(error), "give the parameter as the conductor does")
        try:
            _ = context.cluster, context.metrics
        except BackendMissing as missing:
            return blocked(str(missing))
        if asked is not None:
            incident = identifier(context, asked)
            captures = [one for one in await _captures(context) if one["incident"] == incident]
            problems = [text for one in captures for text in await _changed(context, one)]
            if not captures:
                return Outcome("fail", f"nothing was frozen for {incident}", "run EVIDENCE")
            if problems:
                return Outcome("fail", visible("; ".join(problems), limit=2000), "look at the run folder")
            return Outcome("ok", f"{len(captures)} captures are as they were taken", "none")
        capture = await _capture(context, identifier(context, None), "drill")
        artifacts = await _kept(context, capture)
        checks = await _checks(context, capture)
        verdict = await judge(
            context,
            "dr",
            "dr",
            "named_checks",
            {"checks": json.dumps({"checks": checks}, sort_keys=True).encode()},
            {"required": [row["name"] for row in capture["sources"] if row["needed"]] + ["read back"]},
            {"checks": query(context, INDEX, "files", samples=len(capture["sources"]))},
        )
        passed = verdict.verdict == "pass"
        then = (
            "EVIDENCE, then go on"
            if passed
            else "look at the sources that gave nothing, then run VERIFY again"
        )
        return Outcome(
            "ok" if passed else "fail",
            reason_of((verdict,)),
            then,
            artifacts=artifacts,
            verdicts=(verdict,),
        )

    async def evidence(self, context: Context) -> Outcome:
        """Freeze for the incident asked for; without one, vouch for the drill's capture."""
        try:
            asked = asked_of(context)
        except ValueError as error:
            return Outcome("fail", str(error), "give the parameter as the conductor does")
        if asked is None:
            return vouch(context, recorded(context))
        moment: Moment = "stop" if context.request.inputs.params.get("moment") == "stop" else "after"
        incident = identifier(context, asked)
        had = next(
            (
                one
                for one in await _captures(context)
                if (one["incident"], one["moment"]) == (incident, moment)
            ),
            None,
        )
        if had is not None:
            problems = await _changed(context, had)
            if problems:
                return Outcome("fail", visible("; ".join(problems), limit=2000), "look at the run folder")
            return Outcome("ok", f"{incident} was frozen at {had['began_at']}: {_said(had)}", "none")
        capture = await _capture(context, incident, moment)
        artifacts = await _kept(context, capture)
        if not any(row["status"] == "captured" for row in capture["sources"]):
            return Outcome(
                "blocked",
                f"nothing could be frozen: {_said(capture)}",
                "look at the back ends",
                artifacts=artifacts,
            )
        return Outcome("ok", f"{incident} frozen: {_said(capture)}", "none", artifacts=artifacts)


# -- taking a capture ------------------------------------------------------------------------------------


async def _capture(context: Context, incident: str, moment: Moment) -> Row:
    """Freeze every source, several at a time; never raises for what a source does."""
    began, started = context.now(), context.clock.monotonic()
    # An abort asks the metrics at the same time: a few of their connections are left to it.
    asked = {"cluster": _Asked(_AT_ONCE), "metrics": _Asked(_METRICS_AT_ONCE), "run": _Asked(1)}
    total = _Total()
    folder = f"{FORENSICS}/{incident}/{moment}"
    pods = await _within(pods_of(context), [])

    async def one(source: Source) -> Row:
        backend = asked[source.backend]
        async with backend.slots:
            left = _ALL_WITHIN - (context.clock.monotonic() - started)
            return await _freeze(context, source, folder, total, left, backend)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(source)) for source in sources_of(context, pods)]
    return {
        "incident": incident,
        "moment": moment,
        "began_at": began,
        "ended_at": context.now(),
        "rehearsal": context.plan.rehearsal,
        "namespace": context.plan.targets.kubernetes.namespace,
        "trace_id": context.request.trace_id,
        "sources": [task.result() for task in tasks],
    }


class _Asked:
    """A back end that is asked: how many questions at once, and how many in a row it has not answered."""

    def __init__(self, at_once: int) -> None:
        self.slots = asyncio.Semaphore(at_once)
        self.silent = 0


class _Total:
    """Bytes kept so far."""

    def __init__(self) -> None:
        self.bytes = 0


async def _freeze(
    context: Context, source: Source, folder: str, total: _Total, left: float, backend: _Asked
) -> Row:
    row: Row = {
        "name": source.name,
        "needed": source.needed,
        "path": "",
        "sha256": "",
        "bytes": 0,
        "at": context.now(),
        "took_ms": 0.0,
        "status": "absent",
        "reason": "",
    }
    if left <= 0:
        return {**row, "reason": f"not begun within {_ALL_WITHIN:g} s"}
    if backend.silent >= _GIVE_UP_AFTER:
        return {**row, "reason": f"not asked: {backend.silent} questions before it had no answer"}
    began = context.clock.monotonic()
    try:
        async with asyncio.timeout(min(_SOURCE_WITHIN, left)):
            frozen = await source.read(context)
        backend.silent = 0
    except TimeoutError:
        backend.silent += 1
        return {**row, "reason": f"no answer within {min(_SOURCE_WITHIN, left):.1f} s"}
    except NothingThere as nothing:
        return {**row, "reason": visible(str(nothing), limit=300)}
    except CockpitError as error:
        backend.silent = backend.silent + 1 if isinstance(error, BackendUnreachable) else 0
        return {**row, "reason": visible(str(error), limit=300)}
    except (ValueError, KeyError, TypeError, OSError) as error:
        return {**row, "reason": visible(f"{type(error).__name__}: {error}", limit=300)}
    row["took_ms"] = round((context.clock.monotonic() - began) * 1000, 3)
    if total.bytes + len(frozen.data) > MAX_TOTAL:
        return {**row, "reason": f"the capture has more than {MAX_TOTAL} bytes"}
    total.bytes += len(frozen.data)
    return await _store(context, f"{folder}/{source.path}", frozen, row)


async def _store(context: Context, path: str, frozen: Frozen, row: Row) -> Row:
    try:
        artifact = await _disk(context, path, frozen.data)
    except (CockpitError, OSError) as error:
        return {**row, "reason": visible(f"it cannot be kept: {error}", limit=300)}
    return {
        **row,
        "path": artifact.path,
        "sha256": artifact.sha256,
        "bytes": len(frozen.data),
        "status": "captured",
        "reason": frozen.remark,
    }


async def _disk(context: Context, path: str, data: bytes) -> Artifact:
    return await BoundedThreads("the disk", 1).run(
        lambda: context.artifacts.write(path, data, "evidence"), deadline=_SOURCE_WITHIN
    )


async def _within(work: Any, otherwise: Any) -> Any:
    try:
        async with asyncio.timeout(_SOURCE_WITHIN):
            return await work
    except TimeoutError:
        return otherwise


# -- the index -------------------------------------------------------------------------------------------


async def _kept(context: Context, capture: Row) -> tuple[Artifact, ...]:
    """Put a capture into the index; return every artifact of it, the index last."""
    same = (capture["incident"], capture["moment"])
    captures = [one for one in await _captures(context) if (one["incident"], one["moment"]) != same]
    text = json.dumps({"format": 1, "captures": [*captures, capture]}, indent=2, sort_keys=True)
    index = await _disk(context, INDEX, text.encode("utf-8", "replace") + b"\n")
    files = [
        Artifact(path=row["path"], sha256=row["sha256"], type="evidence")
        for row in capture["sources"]
        if row["path"]
    ]
    return (*files, index)


async def _captures(context: Context) -> list[Row]:
    """Return the captures in the index; an index that cannot be read has none."""

    def read() -> list[Row]:
        try:
            found = json.loads(context.artifacts.path(INDEX).read_bytes())["captures"]
            return [one for one in found if {"incident", "moment", "began_at", "sources"} <= one.keys()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []

    return await BoundedThreads("the disk", 1).run(read, deadline=_SOURCE_WITHIN)


async def _changed(context: Context, capture: Row) -> list[str]:
    """Return what of a capture is not on the disk as the index says."""

    def look() -> list[str]:
        found = []
        for row in capture["sources"]:
            if not row["path"]:
                continue
            try:
                same = sha256_file(context.artifacts.path(row["path"])) == row["sha256"]
            except OSError:
                same = False
            if not same:
                found.append(f"{row['path']} is not as it was frozen")
        return found

    return await BoundedThreads("the disk", 1).run(look, deadline=context.plan.agent_deadline)


async def _checks(context: Context, capture: Row) -> list[Row]:
    checks = [
        {
            "name": row["name"],
            "ok": row["status"] == "captured",
            "detail": f"{row['bytes']} bytes" if row["status"] == "captured" else row["reason"],
        }
        for row in capture["sources"]
        if row["needed"]
    ]
    problems = await _changed(context, capture)
    kept = sum(row["status"] == "captured" for row in capture["sources"])
    detail = "; ".join(problems) or f"{kept} files have the hashes of the index"
    return [*checks, {"name": "read back", "ok": not problems and kept > 0, "detail": detail}]


def _said(capture: Row) -> str:
    rows = capture["sources"]
    kept = sum(row["status"] == "captured" for row in rows)
    absent = absent_of(capture)
    said = f"{kept} of {len(rows)} sources"
    return visible(f"{said}; absent: {'; '.join(absent)}" if absent else said, limit=1500)


def absent_of(capture: Row) -> list[str]:
    """Return what a capture lacks, a kind of source a line: how many of it, and why the first."""
    kinds: dict[str, list[Row]] = {}
    for row in capture["sources"]:
        if row["status"] != "captured":
            kinds.setdefault(row["name"].partition(" ")[0], []).append(row)
    return [
        f"{rows[0]['name'] if len(rows) == 1 else f'{len(rows)} × {kind}'} ({rows[0]['reason']})"
        for kind, rows in kinds.items()
    ]
