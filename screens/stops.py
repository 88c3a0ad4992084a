"""What a person does to the release: HALT, ROLLBACK, decide, leave. HALT acts first and asks after."""

from __future__ import annotations

import asyncio

from cockpit.journal.standing import operator_of
from cockpit.journal.state import QuestionView, ReleaseState
from cockpit.screens.acting import Acting
from cockpit.screens.alerts import waiting_questions
from cockpit.screens.dialogs import Ask, Choose, Confirm
from cockpit.screens.look import seconds_of, span, wrap
from cockpit.screens.view import View
from cockpit.screens.waits import decisions, open_requests

_SEEN_WITHIN = 50
_HALT_OPTIONS = (
    ("rollback", "Roll back: traffic to stable, the canary scaled down (asks once more)"),
    ("resume", "Resume: go on with the release (needs a reason)"),
    ("stay", "Stay: keep traffic as it is, decide later"),
)
_HALT_ANSWERS = {"rollback", "roll back", "resume", "stay"}


class Stops(Acting):
    """The flows behind the keys that stop a release and answer for it."""

    # -- HALT -------------------------------------------------------------------------------------------

    def halt(self) -> None:
        """Send HALT at once; then ask for the reason, which may be skipped."""
        if self._blocked("HALT"):
            return
        self._app.run_worker(self._send("halt"), name="send halt", group="send halt", exit_on_error=False)
        small = self._app.main.has_class("too-small")
        if not small and not any(isinstance(screen, Ask) for screen in self._app.screen_stack):
            self._app.run_worker(
                self._after_halt(), name="halt", group="halt", exclusive=True, exit_on_error=False
            )

    async def _after_halt(self) -> None:
        words = [
            "HALT is on its way; the line at the top shows whether it took effect.",
            "",
            "Why? The reason is recorded.",
        ]
        reason = await self._app.push_screen_wait(Ask("HALT", words))
        if reason:
            await self._send("reason", reason=reason)
        for _ in range(_SEEN_WITHIN):
            if any(isinstance(screen, (Confirm, Choose)) for screen in self._app.screen_stack):
                return  # something else is being asked already, a ROLLBACK maybe: nothing covers it
            if _halted(self._state):
                await self._decide()
                return
            if self._state.closed is not None or self._state.rollback is not None:
                return
            await asyncio.sleep(0.1)

    # -- ROLLBACK ---------------------------------------------------------------------------------------

    def rollback(self) -> None:
        """Ask once, with target, environment, consequence and feasibility in sight; y confirms."""
        screen = self._app.screen
        if isinstance(screen, Confirm) and screen.opener == "rollback":
            screen.opened_again()
            return
        if self._blocked("ROLLBACK"):
            return
        state = self._state
        if state.rollback is not None:
            self._app.notice(
                f"ROLLBACK is {state.rollback.status} already; it began {self._view.age(state.rollback.at)}."
            )
            return
        # What else was being asked must not be answered by a `y` that was meant for this.
        if isinstance(screen, Choose):
            screen.dismiss(None)
        elif isinstance(screen, Confirm):
            screen.dismiss(False)
        self._app.run_worker(
            self._rollback(), name="rollback", group="rollback", exclusive=True, exit_on_error=False
        )

    async def _rollback(self) -> None:
        view = self._view
        run = view.state.run
        title = f"ROLLBACK {run.version} in {run.environment}" if run else "ROLLBACK"
        words = rollback_words(view)
        if not await self._app.push_screen_wait(
            Confirm(title, words, "Roll back", danger=True, opener="rollback")
        ):
            return
        if not await self._send("rollback"):
            return
        if self._app.main.has_class("too-small"):
            return
        asked = [
            "ROLLBACK was sent; watch its stages in the red line above.",
            "",
            "Why? The reason is recorded.",
        ]
        reason = await self._app.push_screen_wait(Ask("ROLLBACK", asked))
        if reason:
            await self._send("reason", reason=reason)

    # -- deciding ---------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Ask what waits for a person."""
        if self._blocked("This"):
            return
        if not decisions(self._view) and not waiting_questions(self._view):
            self._app.notice("Nothing waits for a decision.")
            return
        self._app.run_worker(
            self._decide(), name="decide", group="decide", exclusive=True, exit_on_error=False
        )

    async def _decide(self) -> None:
        waiting = waiting_questions(self._view)
        if _halted(self._state):
            halt = self._state.halt
            words = ["The release is halted. Traffic stays as it is until you decide."]
            if halt is not None and halt.reason:
                words.append(f"Reason: {halt.reason}")
            choice = await self._app.push_screen_wait(Choose("HALTED: what now?", words, _HALT_OPTIONS))
            await self._halt_choice(choice)
        elif waiting:
            await self._answer(waiting[0])
        elif open_requests(self._view):
            await self._app.signing.approving()
        elif self._state.people.offered_to:
            self._app.tools.accept()

    async def _halt_choice(self, choice: str | None) -> None:
        if choice == "rollback":
            self.rollback()
        elif choice == "resume":
            words = [
                "The release goes on from where it stands.",
                "",
                "Why is it safe to resume? A reason is needed.",
            ]
            reason = await self._app.push_screen_wait(Ask("RESUME", words, needed=True))
            if reason:
                await self._send("resume", reason=reason)
        elif choice == "stay":
            await self._send("stay")

    async def _answer(self, question: QuestionView) -> None:
        options = [(option, option) for option in question.options]
        words = [question.text, *self._how_to_meet(question)]
        answer = await self._app.push_screen_wait(Choose("A decision is needed", words, options))
        if answer is None:
            return
        if answer == "rollback":
            self.rollback()
            return
        reason: str | None = ""
        if answer == "retry" and any("reason" in name for name in self._unmet()):
            words = [f"Why? It is the reason for access, by {operator_of(self._state)}, who operates."]
            reason = await self._app.push_screen_wait(Ask("A reason for access", words))
        await self._send("answer", question=question.question, answer=answer, reason=reason or "")

    def _unmet(self) -> list[str]:
        return [name for decision in self._state.people.decisions for name in decision.unmet]

    def _how_to_meet(self, question: QuestionView) -> list[str]:
        """Return what meets what is asked: policy's obligations, or break-glass over the gate that failed."""
        keys = self._app.keys
        if "retry" in question.options and self._unmet():
            return [
                "",
                f"`retry` asks for a reason for access. For the rest, Esc first: {keys['step_up']} shows a "
                f"second factor, {keys['approve']} signs an approval; {keys['decide']} comes back here.",
            ]
        if "reverify" in question.options and self._app.signing.breakable():
            waits = [one for one in open_requests(self._view) if one.asked == "break-glass"]
            then = f"{keys['break_glass']} asks for break-glass."
            if waits:
                then = f"{keys['approve']} signs the break-glass that waits, for whoever did not ask for it."
            return ["", f"Esc first, then: {then}"]
        return []

    # -- leaving ----------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave; ask only while a release is live."""
        if self._view.mode == "replay" or self._state.closed is not None or self._state.run is None:
            self._app.exit()
            return
        if not isinstance(self._app.screen, Confirm):
            self._app.run_worker(
                self._leave(), name="leave", group="leave", exclusive=True, exit_on_error=False
            )

    async def _leave(self) -> None:
        run_dir = self._view.desk.run_dir or "DIR"
        words = [
            "The release goes on without this screen.",
            "",
            "To come back:",
            f"  cockpit follow --control --run {run_dir}",
        ]
        if await self._app.push_screen_wait(Confirm("Leave the screen?", words, "Leave")):
            self._app.exit()


def _halted(state: ReleaseState) -> bool:
    active = state.halt is not None and state.halt.active
    return active and state.rollback is None and state.closed is None


def rollback_words(view: View) -> list[str]:
    """Return target, environment, consequence and feasibility of a rollback as of a view."""
    canary, run = view.state.canary, view.state.run
    target = (
        f"{run.repo} {run.version}, run {run.run_id}" if run else "unknown: the journal has not been read"
    )
    seen = (
        "not seen"
        if canary.observed is None
        else f"{canary.observed:.0f} % seen {view.age(canary.observed_at)}"
    )
    if canary.released:
        then = "the previous version is deployed again in place of this one"
    elif canary.moved:
        then = (
            f"canary traffic {canary.desired} % ({seen}) → 0 %; the canary is drained and scaled down; "
            "the release ends as rolled back"
        )
    else:
        then = "no production traffic was moved; the release ends without it"
    return [
        *_labelled("Target", target),
        *_labelled("Environment", run.environment if run else "unknown"),
        *_labelled("Consequence", then),
        *(line for doubt in _feasibility(view) for line in _labelled(*doubt)),
    ]


def _labelled(label: str, text: str) -> list[str]:
    lines = wrap(text, 58)
    return [f"{label if index == 0 else '':<13}{line}" for index, line in enumerate(lines)]


def _feasibility(view: View) -> list[tuple[str, str]]:
    state = view.state
    doubts = []
    if not view.desk.attached:
        doubts.append("no conductor answers at present")
    if state.canary.released:
        doubts.append("stable runs the new version already: the conductor may freeze and ask")
    if state.lease in ("lost", "refused"):
        doubts.append(f"the lease is {state.lease}: another holder may act")
    for name, counts in sorted(state.canary.replicas.items()):
        desired, ready = (*counts, 0, 0)[:2]
        if not name.endswith("-canary") and ready < desired:
            doubts.append(f"stable {name} has {ready} of {desired} ready")
    if state.effects_unknown:
        doubts.append(f"{len(state.effects_unknown)} earlier effect(s) with unknown outcome")
    if doubts:
        return [("Feasibility" if index == 0 else "", f"! {doubt}") for index, doubt in enumerate(doubts)]
    seen_at = _stable_seen(view)
    whole = f", stable seen whole {span(view.now - seen_at)} ago" if seen_at else ""
    return [("Feasibility", f"✓ the conductor answers{whole}")]


def _stable_seen(view: View) -> float:
    # Replicas carry no time of their own in the state; the tail knows when they were last recorded.
    for line in reversed(view.projection.tail):
        if line.kind == "canary.replicas":
            return seconds_of(line.at) or 0.0
    return 0.0
