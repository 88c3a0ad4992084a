"""What needs attention, most urgent first: the banners of the main screen and the list behind `a`."""

from __future__ import annotations

from collections.abc import Iterator

from cockpit.base.text import visible
from cockpit.journal.state import QuestionView, RollbackView
from cockpit.screens.look import span
from cockpit.screens.view import Alert, Sent, View
from cockpit.screens.waits import people_alerts, time_alerts, wait_alerts

_SILENT_AFTER = 2.0
_ALONE_AFTER = 5.0


def alerts(view: View) -> list[Alert]:
    """Return all alerts of a view in the order a person should read them."""
    return [
        *_sent(view),
        *_rollback(view),
        *_halt(view),
        *_questions(view),
        *wait_alerts(view),
        *_closed(view),
        *_alone(view),
        *time_alerts(view),
        *people_alerts(view),
        *_records(view),
        *_rest(view),
    ]


def waiting_questions(view: View) -> list[QuestionView]:
    """Return the questions nobody has answered."""
    return [question for question in view.state.questions if not question.answer]


def where_to_look(view: View) -> tuple[str, ...]:
    """Return what to do when no conductor answers: recorded fallback commands, else where to look."""
    rollback = view.state.rollback
    if rollback is not None and rollback.fallback:
        return ("Do it by hand, in this order:", *rollback.fallback)
    run = view.desk.run_dir or "DIR"
    lines = [
        f"cockpit status --run {run}      what the run last recorded, and whether a conductor lives",
        f"cockpit halt --run {run}        HALT from a shell",
        f"cockpit rollback --run {run}    take the release back from a shell",
    ]
    for effect in (*view.state.effects_open, *view.state.effects_unknown):
        lines.append(
            f"{effect.status}: {effect.verb} {effect.target} in {effect.env}: look there with kubectl"
        )
    return tuple(lines)


def _sent(view: View) -> Iterator[Alert]:
    for sent in view.desk.sent:
        word = sent.kind.upper()
        if sent.trouble:
            act = sent.kind in ("halt", "rollback")
            hint = f"; press {view.keys['alerts']} for what to do by hand" if act else ""
            yield Alert("bad", f"{word} NOT DELIVERED: {sent.trouble}{hint}", where_to_look(view))
        elif sent.kind in ("halt", "rollback"):
            yield _awaited(view, sent, word)


def _awaited(view: View, sent: Sent, word: str) -> Alert:
    if sent.age < _SILENT_AFTER:
        return Alert("busy", f"{word} sent {span(sent.age)} ago, waiting to see its effect in the journal")
    keys = view.keys
    again = (
        f"{keys['halt_always']} sends it again" if sent.kind == "halt" else f"{keys['rollback']} asks again"
    )
    by_hand = f"press {keys['alerts']} for what to do by hand"
    text = f"{word} sent {span(sent.age)} ago, NO EFFECT SEEN YET; {again}, {by_hand}"
    return Alert("bad", text, where_to_look(view))


def _rollback(view: View) -> Iterator[Alert]:
    rollback = view.state.rollback
    if rollback is None:
        return
    cause = visible(rollback.cause or rollback.reason, limit=160)
    if rollback.status == "verified":
        yield Alert("good", f"✓ ROLLED BACK and verified: {cause}", _proof(rollback))
    elif rollback.status == "unfinished":
        first = f": {rollback.fallback[0]}" if rollback.fallback else ""
        key = view.keys["alerts"]
        yield Alert("bad", f"✗ ROLLBACK NOT FINISHED, a person must act ({key}){first}", where_to_look(view))
    else:
        stage = f" · {visible(rollback.stage, limit=40)}" if rollback.stage else ""
        yield Alert("bad", f"■ ROLLING BACK{stage}: {cause}", (f"by {rollback.by}",))


def _proof(rollback: RollbackView) -> tuple[str, ...]:
    return tuple(f"{name}: {seen}" for name, seen in rollback.proof.items())


def _halt(view: View) -> Iterator[Alert]:
    halt = view.state.halt
    if halt is None or not halt.active or view.state.closed is not None or view.state.rollback is not None:
        return
    who = f"{visible(halt.by, limit=40)} ({visible(halt.trigger, limit=20)})"
    reason = visible(halt.reason, limit=120) or "no reason given yet"
    choice = f" · {view.keys['decide']} decides" if view.mode != "replay" and view.desk.control else ""
    text = f"■ HALTED {view.age(halt.at)} by {who}: {reason}{choice}"
    yield Alert("bad", text, ("Nothing forward goes out; traffic stays as it is; the analysis goes on.",))


def _questions(view: View) -> Iterator[Alert]:
    if view.state.closed is not None:
        return
    halted = view.state.halt is not None and view.state.halt.active
    for question in waiting_questions(view):
        if halted and "resume" in question.options:
            continue  # the HALT's own question: its banner says so already
        how = f" · {view.keys['decide']} answers" if view.mode != "replay" and view.desk.control else ""
        options = " / ".join(visible(option, limit=40) for option in question.options)
        yield Alert("warn", f"? DECIDE: {visible(question.text, limit=160)} [{options}]{how}")


def _closed(view: View) -> Iterator[Alert]:
    closed = view.state.closed
    if closed is None:
        return
    icon, role = ("✓", "good") if closed.exit == 0 else ("✗", "bad")
    cause = f": {visible(closed.cause, limit=160)}" if closed.cause else ""
    how = f"{view.keys['leave']} leaves"
    text = f"{icon} {visible(closed.outcome, limit=60).upper()} · exit {closed.exit}{cause} · {how}"
    yield Alert(role, text)  # type: ignore[arg-type]


def _alone(view: View) -> Iterator[Alert]:
    desk = view.desk
    if (
        desk.control
        and desk.alone > _ALONE_AFTER
        and view.state.closed is None
        and view.state.run is not None
    ):
        text = f"✗ NO CONDUCTOR ANSWERS for {span(desk.alone)}; its supervisor should replace it"
        yield Alert("bad", f"{text} · {view.keys['alerts']} for what to do by hand", where_to_look(view))


def _records(view: View) -> Iterator[Alert]:
    if view.chain.checked == "broken":
        at_break = view.mode == "replay" and view.chain.seq >= 0
        ends = f"; the replay ends before it ({view.keys['seek_break']})" if at_break else ""
        yield Alert(
            "bad",
            f"✗ THE JOURNAL IS {view.chain.verdict}: {visible(view.chain.text, limit=160)}{ends}",
        )
    if view.trouble:
        yield Alert("bad", f"✗ {visible(view.trouble, limit=300)}")
    if view.state.gaps:
        yield Alert(
            "bad", f"! {view.state.gaps} GAP(S) in the journal: records are missing or kept elsewhere"
        )
    unknown = view.state.effects_unknown
    if unknown:
        names = [f"{effect.verb} {effect.target} ({effect.env}): {effect.reason}" for effect in unknown]
        yield Alert("warn", f"! {len(unknown)} effect(s) with UNKNOWN outcome", tuple(names))
    for error in reversed(view.state.errors[-2:]):
        yield Alert("warn", f"! {visible(error, limit=300)}")


def _rest(view: View) -> Iterator[Alert]:
    state = view.state
    for error in state.errors[:-2]:
        yield Alert("warn", f"earlier error: {error}", banner=False)
    for reason in state.reduced:
        yield Alert("warn", f"REDUCED: {reason}", banner=False)
    for what, owner, reason in state.waivers:
        yield Alert("warn", f"waived: {what}, by {owner}: {reason}", banner=False)
    for pending in state.pending:
        yield Alert("warn", f"evidence pending: {pending}", banner=False)
    if state.messages_failed:
        yield Alert("warn", f"{state.messages_failed} message(s) could not be delivered", banner=False)
    for risk in state.risks:
        if risk.state == "open":
            yield Alert("warn", f"open risk {risk.id} ({risk.rating}): {risk.reason}", banner=False)
    if state.go is False:
        yield Alert("warn", "go/no-go: NO-GO", tuple(state.no_go_reasons), banner=False)
