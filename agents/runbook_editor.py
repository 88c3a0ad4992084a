"""Runbooks, alerts, docs: the Runbook Editor (A40) lints runbooks and follows every alert to one.

Looked at are the cockpit's own runbooks and those of the release's commit. Alerts are those this run rendered
and those Prometheus has loaded; a link to a page elsewhere is followed over https, or on Prometheus's own
host, and nothing of the page but its status is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, together, write_json
from cockpit.backends.http import origin
from cockpit.base.errors import BackendError, BackendGarbage, UsageError
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.rpc.messages import Query
from cockpit.verdicts.questions import error_answer
from cockpit.verdicts.rules.reading import Trouble
from cockpit.verdicts.rules.runbooks import alerts_of, known_runbook, linted, status_answer

REPORT = "docs/runbooks.json"
RULE = "runbook_lint"
FOLDER = "runbooks"
DRILLED_WITHIN = timedelta(days=365)
_MOST_RUNBOOKS = 200
_MOST_LINKS = 50


class RunbookEditor(GateAgent):
    """A40: lints runbooks, resolves the links of alerts, holds the times to acknowledge and repair."""

    gate = "policy"
    phase_gate = "doc_lint"

    def needs(self, context: Context) -> str:
        """Need the repository and a way to read pages."""
        _ = context.forge, context.http
        target = context.plan.targets.repository
        return f"lint the runbooks of {target.to_ref} and the cockpit's own, and follow every alert to one"

    async def measure(self, context: Context) -> Measured:
        """Gather, judge, and write the report."""
        found = Gathered(context)
        await found.runbooks()
        await found.alerts()
        found.incidents()
        params = await found.params()
        verdict = await judge(context, self.gate, self.phase_gate, RULE, found.answers, params, found.queries)
        report = _report(found, params) | {"verdict": summary(verdict)}
        return Measured((verdict,), (write_json(context, REPORT, report),), reason_of((verdict,)))


class Gathered:
    """What one verification reads: raw answers by name, and what is said of each."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.answers: dict[str, bytes] = {}
        self.queries: dict[str, Query] = {}
        self.sets: dict[str, list[str]] = {"own": [], "release": []}
        self.rules: list[dict[str, str]] = []
        self.told: list[str] = []
        self.notes: list[str] = []

    async def runbooks(self) -> None:
        """Read the cockpit's runbooks and those of the release's commit."""
        for name, raw in own():
            self._add("own", name, raw)
        context, ref = self._context, self._context.plan.targets.repository.to_ref
        commit = await context.forge.resolve(ref)
        paths = [path for path in await context.forge.list_at(commit, FOLDER) if path.endswith(".md")]
        if len(paths) > _MOST_RUNBOOKS:
            raise BackendGarbage(f"more than {_MOST_RUNBOOKS} runbooks", where=FOLDER)
        if not paths:
            self.notes.append(
                f"{visible(ref, limit=100)} has no {FOLDER}/: only the cockpit's own are linted"
            )
        for path in paths:
            raw = await context.forge.file_at(commit, path)
            self._add("release", path.removeprefix(f"{FOLDER}/"), raw)

    def _add(self, where: str, name: str, raw: bytes) -> None:
        self.sets[where].append(name)
        self.answers[f"{where}.{name}"] = raw
        backend = "files" if where == "own" else "forge"
        shown = visible(f"{FOLDER}/{name}", limit=300)
        self.queries[f"{where}.{name}"] = query(self._context, shown, backend, samples=1)

    async def alerts(self) -> None:
        """Read the rules this run rendered, and those Prometheus has loaded where it tells."""
        context = self._context
        for artifact in context.state().artifacts:
            if not artifact.path.endswith((".yaml", ".yml")) or "rules" not in artifact.path:
                continue
            raw = context.artifacts.path(artifact.path).read_bytes()
            if sha256_hex(raw) != artifact.sha256:
                raise BackendGarbage("it is not as its agent wrote it", where=artifact.path)
            name = f"rules.{artifact.path}"
            self.answers[name] = raw
            self.queries[name] = query(context, artifact.path, "files", samples=1)
            self.rules.append({"answer": name, "form": "file"})
        url = f"{context.plan.targets.prometheus.url.rstrip('/')}/api/v1/rules?type=alert"
        answer = await context.http.get(url)
        if answer.status in (404, 501):
            self.notes.append("this Prometheus does not tell its rules")
            return
        self.answers["rules.prometheus"] = (
            answer.body if answer.status == 200 else error_answer("http", f"it answered {answer.status}")
        )
        self.queries["rules.prometheus"] = query(context, "GET /api/v1/rules?type=alert", "prometheus")
        self.rules.append({"answer": "rules.prometheus", "form": "api"})

    def incidents(self) -> None:
        """Read the incidents and drills of this run, as they were recorded."""
        context = self._context
        for artifact in context.state().artifacts:
            folder, _, file = artifact.path.rpartition("/")
            if artifact.agent != "A37" or folder != "incidents" or not file.endswith(".json"):
                continue
            raw = context.artifacts.path(artifact.path).read_bytes()
            if sha256_hex(raw) != artifact.sha256:
                raise BackendGarbage("it is not as its agent wrote it", where=artifact.path)
            name = f"incident.{file}"
            self.answers[name] = raw
            self.queries[name] = query(context, artifact.path, "files", samples=1)
            self.told.append(name)

    async def params(self) -> dict[str, Any]:
        """Follow the links that lead elsewhere; return what the rule is given."""
        return {
            "sets": self.sets,
            "rules": self.rules,
            "links": await self._links(),
            "incidents": self.told,
            "today": self._context.clock.now().date().isoformat(),
            "as_of": await self._as_of(),
            "drilled_within": DRILLED_WITHIN.days,
        }

    async def _as_of(self) -> str:
        """Return the day from which the age of drills counts back.

        In a rehearsal that of its repository's last commit: its history stands still, and so do its drills.
        """
        context = self._context
        today = context.clock.now().date()
        if context.plan.rehearsal:
            target = context.plan.targets.repository
            commits = await context.forge.commits(target.from_ref, target.to_ref)
            today = min([today, *(commit.when.date() for commit in commits[:1])])
        return today.isoformat()

    async def _links(self) -> dict[str, str]:
        try:
            found = alerts_of(self.answers, self.rules)
        except Trouble:
            return {}  # the rule reads the same answers, and says what is wrong with them
        elsewhere = sorted({link for _, link in found if link and not known_runbook(link, self.sets)})
        allowed = [link for link in elsewhere if self._may_follow(link)][:_MOST_LINKS]
        followed = await together({link: self._follow(link) for link in allowed})
        names = {}
        for index, (link, raw) in enumerate(followed.items()):
            names[link] = f"link.{index}"
            self.answers[f"link.{index}"] = raw
            self.queries[f"link.{index}"] = query(
                self._context, visible(f"GET {link}", limit=500), "http", samples=1
            )
        return names

    def _may_follow(self, link: str) -> bool:
        try:
            scheme, host, _ = origin(link)
        except UsageError:
            return False
        return scheme == "https" or host == origin(self._context.plan.targets.prometheus.url)[1]

    async def _follow(self, link: str) -> bytes:
        try:
            return status_answer(link, (await self._context.http.get(link)).status)
        except BackendError as error:
            return error_answer("http", visible(str(error), limit=300))


def own() -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every runbook that comes with the cockpit, sorted by name."""
    folder = files("cockpit.runbooks")
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.name.endswith(".md") and entry.is_file():
            yield entry.name, entry.read_bytes()


def _report(found: Gathered, params: dict[str, Any]) -> dict[str, Any]:
    books = [
        {
            "set": where,
            "name": book.name,
            "owner": book.owner,
            "steps": book.steps,
            "last_drill": book.last_drill.isoformat() if book.last_drill else None,
            "mtta_goal_s": book.mtta_s,
            "mttr_goal_s": book.mttr_s,
            "problems": list(book.problems),
        }
        for where, book in linted(found.answers, params)
    ]
    try:
        alerts = [
            {"alert": visible(alert, limit=200), "runbook": visible(link, limit=500)}
            for alert, link in alerts_of(found.answers, params["rules"])
        ]
    except Trouble:
        alerts = []
    incidents = [json.loads(found.answers[name]).get("id") for name in params["incidents"]]
    return {
        "as_of": params["as_of"],
        "drilled_within_days": params["drilled_within"],
        "runbooks": books,
        "alerts": alerts,
        "incidents": incidents,
        "notes": found.notes,
    }
