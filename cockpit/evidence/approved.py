"""Whether people decided what a journal says they decided: each signature, each count, each grant at its use.

- A request is the document people signed: of this run, release and plan, with the plan's threshold.
- A statement counts when its signature, its person and its binding hold, while the request was open, from
  somebody not counted yet, with the second factor asked for. A rejection that holds counts, too.
- A request is granted or rejected by what was counted, and no grant counts longer than the plan says.
- Break-glass is over what the plan lists, signed by who asked, with its second person or its review.
- Where the plan asks for approval, traffic moves only under a grant in force for this very pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from cockpit.base.clock import parse_iso
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.evidence.checks import Check, said
from cockpit.evidence.grants import SLACK, granted
from cockpit.evidence.order import unsent
from cockpit.evidence.statements import Checked, check_approval, check_glass, read_request
from cockpit.evidence.texts import recorded, written
from cockpit.journal.events import AnyEvent, EffectIntended, EvidenceSealed, RunOpened
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BreakGlassReviewed,
    BreakGlassUsed,
)
from cockpit.journal.fold_people import PeopleFold
from cockpit.journal.state_people import PeopleView, RequestView
from cockpit.plan.model import Plan
from cockpit.plan.people import OVERRIDABLE, Approvals
from cockpit.plan.registry import Registry, rule_for
from cockpit.rpc.approval import ApprovalRequest
from cockpit.verdicts.approvals import settled

NAME = "approvals hold"
Blobs = Callable[[str], bytes]
_STRONGER = {"none": 0, "totp": 1, "oidc": 2}
_DECISIONS = (ApprovalRequested, ApprovalReceived, ApprovalSettled, BreakGlassUsed, BreakGlassReviewed)


def approvals_hold(events: Sequence[AnyEvent], plan: Plan | None, blob: Blobs, trusted_root: bytes) -> Check:
    """Check every decision of people in a journal; blocking, some milliseconds for each statement."""
    taken = [event for event in events if isinstance(event, _DECISIONS)]
    if plan is None or plan.approvals is None:
        why = "there is no plan to hold them against" if plan is None else "the plan names nobody to decide"
        return Check(NAME, not taken, why)
    walk = _Walk(events, plan, plan.approvals, blob, trusted_root)
    for event in events:
        walk.take(event)
    walk.finish()
    good = f"{walk.counted} statements counted, {walk.granted} requests granted"
    return Check(NAME, not walk.problems, said(walk.problems, good))


class _Walk:
    """Takes a journal in, record by record."""

    def __init__(
        self, events: Sequence[AnyEvent], plan: Plan, approvals: Approvals, blob: Blobs, root: bytes
    ) -> None:
        self._plan = plan
        self._approvals = approvals
        self._registry = Registry(approvals, plan.targets.signing.issuer)
        self._blob = blob
        self._root = root
        self._unsent = unsent(events)
        self._fold = PeopleFold()
        self._opened: RunOpened | None = None
        self._pack = ""
        self._withheld: list[tuple[int, str, str]] = []
        self.counted = self.granted = 0
        self.problems: list[str] = []

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        problems: list[str] = []
        try:
            if isinstance(event, RunOpened):
                self._opened = event
            elif isinstance(event, EvidenceSealed) and event.kind == "promotion":
                self._pack = event.sha256
            elif isinstance(event, ApprovalRequested):
                problems = self._requested(event)
            elif isinstance(event, ApprovalReceived):
                problems = self._received(event)
            elif isinstance(event, ApprovalSettled):
                problems = self._settled(event)
            elif isinstance(event, BreakGlassUsed):
                problems = self._glass(event)
            elif isinstance(event, BreakGlassReviewed):
                problems = self._reviewed(event)
            elif isinstance(event, EffectIntended):
                problems = self._moved(event)
        except (CockpitError, ValueError) as error:
            problems = [str(error)]
        self.problems += [f"record {event.seq}: {visible(problem, limit=300)}" for problem in problems]
        handler = self._fold.handlers.get(type(event))
        if handler is not None:
            handler(event)

    # -- requests -------------------------------------------------------------------------------------

    def _requested(self, event: ApprovalRequested) -> list[str]:
        document, opened = read_request(self._blob(event.blob)), self._opened
        rule = rule_for(self._approvals, event.asked)
        if opened is None or rule is None:
            return [f"{event.asked} is asked, and the plan has no rule for it"]
        if self._request(event.request) is not None:
            return [f"{event.request} is asked twice"]
        problems = [
            f"the {what} of {event.request} is told as {told} and signed as {signed}"
            for what, told, signed in (
                ("run", opened.run_id, document.run_id),
                ("release", opened.version, document.version),
                ("plan", opened.plan_sha256, document.plan_sha256),
                ("id", event.request, document.request),
                ("kind", event.asked, document.asked),
                ("subject", event.subject, document.subject),
                ("text", event.text, written(document.text)),
                ("requester", event.requester, written(document.requester)),
                ("threshold", event.threshold, document.threshold),
                ("groups", list(event.groups), document.groups),
                ("from each", event.from_each, document.from_each),
                ("step-up", event.step_up, document.step_up),
                ("expiry", event.expires, document.expires),
            )
            if told != signed
        ]
        asked = (document.threshold, tuple(document.groups), document.from_each)
        if asked != (rule.threshold, rule.groups, rule.from_each):
            problems.append(f"{event.request} asks for others than the plan's rule for {event.asked}")
        if _STRONGER[document.step_up] < _STRONGER[rule.step_up]:
            problems.append(f"{event.request} asks for a weaker second factor than the plan")
        if document.asked_at > event.at:
            problems.append(f"{event.request} was asked later than it is recorded")
        return problems

    def _received(self, event: ApprovalReceived) -> list[str]:
        view = self._request(event.request)
        if view is None:
            return [f"a statement on {event.request}, which nobody asked"]
        document = read_request(self._blob(view.blob))
        if not event.counted:
            return self._uncounted(event, view, document)
        self.counted += 1
        found = self._checked(event, document)
        if found.problem:
            return [f"a statement counts that does not hold: {found.problem}"]
        problems = []
        told = (event.by, event.identity, event.decision, event.reason, list(event.groups))
        signed = (
            found.person,
            written(found.identity),
            found.decision,
            recorded(found.reason),
            list(found.groups),
        )
        if told != signed:
            problems.append(f"the statement of {found.person} says something else than its record")
        return problems + self._against(event, view, found)

    def _uncounted(self, event: ApprovalReceived, view: RequestView, document: ApprovalRequest) -> list[str]:
        if not event.problem:
            return ["a statement does not count and nothing says why"]
        # Nobody is to leave out a no: one that holds, on an open request, has to end it, then or later.
        found = self._checked(event, document)
        if found.decision == "reject" and not found.problem and not self._against(event, view, found):
            self._withheld.append((event.seq, view.request, found.person))
        return []

    def finish(self) -> None:
        """Take in that the journal ends here."""
        for seq, request, person in self._withheld:
            view = self._request(request)
            if view is None or view.result != "rejected":
                self.problems.append(f"record {seq}: a rejection by {person} holds and was not counted")

    def _against(self, event: ApprovalReceived, view: RequestView, found: Checked) -> list[str]:
        at = parse_iso(event.at)
        if view.result:
            return [f"a statement counts after {view.request} was {view.result}"]
        if at >= parse_iso(view.expires) + SLACK:
            return [f"a statement counts after {view.request} expired"]
        if found.decision == "reject":
            return []
        if any(one.counted and one.by == found.person for one in view.statements):
            return [f"{found.person} is counted twice"]
        if view.step_up != "none" and not self._stepped_up(found.person, view.step_up, at):
            return [f"{found.person} is counted without a second factor"]
        return []

    def _checked(self, event: ApprovalReceived, document: ApprovalRequest) -> Checked:
        if not self._root:
            return Checked(problem="there is no trusted root to hold it against")
        return check_approval(self._blob(event.blob), document, self._registry, self._root)

    def _stepped_up(self, person: str, method: str, at: datetime) -> bool:
        shown = [one for one in self._people().step_ups if (one.by, one.method) == (person, method)]
        return any(one.valid_until and at < parse_iso(one.valid_until) + SLACK for one in shown)

    def _settled(self, event: ApprovalSettled) -> list[str]:
        view = self._request(event.request)
        if view is None:
            return [f"{event.request} is settled, and nobody asked it"]
        if view.result:
            return [f"{event.request} is settled twice"]
        if event.result == "expired":
            return []
        problems = []
        if settled(view, view.statements) != event.result:
            problems.append(f"{event.request} is {event.result} by other than what was counted")
        wanted = "reject" if event.result == "rejected" else "approve"
        by = {one.by for one in view.statements if one.counted and one.decision == wanted}
        if not set(event.by) <= by:
            problems.append(f"{event.request} is {event.result} by somebody who was not counted")
        if event.result == "granted":
            self.granted += 1
            rule = rule_for(self._approvals, view.asked)
            longest = parse_iso(event.at) + timedelta(seconds=rule.valid if rule else 0.0) + SLACK
            if parse_iso(event.valid_until) > longest:
                problems.append(f"{event.request} counts longer than the plan says")
        return problems

    # -- break-glass ----------------------------------------------------------------------------------

    def _glass(self, event: BreakGlassUsed) -> list[str]:
        policy, opened, at = self._approvals.break_glass, self._opened, parse_iso(event.at)
        if policy is None or opened is None or event.gate not in {*policy.overridable} & OVERRIDABLE:
            return [f"{event.gate} is overridden, and the plan does not allow it"]
        since = parse_iso(opened.at)
        found = check_glass(
            self._blob(event.blob),
            run_id=opened.run_id,
            version=opened.version,
            plan_sha256=opened.plan_sha256,
            images={service.name: service.image.digest for service in self._plan.services},
            since=since,
            now=since,  # how fresh it was is told by the record of its request, not by this one
            registry=self._registry,
            trusted_root=self._root,
        )
        predicate = found.predicate
        if predicate is None:
            return [f"{event.glass} was not signed for: {found.problem}"]
        problems = []
        told = (event.by, event.gate, event.reason)
        if told != (found.person, predicate.gate, recorded(predicate.reason)):
            problems.append(f"{event.glass} says something else than {found.person} signed")
        if parse_iso(event.expires) > at + timedelta(seconds=policy.expires) + SLACK:
            problems.append(f"{event.glass} counts longer than the plan says")
        if policy.second_person or event.second:
            if not self._witnessed(event.glass, "override", event.second, "granted", event.gate):
                problems.append(f"{event.glass} counts without its second person")
        elif policy.review_within is None or not event.review_by:
            problems.append(f"{event.glass} counts without a second person or a review")
        elif parse_iso(event.review_by) > at + timedelta(seconds=policy.review_within) + SLACK:
            problems.append(f"{event.glass} may be reviewed later than the plan says")
        return problems

    def _reviewed(self, event: BreakGlassReviewed) -> list[str]:
        result = "granted" if event.accepted else "rejected"
        if self._witnessed(event.glass, "review", event.by, result, ""):
            return []
        return [f"the review of {event.glass} by {event.by} was not signed"]

    def _witnessed(self, glass: str, act: str, by: str, result: str, gate: str) -> bool:
        for view in self._people().requests:
            if (view.asked, view.result) != ("break-glass", result) or ", ".join(view.result_by) != by:
                continue
            about = read_request(self._blob(view.blob)).about
            if (about.get("act"), about.get("glass")) == (act, glass):
                return not gate or about.get("gate") == gate
        return False

    # -- use ------------------------------------------------------------------------------------------

    def _moved(self, event: EffectIntended) -> list[str]:
        """Return why an effect on prod was not approved, where the plan wants promotions approved."""
        plan = self._plan
        if event.lane != "forward" or event.verb not in ("shift", "promote") or event.env != plan.environment:
            return []
        if self._approvals.rule("promote") is None or event.seq in self._unsent:
            return []
        if granted(self._people().requests, "promote", event.at, plan, self._pack, self._blob):
            return []
        return [f"{event.verb} {event.target}: nobody had approved this pack and these images"]

    def _request(self, request: str) -> RequestView | None:
        return next((one for one in self._people().requests if one.request == request), None)

    def _people(self) -> PeopleView:
        return self._fold.snapshot()
