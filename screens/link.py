"""The line to the conductor: each command on a connection of its own, so nothing queues before a HALT."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from cockpit.base.clock import Clock
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.control.client import ControlClient
from cockpit.control.messages import Kind
from cockpit.journal.state import ReleaseState
from cockpit.screens.view import Desk, Sent

_EVERY = 1.0
_KEPT = 20.0
_ANSWERED, _CHECKED = 5.0, 30.0
"""Seconds for an answer; a second factor, or policy, may have to be asked elsewhere first."""
_ASKS_ELSEWHERE = frozenset({"step-up", "resume", "answer"})


@dataclass(frozen=True, slots=True)
class _Sending:
    kind: Kind
    at: float
    epoch: int
    trouble: str = ""
    taken: bool = False


class Link:
    """Sends commands and remembers those whose effect has not been seen in the journal yet."""

    def __init__(self, run_dir: Path, clock: Clock, *, source: str = "tui") -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._source = source
        self._sent: dict[Kind, _Sending] = {}
        self.attached = False
        self._heard = clock.monotonic()

    async def stay_attached(self) -> None:
        """Be attached as a front end with control as long as this runs; attach again whenever it is cut."""
        client = ControlClient(self._run_dir, source=self._source)
        try:
            while True:
                try:
                    if client.connected:
                        await client.send("ping")
                    else:
                        await client.connect()
                    self.attached = True
                    self._heard = self._clock.monotonic()
                except CockpitError:
                    self.attached = False
                    await client.close()
                await asyncio.sleep(_EVERY)
        finally:
            self.attached = False
            await client.close()

    async def send(
        self,
        kind: Kind,
        state: ReleaseState,
        *,
        reason: str = "",
        question: str = "",
        answer: str = "",
        agent: str = "",
        to: str = "",
        seconds: float = 0.0,
    ) -> bool:
        """Send a command at once; says whether the conductor took it. What went wrong shows on the screen."""
        sending = _Sending(kind, self._clock.monotonic(), state.halt.epoch if state.halt else -1)
        self._sent[kind] = sending
        client = ControlClient(self._run_dir, source=self._source)
        try:
            await client.connect(hello=False)
            reply = await client.send(
                kind,
                reason=reason,
                question=question,
                answer=answer,
                agent=agent,
                to=to,
                seconds=seconds,
                deadline=_CHECKED if kind in _ASKS_ELSEWHERE else _ANSWERED,
            )
        except CockpitError as error:
            self._note(sending, trouble=visible(error.what, limit=200))
            return False
        finally:
            await client.close()
        if reply.ok:
            self._note(sending, taken=True)
        else:
            self._note(
                sending,
                trouble=f"the conductor refused: {visible(reply.text, limit=200) or 'no reason given'}",
            )
        return reply.ok

    def _note(self, sending: _Sending, *, trouble: str = "", taken: bool = False) -> None:
        if self._sent.get(sending.kind) == sending:
            self._sent[sending.kind] = replace(sending, trouble=trouble, taken=taken)

    def settle(self, state: ReleaseState) -> None:
        """Forget commands whose effect the journal shows, and old troubles of no consequence."""
        moment = self._clock.monotonic()
        for kind, sending in list(self._sent.items()):
            if _took_effect(sending, state) or (
                sending.trouble and moment - sending.at > _KEPT and kind != "halt"
            ):
                del self._sent[kind]

    def desk(self) -> Desk:
        """Return how this screen stands to the release."""
        moment = self._clock.monotonic()
        sent = tuple(Sent(one.kind, moment - one.at, one.trouble) for one in self._sent.values())
        return Desk(
            control=True,
            reason="",
            attached=self.attached,
            alone=0.0 if self.attached else moment - self._heard,
            sent=sent,
            run_dir=str(self._run_dir),
        )


def _took_effect(sending: _Sending, state: ReleaseState) -> bool:
    if state.closed is not None:
        return True
    if sending.kind == "halt":
        halted = state.halt is not None and state.halt.epoch > sending.epoch
        return halted or state.rollback is not None or (sending.taken and state.mode == "halted")
    if sending.kind == "rollback":
        return state.rollback is not None
    return sending.taken
