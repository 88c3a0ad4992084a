"""Where signed decisions come in: the desks of a run behind the control socket, and what they do by time."""

from __future__ import annotations

from cockpit.base.clock import Clock
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.conductor.approvals import ApprovalDesk
from cockpit.conductor.breakglass import BreakGlassDesk
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.step_up import StepUpDesk
from cockpit.control.messages import Command
from cockpit.journal.events import Noted

KINDS = frozenset({"approve", "review", "break-glass", "step-up"})
_LOOK = 0.5


class Desks:
    """Approvals, break-glass and step-up of one run."""

    def __init__(
        self,
        approvals: ApprovalDesk,
        glass: BreakGlassDesk,
        step_up: StepUpDesk,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self.approvals = approvals
        self.glass = glass
        self.step_up = step_up
        self._recorder = recorder
        self._clock = clock

    async def take(self, command: Command) -> str:
        """Act on a command of `KINDS`; return why it does not count, or nothing."""
        try:
            if command.kind == "approve":
                return await self._approve(command.question, command.statement)
            if command.kind == "review":
                # A review may be named by its request or by the glass it is about.
                request = self.glass.review_request(command.question) or command.question
                return await self._approve(request, command.statement)
            if command.kind == "break-glass":
                return await self.glass.use(command.gate, command.statement)
            if command.kind == "step-up":
                return await self.step_up.show(command.by, command.answer)
        except CockpitError as error:
            return visible(str(error), limit=500)
        return f"{command.kind} is not taken here"

    async def watch(self) -> None:
        """Let requests expire and settle what they come to, for as long as the run lasts."""
        said = ""
        while True:
            try:
                await self.approvals.look()
                await self.glass.settle()
                said = ""
            except CockpitError as error:
                # A disk that fails: nothing is granted by it, and an abort must not be ended by it.
                if str(error) != said:
                    said = str(error)
                    self._recorder.note(Noted(level="error", text=visible(f"approvals: {said}")))
            await self._clock.sleep(_LOOK)

    async def _approve(self, request: str, statement: str) -> str:
        problem = await self.approvals.submit(request, statement)
        await self.glass.settle()
        return problem
