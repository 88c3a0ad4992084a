"""Quality: the QE Generalist (A43), smoke paths of the acceptance suite and, in P8, the KPIs (`kpi.py`)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from xml.etree import ElementTree as Xml

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import Context
from cockpit.agents import kpi
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, together
from cockpit.base.errors import BackendError
from cockpit.base.text import visible
from cockpit.plan.model import Smoke
from cockpit.verdicts.questions import error_answer
from cockpit.verdicts.rules.reading import Trouble
from cockpit.verdicts.rules.smoke import problem

_MOST_BODY = 256 * 1024
_AT_ONCE = 4


class QeGeneralist(GateAgent):
    """A43: reads every smoke path where users enter, in P4 and under every canary step; in P8 the KPIs."""

    gate = "slo"
    phase_gate = "slo"

    async def plan(self, context: Context) -> Outcome:
        """Say what VERIFY will read or compare."""
        return await (kpi.plan(context) if _of_ga(context) else super().plan(context))

    async def apply(self, context: Context) -> Outcome:
        """File the regressions in P8; else there is nothing to change."""
        return await (kpi.apply(context) if _of_ga(context) else super().apply(context))

    async def verify(self, context: Context) -> Outcome:
        """Read the smoke paths, or compare the KPIs."""
        return await (kpi.verify(context) if _of_ga(context) else super().verify(context))

    def needs(self, context: Context) -> str:
        """Need the HTTP reader."""
        _ = context.http
        return f"read {len(context.plan.targets.smoke)} smoke paths and check status and content"

    def blocked(self, context: Context) -> str:
        """Say so when the plan names no entry or no paths."""
        targets = context.plan.targets
        if targets.entry_url is None:
            return "targets.entry_url is not given: there is nowhere to read smoke paths"
        return "" if targets.smoke else "targets.smoke names no path"

    async def measure(self, context: Context) -> Measured:
        """Read the paths, judge, and write the JUnit report."""
        paths = context.plan.targets.smoke
        entry = str(context.plan.targets.entry_url).rstrip("/")
        slots = asyncio.Semaphore(_AT_ONCE)
        read = await together({path.name: _read(context, slots, entry + path.path) for path in paths})
        answers = {name: answer for name, (answer, _) in read.items()}
        took = {name: seconds for name, (_, seconds) in read.items()}
        params = {
            "paths": [{"name": path.name, "status": path.status, "contains": path.contains} for path in paths]
        }
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "smoke_paths",
            answers,
            params,
            {path.name: query(context, f"GET {path.path}", "http", samples=1) for path in paths},
        )
        where = f"quality/acceptance_step_{context.step}.xml" if context.step else "quality/acceptance.xml"
        report = junit(f"smoke {context.plan.target_version}", paths, answers, took)
        artifact = context.artifacts.write(where, report, "report")
        return Measured((verdict,), (artifact,), reason_of((verdict,)))


def _of_ga(context: Context) -> bool:
    return context.request.phase == "P8"


async def _read(context: Context, slots: asyncio.Semaphore, url: str) -> tuple[bytes, float]:
    async with slots:
        try:
            answer = await context.http.get(url)
        except BackendError as error:
            return error_answer("http", str(error)), 0.0
    if len(answer.body) > _MOST_BODY:
        return error_answer("garbage", f"an answer of {len(answer.body)} bytes"), answer.took_s
    document = {
        "url": url,
        "status": answer.status,
        "took_ms": round(answer.took_s * 1000, 3),
        "body": answer.body.decode("utf-8", "backslashreplace"),
    }
    return json.dumps(document, sort_keys=True).encode(), answer.took_s


def junit(suite: str, paths: tuple[Smoke, ...], answers: dict[str, bytes], took: dict[str, float]) -> bytes:
    """Return a JUnit report, a case for each path; no answer is an error, a wrong one a failure."""
    root = Xml.Element("testsuite", name=suite, tests=str(len(paths)))
    failures = errors = 0
    for path in paths:
        case = Xml.SubElement(
            root, "testcase", name=path.name, classname="smoke", time=f"{took[path.name]:.3f}"
        )
        expected: dict[str, Any] = {"name": path.name, "status": path.status, "contains": path.contains}
        try:
            wrong = problem(answers, expected)
        except Trouble as trouble:
            errors += 1
            Xml.SubElement(case, "error", message=_xml(trouble.reason))
            continue
        if wrong:
            failures += 1
            Xml.SubElement(case, "failure", message=_xml(wrong))
    root.set("failures", str(failures))
    root.set("errors", str(errors))
    Xml.indent(root)
    text: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _xml(text: str) -> str:
    # XML has no way to write most control characters, nor half a surrogate pair.
    return visible(text, limit=500).encode("utf-8", "replace").decode()
