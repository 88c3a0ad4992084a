"""P6, the release train, and what people may do about what failed on the way (seed sections 5 and 14)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cockpit.base.text import visible
from cockpit.conductor.bake import Inconclusive
from cockpit.conductor.ending import Stopped
from cockpit.conductor.parts import Parts
from cockpit.conductor.people import Stop
from cockpit.conductor.phases import Failure, failures_of
from cockpit.journal.events import Noted
from cockpit.rpc.messages import Op, Phase

_NOTARY, _QA, _CONDUCTOR, _COMMS = "A3", "A60", "A1", "A41"
_LAST_IN_P6 = frozenset({_NOTARY, _QA, _CONDUCTOR, _COMMS})


class ReleaseTrain:
    """Runs P6 of one release; `promote` is the canary in prod."""

    def __init__(self, parts: Parts, promote: Callable[[], Awaitable[None]]) -> None:
        self._p = parts
        self._run_promotion = promote

    async def run(self, *, promoting: bool) -> list[Failure]:
        """P6: risks and the rest, tags, stages, the signed pack, its check, canary.

        `promoting`: all but the promotion was done before a crash, or in the sitting before.
        """
        phases = self._p.phases
        await phases.start("P6")
        if promoting:
            # Its pack is sealed and signed, and traffic may be on the canary: what is left is the promotion.
            await self._promote()
            await phases.end("P6", [])
            return []
        agents = {info.id: info for info in phases.agents("P6")}
        failures = await phases.side_by_side(
            "P6", [info for info in agents.values() if info.id not in _LAST_IN_P6]
        )
        if failures:
            failures = await self.remedy("P6", failures)
        if not failures:
            failures = await self._tag("rc")
        if not failures:
            failures = await self._p.hooks.stages()
        for agent, params in ((_COMMS, {"macro": "start"}), (_NOTARY, {"pack": "promotion"})):
            if not failures and agent in agents:
                failures = await phases.all_ops("P6", agents[agent], params=params)
        if not failures:
            pending = await self._p.sealer.seal("promotion")
            if pending:
                failures = [Failure("unreachable", f"the promotion pack is not signed: {pending}")]
        for agent in (_QA, _CONDUCTOR):
            if not failures and agent in agents:
                failures = await phases.all_ops("P6", agents[agent], params={"pack": "promotion"})
        if not failures:
            await self._promote()
        await phases.end("P6", failures)
        return failures

    async def _promote(self) -> None:
        await self._run_promotion()
        for failure in await self._tag("final"):
            # It is out whatever became of its tag.
            text = visible(f"the final tag: {failure.text}")
            self._p.recorder.note(Noted(level="error", text=text))

    async def _tag(self, kind: str) -> list[Failure]:
        """Have a signed tag cut and looked at; return what failed."""
        info = self._p.phases.find(_CONDUCTOR)
        if info is None or not info.mutates:
            return []
        ops: tuple[Op, ...] = ("APPLY", "VERIFY")
        for op in ops:
            if failures := failures_of(await self._p.phases.op("P6", info, op, params={"tag": kind})):
                return failures
        return []

    async def remedy(self, phase: Phase, failures: list[Failure]) -> list[Failure]:
        """Let people do something about gates that failed: verify again, or break-glass where it may be.

        Unattended, only break-glass over gates the plan lists is waited for, no longer than the plan says.
        """
        hooks = self._p.hooks
        while left := [one for one in failures if one.gate not in hooks.overridden()]:
            failures = left
            gates = {one.gate for one in left}
            breakable = "" not in gates and gates <= hooks.overridable
            text = f"{phase} failed: {'; '.join(one.text for one in left)}"[:1500]
            answer, _ = await self._p.people.ask(
                f"{text}. Verify again, or end the run?" + (" Break-glass is possible." if breakable else ""),
                ("reverify", "end"),
                otherwise="end",
                until=lambda gates=gates: "overridden" if gates <= hooks.overridden() else "",  # type: ignore[misc]
                patience=hooks.glass_wait if breakable else 0.0,
            )
            if answer == "end":
                return left
            if answer == "reverify":
                failures = [one for one in left if not one.agent]
                for agent in sorted({one.agent for one in left if one.agent}):
                    failures += await self._p.phases.again(phase, agent)
        return []

    async def undecided(self, doubt: Inconclusive) -> None:
        """Ask a person whether to try the step again; unattended, and when nobody answers, roll back."""
        answer, by = await self._p.people.ask(
            f"The step is inconclusive: {doubt}. Roll back, or look again?",
            ("rollback", "retry"),
            otherwise="rollback",
        )
        if answer != "retry":
            if by in ("--auto", "bound"):
                raise doubt
            raise Stopped(Stop("inconclusive", f"inconclusive, rolled back by {by}: {doubt}", by))
