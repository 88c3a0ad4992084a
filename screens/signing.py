"""What people sign: approvals, rejections and break-glass, and the Promote v2 a run may wait for.

The screen gathers what is to be said, with all the friction it deserves; the signature is made by the
`cockpit` command beside it, which asks for proof of who signs.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from cockpit.control.client import operator
from cockpit.journal.state_people import RequestView
from cockpit.screens.acting import Acting
from cockpit.screens.dialogs import Ask, Choose, Confirm
from cockpit.screens.look import seconds_of, span, wrap
from cockpit.screens.planned import Signatory
from cockpit.screens.shell import Shell, Variant
from cockpit.screens.view import View
from cockpit.screens.waits import open_requests, overridden

SHORTEST_REASON = 20
"""Characters a reason for access must have, as the command asks for them."""

_TALL = 14
"""Lines a choice needs beside its words: the box, two options with their space, and the hint."""

_WIDE = 78
"""Columns a line of a dialogue has."""

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class Signing(Acting):
    """The flows that end in a signature."""

    # -- approvals --------------------------------------------------------------------------------------

    def approve(self) -> None:
        """Approve or reject a request that waits, or review a break-glass."""
        if self._blocked("Approving"):
            return
        if not open_requests(self._view):
            self._app.notice("No request waits for an approval.")
            return
        self._start("approve", self.approving())

    async def approving(self) -> None:
        """Choose the request if there are several, the decision, the reason and who signs."""
        waiting = open_requests(self._view)
        if not waiting:
            return
        request = waiting[0]
        if len(waiting) > 1:
            options = [(one.request, f"{one.request}: {one.asked}: {one.text}") for one in waiting]
            picked = await self._app.push_screen_wait(Choose("Which request?", [], options))
            found = [one for one in waiting if one.request == picked]
            if not found:
                return
            request = found[0]
        if self._view.plan.people and not self._entitled(request):
            self._app.notice(f"Nobody in the plan may sign {request.request}: {_rule_of(request)}", bad=True)
            return
        about = await asyncio.to_thread(self._app.opening.about, request)
        words = request_words(self._view, request)
        if request.requester == operator():
            words += ["", f"You ({operator()}) asked for this: somebody else has to sign it."]
        choice = await self._app.push_screen_wait(
            Choose(
                f"{request.asked}: approve or reject?",
                [*words, *self._bound_to(about, len(words))],
                [("approve", "Approve"), ("reject", "Reject: it binds")],
            )
        )
        if choice is None:
            return
        reason = await self._app.push_screen_wait(
            Ask(f"{choice.capitalize()} {request.asked}", ["Why? It is signed."], needed=True, go="goes on")
        )
        if reason is None:
            return
        who = await self._who(request)
        if who is None or self._blocked("Approving"):
            return
        words = [f"{choice.capitalize()} {request.request} ({request.asked})."]
        signer = who[0].removeprefix("--as=") if who else operator()
        if request.step_up != "none" and not self._stepped_up(signer):
            mine = request.step_up == "totp" and signer == operator()
            if not (mine and await self._app.tools.show_factor()):
                words.append(self._how_to_step_up(request, signer))
        arguments = ["approve", *self._run(), *self._plan(), *who, f"--reason={reason}"]
        arguments += ["--reject"] if choice == "reject" else []
        await self._shell(f"Sign: {choice}", words, (*arguments, *_positional(request.request)))

    def _bound_to(self, about: list[tuple[str, str]], taken: int) -> list[str]:
        """Return what the signature is bound to, as much of it as leaves the choice in sight.

        Digests are cut, here only: what a person compares is their beginning. `taken` is how many lines stand
        above.
        """
        room = max(0, self._app.size.height - _TALL - taken)
        lines: list[str] = []
        for index, (name, value) in enumerate(about):
            line = f"  {name}: {_DIGEST.sub(lambda found: f'{found[0][:16]}…', value)}"
            room -= len(wrap(line, _WIDE))
            if room < 0:
                lines.append(f"  and {len(about) - index} more it is bound to: the command shows them all")
                break
            lines.append(line)
        return lines

    def _stepped_up(self, person: str) -> bool:
        """Tell whether somebody has shown a second factor that still counts."""
        view = self._view
        shown = [one for one in view.state.people.step_ups if one.by == person]
        return any((seconds_of(one.valid_until) or 0.0) > view.now for one in shown)

    def _how_to_step_up(self, request: RequestView, signer: str) -> str:
        needs = f"It needs a second factor of {signer} shown before ({request.step_up})"
        if request.step_up == "totp" and signer == operator():
            return f"{needs}: {self._app.keys['step_up']} shows one."
        device = " --device" if request.step_up != "totp" else ""
        return f"{needs}, in another shell: cockpit step-up{device} --as={signer}"

    def _entitled(self, request: RequestView) -> list[Signatory]:
        """Return the people of the plan whose signature on a request may count."""
        wanted = set(request.groups)
        return [
            one
            for one in self._view.plan.people
            if one.id != request.requester and (not wanted or wanted & set(one.groups))
        ]

    async def _who(self, request: RequestView | None) -> list[str] | None:
        """Return the option that names who signs; nothing when it was left open."""
        people = list(self._view.plan.people) if request is None else self._entitled(request)
        names = [one.id for one in people]
        if operator() in names or not names:
            return [f"--as={operator()}"] if names else []
        options = [(name, name) for name in names]
        words = [f"{operator()} is not among those who may sign this. Who does, with proof of it?"]
        if request is not None and request.requester == operator():
            words = [f"{operator()} asked for this and cannot sign it. Who does, with proof of it?"]
        name = await self._app.push_screen_wait(Choose("Who signs?", words, options))
        return None if name is None else [f"--as={name}"]

    # -- break-glass ------------------------------------------------------------------------------------

    def break_glass(self) -> None:
        """Override a failed gate: scope, typed reason, release name, a yes, and then the signature."""
        if self._blocked("Break-glass"):
            return
        problem = self._no_glass()
        if problem:
            self._app.notice(f"Break-glass is not possible: {problem}")
            return
        self._start("break_glass", self._break_glass())

    def breakable(self) -> bool:
        """Tell whether a gate has failed that break-glass may override."""
        return not self._no_glass()

    def _no_glass(self) -> str:
        plan = self._view.plan
        if not plan.known:
            return "the run's plan cannot be read here; cockpit break-glass says more."
        if not plan.overridable:
            return "the plan allows none (it has no approvals.break_glass)."
        if not self._scope():
            failed = ", ".join(sorted({one.phase_gate for one in self._state.gates if one.verdict != "pass"}))
            return (
                f"no gate that may be overridden has failed. May be: {', '.join(plan.overridable)}. "
                f"Failed: {failed or 'none'}."
            )
        return ""

    def _scope(self) -> dict[str, str]:
        """Return the failed phase gates that may be overridden and are not yet, and what was said of each."""
        over = overridden(self._view)
        found: dict[str, str] = {}
        for one in self._state.gates:
            gate = one.phase_gate
            if one.verdict != "pass" and gate in self._view.plan.overridable and gate not in over:
                found[gate] = f"{one.agent} in {one.env}: {one.outcome}: {one.reason}".rstrip(": ")
        return found

    async def _break_glass(self) -> None:
        run = self._state.run
        scope = self._scope()
        assert run is not None  # it has gates
        words = ["One failed gate is overridden, for a while. Its verdict stays what it is, in all evidence."]
        gate = await self._app.push_screen_wait(
            Choose(
                "BREAK-GLASS: which gate?", words, [(name, f"{name}: {said}") for name, said in scope.items()]
            )
        )
        if gate is None:
            return
        about = [
            f"Gate     {gate}",
            f"Verdict  {scope[gate]}",
            f"Release  {run.version} to {run.environment}",
        ]
        reason = await self._app.push_screen_wait(
            Ask(
                "BREAK-GLASS: the reason for access",
                [
                    *about,
                    "",
                    f"Why must it be overridden? At least {SHORTEST_REASON} characters; it is signed.",
                ],
                needed=True,
                danger=True,
                go="goes on",
                refuse=_too_short,
            )
        )
        if reason is None:
            return
        named = await self._app.push_screen_wait(
            Ask(
                "BREAK-GLASS: the release",
                [*about, f"Reason   {reason}", "", "Type the name of the release this is about."],
                needed=True,
                danger=True,
                go="goes on",
                refuse=lambda text: "" if text == run.version else "That is not the release on this screen.",
            )
        )
        if named is None:
            return
        who = await self._who(None)
        if who is None:
            return
        plan = self._view.plan
        second = (
            "it counts once a second person has signed"
            if plan.second_person
            else "it counts at once and has to be reviewed"
        )
        words = [*about, f"Reason   {reason}", f"Lasts    {plan.glass_lasts}; {second}"]
        words += [f"Signs    {one.removeprefix('--as=')}" for one in who]
        if not await self._app.push_screen_wait(
            Confirm("BREAK-GLASS", words, "Break the glass", danger=True)
        ):
            return
        if self._blocked("Break-glass"):
            return
        arguments = (
            "break-glass",
            *self._run(),
            *self._plan(),
            *who,
            f"--reason={reason}",
            *_positional(gate),
        )
        await self._shell("BREAK-GLASS: sign", [f"{gate} of {run.version}"], arguments, danger=True)

    # -- promotion --------------------------------------------------------------------------------------

    def promote(self) -> None:
        """Send the Promote v2 that says again what the plan says."""
        if not self._blocked("Promoting"):
            self._start("promote", self._promote())

    async def _promote(self) -> None:
        run = self._state.run
        if run is None:
            self._app.notice("Promoting is not possible: the run has not begun.")
            return
        words = [
            f"{run.version} to {run.environment}: canary {', '.join(f'{step} %' for step in run.steps)}.",
            "It begins what the run waits for (promote_on: request); gates and approvals still decide.",
        ]
        if not await self._app.push_screen_wait(Confirm("PROMOTE", words, "Promote")):
            return
        if not self._blocked("Promoting"):
            await self._shell("Promote v2", words[:1], ("promote", *self._run()), login=False)

    # -- within -----------------------------------------------------------------------------------------

    def _run(self) -> list[str]:
        # From any folder: the command may be typed elsewhere.
        return [f"--run={Path(self._view.desk.run_dir).resolve()}"]

    def _plan(self) -> list[str]:
        """Return where the plan lies: what a real plan refers to lies beside it, not in the run folder."""
        run = self._state.run
        if run is None or run.rehearsal:
            return []
        try:
            path = (Path(self._view.desk.run_dir) / "plan.path").read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return []
        return [f"--plan={Path(path).resolve()}"] if path else []

    async def _shell(
        self,
        title: str,
        words: list[str],
        arguments: tuple[str, ...],
        *,
        danger: bool = False,
        login: bool = True,
    ) -> None:
        variants = [Variant("Run it here", arguments)]
        if login:
            with_login = (arguments[0], "--device", *arguments[1:])
            variants = [
                Variant("Sign here, with the identity token at hand", arguments),
                Variant("Sign here after a login: shows an address and a code", with_login),
            ]
        await self._app.push_screen_wait(Shell(title, words, variants, danger=danger))
        self._app.repaint()


def request_words(view: View, request: RequestView) -> list[str]:
    """Return a request as a person decides on it."""
    expires = seconds_of(request.expires)
    left = f", {span(expires - view.now)} left" if expires is not None else ""
    counted = [one for one in request.statements if one.counted]
    who = ", ".join(request.groups) or "everybody listed"
    words = [
        request.text,
        "",
        f"Asked by  {request.requester}",
        f"Needs     {request.threshold} of {who}{', one of each' if request.from_each else ''}",
        f"Subject   sha256:{request.subject[:16]}…",
        f"Expires   {request.expires}{left}; a time-out never approves",
    ]
    if request.step_up != "none":
        words.append(f"Step-up   {request.step_up}, shown before signing")
    return [*words, *(f"{one.decision:<9} {one.by}: {one.reason}" for one in counted)]


def _rule_of(request: RequestView) -> str:
    who = ", ".join(request.groups) or "everybody listed"
    return f"it takes {request.threshold} of {who}, and nobody may who asked for it ({request.requester})."


def _too_short(text: str) -> str:
    return "" if len(text) >= SHORTEST_REASON else f"{len(text)} of {SHORTEST_REASON} characters."


def _positional(text: str) -> tuple[str, ...]:
    # What begins with a dash would be read as an option.
    return ("--", text) if text.startswith("-") else (text,)
