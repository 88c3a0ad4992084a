"""What the journal tells of a stop: timeline, times, last looks, who decided. Pure; used for postmortems."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cockpit.base.clock import parse_iso
from cockpit.base.text import visible
from cockpit.journal import events as ev
from cockpit.journal import events_people as people
from cockpit.journal import events_work as work
from cockpit.journal.base import Event
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.stops import Stops
from cockpit.journal.upcast import decode

_MOST_LINES = 200
_LAST_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a timeline."""

    at: str
    what: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Something a person, the plan or the conductor decided, and why."""

    at: str
    by: str
    what: str
    why: str


@dataclass
class Story:
    """A stop as the journal has it; a time that is empty was not recorded.

    `exposed`: since when the canary had the traffic of the step the stop came in. `detected`: the first of
    the looks that failed in a row, the trigger, HALT or command that led to the stop.
    """

    number: int = 0
    reason: str = ""
    cause: str = ""
    by: str = ""
    step: int = 0
    weight: int = 0
    exposed: str = ""
    detected: str = ""
    detected_by: str = ""
    halted: str = ""
    began: str = ""
    traffic_off: str = ""
    verified: str = ""
    unfinished: str = ""
    proof: dict[str, str] = field(default_factory=dict)
    fallback: list[str] = field(default_factory=list)
    timeline: list[Line] = field(default_factory=list)
    left_out: int = 0
    looks: list[ev.LookTaken] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    stages: dict[str, people.HardStopStage] = field(default_factory=dict)
    fix_train: work.FixTrainScheduled | None = None
    records: int = 0

    def figures(self) -> dict[str, float | None]:
        """Return the durations in seconds; None where one of the two times was not recorded."""
        return {
            "time_to_detect_s": _between(self.exposed, self.detected),
            "time_to_stop_s": _between(self.detected, self.began),
            "time_to_mitigate_s": _between(self.detected, self.traffic_off),
            "time_to_restore_s": _between(self.detected, self.verified),
        }


def read_story(run_dir: Path, number: int = 0) -> Story:
    """Read the story of stop `number` (0: the last one) from a run's journal; raises JournalError.

    Reads the whole journal twice: not for the event loop.
    """
    stops = Stops()
    path = run_dir / JOURNAL_NAME
    for block in verified_events(path, decode):
        stops.take_all(block)
    told = next((one for one in stops.all if one.number == number), stops.last)
    if told is None:
        return Story()
    after = next((one.since for one in stops.all if one.number == told.number + 1), None)
    teller = _Teller(told.number, told.since, told.began.seq)
    for block in verified_events(path, decode):
        teller.take_all(one for one in block if after is None or one.seq < after)
    return teller.finish(dict(told.stages))


class _Teller:
    """Builds a story from the records of one stop."""

    def __init__(self, number: int, since: int, began: int) -> None:
        self._since = since
        self._began = began
        self._story = Story(number=number)
        # What led to the stop and what followed it are bounded apart: neither may push the other out.
        self._before: deque[Line] = deque(maxlen=_MOST_LINES // 2)
        self._after: list[Line] = []
        self._looks: deque[ev.LookTaken] = deque(maxlen=_LAST_LOOKS)
        self._failing: ev.LookTaken | None = None
        self._untold: ev.LookTaken | None = None
        self._last_outcome: tuple[int, str] = (0, "")
        self._signs: list[tuple[str, str]] = []

    def take_all(self, events: Iterable[ev.AnyEvent]) -> None:
        for event in events:
            if event.seq >= self._since:
                self._take(event)
            self._story.records = max(self._story.records, event.seq + 1)

    def finish(self, stages: dict[str, people.HardStopStage]) -> Story:
        story = self._story
        story.timeline = [*self._before, *self._after]
        story.looks = list(self._looks)
        story.stages = stages
        # What could not be told is a sign only where it is what ended the release.
        sign = self._untold if story.reason == "inconclusive" else self._failing
        if sign is not None:
            self._signs.append((sign.at, f"look {sign.look} of step {sign.step}"))
        if story.halted:
            self._signs.append((story.halted, "HALT"))
        self._signs.append((story.began, "the rollback itself"))
        story.detected, story.detected_by = min(self._signs, key=lambda sign: sign[0])
        return story

    @property
    def _stopped(self) -> bool:
        return bool(self._story.began)

    def _take(self, event: ev.AnyEvent) -> None:
        self._note_times(event)
        self._note_decision(event)
        said = _said(event, self._last_outcome)
        if isinstance(event, ev.LookTaken):
            self._last_outcome = (event.step, event.outcome)
        if not said:
            return
        line = Line(event.at, visible(said, limit=600))
        if not self._stopped or event.seq == self._began:
            if len(self._before) == self._before.maxlen:
                self._story.left_out += 1
            self._before.append(line)
        elif len(self._after) < _MOST_LINES // 2:
            self._after.append(line)
        else:
            self._story.left_out += 1

    def _note_times(self, event: ev.AnyEvent) -> None:
        story = self._story
        if isinstance(event, ev.StepStarted) and not self._stopped:
            story.step, story.weight, story.exposed = event.step, event.weight, ""
        elif isinstance(event, ev.StepStage) and event.stage == "observe" and not self._stopped:
            story.exposed = story.exposed or event.at
        elif isinstance(event, ev.LookTaken) and not self._stopped:
            self._looks.append(event)
            if event.outcome == "pass":
                self._failing = self._untold = None
            elif event.outcome == "fail":
                self._failing = self._failing or event
            else:
                self._untold = self._untold or event
        elif isinstance(event, ev.RiskChanged) and not self._stopped:
            if event.state == "open" and event.rating == "high":
                self._signs.append((event.at, f"risk {event.id}"))
        elif isinstance(event, ev.HaltBegan) and not story.halted:
            story.halted = event.at
        elif isinstance(event, ev.HaltEnded) and event.choice == "resume" and not self._stopped:
            story.halted = ""
        elif isinstance(event, ev.RollbackStarted) and not self._stopped:
            story.began, story.reason, story.cause, story.by = (
                event.at,
                event.reason,
                event.cause,
                event.by,
            )
        elif isinstance(event, ev.WeightSeen) and event.desired == 0 and self._stopped:
            story.traffic_off = story.traffic_off or event.at
        elif isinstance(event, ev.RollbackVerified):
            story.verified, story.proof = story.verified or event.at, dict(event.proof)
        elif isinstance(event, ev.RollbackUnfinished):
            story.unfinished, story.fallback = event.reason, list(event.fallback)
        elif isinstance(event, work.FixTrainScheduled):
            story.fix_train = event

    def _note_decision(self, event: ev.AnyEvent) -> None:
        decision = _decision(event)
        if decision is not None and len(self._story.decisions) < _MOST_LINES:
            self._story.decisions.append(decision)


def _decision(event: Event) -> Decision | None:
    if isinstance(event, ev.HaltBegan):
        return Decision(event.at, event.by, f"HALT by {event.trigger}", event.reason)
    if isinstance(event, ev.HaltEnded):
        return Decision(event.at, event.by, f"HALT ended by {event.choice}", event.reason)
    if isinstance(event, ev.HaltReason):
        return Decision(event.at, event.by, "gave the reason", event.reason)
    if isinstance(event, ev.QuestionAnswered):
        return Decision(event.at, event.by, f"answered {event.answer}", "")
    if isinstance(event, ev.RollbackStarted):
        return Decision(event.at, event.by, f"rollback ({event.reason})", event.cause)
    if isinstance(event, people.BreakGlassUsed):
        return Decision(event.at, event.by, f"break-glass for {event.gate}", event.reason)
    if isinstance(event, people.ApprovalSettled):
        return Decision(event.at, ", ".join(event.by), f"approval {event.result}", event.reason)
    return None


_SAID: dict[type[Event], Callable[[Any], str]] = {
    ev.StepStarted: lambda e: f"step {e.step} to {e.weight} % began",
    ev.StepDecided: lambda e: f"step {e.step} decided: {e.decision} ({e.reason})",
    ev.Released: lambda e: f"{e.version} carries all traffic",
    ev.RiskChanged: lambda e: f"risk {e.id} ({e.rating}) is {e.state}: {e.reason}",
    ev.AgentFailed: lambda e: f"{e.agent} {e.op} {e.kind}: {e.reason}",
    ev.CommandReceived: lambda e: (
        f"command {e.kind} from {e.by} by {e.source}: {e.reason or 'no reason given'}"
    ),
    ev.HaltBegan: lambda e: f"HALT by {e.by} ({e.trigger}): {e.reason or 'no reason given'}",
    ev.HaltEnded: lambda e: f"HALT ended by {e.by}: {e.choice}",
    ev.RollbackStarted: lambda e: f"rollback began ({e.reason}) by {e.by}: {e.cause}",
    ev.RollbackStage: lambda e: f"rollback: {e.stage}{' ' if e.detail else ''}{e.detail}",
    ev.RollbackVerified: lambda e: "rollback verified",
    ev.RollbackUnfinished: lambda e: f"rollback not finished: {e.reason}",
    ev.EffectUnknown: lambda e: f"effect {e.effect} has no known outcome: {e.reason}",
    ev.MessagePosted: lambda e: f"message {e.macro} to {e.webhook}: {'sent' if e.ok else e.reason}",
    ev.RunResumed: lambda e: f"the run was taken up again, into {e.into}: {e.reason}",
    ev.JournalGap: lambda e: f"{e.records} records are missing: {e.reason}",
    people.BreakGlassUsed: lambda e: f"break-glass for {e.gate} by {e.by}",
    people.OperatorLost: lambda e: f"no operator for {e.seconds:g} s: {e.then}",
    people.HardStopStage: lambda e: f"hard stop, {e.stage}: {'done' if e.ok else 'not done'}: {e.detail}",
    work.IncidentChanged: lambda e: f"incident {e.incident} is {e.state}",
    work.IssueFiled: lambda e: f"issue {e.url} {'was there already' if e.known else 'filed'} ({e.kind})",
    work.FixTrainScheduled: lambda e: f"fix train {e.issue}: window {e.window_start} → {e.window_end}",
    work.FlagChanged: lambda e: f"flag {e.flag}: {e.was} → {e.now} ({e.scope})",
}


def _said(event: Event, last: tuple[int, str]) -> str:
    if isinstance(event, ev.LookTaken):
        # A row of looks that say the same is one line.
        if (event.step, event.outcome) == last:
            return ""
        return f"look {event.look} of step {event.step}: {event.outcome}: {event.reason}"
    if isinstance(event, ev.GateJudged):
        if event.verdict == "pass":
            return ""
        return f"{event.agent} judged {event.phase_gate}: {event.outcome}: {event.reason}"
    say = _SAID.get(type(event))
    return "" if say is None else say(event)


def _between(start: str, end: str) -> float | None:
    if not start or not end:
        return None
    return round((parse_iso(end) - parse_iso(start)).total_seconds(), 3)
