"""Step-up: a second factor, shown freshly before an approval counts (RFC 6238, or a fresh OpenID login).

A one-time password is taken once, a few wrong ones are the end for a while, and none of it is written down:
the journal says who, by which method, whether it held and until when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from cockpit.base.clock import Clock, iso, parse_iso
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import StepUpSeen
from cockpit.plan.people import Person
from cockpit.plan.registry import Registry
from cockpit.plan.values import SecretRef

SecretReader = Callable[[SecretRef], str]
"""Reads a secret of the plan, and has it masked from then on; raises UsageError."""

TokenChecker = Callable[[str, Person], Awaitable[str]]
"""Checks an ID token of a person's fresh login; returns why it does not hold, or nothing."""

COUNTS_FOR = timedelta(minutes=5)
_PERIOD = 30
_WINDOW = 1
_MOST_WRONG = 5
_LOCKED_FOR = 300.0
_MOST_CHARACTERS = 16 * 1024


class StepUpDesk:
    """Takes second factors. `token` is None where no OpenID issuer can be asked."""

    def __init__(
        self,
        registry: Registry,
        recorder: Recorder,
        clock: Clock,
        secret: SecretReader,
        token: TokenChecker | None = None,
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._clock = clock
        self._secret = secret
        self._token = token
        self._lock = asyncio.Lock()
        self._wrong: dict[str, list[float]] = {}
        self._used: dict[str, int] = {}
        for shown in recorder.state().people.step_ups:
            if shown.method == "totp":
                # Which of the three steps it was is not written down: all that it can have been are used up.
                self._used[shown.by] = _step(parse_iso(shown.at)) + _WINDOW

    async def show(self, by: str, answer: str) -> str:
        """Take a one-time password or an ID token of a person; return why it does not hold, or nothing."""
        person = self._registry.person(by)
        if person is None:
            return f"nobody in the plan is {visible(by, limit=80)}"
        async with self._lock:
            now = self._clock.now()
            if left := self._locked(person.id):
                return f"too many attempts; try again in {left:.0f} s"
            answer = answer.strip()
            if len(answer) > _MOST_CHARACTERS:
                return "that is no second factor"
            method = "oidc" if answer.count(".") == 2 else "totp"
            problem = await (
                self._oidc(person, answer) if method == "oidc" else self._totp(person, answer, now)
            )
            if problem:
                self._wrong.setdefault(person.id, []).append(self._clock.monotonic())
            else:
                self._wrong.pop(person.id, None)
            await self._recorder.record(
                StepUpSeen(
                    by=person.id,
                    method=method,
                    ok=not problem,
                    reason=problem,
                    valid_until="" if problem else iso(now + COUNTS_FOR),
                )
            )
            return problem

    async def _totp(self, person: Person, code: str, now: datetime) -> str:
        import binascii

        import pyotp

        if person.totp is None:
            return f"the plan has no one-time password for {person.id}"
        try:
            totp = pyotp.TOTP(self._secret(person.totp), interval=_PERIOD)
            step = _step(now)
            fitting = [
                one
                for one in range(step - _WINDOW, step + _WINDOW + 1)
                if pyotp.utils.strings_equal(totp.generate_otp(one), code)
            ]
        except CockpitError as error:
            return f"the secret cannot be read: {error.what}"
        except (binascii.Error, ValueError):
            return "the secret is not base32"
        if not fitting:
            return "the one-time password is wrong"
        if max(fitting) <= self._used.get(person.id, -1):
            return "the one-time password was used before; wait for the next"
        self._used[person.id] = max(fitting)
        return ""

    async def _oidc(self, person: Person, token: str) -> str:
        if self._token is None:
            return "no OpenID issuer is asked here"
        try:
            return visible(await self._token(token, person), limit=300)
        except CockpitError as error:
            return visible(f"the login cannot be checked: {error.what}", limit=300)

    def _locked(self, person: str) -> float:
        """Return for how many more seconds nothing is taken from a person."""
        since = self._clock.monotonic() - _LOCKED_FOR
        recent = [moment for moment in self._wrong.get(person, ()) if moment > since]
        if person in self._wrong:
            self._wrong[person] = recent
        return recent[0] - since if len(recent) >= _MOST_WRONG else 0.0


def _step(moment: datetime) -> int:
    return int(moment.timestamp()) // _PERIOD
