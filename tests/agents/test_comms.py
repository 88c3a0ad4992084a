"""A41: each message once to each webhook it is for, whatever happens in between; what the notes say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cockpit.agents import macros
from cockpit.agents.macros import MACROS, Notice, notice_of
from cockpit.backends.notices import markdown
from cockpit.backends.notify import Webhook
from cockpit.conductor.effects import EffectsGate
from cockpit.dispatch import LocalDispatch
from cockpit.journal.events import (
    EffectDone,
    EffectIntended,
    MessagePosted,
    RollbackStarted,
    RollbackVerified,
)
from cockpit.journal.events_work import FlagChanged
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.rehearsal.webhook import KINDS, WebhookReceiver
from cockpit.rpc.messages import AgentRequest, Inputs, Scope
from cockpit.rpc.validate import encode
from tests.agents.support import World
from tests.agents.test_train import journaled
from tests.conductor.support import Holder

SECRET = "0123456789abcdef0123456789abcdef"
HOOKS = tuple(f"{kind}-hook" for kind in KINDS)
SEED_START = (
    "Cutting `v3.0.0` — stage canary. Gates: SLO/Perf/SupplyChain/Migrations/Policy/DR. Evidence to follow. "
    "On-call: @sre,@platform,@security,@product."
)


@pytest_asyncio.fixture
async def receiver(world: World, tmp_path: Path) -> AsyncIterator[WebhookReceiver]:
    """Give the plan one webhook of every kind, all of them at one receiver that insists on shapes."""
    async with WebhookReceiver(tmp_path / "webhooks.jsonl", secret=SECRET) as running:
        world.data["targets"]["webhooks"] = [
            {"name": f"{kind}-hook", "url": running.url_of(kind), "kind": kind, "secret": "file:secret"}
            for kind in KINDS
        ]
        use(world, deadline=20.0)
        yield running


def use(world: World, *, deadline: float) -> None:
    """Give the world a sender with this deadline."""
    world.handles = replace(world.handles, webhooks=Webhook(dict.fromkeys(HOOKS, SECRET), deadline=deadline))


def taken(receiver: WebhookReceiver, shape: str) -> list[Any]:
    """Return the bodies a shape's receiver took, in order."""
    return [one["body"] for one in receiver.received() if (one["shape"], one["outcome"]) == (shape, "taken")]


def posted(world: World) -> list[tuple[str, str, bool]]:
    """Return what the journal says was posted."""
    found = [event for event in journaled(world) if isinstance(event, MessagePosted)]
    return sorted((event.macro, event.webhook, event.ok) for event in found)


def words(plan: Plan, world: World, macro: str, **params: Any) -> str:
    return markdown(macros.parts(plan, world.recorder.state(), notice_of(macro, params)))


async def test_the_macros_keep_the_words_of_the_seed(world: World) -> None:
    world.data |= {
        "required_gates": ["slo", "perf", "supply_chain", "migrations", "policy", "dr"],
        "phases": [f"P{number}" for number in range(9)],
        "agents": [*dict.fromkeys([*world.data["agents"], "A43", "A55"])],
        "ga_flags": ["search", "realtime", "reports"],
        "stages": [
            {
                "environment": "stage", "namespace": "stage", "route": "public", "steps": [50, 100],
                "entry_url": "http://127.0.0.1:1",
            }
        ],
        "kpis": {"items": [{"name": "orders", "query": "orders[{window}]", "better": "higher"}]},
    }  # fmt: skip
    plan = world.plan
    assert words(plan, world, "start") == SEED_START
    assert words(plan, world, "breach", step=1, weight=10, gate="slo") == (
        "Canary breach at **10%** — **auto-rollback**. Gate: slo. Evidence + traces attached."
    )
    assert "GA flags to be flipped in P8: search,realtime,reports." in words(plan, world, "ga")
    for flag in plan.ga_flags:
        await world.recorder.record(
            FlagChanged(flag=flag, was="off", now="on", scope="all", by="A55", seen_ms=1.0)
        )
    assert words(plan, world, "ga") == (
        "**v3.0.0** at 100%. GA flags flipped: search,realtime,reports. "
        "Evidence attached; +24h KPI scheduled."
    )


async def test_the_macros_claim_no_more_than_the_run_does(world: World) -> None:
    world.data["stages"] = []
    world.data["agents"] = ["A41"]
    world.data["phases"] = ["P6"]
    plan = world.plan
    assert words(plan, world, "start").startswith("Cutting `v3.0.0`. Gates: ")
    assert "not flipped by this run" in words(plan, world, "ga")
    await world.recorder.record(RollbackStarted(reason="manual", cause="I say so", by="ops <!channel>"))
    said = words(plan, world, "breach", step=1, weight=10, gate="manual")
    assert "breach at" not in said and "no breach: manual by ops" in said


async def test_every_shape_gets_the_three_macros_once_each(world: World, receiver: WebhookReceiver) -> None:
    for _ in range(2):
        await world.call("A41", "APPLY", macro="start")
        await world.call("A41", "APPLY", macro="breach", step=1, weight=10, gate="slo")
        await world.call("A41", "APPLY", macro="ga", step=3, weight=100)
    assert (receiver.count("duplicate"), receiver.count("refused"), receiver.count("malformed")) == (0, 0, 0)
    assert [one["kind"] for one in taken(receiver, "generic")] == ["start", "breach", "ga"]
    assert [one["text"][:10] for one in taken(receiver, "slack")] == [
        "Cutting `v",
        "Canary bre",
        "*v3.0.0* a",
    ]
    alerts = taken(receiver, "alertmanager")
    assert [[alert["labels"]["alertname"] for alert in one] for one in alerts] == [
        ["ReleaseInProgress"],
        ["ReleaseBreach", "ReleaseInProgress"],
        ["ReleaseInProgress", "ReleaseBreach"],
    ]
    assert alerts[1][0]["labels"] == alerts[2][1]["labels"]
    # A pager is not woken by a beginning; what it was woken for is ended by GA.
    assert [one["event_action"] for one in taken(receiver, "pager")] == ["trigger", "resolve"]
    assert posted(world) == sorted(
        (name, hook, True)
        for name in ("start", "breach@1", "ga")
        for hook in HOOKS
        if (name, hook) != ("start", "pager-hook")
    )


async def test_what_machines_are_told(world: World, receiver: WebhookReceiver) -> None:
    await world.call("A41", "APPLY", macro="start")
    await world.call("A41", "APPLY", macro="step", step=1, weight=10)
    await world.call("A41", "APPLY", macro="step", step=2, weight=50)
    await world.call("A41", "APPLY", macro="breach", step=2, weight=50, gate="slo")
    await world.call(
        "A41", "APPLY", macro="hard_stop", step=2, cause="p95", url="https://forge.example/issues/7"
    )
    await world.call("A41", "APPLY", macro="resolved", matter="hard_stop@2", reason="fixed")
    await world.call("A41", "APPLY", macro="correction", of="breach", text="it was search")
    await world.call("A41", "APPLY", macro="ga")
    services = len(world.plan.services)
    names = [one["type"].removeprefix("dev.cdevents.") for one in taken(receiver, "cdevents")]
    assert names == [
        "pipelinerun.started.0.2.0",
        *["service.deployed.0.2.0"] * services,
        "environment.modified.0.2.0",
        "environment.modified.0.2.0",
        "incident.detected.0.2.0",
        "pipelinerun.finished.0.2.0",
        "incident.reported.0.2.0",
        "incident.resolved.0.2.0",
        *["service.upgraded.0.2.0"] * services,
        "pipelinerun.finished.0.2.0",
    ]
    # Steps are for machines alone; a correction is for people alone.
    assert "step" not in [one["kind"] for one in taken(receiver, "generic")]
    assert receiver.count("malformed") == 0


async def test_a_rollback_is_only_told_when_it_was_seen(world: World, receiver: WebhookReceiver) -> None:
    await world.recorder.record(RollbackStarted(reason="slo_breach", cause="p95", by="A1"))
    await world.recorder.record(RollbackVerified(proof={}))
    await world.call("A41", "APPLY", macro="breach", step=1, weight=10, gate="slo")
    # What stable ran before is not known here, so no service is said to run it again.
    assert [one["type"].split(".")[2] for one in taken(receiver, "cdevents")] == ["incident", "pipelinerun"]


@pytest.mark.parametrize(
    ("macro", "audience", "told"),
    [
        ("start", ["release"], True),
        ("start", ["cab"], False),
        ("breach", ["oncall"], True),
        ("hard_stop", ["release"], False),
        ("hard_stop", ["oncall"], True),
        ("hard_stop", ["cab"], True),
        ("correction", ["cab"], True),
    ],
)
async def test_a_message_goes_to_whom_it_is_for(
    world: World, receiver: WebhookReceiver, macro: str, audience: list[str], told: bool
) -> None:
    [hook, *_] = world.data["targets"]["webhooks"]
    world.data["targets"]["webhooks"] = [{**hook, "audience": audience}]
    result = await world.call("A41", "APPLY", macro=macro, step=1, text="so")
    assert result.status == "ok" and (receiver.requests == 1) is told


async def killed_before_recording(world: World, **params: Any) -> None:
    """Have a macro posted by a conductor that dies before it learns of any answer."""
    plan = world.plan
    gate = EffectsGate(world.recorder, Holder(), world.clock, plan.window_utc, frozenset({"all"}))
    loaded = LoadedPlan(plan, b"", world.plan_sha256, world.folder)
    dispatch = LocalDispatch(loaded, world.run_dir, world.clock, world.recorder, world.handles, gate)
    request = AgentRequest(
        phase="P6",
        op="APPLY",
        scope=Scope(env="prod", services=["*"], tenants=["*"]),
        inputs=Inputs(params=params),
        capabilities=["git", "webhook", "journal"],
        trace_id="ab" * 16,
    )
    await dispatch.call("A41", encode(request))
    path = world.run_dir / "artifacts" / "comms" / "log.json"
    log = json.loads(path.read_bytes())
    for row in log["messages"]:
        row.update(ok=False, reason="not answered yet")
    path.write_text(json.dumps(log))


async def test_a_conductor_killed_between_sending_and_recording(
    world: World, receiver: WebhookReceiver
) -> None:
    await killed_before_recording(world, macro="start")
    told = len(HOOKS) - 1
    assert (receiver.count("taken"), posted(world)) == (told, [])
    await world.call("A41", "APPLY", macro="start")
    # Sent again with the same keys, ids, labels: each receiver that looks has it once.
    assert (receiver.count("taken"), receiver.count("duplicate")) == (told, told)
    assert posted(world) == sorted(("start", hook, True) for hook in HOOKS if hook != "pager-hook")
    times = [one["time"] for one in (line["body"] for line in receiver.received()) if "specversion" in one]
    assert len(times) == 2 and len(set(times)) == 1
    await world.call("A41", "APPLY", macro="start")
    assert receiver.requests == 2 * told


async def test_the_journal_decides_even_when_the_log_is_gone(world: World, receiver: WebhookReceiver) -> None:
    await world.call("A41", "APPLY", macro="start")
    (world.run_dir / "artifacts" / "comms" / "log.json").unlink()
    before = receiver.requests
    result = await world.call("A41", "APPLY", macro="start")
    assert result.status == "ok" and receiver.requests == before


async def test_the_log_knows_what_the_journal_was_not_told(world: World, receiver: WebhookReceiver) -> None:
    """Killed after the row and before the journal: nothing is sent, and the journal is told now."""
    await world.recorder.record(
        MessagePosted(macro="start", webhook="generic-hook", ok=False, text="", reason="x")
    )
    log = world.run_dir / "artifacts" / "comms" / "log.json"
    log.parent.mkdir(parents=True)
    row = {
        "key": "k", "name": "start", "macro": "start", "webhook": "generic-hook",
        "at": "2025-09-23T08:00:00Z", "step": 0, "weight": 0, "gate": "", "facts": {}, "text": "t",
        "trace_id": "old", "ok": True, "reason": "",
    }  # fmt: skip
    log.write_text(json.dumps({"messages": [row]}))
    await world.call("A41", "APPLY", macro="start")
    assert taken(receiver, "generic") == []
    assert ("start", "generic-hook", True) in posted(world)


async def test_each_post_is_an_effect_with_its_key(world: World, receiver: WebhookReceiver) -> None:
    await world.call("A41", "APPLY", macro="start")
    found = journaled(world)
    intents = [event for event in found if isinstance(event, EffectIntended)]
    assert {event.detail for event in intents} == {
        f"{_run(world)}:start:{hook}" for hook in HOOKS if hook != "pager-hook"
    }
    assert len([event for event in found if isinstance(event, EffectDone)]) == len(intents)


@pytest.mark.parametrize("fault", ["hang", "drip", "error", "refuse"])
async def test_a_receiver_that_fails_never_holds_the_release_up(
    world: World, receiver: WebhookReceiver, fault: Any
) -> None:
    await receiver.fault(fault)
    use(world, deadline=0.5)
    result = await world.call("A41", "APPLY", macro="start")
    assert result.status == "ok" and "NOT delivered" in result.reason
    verified = await world.call("A41")
    assert verified.status == "ok" and "not delivered: start" in verified.reason
    assert {ok for _, _, ok in posted(world)} == {False}
    await receiver.fault(None)
    use(world, deadline=20.0)
    assert (await world.call("A41", "APPLY")).status == "ok"  # what is left
    assert receiver.count("taken") == len(HOOKS) - 1 and receiver.count("duplicate") == 0
    assert "every message so far was delivered" in (await world.call("A41")).reason


async def test_one_receiver_that_hangs_takes_no_other_with_it(
    world: World, receiver: WebhookReceiver
) -> None:
    async with WebhookReceiver(world.folder / "other.jsonl") as other:
        await other.fault("hang")
        world.data["targets"]["webhooks"].append({"name": "stuck", "url": other.url})
        use(world, deadline=3.0)
        await world.call("A41", "APPLY", macro="start")
    assert [row for row in posted(world) if not row[2]] == [("start", "stuck", False)]
    assert len(posted(world)) == len(HOOKS)


def test_names_and_keys_are_the_same_whoever_makes_them() -> None:
    assert [Notice(macro, step=2, facts={"of": "ga", "text": "x"}).name for macro in MACROS] == [
        "start",
        "step@2",
        "breach@2",
        "ga",
        "hard_stop@2",
        "resolved-all",
        "correction-" + Notice("correction", facts={"of": "ga", "text": "x"}).name.partition("-")[2],
    ]
    long = Notice("resolved", facts={"matter": "ü" * 400})
    assert macros.key_of("r", long, "hook") == macros.key_of("r", long, "hook")
    assert len(macros.key_of("r", long, "hook")) <= 200 and macros.key_of("r", long, "hook").isascii()


def test_parameters_are_bounded_and_visible() -> None:
    notice = notice_of("breach", {"step": "x", "weight": None, "gate": "\x1b[2J" * 99, "cause": "c" * 9999})
    assert (notice.step, notice.weight) == (0, 0)
    assert "\x1b" not in notice.gate and len(notice.gate) <= 100 and len(notice.facts["cause"]) <= 500


async def test_the_notes_say_what_is_in_the_release(world: World) -> None:
    result = await world.call("A41", "EVIDENCE")
    assert result.status == "ok", result.reason
    notes = (world.run_dir / "artifacts" / "release_notes.md").read_text()
    for heading in ("In this release", "Images", "Feature flags", "Migrations"):
        assert f"## {heading}\n" in notes
    for service in world.plan.services:
        assert service.image.text in notes and "@sha256:" in service.image.text
    assert "migrations/v3.0.0/" in notes and "migrations/v2.9.0/" not in notes
    assert "- Commits: " in notes and "- Pull requests: " in notes


def _run(world: World) -> str:
    run = world.recorder.state().run
    assert run is not None
    return run.run_id
