"""Prometheus metrics of the cockpit: one more view of the journal, served on loopback.

Counters and gauges are folded from the whole journal, also after a restart, so that a second sitting goes on
where the first one ended. Trace ids travel as exemplars (OpenMetrics); the commit is on `cockpit_run_info`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from cockpit.base.clock import parse_iso
from cockpit.base.files import write_private
from cockpit.base.text import visible
from cockpit.journal import events as ev
from cockpit.journal.events_people import ApprovalRequested, ApprovalSettled, RunReopened

M = TypeVar("M", Gauge, Counter)
ADDRESS = "metrics.address"
"""File of the run folder that says where the metrics are served: `127.0.0.1:PORT`."""
COMMON = ("release", "env", "tenant")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_CALLS = ("agent", "phase", "op", "result")
_ROLLBACK = ("running", "verified", "unfinished")


class Meters:
    """The metrics of one run. `labels` gives release and environment; `registry` is their own."""

    def __init__(self, labels: Mapping[str, str], *, lost: Callable[[], float] = lambda: 0.0) -> None:
        self.registry = CollectorRegistry()
        self._common = {"tenant": "*", **{name: labels.get(name, "") for name in ("release", "env")}}
        self._calls = self._counter("cockpit_agent_calls", "Agent calls by how they ended.", *_CALLS)
        self._seconds = Histogram(
            "cockpit_agent_call_seconds",
            "How long agent calls took.",
            (*COMMON, "agent", "op"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._running = self._gauge("cockpit_agent_calls_running", "Agent calls under way.")
        self._verdicts = self._counter(
            "cockpit_gate_verdicts", "Verdicts by phase gate.", "phase_gate", "agent", "verdict", "outcome"
        )
        self._gate = self._gauge(
            "cockpit_gate_passing",
            "Whether the last verdict is a pass.",
            "phase_gate",
            "agent",
            "verdict_env",
        )
        self._required = self._gauge(
            "cockpit_required_gate_passing", "Whether a required gate passes; absent: not evaluated.", "gate"
        )
        self._weight = self._gauge("cockpit_canary_weight_percent", "The canary's weight.", "kind")
        self._step = self._gauge("cockpit_canary_step", "The promotion step, from 1.")
        self._looks = self._counter("cockpit_canary_looks", "Looks at the canary by outcome.", "outcome")
        self._halt = self._gauge("cockpit_halt_in_force", "Whether a HALT is in force.")
        self._halts = self._counter("cockpit_halts", "HALTs by what triggered them.", "trigger")
        self._effects = self._counter("cockpit_effects", "Mutations by how they ended.", "lane", "status")
        self._in_flight = self._gauge("cockpit_effects_in_flight", "Mutations begun and not ended.", "lane")
        self._records = self._gauge("cockpit_journal_records", "Records in the journal.")
        self._gaps = self._counter("cockpit_journal_gaps", "Records that were kept elsewhere or lost.")
        self._last = self._gauge(
            "cockpit_journal_last_record_timestamp_seconds", "When the last record was written."
        )
        self._phase = self._gauge("cockpit_phase_running", "Whether a phase is under way.", "phase")
        self._phase_seconds = self._gauge(
            "cockpit_phase_seconds", "How long a phase took.", "phase", "result"
        )
        self._rollback = self._gauge("cockpit_rollback_state", "The abort: 1 at its state.", "state")
        self._rollback_seconds = self._gauge(
            "cockpit_rollback_seconds", "From the begin of the abort to its verification or its end."
        )
        self._questions = self._gauge("cockpit_questions_waiting", "Questions to people without an answer.")
        self._approvals = self._gauge("cockpit_approvals_waiting", "Requests for approval without an end.")
        self._front_ends = self._gauge("cockpit_front_ends", "Front ends with control.")
        self._messages = self._counter("cockpit_messages", "Messages by macro.", "macro", "ok")
        self._exit = self._gauge("cockpit_run_exit_code", "The exit code, once the run has ended.")
        self._info = self._gauge("cockpit_run_info", "The run and its commit.", "run", "sha")
        Gauge(
            "cockpit_telemetry_lost", "Telemetry that did not reach where it should.", COMMON,
            registry=self.registry,
        ).labels(**self._common).set_function(lost)  # fmt: skip
        self._open_calls: dict[str, str] = {}
        self._lanes: dict[str, str] = {}
        self._began: dict[str, str] = {}
        self._waiting: dict[str, set[str]] = {"question": set(), "approval": set(), "front end": set()}
        self._aborted_at = ""
        self._run = ""

    def named(self, sha: str) -> None:
        """Say which commit the release is made of."""
        if self._run:
            self._info.clear()
            self._at(self._info, run=self._run, sha=sha).set(1)

    def take(self, event: ev.AnyEvent) -> None:
        """Fold one event in; each event once, from the first on."""
        self._at(self._records).set(event.seq + 1)
        self._at(self._last).set(parse_iso(event.at).timestamp())
        match event:
            case ev.RunOpened():
                self._run = event.run_id
                for gauge in (self._halt, self._step, self._running, self._questions, self._approvals):
                    self._at(gauge).set(0)
                self.named("")
            case ev.RunClosed():
                self._at(self._exit).set(event.exit)
            case ev.RunResumed() | RunReopened():
                # What the conductor before had under way has no end in the journal.
                self._open_calls.clear()
                self._lanes.clear()
                self._at(self._running).set(0)
            case ev.PhaseStarted():
                self._began[event.phase] = event.at
                self._at(self._phase, phase=event.phase).set(1)
            case ev.PhaseEnded():
                self._at(self._phase, phase=event.phase).set(0)
                took = _between(self._began.pop(event.phase, event.at), event.at)
                self._at(self._phase_seconds, phase=event.phase, result=event.result).set(took)
            case ev.GateJudged():
                self._judged(event)
            case ev.RequiredGates():
                self._required.clear()
                for gate, result in event.gates.items():
                    if result != "not evaluated":
                        self._at(self._required, gate=gate).set(result == "pass")
            case ev.JournalGap():
                self._at(self._gaps).inc(max(1, event.records))
            case ev.MessagePosted():
                self._at(self._messages, macro=event.macro, ok=str(event.ok).lower()).inc()
            case ev.AgentCalled() | ev.AgentAnswered() | ev.AgentFailed():
                self._call(event)
            case ev.EffectIntended() | ev.EffectDone() | ev.EffectFailed() | ev.EffectUnknown():
                self._effect(event)
            case ev.StepStarted() | ev.WeightSeen() | ev.LookTaken():
                self._canary(event)
            case _:
                self._people(event)

    def _canary(self, event: ev.StepStarted | ev.WeightSeen | ev.LookTaken) -> None:
        match event:
            case ev.StepStarted():
                self._at(self._step).set(event.step)
            case ev.WeightSeen():
                self._at(self._weight, kind="desired").set(event.desired)
                if event.observed is not None:
                    self._at(self._weight, kind="observed").set(event.observed)
            case ev.LookTaken():
                self._at(self._looks, outcome=event.outcome).inc()

    def _judged(self, event: ev.GateJudged) -> None:
        self._at(
            self._verdicts,
            phase_gate=event.phase_gate,
            agent=event.agent,
            verdict=event.verdict,
            outcome=event.outcome,
        ).inc()
        gate = self._at(self._gate, phase_gate=event.phase_gate, agent=event.agent, verdict_env=event.env)
        gate.set(event.verdict == "pass")

    def _call(self, event: ev.AgentCalled | ev.AgentAnswered | ev.AgentFailed) -> None:
        if isinstance(event, ev.AgentCalled):
            self._open_calls[event.call] = event.trace_id
        else:
            trace = self._open_calls.pop(event.call, "")
            result = event.result if isinstance(event, ev.AgentAnswered) else event.kind
            self._at(self._calls, agent=event.agent, phase=event.phase, op=event.op, result=result).inc()
            self._seconds.labels(**self._common, agent=event.agent, op=event.op).observe(
                event.took_ms / 1000, {"trace_id": trace} if trace else None
            )
        self._at(self._running).set(len(self._open_calls))

    def _effect(self, event: ev.EffectIntended | ev.EffectDone | ev.EffectFailed | ev.EffectUnknown) -> None:
        if isinstance(event, ev.EffectIntended):
            self._lanes[event.effect] = event.lane
            lane = event.lane
        else:
            lane = self._lanes.pop(event.effect, "forward")
            status = {ev.EffectDone: "done", ev.EffectFailed: "failed"}.get(type(event), "unknown")
            self._at(self._effects, lane=lane, status=status).inc()
        self._at(self._in_flight, lane=lane).set(sum(one == lane for one in self._lanes.values()))

    def _people(self, event: ev.AnyEvent) -> None:
        match event:
            case ev.HaltBegan():
                self._at(self._halt).set(1)
                self._at(self._halts, trigger=event.trigger).inc()
            case ev.HaltEnded():
                self._at(self._halt).set(0)
            case ev.RollbackStarted():
                self._aborted_at = event.at
                self._aborting("running")
            case ev.RollbackVerified():
                self._aborting("verified", event.at)
            case ev.RollbackUnfinished():
                self._aborting("unfinished", event.at)
            case ev.Question():
                self._waits("question", event.question, self._questions)
            case ev.QuestionAnswered():
                self._waits("question", event.question, self._questions, over=True)
            case ApprovalRequested():
                self._waits("approval", event.request, self._approvals)
            case ApprovalSettled():
                self._waits("approval", event.request, self._approvals, over=True)
            case ev.FrontEndSeen():
                self._waits("front end", event.name, self._front_ends, over=not event.attached)
            case _:
                pass

    def _aborting(self, state: str, at: str = "") -> None:
        for one in _ROLLBACK:
            self._at(self._rollback, state=one).set(one == state)
        if at and self._aborted_at:
            self._at(self._rollback_seconds).set(_between(self._aborted_at, at))

    def _waits(self, kind: str, name: str, gauge: Gauge, *, over: bool = False) -> None:
        waiting = self._waiting[kind]
        if over:
            waiting.discard(name)
        else:
            waiting.add(name)
        self._at(gauge).set(len(waiting))

    def _at(self, metric: M, **labels: str) -> M:
        shown = {name: visible(value, limit=100) for name, value in labels.items()}
        return metric.labels(**self._common, **shown)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, (*COMMON, *labels), registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, (*COMMON, *labels), registry=self.registry)


def _between(start: str, end: str) -> float:
    return max(0.0, (parse_iso(end) - parse_iso(start)).total_seconds())


class MetricsEndpoint:
    """Serves a registry on loopback until closed; its address is in the run folder meanwhile.

    Raises OSError when the port cannot be had.
    """

    def __init__(self, registry: CollectorRegistry, port: int, run_dir: Path) -> None:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        self._server: WSGIServer = server
        self._thread: threading.Thread = thread
        self._path = run_dir / ADDRESS
        self.address = f"127.0.0.1:{server.server_port}"
        write_private(self._path, f"{self.address}\n".encode())

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)
        self._path.unlink(missing_ok=True)
