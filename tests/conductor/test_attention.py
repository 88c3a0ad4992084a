"""A decision that waits: who is called and when, what ends it, and what a webhook that fails changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.notify import Webhook
from cockpit.base.clock import VirtualClock, iso
from cockpit.base.tasks import alongside
from cockpit.conductor.attention import Attention
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.journal.base import Event
from cockpit.journal.events import (
    EffectIntended,
    HaltBegan,
    HaltEnded,
    MessagePosted,
    Noted,
    Question,
    QuestionAnswered,
)
from cockpit.journal.events_people import (
    ApprovalRequested,
    ApprovalSettled,
    DecisionAcknowledged,
    DecisionWaits,
)
from cockpit.plan.model import Webhook as Receiver
from cockpit.rehearsal.webhook import WebhookReceiver
from tests.conductor.support import DEADLINE, Holder, events, gate_of, plan_of, recording, until

SECRET = "0123456789abcdef0123456789abcdef"
ASKED = Question(question="q1", text="The step is inconclusive <!channel>", options=["rollback", "retry"])
ANSWERED = QuestionAnswered(question="q1", answer="retry", by="ann")
PAGE, ESCALATE = 30.0, 300.0
HOOKS: list[dict[str, Any]] = [
    {"name": "pager", "kind": "pager", "audience": ["oncall"], "secret": "env:PAGER"},
    {"name": "oncall", "kind": "slack", "audience": ["oncall"]},
    {"name": "cab", "kind": "generic", "audience": ["cab"]},
    {"name": "alerts", "kind": "alertmanager", "audience": ["oncall"]},
    {"name": "events", "kind": "cdevents"},
]


@dataclass
class Desk:
    """Attention, and what it acts on."""

    attention: Attention
    receiver: WebhookReceiver
    recorder: Recorder
    clock: VirtualClock
    gate: EffectsGate
    holder: Holder

    async def record(self, *what: Event) -> None:
        """Record events at this moment."""
        for event in what:
            await self.recorder.record(event)

    async def after(self, seconds: float) -> None:
        """Let time pass, then have what is due done, with all that was noted before on disk."""
        await events(self.recorder, Noted)
        self.clock.advance(seconds)
        await self.attention.turn()

    def told(self) -> list[tuple[str, str]]:
        """Return (shape, kind) of what receivers took, in order but for what goes out at once."""
        return [
            (line["shape"], line["kind"]) for line in self.receiver.received() if line["outcome"] == "taken"
        ]

    async def levels(self) -> list[tuple[str, str]]:
        """Return what the journal says was called for."""
        return [(one.what, one.level) for one in await events(self.recorder, DecisionWaits)]


def made(
    recorder: Recorder,
    gate: EffectsGate,
    clock: VirtualClock,
    receiver: WebhookReceiver,
    *,
    deadline: float = 20.0,
) -> Attention:
    hooks = [{**hook, "url": receiver.url_of(hook["kind"])} for hook in HOOKS]
    plan = plan_of(clock, attention={"page_after": "30s", "escalate_after": "300s"}, cab=["@cab"])
    targets = plan.targets.model_copy(update={"webhooks": tuple(map(Receiver.model_validate, hooks))})
    plan = plan.model_copy(update={"targets": targets})
    sender = Webhook({hook["name"]: SECRET for hook in hooks}, deadline=deadline)
    return Attention(plan=plan, sender=sender, effects=gate, recorder=recorder, clock=clock)


@asynccontextmanager
async def desk(folder: Path, *, deadline: float = 20.0) -> AsyncIterator[Desk]:
    clock = VirtualClock()
    async with (
        WebhookReceiver(folder / "webhooks.jsonl", secret=SECRET) as receiver,
        recording(folder / "run", clock) as recorder,
    ):
        holder = Holder()
        gate = gate_of(recorder, clock=clock, holder=holder)
        attention = made(recorder, gate, clock, receiver, deadline=deadline)
        yield Desk(attention, receiver, recorder, clock, gate, holder)


async def test_paged_after_a_while_then_escalated_once_each(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        await here.after(PAGE - 1)
        assert here.told() == [] and await here.levels() == []
        await here.after(1)
        first = [("alertmanager", "resolved"), ("pager", "trigger"), ("slack", "message")]
        assert sorted(here.told()) == first  # the alert's end lies in the past of the machine's clock
        assert await here.levels() == [("question:q1", "page")]
        for _ in range(3):
            await here.after(ESCALATE / 4)
        assert len(here.told()) == 3
        await here.after(ESCALATE / 4)
        assert sorted(here.told()[3:]) == [
            ("alertmanager", "resolved"),
            ("generic", "escalate"),
            ("pager", "trigger"),
            ("slack", "message"),
        ]
        await here.after(ESCALATE * 3)
        assert await here.levels() == [("question:q1", "page"), ("question:q1", "escalate")]
        assert len(here.told()) == 7 and here.receiver.count("duplicate") == 0
        assert here.receiver.count("malformed") == here.receiver.count("refused") == 0
        pages = [line["body"] for line in here.receiver.received() if line["shape"] == "pager"]
        assert len({page["dedup_key"] for page in pages}) == 2  # an escalation rings anew


async def test_acknowledged_in_time_nothing_escalates(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        await here.after(PAGE)
        assert here.attention.acknowledge("bob") == ""
        assert here.attention.acknowledge("carol", "question:q1") != ""
        await here.after(1)
        assert here.told()[-1] == ("pager", "acknowledge")
        await here.after(ESCALATE * 2)
        assert await here.levels() == [("question:q1", "page")]
        [one] = await events(here.recorder, DecisionAcknowledged)
        assert (one.what, one.by) == ("question:q1", "bob")
        await here.record(ANSWERED)
        await here.after(1)
        pager = [line["body"] for line in here.receiver.received() if line["shape"] == "pager"]
        assert [one["event_action"] for one in pager] == ["trigger", "acknowledge", "resolve"]
        assert len({one["dedup_key"] for one in pager}) == 1


async def test_acknowledged_before_anybody_was_called(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert here.attention.acknowledge("bob") == "no decision waits for anybody"
        await here.record(ASKED)
        assert here.attention.acknowledge("bob", "halt:9") == "no such decision waits"
        assert here.attention.acknowledge("bob") == ""
        await here.after(PAGE + ESCALATE)
        assert here.told() == [] and await here.levels() == []


async def test_settled_before_anybody_was_called(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        await here.after(PAGE - 1)
        await here.record(ANSWERED)
        await here.after(ESCALATE)
        assert here.receiver.requests == 0


async def test_a_halt_is_one_decision_and_does_not_stop_its_own_call(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.gate.halt()
        await here.record(
            HaltBegan(by="ann", trigger="key", reason="", epoch=1),
            Question(question="q1", text="HALT is in force", options=["rollback", "resume", "stay"]),
        )
        await here.after(PAGE)
        assert await here.levels() == [("halt:1", "page")]
        assert ("pager", "trigger") in here.told()
        lanes = {one.lane for one in await events(here.recorder, EffectIntended)}
        assert lanes == {"abort"}
        await here.record(HaltEnded(by="ann", choice="resume", reason="ok"))
        await here.after(1)
        assert ("pager", "resolve") in here.told()


async def test_a_request_for_approval_waits_too(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(
            ApprovalRequested(
                request="r1",
                asked="promote",
                subject="v3.0.0",
                text="Promote v3.0.0 to prod?",
                requester="ann",
                threshold=1,
                groups=[],
                from_each=False,
                step_up="none",
                expires=iso(here.clock.now()),
                blob="",
            )
        )
        await here.after(PAGE)
        assert await here.levels() == [("request:r1", "page")]
        await here.record(ApprovalSettled(request="r1", result="granted", by=["bob"], reason=""))
        await here.after(1)
        assert ("pager", "resolve") in here.told()


async def test_who_takes_the_run_up_again_calls_nobody_twice(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        await here.after(PAGE)
        before = here.receiver.requests
        again = made(here.recorder, here.gate, here.clock, here.receiver)
        await again.turn()
        # The question died with the conductor that asked it: what it had called for is settled.
        # (By the machine's clock the alert of a time long past was over from the start: a duplicate.)
        assert here.told()[before:] == [("pager", "resolve")] and here.receiver.count("duplicate") == 1
        assert [one for one in await here.levels() if one[1] == "page"] == [("question:q1", "page")]
        after = here.receiver.requests
        await again.turn()
        assert here.receiver.requests == after


async def test_the_end_of_a_run_settles_what_waits(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        await here.after(PAGE)
        await here.attention.finish()
        assert ("pager", "resolve") in here.told()


@pytest.mark.parametrize("fault", ["hang", "drip", "error", "refuse"])
async def test_what_does_not_arrive_is_tried_again_and_never_raises(tmp_path: Path, fault: Any) -> None:
    async with desk(tmp_path, deadline=0.5) as here:
        await here.receiver.fault(fault)
        await here.record(ASKED)
        await here.after(PAGE)
        assert await here.levels() == [("question:q1", "page")]  # the bell rings all the same
        await here.after(0.5)
        failed = [one for one in await events(here.recorder, MessagePosted) if not one.ok]
        assert len(failed) == 3  # one a webhook, however often it is tried
        await here.receiver.fault(None)
        async with asyncio.timeout(DEADLINE):
            good: list[str] = []
            while len(good) < 3:  # on a busy machine half a second may be too short once more
                await here.after(10)
                good = [one.webhook for one in await events(here.recorder, MessagePosted) if one.ok]
        assert sorted(good) == ["alerts", "oncall", "pager"]
        assert ("pager", "trigger") in here.told()


async def test_fenced_out_nothing_is_sent(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        here.holder.fenced_out = True
        await here.record(ASKED)
        await here.after(PAGE)
        assert here.receiver.requests == 0


async def test_without_a_sender_the_events_are_all_there_is(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        alone = Attention(
            plan=plan_of(here.clock), sender=None, effects=here.gate, recorder=here.recorder, clock=here.clock
        )
        await here.record(ASKED)
        here.clock.advance(PAGE)
        await alone.turn()
        assert await here.levels() == [("question:q1", "page")] and here.receiver.requests == 0


async def test_it_runs_beside_the_release_until_cancelled(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.record(ASKED)
        async with alongside(here.attention.run()):

            def paged() -> bool:
                here.clock.advance(1.0)
                return ("pager", "trigger") in here.told()

            await until(paged)
        assert await events(here.recorder, Noted) == []


async def test_a_sender_that_is_wrong_in_itself_is_told_once(tmp_path: Path) -> None:
    class Broken:
        async def send(self, receiver: Any, message: Any) -> Any:
            raise ZeroDivisionError("\x1b[2J")

    async with desk(tmp_path) as here:
        plan = plan_of(here.clock)
        broken = Attention(
            plan=plan, sender=Broken(), effects=here.gate, recorder=here.recorder, clock=here.clock
        )
        await here.record(ASKED)
        here.clock.advance(PAGE)
        for _ in range(3):
            await broken.turn()
            await asyncio.sleep(0)
        notes = await events(here.recorder, Noted)
        assert len(notes) == 1 and "\x1b" not in notes[0].text
