"""The detail view's contents: everything known about one thing, as rows."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cockpit.journal.state import GateView
from cockpit.screens.alerts import alerts
from cockpit.screens.look import Look, Row, mark, span
from cockpit.screens.pages import TITLES, WRITERS
from cockpit.screens.sheet import LABEL, Sheet, Stored, Subject
from cockpit.screens.view import View
from cockpit.screens.widgets.agents import shown_status
from cockpit.screens.widgets.gates import gate_key
from cockpit.screens.widgets.phases import NAMES


def title_of(subject: Subject) -> str:
    """Return the title of a subject."""
    words = {
        "record": f"Record #{subject.key}",
        "alerts": "Alerts",
        "canary": "Canary",
        "phase": f"Phase {subject.key}",
        **TITLES,
    }
    return words.get(subject.kind, f"{subject.kind.capitalize()} {subject.key}")


def facts(view: View, subject: Subject, stored: Stored | None, look: Look, width: int) -> list[Row]:
    """Return all that is known about a subject in a view."""
    sheet = Sheet(look, width)
    _WRITERS.get(subject.kind, _nothing)(view, subject.key, sheet)
    if stored is not None:
        sheet.head(stored.title)
        sheet.text(stored.text)
    return sheet.rows


def blob_of(view: View, subject: Subject) -> str:
    """Return the digest of the stored payload that belongs to a subject; empty when there is none."""
    if subject.kind == "agent":
        return next((agent.response for agent in view.state.agents if agent.entry.id == subject.key), "")
    if subject.kind == "gate":
        return next((gate.verdict_blob for gate in view.state.gates if gate_key(gate) == subject.key), "")
    return ""


def pretty(data: bytes) -> str:
    """Return JSON indented; anything else as text, both bounded."""
    try:
        data = msgspec.json.format(data, indent=2)
    except msgspec.DecodeError:
        pass
    return data[:40_000].decode("utf-8", "replace")


def _nothing(view: View, key: str, sheet: Sheet) -> None:
    sheet.text("Nothing is known about this.")


def _agent(view: View, key: str, sheet: Sheet) -> None:
    agent = next((agent for agent in view.state.agents if agent.entry.id == key), None)
    if agent is None:
        return _nothing(view, key, sheet)
    sheet.head(f"{agent.entry.id} {agent.entry.name}")
    sheet.status("status", shown_status(agent))
    sheet.fact("last operation", f"{agent.op} in {agent.phase}" if agent.op else "never called")
    sheet.fact("when", f"{agent.at}, {view.age(agent.at)}, took {agent.took_ms:.0f} ms" if agent.at else "")
    sheet.fact("calls", agent.calls)
    attempts = view.state.people.reverified.get(key)
    sheet.fact("verified again", f"{attempts} attempts, asked for by a person" if attempts else "", "warn")
    sheet.fact("domain", agent.entry.domain)
    sheet.fact("phases", ", ".join(agent.entry.phases))
    sheet.fact("in the plan", "required" if agent.entry.required else "not required")
    if not agent.entry.built:
        sheet.fact("built", "not yet: this agent answers blocked and changes nothing", "warn")
    sheet.fact("notes", agent.notes)
    sheet.fact("next", agent.next)
    for artifact in view.state.artifacts:
        if artifact.agent == key:
            sheet.fact("artifact", f"{artifact.path} {'signed' if artifact.bundle else 'not signed yet'}")
    for gate in view.state.gates:
        if gate.agent == key:
            sheet.fact("verdict", f"{gate.phase_gate}: {gate.verdict} ({gate.outcome}) {gate.reason}")
    return None


def _gate(view: View, key: str, sheet: Sheet) -> None:
    if key.startswith("required/"):
        name = key.removeprefix("required/")
        sheet.head(f"Required gate {name}")
        sheet.status("status", view.state.required_gates.get(name, "not evaluated"))
        sheet.fact("reason", view.state.gate_reasons.get(name, ""))
        for gate in view.state.gates:
            if gate.gate == name:
                _verdict(view, gate, sheet)
        return None
    gate_view = next((gate for gate in view.state.gates if gate_key(gate) == key), None)
    return _nothing(view, key, sheet) if gate_view is None else _verdict(view, gate_view, sheet)


def _verdict(view: View, gate: GateView, sheet: Sheet) -> None:
    sheet.head(f"{gate.phase_gate} by {gate.agent} in {gate.env}")
    sheet.status("verdict", gate.verdict)
    sheet.status("outcome", gate.outcome)
    sheet.fact("reason", gate.reason)
    sheet.fact("judged", f"{gate.at}, {view.age(gate.at)}, valid for {span(gate.valid_s)}")
    sheet.fact(
        "record",
        f"#{gate.seq}, gate {gate.gate}, phase {gate.phase}" + (f", step {gate.step}" if gate.step else ""),
    )
    for threshold in gate.thresholds:
        sheet.fact("threshold", threshold)
    sheet.table(gate.metrics)
    for service, digest in gate.images.items():
        sheet.fact(f"image {service}"[:LABEL], digest)
    sheet.fact("plan", gate.plan_sha256)


def _phase(view: View, key: str, sheet: Sheet) -> None:
    phase = next((phase for phase in view.state.phases if phase.phase == key), None)
    sheet.head(f"{key} {NAMES.get(key, '')}")
    if phase is None:
        return sheet.text("Not known yet.")
    sheet.status("status", phase.status)
    sheet.fact("started", phase.started_at)
    sheet.fact("ended", phase.ended_at)
    sheet.fact("reason", phase.reason)
    for agent in view.state.agents:
        if key in agent.entry.phases:
            sign = mark(shown_status(agent))
            required = "required" if agent.entry.required else "not in the plan"
            sheet.fact(f"{agent.entry.id}", f"{sign.icon} {sign.word:<12} {agent.entry.name} ({required})")
    for gate in view.state.gates:
        if gate.phase == key:
            sheet.fact(
                "verdict", f"{gate.phase_gate} by {gate.agent}: {gate.verdict} ({gate.outcome}) {gate.reason}"
            )
    return None


def _record(view: View, key: str, sheet: Sheet) -> None:
    if key == "break":
        sheet.head(f"The journal is {view.chain.verdict}")
        sheet.text(view.chain.text)
        if view.chain.seq >= 0:
            sheet.text("This record and all after it cannot be trusted; they are not shown.")
        return None
    line = next((line for line in view.projection.tail if str(line.seq) == key), None)
    if line is None:
        return sheet.text("This record is no longer in the tail.")
    sheet.head(f"#{line.seq} {line.kind}")
    sheet.fact("at", f"{line.at}, {view.age(line.at)}")
    sheet.fact("fields", line.text)
    return None


def _canary(view: View, key: str, sheet: Sheet) -> None:
    canary = view.state.canary
    sheet.head(
        f"Step {canary.step}, towards {canary.target} %" if canary.step else "The canary has not begun"
    )
    sheet.fact("stage", f"{canary.stage} {canary.detail}".strip())
    sheet.fact("desired", f"{canary.desired} % {view.age(canary.desired_at)}")
    seen = (
        "not seen" if canary.observed is None else f"{canary.observed:.1f} % {view.age(canary.observed_at)}"
    )
    sheet.fact("observed", seen)
    sheet.fact(
        "passes", f"{canary.passes} of {canary.required}, {canary.failures} failed, {canary.looks} looks"
    )
    sheet.fact("prod traffic", "was moved or may have been" if canary.moved else "was not moved")
    sheet.fact("decision", f"{canary.decision} {canary.reason}".strip())
    if canary.last is not None:
        last = canary.last
        sheet.head(f"Look {last.look} at step {last.step}")
        sheet.status("outcome", last.outcome)
        sheet.fact("critical", last.critical)
        sheet.fact("reason", last.reason)
        sheet.fact("requests", last.requests)
        sheet.fact("at", f"{last.at}, {view.age(last.at)}")
        sheet.table(last.metrics)
        sheet.table({f"burn {name}": value for name, value in last.burn.items()})
    sheet.head("Deployments (ready of desired)")
    for name, counts in sorted(canary.replicas.items()):
        sheet.fact(name[:LABEL], " of ".join(str(count) for count in reversed(counts)))


def _alerts(view: View, key: str, sheet: Sheet) -> None:
    found = alerts(view)
    if not found:
        sheet.text("Nothing needs attention.")
    for alert in found:
        if sheet.rows:
            sheet.rows.append(())
        sheet.text(alert.text, alert.role)
        for line in alert.more:
            sheet.text(f"  {line}")


_WRITERS: dict[str, Callable[[View, str, Sheet], None]] = {
    "agent": _agent,
    "gate": _gate,
    "phase": _phase,
    "record": _record,
    "canary": _canary,
    "alerts": _alerts,
    **WRITERS,
}
