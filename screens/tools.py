"""The operator's tools: pause and extend the bake, verify again, note, hand over, attend to what waits."""

from __future__ import annotations

import math

from cockpit.control.client import operator
from cockpit.journal.standing import operator_of
from cockpit.screens.acting import Acting
from cockpit.screens.dialogs import Ask, Choose
from cockpit.screens.look import span
from cockpit.screens.waits import decisions

_LONGEST_EXTENSION = 24 * 3600.0
_BAD = ("fail", "invalid", "timeout", "crash", "refused", "cancelled")


class Tools(Acting):
    """The flows behind the operator's keys; each asks for a reason, and the conductor has the last word."""

    # -- the bake ---------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop the bake's clock, or let it go on."""
        if not self._blocked("Pausing the bake") and self._baking("Pausing"):
            self._start("pause", self._pause())

    async def _pause(self) -> None:
        paused = self._state.people.paused
        words = (
            ["The bake's clock goes on from where it stands.", "", "Why? A reason is needed."]
            if paused
            else [
                "The bake's clock stands still until it is let go on; the weight stays as it is.",
                "The analysis goes on, and a breach still rolls back.",
                "",
                "Why? A reason is needed.",
            ]
        )
        title = "The bake goes on" if paused else "Pause the bake"
        reason = await self._reason(title, words)
        if reason and await self._send("unpause" if paused else "pause", reason=reason):
            key = self._app.keys["pause_bake"]
            self._app.notice("The bake goes on." if paused else f"The bake is paused; {key} lets it go on.")

    def extend(self) -> None:
        """Make the bake of this step longer."""
        if not self._blocked("Extending the bake") and self._baking("Extending"):
            self._start("extend", self._extend())

    async def _extend(self) -> None:
        before = self._state.people.extended_s
        words = ["By how much shall the bake of this step last longer? Seconds, or 10m, or 1h."]
        if before:
            words.append(f"It was extended by {span(before)} already.")
        text = await self._app.push_screen_wait(
            Ask("Extend the bake", words, needed=True, go="goes on", refuse=_no_span)
        )
        if text is None:
            return
        seconds = seconds_in(text)
        assert seconds is not None  # the dialogue takes nothing else
        reason = await self._reason(f"Extend the bake by {span(seconds)}", ["Why? A reason is needed."])
        if reason and await self._send("extend", seconds=seconds, reason=reason):
            self._app.notice(f"The bake of this step lasts {span(seconds)} longer.")

    def _baking(self, what: str) -> bool:
        canary = self._state.canary
        if canary.step and not canary.decision and self._state.rollback is None and not canary.released:
            return True
        self._app.notice(f"{what} the bake is not possible: no canary step is under way.")
        return False

    # -- verifying again --------------------------------------------------------------------------------

    def reverify(self, agent: str = "") -> None:
        """Have one agent verify again; `agent` is the one chosen on the screen."""
        if not self._blocked("Verifying again"):
            self._start("reverify", self._reverify(agent))

    async def _reverify(self, chosen: str) -> None:
        agents = self._candidates(chosen)
        if not agents:
            self._app.notice("Verifying again is not possible: no agent of the plan has verified anything.")
            return
        agent = agents[0][0]
        if not chosen:
            key = self._app.keys["reverify"]
            words = [f"Which agent? (To name another, choose it among agents or gates, then press {key}.)"]
            picked = await self._app.push_screen_wait(Choose("Verify again", words, agents))
            if picked is None:
                return
            agent = picked
        attempts = self._state.people.reverified.get(agent, 1)
        label = next(label for one, label in agents if one == agent)
        words = [
            label,
            f"Attempt {attempts + 1}: each is counted and recorded. The newest verdict counts.",
            "",
            "Why? A reason is needed.",
        ]
        reason = await self._reason(f"Verify {agent} again", words)
        if reason and await self._send("reverify", agent=agent, reason=reason):
            self._app.notice(f"{agent} verifies again: attempt {attempts + 1}.")

    def _candidates(self, chosen: str) -> list[tuple[str, str]]:
        """Return agents that may be asked again, those whose verdict failed first."""
        state = self._state
        failed = {gate.agent for gate in state.gates if gate.verdict != "pass"}
        known = [view for view in state.agents if view.entry.required and view.calls]
        if chosen:
            known = [view for view in state.agents if view.entry.id == chosen]
        known.sort(
            key=lambda view: (view.entry.id not in failed and view.status not in _BAD, _number(view.entry.id))
        )
        labels = []
        for view in known:
            gates = ", ".join(
                f"{gate.phase_gate} {gate.verdict}" for gate in state.gates if gate.agent == view.entry.id
            )
            tried = state.people.reverified.get(view.entry.id)
            again = f" · {tried} attempts" if tried else ""
            labels.append(
                (view.entry.id, f"{view.entry.id} {view.entry.name}: {gates or view.status}{again}")
            )
        return labels

    # -- people -----------------------------------------------------------------------------------------

    def note(self) -> None:
        """Write a remark into the journal."""
        if not self._blocked("A note"):
            self._start("note", self._note())

    async def _note(self) -> None:
        words = ["A remark for the journal; everybody who watches sees it."]
        text = await self._app.push_screen_wait(Ask("Note", words, needed=True))
        if text and await self._send("note", reason=text):
            self._app.notice("Noted.")

    def handover(self) -> None:
        """Offer the run to the next operator."""
        if self._blocked("Handing over"):
            return
        now, me = operator_of(self._state), operator()
        if now != me:
            self._app.notice(f"Handing over is not possible: {now or 'nobody'} is the operator, not {me}.")
            return
        self._start("handover", self._handover())

    async def _handover(self) -> None:
        names = [one.id for one in self._view.plan.people if one.id != operator()]
        key = self._app.keys["accept"]
        words = [f"To whom? They take the run over with {key}; until then you stay its operator."]
        if names:
            words.append(f"In the plan: {', '.join(names)}")
        to = await self._app.push_screen_wait(Ask("Hand over", words, needed=True, go="goes on"))
        if to is None:
            return
        reason = await self._reason(f"Hand over to {to}", ["Why, and what must they know?"])
        if reason and await self._send("handover", to=to, reason=reason):
            self._app.notice(f"Offered to {to}; the offer waits until they take it.")

    def accept(self) -> None:
        """Take over a run that was offered."""
        if self._blocked("Taking over"):
            return
        offered, me = self._state.people.offered_to, operator()
        if not offered:
            self._app.notice("Taking over is not possible: the run is not being handed over.")
        elif offered != me:
            self._app.notice(f"Taking over is not possible: the run was offered to {offered}, not to {me}.")
        else:
            self._start("accept", self._accept())

    async def _accept(self) -> None:
        if await self._send("accept"):
            self._app.notice("You operate the run now.")

    def acknowledge(self) -> None:
        """Say that you attend to what waits: nobody is called beyond that."""
        if self._blocked("Acknowledging"):
            return
        if not decisions(self._view):
            self._app.notice("Nothing waits for a decision.")
            return
        self._start("acknowledge", self._acknowledge())

    async def _acknowledge(self) -> None:
        if await self._send("acknowledge"):
            self._app.notice("Acknowledged: nobody else is called for what waits now.")

    def step_up(self) -> None:
        """Show a second factor: a one-time password."""
        if not self._blocked("A second factor"):
            self._start("step_up", self._step_up())

    async def _step_up(self) -> None:
        await self.show_factor()

    async def show_factor(self) -> bool:
        """Ask for a one-time password until one is taken, or Esc; says whether one was."""
        words = [
            f"One-time password of {operator()}. It is neither shown nor recorded.",
            "",
            "By a login, or as somebody else: cockpit step-up --device, --as NAME, in another shell.",
        ]
        while code := await self._app.push_screen_wait(Ask("Second factor", words, needed=True, hidden=True)):
            if await self._send("step-up", answer=code):
                self._app.notice("The second factor was taken.")
                return True
        return False

    async def _reason(self, title: str, words: list[str]) -> str | None:
        reason = await self._app.push_screen_wait(Ask(title, words, needed=True))
        # The run may have ended while the reason was typed.
        return None if reason is None or self._blocked(title) else reason


def seconds_in(text: str) -> float | None:
    """Return the seconds of `90`, `90s`, `10m` or `1h`; nothing for anything else."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1].strip()) * unit if unit else float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= _LONGEST_EXTENSION else None


def _number(agent: str) -> tuple[str, int]:
    return agent[:1], int(agent[1:]) if agent[1:].isdigit() else 0


def _no_span(text: str) -> str:
    return "" if seconds_in(text) is not None else "That is no time of more than 0 and at most 24h."
