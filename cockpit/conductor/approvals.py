"""Approvals: people are asked, signed statements are counted, and what was granted is looked at again at use.

A time-out never approves, and a rejection binds (design decision 7). All of it is in the journal: a desk that
begins in another sitting goes on where the last one was.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cockpit.base.clock import Clock, iso, parse_iso
from cockpit.base.errors import CockpitError
from cockpit.base.files import write_private
from cockpit.base.text import visible
from cockpit.conductor.acts import PolicyOnPeople
from cockpit.conductor.checker import StatementChecker
from cockpit.conductor.ending import ApprovalExpired, ApprovalMissing, ApprovalRejected
from cockpit.conductor.recorder import Recorder
from cockpit.evidence.statements import MAX_STATEMENT_BYTES, Checked, read_request
from cockpit.journal.events import Noted
from cockpit.journal.events_people import ApprovalReceived, ApprovalRequested, ApprovalSettled
from cockpit.journal.state_people import PeopleView, RequestView
from cockpit.plan.model import Plan
from cockpit.plan.people import Approvals
from cockpit.plan.registry import rule_for
from cockpit.rpc.approval import ApprovalRequest, digest_of, request_bytes
from cockpit.verdicts.approvals import settled

StepUp = Literal["none", "totp", "oidc"]
FOLDER = "approvals"
"""Where in the run folder the requests lie, to be carried to another machine, and statements come back."""

BUNDLE = ".sigstore.json"

_LOOK = 0.2
_MOST_STATEMENTS = 100
"""Statements kept of one request; beyond these, only what counts is recorded."""

_STRONGER: dict[str, int] = {"none": 0, "totp": 1, "oidc": 2}


@dataclass(frozen=True, slots=True)
class Grant:
    """What was granted: by whom, about what, and until when it counts."""

    request: str
    asked: str
    subject: str
    by: tuple[str, ...]
    valid_until: datetime


class ApprovalDesk:
    """Asks people and counts what they sign.

    `unattended`: waiting ends after the plan's `auto_wait` with ApprovalMissing; the request stays open.
    """

    def __init__(
        self,
        plan: Plan,
        plan_sha256: str,
        recorder: Recorder,
        clock: Clock,
        checker: StatementChecker,
        *,
        policy: PolicyOnPeople,
        unattended: bool,
    ) -> None:
        self._policy = policy
        self._plan = plan
        self._sha = plan_sha256
        self._recorder = recorder
        self._clock = clock
        self._checker = checker
        self._unattended = unattended
        self._lock = asyncio.Lock()
        self._documents: dict[str, ApprovalRequest] = {}
        self._ends: dict[str, float] = {}

    # -- the run's side -------------------------------------------------------------------------------

    async def obtain(
        self,
        asked: str,
        subject: Mapping[str, str],
        text: str,
        requester: str,
        *,
        step_up: StepUp = "none",
    ) -> Grant:
        """Return a grant for exactly this subject, asking for it and waiting where there is none.

        `subject` is what the signers are shown and bind themselves to, e.g. pack and image digests. `step_up`
        is what policy asks beside the plan. Raises ApprovalRejected, ApprovalExpired or ApprovalMissing.
        """
        view = self._latest(asked, digest_of(subject))
        if view is None or self._stale(view):
            request = await self.ask(asked, subject, text, requester, step_up=step_up)
        else:
            request = view.request
        return await self._wait(request)

    async def ask(
        self,
        asked: str,
        subject: Mapping[str, str],
        text: str,
        requester: str,
        *,
        step_up: StepUp = "none",
        lasts: float | None = None,
    ) -> str:
        """Record a request, put it where it can be carried from, and return its id, without waiting."""
        rule = rule_for(self._rules(), asked)
        if rule is None:
            raise ApprovalMissing(f"{asked} needs an approval and the plan has no rule for it")
        now = self.now()
        seconds = rule.expires if lasts is None else lasts
        factor: StepUp = max(rule.step_up, step_up, key=_STRONGER.__getitem__)
        async with self._lock:
            document = ApprovalRequest(
                run_id=self._recorder.run_id,
                version=self._plan.target_version,
                environment=self._plan.environment,
                plan_sha256=self._sha,
                request=f"{asked}-{len(self._people().requests) + 1}",
                asked=asked,
                about={name: visible(value, limit=2000) for name, value in subject.items()},
                subject=digest_of(subject),
                text=visible(text, limit=2000),
                requester=visible(requester, limit=500),
                threshold=rule.threshold,
                groups=list(rule.groups),
                from_each=rule.from_each,
                step_up=factor,
                asked_at=iso(now),
                expires=iso(now + timedelta(seconds=seconds)),
                nonce=secrets.token_hex(16),
            )
            raw = request_bytes(document)
            [blob] = await self._recorder.keep_all([raw])
            await self._recorder.record(
                ApprovalRequested(
                    request=document.request,
                    asked=asked,
                    subject=document.subject,
                    text=document.text,
                    requester=document.requester,
                    threshold=document.threshold,
                    groups=document.groups,
                    from_each=document.from_each,
                    step_up=document.step_up,
                    expires=document.expires,
                    blob=blob,
                )
            )
        self._documents[document.request] = document
        self._ends[document.request] = self._clock.monotonic() + seconds
        self._carry(document.request, raw)
        return document.request

    async def recheck(self, asked: str, subject: Mapping[str, str]) -> str:
        """Return why what was granted does not count now, at its use; nothing when it does."""
        view = self._latest(asked, digest_of(subject))
        if view is None:
            return f"{asked} was not approved for what is there now"
        if view.result != "granted":
            return f"{asked}, request {view.request}, is {view.result or 'not decided'}"
        if self.now() >= parse_iso(view.valid_until):
            return f"the approval of {asked} counted until {view.valid_until}"
        try:
            document = self.document(view.request)
        except CockpitError as error:
            return f"the request {view.request} cannot be read: {error}"
        if (document.run_id, document.plan_sha256) != (self._recorder.run_id, self._sha):
            return f"the approval of {asked} is of another run or plan"
        if settled(view, view.statements) != "granted":
            return f"what was counted for {view.request} does not grant it"
        return ""

    # -- people's side --------------------------------------------------------------------------------

    async def submit(self, request: str, bundle: str) -> str:
        """Take a signed statement; return why it does not count, or nothing. Either is recorded."""
        async with self._lock:
            view = self._view(request)
            if view is None:
                return f"there is no request {visible(request, limit=80)!r} in this run"
            if problem := await self._closed(view):
                return problem
            raw = bundle.encode("utf-8", "replace")
            if len(raw) > MAX_STATEMENT_BYTES:
                return f"a statement of {len(raw)} bytes; at most {MAX_STATEMENT_BYTES} are taken"
            checked = await self._checker.approval(raw, self.document(request))
            if not checked.problem and (problem := await self._closed(view)):
                return problem  # it expired while the statement was looked at
            problem = checked.problem or self._stands_against(view, checked)
            if not problem and checked.decision == "approve":
                problem = await self._policy.approve(view, checked.person, checked.reason)
                if late := await self._closed(view):
                    return late  # it expired while the policy was asked
            if problem and len(view.statements) >= _MOST_STATEMENTS:
                return problem  # the journal is not for filling with what does not count
            [blob] = await self._recorder.keep_all([raw])
            await self._recorder.record(
                ApprovalReceived(
                    request=request,
                    by=checked.person,
                    identity=visible(checked.identity, limit=500),
                    decision=checked.decision,
                    reason=visible(checked.reason),
                    counted=not problem,
                    problem=visible(problem),
                    groups=list(checked.groups),
                    blob=blob,
                )
            )
            if not problem:
                await self._settle(request)
            return problem

    async def look(self) -> None:
        """Take statements left as files; settle what expired, and what a crash left unsettled."""
        if not self.open():
            return
        await self._take_files()
        for view in self.open():
            if self._over(view) or settled(view, view.statements):
                async with self._lock:
                    latest = self._view(view.request)
                    if latest is not None and not await self._closed(latest):
                        await self._settle(view.request)

    def open(self) -> tuple[RequestView, ...]:
        """Return the requests that wait."""
        return tuple(view for view in self._people().requests if not view.result)

    def document(self, request: str) -> ApprovalRequest:
        """Return a request as it is signed; raises CockpitError when it cannot be read."""
        known = self._documents.get(request)
        if known is None:
            view = self._view(request)
            if view is None:
                raise ApprovalMissing(f"there is no request {request}")
            known = self._documents[request] = read_request(self._recorder.blob(view.blob))
        return known

    def now(self) -> datetime:
        """Return the present time; a clock that was set back does not lengthen anything."""
        now, at = self._clock.now(), self._recorder.state().at
        return max(now, parse_iso(at)) if at else now

    # -- within ---------------------------------------------------------------------------------------

    def _rules(self) -> Approvals:
        if self._plan.approvals is None:
            raise ApprovalMissing("an approval is needed and the plan names nobody who could give one")
        return self._plan.approvals

    def _people(self) -> PeopleView:
        return self._recorder.state().people

    def _view(self, request: str) -> RequestView | None:
        return next((one for one in self._people().requests if one.request == request), None)

    def _latest(self, asked: str, subject: str) -> RequestView | None:
        found = [one for one in self._people().requests if (one.asked, one.subject) == (asked, subject)]
        return found[-1] if found else None

    def _stale(self, view: RequestView) -> bool:
        """Tell whether a request has come to nothing that counts now; a rejection is never stale."""
        if view.result == "granted":
            return self.now() >= parse_iso(view.valid_until)
        return view.result == "expired" or (not view.result and self._over(view))

    def _over(self, view: RequestView) -> bool:
        # By the wall clock and by our own: neither setting a clock back nor a restart makes it longer.
        end = self._ends.get(view.request)
        return self.now() >= parse_iso(view.expires) or (end is not None and self._clock.monotonic() >= end)

    async def _closed(self, view: RequestView) -> str:
        """Return how a request has ended, settling one that has just expired; nothing while it is open."""
        if not view.result and self._over(view):
            counted = sorted({one.by for one in view.statements if one.counted})
            await self._recorder.record(
                ApprovalSettled(
                    request=view.request,
                    result="expired",
                    by=[],
                    reason=f"{len(counted)} of {view.threshold} by {view.expires}",
                )
            )
            return "expired: the request's time is over"
        return f"{view.result}: the request was settled before" if view.result else ""

    def _stands_against(self, view: RequestView, checked: Checked) -> str:
        """Return why a statement that holds does not count: given twice, or no second factor."""
        counted = [one for one in view.statements if one.counted and one.by == checked.person]
        if counted and checked.decision == "approve":
            return f"twice: {checked.person} was counted already"
        if view.step_up == "none" or checked.decision == "reject":
            return ""
        now = self.now()
        for shown in self._people().step_ups:
            mine = (shown.by, shown.method) == (checked.person, view.step_up)
            if mine and shown.valid_until and now < parse_iso(shown.valid_until):
                return ""
        return f"step-up: {checked.person} has not shown a second factor ({view.step_up}) just now"

    async def _settle(self, request: str) -> None:
        view = self._view(request)
        assert view is not None
        result = settled(view, view.statements)
        if not result:
            return
        said = [one for one in view.statements if one.counted]
        if result == "rejected":
            no = next(one for one in said if one.decision == "reject")
            event = ApprovalSettled(request=request, result=result, by=[no.by], reason=no.reason)
        else:
            rule = rule_for(self._rules(), view.asked)
            valid = self.now() + timedelta(seconds=rule.valid if rule is not None else 0.0)
            by = list(dict.fromkeys(one.by for one in said))
            event = ApprovalSettled(
                request=request,
                result=result,
                by=by,
                reason=f"{len(by)} of {view.threshold}",
                valid_until=iso(valid),
            )
        await self._recorder.record(event)

    async def _wait(self, request: str) -> Grant:
        began = self._clock.monotonic()
        while True:
            view = self._view(request)
            assert view is not None
            if view.result == "rejected":
                raise ApprovalRejected(
                    f"{view.asked} was rejected by {', '.join(view.result_by)}: {view.result_reason}"
                )
            if view.result == "expired":
                raise ApprovalExpired(f"{view.asked} was not approved in time: {view.result_reason}")
            if view.result == "granted":
                return Grant(
                    request, view.asked, view.subject, tuple(view.result_by), parse_iso(view.valid_until)
                )
            await self.look()
            if view != self._view(request):
                continue
            if self._unattended and self._clock.monotonic() - began >= self._rules().auto_wait:
                raise ApprovalMissing(
                    f"{view.asked} waits for an approval ({request}), and nobody is asked in here",
                    hint=f"cockpit approve --run {self._recorder.run_dir} {request}",
                )
            await self._clock.sleep(_LOOK)

    async def _take_files(self) -> None:
        """Take `approvals/<request>.<anything>.sigstore.json`: statements given while nobody listened."""
        folder = self._recorder.run_dir / FOLDER
        for view in self.open():
            for path in sorted(folder.glob(f"{view.request}.*{BUNDLE}"))[:_MOST_STATEMENTS]:
                # What another look took meanwhile is gone; a pipe would hold up the loop.
                if path.is_symlink() or not path.is_file():
                    continue
                try:
                    with path.open("rb") as file:
                        raw = file.read(MAX_STATEMENT_BYTES + 1)
                    path.unlink()
                except OSError as error:
                    self._recorder.note(
                        Noted(level="warning", text=f"{path.name} was not taken: {error.strerror}")
                    )
                    continue
                await self.submit(view.request, raw.decode("utf-8", "replace"))

    def _carry(self, request: str, raw: bytes) -> None:
        """Leave the request as a file; the socket serves those on this machine without it."""
        try:
            write_private(self._recorder.run_dir / FOLDER / f"{request}.request.json", raw + b"\n")
        except OSError as error:
            self._recorder.note(
                Noted(level="warning", text=f"the request {request} was not written: {error.strerror}")
            )
