"""The conductor process: opens the journal, runs a release or aborts one left behind, and closes the record.

What it must never do is end while production is between two versions and say that all is well: a run it
cannot abort ends with 21 and the commands to do it by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Literal

from cockpit.backends.forge import GitRepo
from cockpit.backends.tls import USUAL
from cockpit.base.clock import Clock, SystemClock
from cockpit.base.errors import CockpitError, UsageError
from cockpit.base.files import write_private
from cockpit.base.ids import new_run_id
from cockpit.base.redact import Redactor
from cockpit.base.tasks import alongside
from cockpit.conductor.abort import Stable, fallback
from cockpit.conductor.api import ApiServer
from cockpit.conductor.calls import ARTIFACTS
from cockpit.conductor.control import ControlServer
from cockpit.conductor.ending import Ending, cause_text, exit_before_traffic, write_results
from cockpit.conductor.people import People, Stop
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.resume import must_abort
from cockpit.connecting import backends_of, tls_of
from cockpit.control.client import operator
from cockpit.evidence.pack import TRUSTED_ROOT
from cockpit.journal.events import Noted, RollbackStarted, RollbackUnfinished, RunClosed, RunOpened
from cockpit.journal.heads import RunKey, write_public_key
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.records import Stored
from cockpit.journal.writer import JournalWriter
from cockpit.plan.load import LoadedPlan, load_plan, parse_plan
from cockpit.plan.model import Plan
from cockpit.supervisor import EXIT, HEARTBEAT
from cockpit.telemetry import Outlets, Telemetry, observed
from cockpit.wiring import Wired, opened, reopened, undo_reason, wire

RELEASE_NOTES = "release_notes.md"
FALLBACK = "fallback.txt"
_RUN_KEY = "run.key"
_BEAT = 0.5
_STOPPED_HARD = 75
_UNFINISHED = 21
_UNRECORDED = 70
_OUTSIDE = "records of an abort are outside the journal"
Sitting = Literal["", "run", "rollback", "kpi"]
_FINAL = frozenset({20})
"""Exit codes after which a run has no further sitting."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def conduct(
    plan_path: Path,
    run_dir: Path,
    *,
    unattended: bool,
    resume: bool,
    sitting: Sitting = "",
    closed_at: str = "",
    told: str = "",
    reason: str = "",
    takeover: str = "",
    signalled: Callable[[], int] = lambda: 0,
) -> int:
    """Run a release, or take one up that was left behind (`resume`); return its exit code.

    `sitting`: what to do with a run that has closed: go on where it was, roll it back, or measure its KPIs.
    `closed_at`: when it closed, as whoever asks for the sitting saw it. `reason`: of the sitting.
    `told`: why a run that is taken up must be aborted, whatever its plan says.
    `signalled`: how many signals came before this process could take them.
    """
    os.umask(0o077)
    clock, redactor = SystemClock(), Redactor()
    begun = (run_dir / JOURNAL_NAME).exists()
    key = _key(run_dir, begun)
    writer = JournalWriter.open(run_dir, clock=clock, redactor=redactor)
    recorder = Recorder(writer, run_dir, _run_id(run_dir, clock), key)
    watched = AsyncExitStack()
    try:
        outside = await recorder.settle_gaps()
        before = recorder.state()
        loaded = load_plan(plan_path) if before.run is None else _journaled(recorder, before.run, plan_path)
        # From here to the terminal record: both ends of the release are in its trace.
        await watched.enter_async_context(_observed(loaded, run_dir, clock, redactor, before.seq + 1))
        # One that died before its sitting was on record begins it: nobody has done what was asked for yet.
        again = sitting if before.closed is not None and before.closed.at == closed_at else ""
        if before.closed is not None and before.closed.exit != _UNFINISHED and not again:
            # It died between its terminal record and its files: only those are left to write.
            ending = Ending(before.closed.exit, before.closed.cause)
        else:
            if before.run is None:
                await recorder.record(opened(loaded, recorder.run_id, key, clock, recorder))
            run = _Run(loaded, run_dir, recorder, key, clock, redactor)
            if again:
                # A rollback is never refused for a journal that cannot be written (gates.md, reading 8).
                write = recorder.record_abort if again == "rollback" else recorder.record
                await write(reopened(before, again, reason or again))
                ending = await run.again(again, unattended, takeover, reason, signalled)
            elif before.run is not None:
                # What an abort did is not all in the journal: there is nothing to go on from.
                why = told or (_OUTSIDE if outside else "")
                ending = await run.take_up(unattended, why, signalled)
            elif resume:
                ending = Ending(30, "the conductor ended before the run had begun")
            else:
                ending = await run.release(unattended, takeover, signalled)
            await recorder.settle_gaps()
            closed = await recorder.record_abort(
                RunClosed(exit=ending.exit, outcome=ending.outcome, cause=ending.cause)
            )
            if closed.stored is not Stored.JOURNAL and recorder.state().closed is None:
                # Not ended for whoever reads the record. The next conductor opens the file afresh, looks at
                # the world, and closes it. (A rollback of which nothing is on record has only its exit code.)
                print(f"conductor: the end is not on record: {ending.cause}", file=sys.stderr)
                return _UNRECORDED
        _finish(run_dir, recorder, ending)
        return ending.exit
    finally:
        await watched.aclose()
        await recorder.close()


def _observed(
    loaded: LoadedPlan, run_dir: Path, clock: Clock, redactor: Redactor, since: int
) -> AbstractAsyncContextManager[Telemetry]:
    plan, repository = loaded.plan, loaded.plan.targets.repository
    return observed(
        run_dir,
        clock,
        redactor,
        {"release": plan.target_version, "env": plan.environment},
        commit=lambda: GitRepo(loaded.base / repository.path).resolve(repository.to_ref),
        since=since,
        outlets=_outlets(loaded, redactor),
    )


def _outlets(loaded: LoadedPlan, redactor: Redactor) -> Outlets:
    """Return where telemetry goes; a token that is not there is for the collector to refuse, not for us."""
    out, token = loaded.plan.telemetry, ""
    if out.otlp_token is not None:
        try:
            token = out.otlp_token.read(loaded.base)
            redactor.add(token)
        except LookupError as error:
            print(f"conductor: telemetry: {error}", file=sys.stderr)
    tls = USUAL
    if out.otlp is not None:
        try:
            tls = tls_of(loaded.plan, loaded.base)
        except UsageError as error:  # whoever needs it for the release says so
            print(f"conductor: telemetry: {error}", file=sys.stderr)
    return Outlets(otlp=out.otlp or "", otlp_token=token, tls=tls, metrics_port=out.metrics_port)


class _Run:
    """One sitting of the conductor on an open journal."""

    def __init__(
        self,
        loaded: LoadedPlan,
        run_dir: Path,
        recorder: Recorder,
        key: RunKey,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        self._loaded = loaded
        self._run_dir = run_dir
        self._recorder = recorder
        self._key = key
        self._clock = clock
        self._redactor = redactor

    async def release(self, unattended: bool, takeover: str, signalled: Callable[[], int]) -> Ending:
        """Run the release."""
        ending: Ending | None = None
        try:
            async with AsyncExitStack() as stack:
                wired = await self._begin(stack, unattended, takeover, signalled)
                ending = await wired.release.run()
                await wired.gatekeeper.record_gates()
        except Exception as error:  # noqa: BLE001 - how the release ended stands, whatever fails behind it
            if ending is None:
                return await self._cut_off(error, unattended)
            self._recorder.note(Noted(level="error", text=cause_text(error)))
        return ending

    async def _cut_off(self, error: Exception, unattended: bool) -> Ending:
        """What was to run beside the release ended it: production must not stay as it is."""
        state = self._recorder.state()
        begun = bool(state.canary.stable_replicas) or state.people.kind == "rollback"
        if (
            begun
            and state.rollback is None
            and (not state.canary.released or state.people.kind == "rollback")
        ):
            return await self.take_up(unattended, f"it was cut off: {cause_text(error)}", lambda: 0)
        return self._ended_by(error)

    async def again(
        self,
        sitting: Sitting,
        unattended: bool,
        takeover: str,
        reason: str,
        signalled: Callable[[], int],
    ) -> Ending:
        """Another sitting of a run that had closed: go on, roll it back, or measure its KPIs."""
        ending: Ending | None = None
        try:
            async with AsyncExitStack() as stack:
                wired = await self._begin(
                    stack, unattended, takeover, signalled, aborting=sitting == "rollback"
                )
                if sitting == "rollback":
                    by = operator()
                    cause = f"ROLLBACK of the release by {by}: {reason or 'no reason given'}"
                    ending = await wired.release.undo(undo_reason(reason), cause, by)
                elif sitting == "kpi":
                    ending = await wired.release.measure()
                else:
                    ending = await wired.release.run(wired.progress)
                    # After the release they stand as they were judged then: their age is no verdict.
                    await wired.gatekeeper.record_gates()
        except Exception as error:  # noqa: BLE001 - see release()
            if ending is None:
                return await self._cut_off(error, unattended)
            self._recorder.note(Noted(level="error", text=cause_text(error)))
        return ending

    async def take_up(self, unattended: bool, told: str, signalled: Callable[[], int]) -> Ending:
        """Take up what an earlier conductor left: go on where it was, or abort, as the plan says."""
        ending: Ending | None = None
        state = self._recorder.state()
        why = must_abort(state, self._loaded.plan, told=told)
        cause = "the conductor ended before the release did"
        try:
            async with AsyncExitStack() as stack:
                wired = await self._begin(stack, unattended, "", signalled, aborting=bool(why), taken_up=True)
                if why:
                    ending = await wired.release.abort_only(f"{cause}; {why}")
                else:
                    ending = await wired.release.go_on(cause, wired.progress)
                await wired.gatekeeper.record_gates()
        except Exception as error:  # noqa: BLE001 - whatever it was, production may be in mid-canary
            if ending is None and not why:
                return await self.take_up(unattended, f"it cannot go on: {cause_text(error)}", signalled)
            if ending is None:
                return await self._by_hand(error)
            self._recorder.note(Noted(level="error", text=cause_text(error)))
        return ending

    async def _begin(
        self,
        stack: AsyncExitStack,
        unattended: bool,
        takeover: str,
        signalled: Callable[[], int],
        *,
        aborting: bool = False,
        taken_up: bool = False,
    ) -> Wired:
        backends = backends_of(self._loaded, self._clock, self._redactor, aborting=aborting)
        stack.push_async_callback(backends.close)
        try:
            self._keep_root()
        except (UsageError, OSError) as error:
            if not aborting:
                raise
            self._recorder.note(Noted(level="error", text=cause_text(error)))
        wired = wire(
            self._loaded,
            self._run_dir,
            self._recorder,
            self._key,
            self._clock,
            backends,
            unattended=unattended,
            takeover=takeover,
            taken_up=taken_up,
        )
        control = ControlServer(
            self._run_dir, wired.people, wired.acts, desks=wired.desks, may_resume=wired.policy.resume
        )
        api = ApiServer(
            self._run_dir,
            wired.people,
            wired.promotions,
            self._recorder,
            self._clock,
            version=self._loaded.plan.target_version,
            plan_sha256=self._loaded.sha256,
        )
        for server in (control, api):
            try:
                await server.start()
                stack.push_async_callback(server.stop)
            except UsageError as error:
                if not aborting:
                    raise
                self._recorder.note(Noted(level="error", text=cause_text(error)))
        control.take_halt_request()  # one that was left before anybody listened holds from the beginning
        stack.enter_context(_Signals(wired.people, signalled))
        await stack.enter_async_context(alongside(_beat(self._run_dir, control, self._clock)))
        keeping = _keep_fallback(self._run_dir, self._loaded.plan, self._recorder, self._clock)
        await stack.enter_async_context(alongside(keeping))
        stack.push_async_callback(wired.attention.finish)
        await stack.enter_async_context(alongside(wired.attention.run()))
        return wired

    def _keep_root(self) -> None:
        """Keep the root of trust the run signs under beside its packs."""
        path = self._run_dir / TRUSTED_ROOT
        if path.exists():
            return
        config = self._loaded.base / self._loaded.plan.targets.signing.trust_config
        try:
            root = json.loads(config.read_bytes())["trustedRoot"]
            write_private(path, json.dumps(root, indent=2).encode())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"the trust configuration holds no trusted root: {error}", where=str(config)
            ) from None

    def _ended_by(self, error: Exception) -> Ending:
        """A run that could not be begun, or not be ended as it should."""
        rollback = self._recorder.state().rollback
        if rollback is not None:
            return Ending(20 if rollback.status == "verified" else _UNFINISHED, cause_text(error))
        return Ending(exit_before_traffic(error), cause_text(error))

    async def _by_hand(self, error: Exception) -> Ending:
        """Say that the abort could not even be begun, and how a person does it."""
        state, cause = self._recorder.state(), cause_text(error)
        undoing = state.people.kind == "rollback"
        released = state.canary.released and state.rollback is None and not undoing
        if released or not state.canary.stable_replicas:
            return Ending(0 if released else 30, cause)
        stable = Stable.recorded(state.canary)
        commands = fallback(self._loaded.plan, stable)
        await self._recorder.record_abort(RollbackStarted(reason="crash", cause=cause, by="supervisor"))
        await self._recorder.record_abort(RollbackUnfinished(reason=cause, fallback=commands))
        return Ending(_UNFINISHED, cause)


class _Signals:
    """SIGTERM, SIGINT and SIGHUP abort within a grace period; a second one stops at once."""

    def __init__(self, people: People, already: Callable[[], int]) -> None:
        self._people = people
        self._already = already
        self._count = 0

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        if self._already():
            self._signalled(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # what is left is closing the journal

    def _signalled(self, number: int) -> None:
        self._count += 1
        if self._count > 1:
            os._exit(_STOPPED_HARD)  # resume finishes what is open
        name = signal.Signals(number).name
        self._people.halt(name, "signal", f"{name}: abort")
        self._people.stop(Stop("signal", f"{name} received: abort", name))


async def _beat(run_dir: Path, control: ControlServer, clock: Clock) -> None:
    """Show the supervisor that we live, and take a HALT left as a file."""
    path = run_dir / HEARTBEAT
    while True:
        try:
            path.touch(mode=0o600)
            os.utime(path)
            control.take_halt_request()
        except OSError:
            pass  # a disk that fails must not end what can still abort
        await clock.sleep(_BEAT)


async def _keep_fallback(run_dir: Path, plan: Plan, recorder: Recorder, clock: Clock) -> None:
    """Keep the commands an abort is done by hand with where people find them when we are the problem."""
    known: dict[str, str] | None = None
    while True:
        try:
            canary = recorder.state().canary
            if canary.stable_images != known:
                commands = fallback(plan, Stable.recorded(canary))
                write_private(run_dir / FALLBACK, ("\n".join(commands) + "\n").encode())
                known = dict(canary.stable_images)
        except (OSError, CockpitError):
            pass  # tried again; what lies beside a release never ends it
        await clock.sleep(_BEAT)


def _key(run_dir: Path, begun: bool) -> RunKey:
    if begun:
        return RunKey.load(run_dir / _RUN_KEY)
    key = RunKey.generate()
    key.save(run_dir / _RUN_KEY)
    write_public_key(run_dir / "heads", key)
    return key


def _run_id(run_dir: Path, clock: Clock) -> str:
    path = run_dir / "run.id"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        run_id = new_run_id(clock.now())
        write_private(path, run_id.encode())
        return run_id


def _journaled(recorder: Recorder, run: RunOpened, plan_path: Path) -> LoadedPlan:
    """Return the plan the run was begun with, whatever the file says by now."""
    return parse_plan(recorder.blob(run.plan_blob), "the run's plan", base=plan_path.resolve().parent)


def _finish(run_dir: Path, recorder: Recorder, ending: Ending) -> None:
    """Write what is written on every exit; the exit code first, and each whatever becomes of the others."""

    def forget_key() -> None:
        if ending.exit in _FINAL:
            (run_dir / _RUN_KEY).unlink(missing_ok=True)

    writers: tuple[Callable[[], object], ...] = (
        lambda: write_private(run_dir / EXIT, str(ending.exit).encode()),
        lambda: recorder.final_head("closed"),
        lambda: _keep_notes(run_dir, ending),
        lambda: write_results(run_dir, recorder.state(), ending),
        forget_key,
    )
    for write in writers:
        try:
            write()
        except (OSError, CockpitError) as error:
            print(f"conductor: {cause_text(error)}", file=sys.stderr)


def _keep_notes(run_dir: Path, ending: Ending) -> None:
    """Put the release notes beside the summary; where none were made, say so."""
    made = run_dir / ARTIFACTS / RELEASE_NOTES
    try:
        text = made.read_bytes()
    except OSError:
        text = f"# Release notes\n\nNone were made: {ending.outcome}.\n".encode()
    write_private(run_dir / RELEASE_NOTES, text)
