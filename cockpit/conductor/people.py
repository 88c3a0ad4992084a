"""What people say to a run: HALT, ROLLBACK, answers, and the questions put to them (gates.md, reading 9)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cockpit.base.clock import Clock
from cockpit.base.text import visible
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import (
    CommandReceived,
    FrontEndSeen,
    HaltBegan,
    HaltEnded,
    HaltReason,
    Noted,
    Question,
    QuestionAnswered,
)
from cockpit.journal.events_people import StopDecided

WireReason = Literal[
    "gate_fail", "slo_breach", "kpi_regression", "manual", "halt", "inconclusive", "crash", "signal"
]


_REASONED = frozenset({"answer", "reason", "resume", "promote"})
"""Commands whose text is a reason for access."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A decision to end the run by an abort."""

    reason: WireReason
    cause: str
    by: str


class People:
    """Takes commands from front ends and signals; keeps who is attached and what is being asked."""

    def __init__(
        self,
        *,
        effects: EffectsGate,
        recorder: Recorder,
        clock: Clock,
        on_halt: Literal["ask", "rollback"],
        bound: float,
        unattended: bool,
        sitting: int = 1,
    ) -> None:
        self._sitting = sitting
        self._effects = effects
        self._recorder = recorder
        self._clock = clock
        self._on_halt = on_halt
        self._bound = bound
        self._unattended = unattended
        self._numbers = itertools.count(1)
        self._attached = 0
        self._answers: dict[str, asyncio.Future[tuple[str, str]]] = {}
        self._options: dict[str, tuple[str, ...]] = {}
        self._go_on = asyncio.Event()
        self._go_on.set()
        self._halt_question = ""
        self._stop: asyncio.Future[Stop] | None = None
        self._first_stop: Stop | None = None
        self._over = False
        self.reasons: dict[str, str] = {}
        """What each person gave as a reason for access."""

    # -- the run's side -------------------------------------------------------------------------------

    async def stopped(self) -> Stop:
        """Wait until somebody or something decides to abort."""
        if self._first_stop is not None:
            return self._first_stop
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._stop)

    @property
    def stop_decided(self) -> Stop | None:
        """The decision to abort, if there is one."""
        return self._first_stop

    def stop(self, stop: Stop) -> str:
        """Decide to abort; the first decision is kept. Returns why not, or nothing."""
        if self._over:
            return "the run is already being ended; see `cockpit status`"
        if self._first_stop is None:
            self._first_stop = stop
            self._recorder.note(
                StopDecided(reason=stop.reason, cause=visible(stop.cause), by=visible(stop.by, limit=200))
            )
            if self._stop is not None and not self._stop.done():
                self._stop.set_result(stop)
        return ""

    @property
    def epoch(self) -> int:
        """How many HALTs there have been."""
        return self._effects.epoch

    @property
    def halted(self) -> bool:
        """Whether a HALT is in force."""
        return self._effects.halted

    async def resumed(self) -> None:
        """Wait until no HALT is in force."""
        await self._go_on.wait()

    def over(self) -> None:
        """From now on nothing waits for the end of a HALT, not of a later one either: the run is being ended.

        A HALT still stops everything forward; what ends a run is aborts, evidence and records.
        """
        self._over = True
        self._go_on.set()

    @property
    def attached(self) -> int:
        """How many front ends with control there are."""
        return self._attached

    @property
    def unattended(self) -> bool:
        """Whether nobody is there to be asked."""
        return self._unattended

    @property
    def ending(self) -> bool:
        """Whether the run is being ended."""
        return self._over

    async def ask(
        self,
        text: str,
        options: tuple[str, ...],
        *,
        otherwise: str,
        until: Callable[[], str] = lambda: "",
        patience: float = 0.0,
    ) -> tuple[str, str]:
        """Put a question to the people attached; return the answer and who gave it.

        Unattended, `otherwise` is the answer after `patience` seconds; with no front end attached, after the
        plan's bound. `until` may settle the question by itself: what it returns is then the answer.
        """
        if self._unattended and not patience:
            return otherwise, "--auto"
        question = self._name()
        future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._answers[question], self._options[question] = future, options
        try:
            # Not waited for: a disk that hangs must not keep an answer from being taken.
            self._recorder.note(Question(question=question, text=visible(text), options=list(options)))
            answer, by = await self._first(future, otherwise, until, patience)
            self._recorder.note(QuestionAnswered(question=question, answer=answer, by=by))
            return answer, by
        finally:
            del self._answers[question], self._options[question]

    async def _first(
        self,
        future: asyncio.Future[tuple[str, str]],
        otherwise: str,
        until: Callable[[], str],
        patience: float,
    ) -> tuple[str, str]:
        alone = 0.0
        bound = patience if self._unattended else self._bound
        while True:
            done, _ = await asyncio.wait((future,), timeout=0)
            if done:
                return future.result()
            if settled := until():
                return settled, "what it was about"
            # The bound runs only while nobody with control is there to answer.
            alone = 0.0 if self._attached and not self._unattended else alone + 0.25
            if alone >= bound:
                return otherwise, "--auto" if self._unattended else "bound"
            await self._clock.sleep(0.25)

    async def watch_halts(self) -> None:
        """For each HALT: ask what to do, or roll back where the plan says so. Runs as long as the run."""
        while True:
            await self._halted()
            if self._on_halt == "rollback":
                self._end_halt("plan", "rollback", "on_halt: rollback")
                self.stop(Stop("halt", "HALT, and the plan says on_halt: rollback", "plan"))
                return
            answer, by = await self._ask_halt()
            if answer == "rollback":
                self._end_halt(by, "rollback", "answered the HALT question")
                self.stop(Stop("halt", "HALT, then rollback", by))
                return

    async def _halted(self) -> None:
        while self._go_on.is_set():
            await self._clock.sleep(0.05)

    async def _ask_halt(self) -> tuple[str, str]:
        """Ask until the HALT ended by resume, or rollback is the answer. `stay` asks again."""
        question = self._name()
        options = ("rollback", "resume", "stay")
        text = "HALT is in force: traffic stays as it is. Roll back, resume (with a reason), or stay?"
        while not self._go_on.is_set():
            future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
            self._answers[question], self._options[question] = future, options
            self._halt_question = question
            try:
                self._recorder.note(Question(question=question, text=text, options=list(options)))
                answer, by = await self._first_or_resumed(future)
                self._recorder.note(QuestionAnswered(question=question, answer=answer, by=by))
            finally:
                self._halt_question = ""
                self._answers.pop(question, None)
                self._options.pop(question, None)
            if answer == "stay":
                question = self._name()
                continue
            return answer, by
        return "resume", ""

    async def _first_or_resumed(self, future: asyncio.Future[tuple[str, str]]) -> tuple[str, str]:
        alone = 0.0
        while not future.done():
            if self._go_on.is_set():
                return "resume", "command"
            # Unattended means nobody will answer; the bound runs from the start.
            alone = 0.0 if self._attached and not self._unattended else alone + 0.1
            if alone >= self._bound:
                return "rollback", "bound"
            await self._clock.sleep(0.1)
        return future.result()

    def _name(self) -> str:
        number = f"q{next(self._numbers)}"
        return number if self._sitting == 1 else f"{self._sitting}.{number}"

    # -- commands -------------------------------------------------------------------------------------

    def halt(self, by: str, trigger: str, reason: str) -> None:
        """HALT: it acts first, and is recorded after."""
        already = self._effects.halted
        epoch = self._effects.halt()
        if not self._over:
            self._go_on.clear()
        if not already:
            self._recorder.note(
                HaltBegan(by=visible(by, limit=200), trigger=trigger, reason=visible(reason), epoch=epoch)
            )

    def resume(self, by: str, reason: str) -> str:
        """End a HALT; returns why not, or nothing."""
        if not self._effects.halted:
            return "no HALT is in force"
        if not reason.strip():
            return "resuming after a HALT needs a reason"
        self._effects.resume()
        self._end_halt(by, "resume", reason)
        self._go_on.set()
        return ""

    def resumes(self, question: str, answer: str) -> bool:
        """Tell whether an answer would end a HALT."""
        return bool(question) and question == self._halt_question and answer == "resume"

    def _end_halt(self, by: str, choice: str, reason: str) -> None:
        self._recorder.note(HaltEnded(by=visible(by, limit=200), choice=choice, reason=visible(reason)))

    def answer(self, question: str, answer: str, by: str, reason: str) -> str:
        """Answer a question; returns why not, or nothing."""
        future = self._answers.get(question)
        if future is None or future.done():
            return "that question does not wait for an answer"
        if answer not in self._options[question]:
            return f"the answers possible are {', '.join(self._options[question])}"
        if self.resumes(question, answer):
            problem = self.resume(by, reason)
            if problem:
                return problem
        future.set_result((answer, visible(by, limit=200)))
        return ""

    def reason(self, by: str, reason: str) -> None:
        """Record the reason for the last halt or rollback."""
        self._recorder.note(HaltReason(by=visible(by, limit=200), reason=visible(reason)))

    def note(self, by: str, text: str) -> None:
        """Record a remark."""
        self._recorder.note(Noted(level="info", text=visible(f"{by}: {text}")))

    def received(self, command: str, kind: str, by: str, reason: str, source: str) -> None:
        """Record that a command came."""
        if kind in _REASONED and len(reason.strip()) >= len(self.reasons.get(by, "").strip()):
            self.reasons[by] = reason
        self._recorder.note(
            CommandReceived(
                command=visible(command, limit=100),
                kind=kind,
                by=visible(by, limit=200),
                reason=visible(reason),
                source=visible(source, limit=50),
            )
        )

    def attach(self, name: str) -> None:
        """A front end with control came."""
        self._attached += 1
        self._recorder.note(FrontEndSeen(name=visible(name, limit=50), attached=True))

    def detach(self, name: str) -> None:
        """A front end with control left: the release goes on."""
        self._attached -= 1
        self._recorder.note(FrontEndSeen(name=visible(name, limit=50), attached=False))
