"""A40: runbooks are linted as bytes, every alert leads to one, incidents keep to the goals."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.agents.runbook_editor import own
from cockpit.base.files import sha256_hex, write_private
from cockpit.cli.main import parser
from cockpit.journal.events import ArtifactWritten
from cockpit.rehearsal.forge import Author, ObjectStore
from cockpit.rpc.messages import GateVerdict
from cockpit.verdicts.runbook import MAX_RUNBOOK_BYTES, lint
from tests.agents.support import Service, World, recomputed

TODAY = date(2025, 9, 23)
GOOD = b"""---
owner: "@sre"
trigger: "it burns"
steps: 2
rollback: "put it out"
last_drill: 2025-09-01
mtta: 5m
mttr: 1h
---

# Fire

1. Look.
2. Act: [more](other.md).

```sh
1. no step
```
"""


def problems(raw: bytes, *, known: tuple[str, ...] = ("x.md", "other.md")) -> str:
    return "; ".join(lint("x.md", raw, known=known, today=TODAY).problems)


# -- the lint -----------------------------------------------------------------------------------------


def test_a_complete_runbook_has_no_problem() -> None:
    book = lint("x.md", GOOD, known=("x.md", "other.md"), today=TODAY)
    assert (book.problems, book.owner, book.steps) == ((), "@sre", 2)
    assert (book.last_drill, book.mtta_s, book.mttr_s) == (date(2025, 9, 1), 300.0, 3600.0)
    assert problems(GOOD.replace(b"\n", b"\r\n")) == ""
    assert problems(GOOD.replace(b"steps: 2", b"steps: [look, act]")) == ""


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (b'owner: "@sre"\n', b"", "no owner"),
        (b'"@sre"', b"sre", "nobody who can be told"),
        (b'"it burns"', b'" "', "trigger says nothing"),
        (b'rollback: "put it out"\n', b"", "no rollback"),
        (b"last_drill: 2025-09-01\n", b"", "no last_drill"),
        (b"2025-09-01", b"soon", "neither a date"),
        (b"2025-09-01", b"2025-09-24", "still to come"),
        (b"steps: 2", b"steps: 3", "3 steps are announced"),
        (b"steps: 2", b"steps: 0", "neither a number"),
        (b"steps: 2", b"steps: []", "nothing to do"),
        (b"2. Act", b"3. Act", "numbered [1, 3]"),
        (b"mtta: 5m", b"mtta: quickly", "mtta is no time"),
        (b"mttr: 1h\n", b"", "no mttr"),
        (b"# Fire", b"Fire", "no title"),
        (b"other.md", b"gone.md", "gone.md, which is not there"),
        (b"\n---\n\n", b"\n\n", "no front matter"),
        (b"owner:", b"owner: [", "not YAML"),
        (b"it burns", b"\xff", "not UTF-8"),
    ],
)
def test_what_is_missing_or_wrong_is_said(was: bytes, now: bytes, said: str) -> None:
    assert was in GOOD and said in problems(GOOD.replace(was, now))


def test_what_is_no_runbook_never_raises() -> None:
    for raw in (b"", b"---\n", b"---\n- a\n---\n", b"---\n&a [*a]\n---\n", b"x" * (MAX_RUNBOOK_BYTES + 1)):
        assert problems(raw)


def test_our_own_runbooks_are_complete() -> None:
    books = dict(own())
    assert set(books) >= {
        "approval-and-break-glass.md", "canary-rollback.md", "cockpit-is-the-problem.md",
        "halt-and-rollback.md", "handover.md", "hard-stop.md", "kpi-regression.md", "resume-after-crash.md",
    }  # fmt: skip
    for name, raw in books.items():
        assert lint(name, raw, known=books, today=date.max).problems == (), name


def test_their_commands_are_those_there_are() -> None:
    commands = parser()
    seen = 0
    for name, raw in own():
        for block in re.findall(r"```sh\n(.*?)```", raw.decode(), re.DOTALL):
            for line in re.findall(r"^ *(cockpit .*)$", block, re.MULTILINE):
                arguments = shlex.split(line.rstrip("& "), comments=True)[1:]
                assert commands.parse_args(arguments).module, f"{name}: {line}"
                seen += 1
    assert seen > 20


# -- the agent ----------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A world with a Prometheus that tells its rules, and a repository with runbooks."""

    world: World
    service: Service
    status: int = 200
    rules: list[dict[str, Any]] = field(default_factory=list)
    pages: dict[str, int] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/rules"):
            return web.Response(status=self.pages.get(request.path, 404))
        groups = [{"name": "g", "rules": self.rules}]
        return web.json_response({"status": "success", "data": {"groups": groups}}, status=self.status)

    def alert(self, name: str, link: str | None) -> None:
        notes = {} if link is None else {"runbook_url": link}
        self.rules.append({"type": "alerting", "name": name, "annotations": notes})

    def commit(self, files: dict[str, bytes]) -> None:
        """Put a commit with these files behind the branch the plan releases."""
        store = ObjectStore(self.world.folder / "repository")
        ann = Author("Ann", "ann@rehearsal.invalid")
        when = datetime(2025, 9, 23, tzinfo=UTC)
        store.ref("refs/heads/work", store.commit(store.tree(files), [], ann, when, "runbooks"))
        self.world.data["targets"]["repository"]["to_ref"] = "work"

    async def judged(self) -> GateVerdict:
        return await self.world.verdict("A40")


@pytest_asyncio.fixture
async def shelf(world: World) -> AsyncIterator[Shelf]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await made.answer(request)

    service = Service(answer)
    made = Shelf(world, service)
    async with service.running():
        world.data["targets"]["prometheus"]["url"] = service.url
        assert (await world.call("A11", "VERIFY", "P1")).response is not None
        yield made


async def test_ours_and_the_release_s_pass_and_are_judged_again(shelf: Shelf) -> None:
    shelf.alert("Lag", "https://wiki.example.invalid/platform/runbooks/realtime-lag.md#steps")
    verdict = await shelf.judged()
    assert verdict.verdict == "pass", verdict.details.reason
    assert (verdict.gate, verdict.details.phase_gate) == ("policy", "doc_lint")
    assert verdict.metrics["alerts"] > 3 and verdict.metrics["unresolved"] == 0  # type: ignore[operator]
    assert verdict.metrics["mtta_s"] is None and verdict.metrics["mttr_s"] is None
    recomputed(shelf.world)
    report = shelf.world.read("docs/runbooks.json")
    assert {"own", "release"} == {one["set"] for one in report["runbooks"]}
    assert "Lag" in {one["alert"] for one in report["alerts"]}
    assert (await shelf.world.call("A40", "EVIDENCE")).status == "ok"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"runbooks/bad.md": b"# Nothing\n"}, "release/bad.md: it has no front matter"),
        ({"runbooks/x.md": GOOD.replace(b"[more](other.md)", b"")}, ""),
        (
            {"runbooks/x.md": GOOD.replace(b"[more](other.md)", b"").replace(b"2025-09-01", b"none")},
            "never drilled",
        ),
        (
            {"runbooks/x.md": GOOD.replace(b"[more](other.md)", b"").replace(b"2025-09-01", b"2024-09-01")},
            "last drilled on 2024-09-01",
        ),
        ({"README.md": b"# no runbooks\n"}, ""),
    ],
)
async def test_the_release_s_runbooks_are_held_to_it(
    shelf: Shelf, files: dict[str, bytes], said: str
) -> None:
    shelf.commit(files)
    verdict = await shelf.judged()
    assert verdict.verdict == ("fail" if said else "pass"), verdict.details.reason
    assert said in verdict.details.reason
    if "README.md" in files:
        assert "only the cockpit's own" in shelf.world.read("docs/runbooks.json")["notes"][0]
    recomputed(shelf.world)


async def test_an_alert_must_lead_somewhere(shelf: Shelf) -> None:
    shelf.alert("Mute", None)
    shelf.alert("Lost", "runbooks/nowhere.md")
    shelf.alert("Odd", "file:///etc/passwd")
    shelf.alert("Wiki", f"{shelf.service.url}/wiki/there")
    shelf.alert("Dead", f"{shelf.service.url}/wiki/gone")
    shelf.pages["/wiki/there"] = 200
    verdict = await shelf.judged()
    reason = verdict.details.reason
    assert verdict.verdict == "fail" and verdict.metrics["unresolved"] == 4
    assert "Mute names no runbook" in reason and "Lost leads to runbooks/nowhere.md" in reason
    assert "Odd leads to" in reason and "answered 404" in reason and "Wiki" not in reason
    recomputed(shelf.world)


async def test_a_prometheus_that_tells_no_rules_is_noted(shelf: Shelf) -> None:
    shelf.status = 404
    assert (await shelf.judged()).verdict == "pass"
    assert "does not tell" in shelf.world.read("docs/runbooks.json")["notes"][-1]


@pytest.mark.parametrize("mode", ["error", "garbage", "hang"])
async def test_an_unreadable_answer_is_never_a_pass(shelf: Shelf, mode: Any) -> None:
    shelf.service.mode = mode
    verdict = await shelf.judged()
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "provider_error")
    recomputed(shelf.world)


@pytest.mark.parametrize(("acknowledged", "passed"), [("08:01:00", True), ("08:20:00", False)])
async def test_incidents_are_held_to_the_goals(shelf: Shelf, acknowledged: str, passed: bool) -> None:
    day = "2025-09-23T"
    await told(
        shelf.world,
        {
            "id": "DRILL-1",
            "opened_at": f"{day}08:00:00Z",
            "updates": [{"name": "acknowledged", "at": f"{day}{acknowledged}Z"}],
            "resolved_at": "",
        },
    )
    verdict = await shelf.judged()
    assert (verdict.verdict == "pass") is passed, verdict.details.reason
    assert verdict.metrics["mtta_s"] == (60.0 if passed else 1200.0) and verdict.metrics["mttr_s"] is None
    assert "mtta_s<=60" in verdict.thresholds
    recomputed(shelf.world)


async def told(world: World, incident: dict[str, Any]) -> None:
    path = "incidents/DRILL-1.json"
    raw = json.dumps(incident).encode()
    write_private(world.run_dir / "artifacts" / path, raw)
    await world.recorder.record(
        ArtifactWritten(agent="A37", path=path, sha256=sha256_hex(raw), kind="evidence")
    )


async def test_without_any_alert_nothing_is_proven(world: World) -> None:
    verdict = await world.verdict("A40")
    assert verdict.verdict == "fail"
