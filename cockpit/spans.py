"""Journal events as OpenTelemetry spans, exported as OTLP JSON lines.

One span a release, one a phase below it; an agent call is a trace of its own under its request's trace id,
linked to its phase. The file holds one OTLP `ExportTraceServiceRequest` a line, as a collector reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, Status, StatusCode, set_span_in_context

from cockpit.base.clock import parse_iso
from cockpit.journal import events as ev


class _TraceIds(RandomIdGenerator):
    """Gives the next root span the trace id asked for; random ones else."""

    wanted = 0

    def generate_trace_id(self) -> int:
        wanted, self.wanted = self.wanted, 0
        return wanted or super().generate_trace_id()


class OtlpLines(SpanExporter):
    """Appends spans to a file; what cannot be written is counted and lost."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write one line a span."""
        try:
            for span in spans:
                os.write(self._fd, json.dumps(otlp(span), separators=(",", ":")).encode() + b"\n")
        except (OSError, ValueError, TypeError):
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Spans:
    """The spans of one run. `failures` counts those that could not be written; `also` gets them as well."""

    def __init__(
        self, path: Path, attributes: Mapping[str, str], *, also: SpanExporter | None = None
    ) -> None:
        self._exporter = OtlpLines(path)
        self._ids = _TraceIds()
        self._provider = TracerProvider(
            resource=Resource({"service.name": "release-cockpit", **attributes}),
            id_generator=self._ids,
            sampler=ALWAYS_ON,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        if also is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(also))
        self._tracer = self._provider.get_tracer("cockpit")
        self._attributes = {"tenant": "*", **attributes}
        self._release: Span | None = None
        self._phases: dict[str, Span] = {}
        self._calls: dict[str, Span] = {}

    @property
    def failures(self) -> int:
        """How many spans were lost."""
        return self._exporter.lost

    def take(self, event: ev.AnyEvent) -> None:
        """Begin or end a span, if the event is about one."""
        match event:
            case ev.RunOpened() | ev.RunResumed():
                self._release = self._begin("release", event.at, Context(), {})
            case ev.PhaseStarted():
                above = Context() if self._release is None else set_span_in_context(self._release, Context())
                self._phases[event.phase] = self._begin(event.phase, event.at, above, {"phase": event.phase})
            case ev.PhaseEnded():
                _end(self._phases.pop(event.phase, None), event.at, event.result, event.reason)
            case ev.AgentCalled():
                self._call(event)
            case ev.AgentAnswered():
                _end(self._calls.pop(event.call, None), event.at, event.result, event.notes)
            case ev.AgentFailed():
                _end(self._calls.pop(event.call, None), event.at, event.kind, event.reason)
            case ev.RunClosed():
                _end(self._release, event.at, event.outcome, event.cause)
                self._release = None
            case _:
                pass

    def close(self, at: str) -> None:
        """End what is still open as unfinished and close the file."""
        for span in (*self._calls.values(), *self._phases.values(), self._release):
            _end(span, at, "unfinished", "")
        self._provider.shutdown()

    def _call(self, event: ev.AgentCalled) -> None:
        self._ids.wanted = int(event.trace_id, 16)
        phase = self._phases.get(event.phase)
        self._calls[event.call] = self._begin(
            f"{event.agent} {event.op}",
            event.at,
            Context(),
            {
                "phase": event.phase,
                "agent": event.agent,
                "op": event.op,
                "env": event.env,
                "trace_id": event.trace_id,
                "attempt": event.attempt,
            },
            links=() if phase is None else (Link(phase.get_span_context()),),
        )

    def _begin(
        self,
        name: str,
        at: str,
        above: Context,
        attributes: Mapping[str, str | int],
        links: Sequence[Link] = (),
    ) -> Span:
        return self._tracer.start_span(
            name,
            context=above,
            attributes={**self._attributes, **attributes},
            links=links,
            start_time=_nanoseconds(at),
        )


def _end(span: Span | None, at: str, result: str, reason: str) -> None:
    if span is None:
        return
    span.set_attribute("result", result)
    if result in ("ok", "pass", "released"):
        span.set_status(Status(StatusCode.OK))
    elif result != "unfinished":
        span.set_status(Status(StatusCode.ERROR, reason[:500]))
    span.end(_nanoseconds(at))


def _nanoseconds(at: str) -> int:
    moment = parse_iso(at)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def otlp(span: ReadableSpan) -> dict[str, Any]:
    """Return a span as an OTLP JSON `ExportTraceServiceRequest`."""
    context, parent = span.get_span_context(), span.parent
    if context is None:
        raise ValueError("a span without a context")
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _pairs(span.resource.attributes)},
                "scopeSpans": [
                    {
                        "scope": {"name": "cockpit"},
                        "spans": [
                            {
                                "traceId": f"{context.trace_id:032x}",
                                "spanId": f"{context.span_id:016x}",
                                **({} if parent is None else {"parentSpanId": f"{parent.span_id:016x}"}),
                                "name": span.name,
                                "kind": 1,
                                "startTimeUnixNano": str(span.start_time),
                                "endTimeUnixNano": str(span.end_time),
                                "attributes": _pairs(span.attributes or {}),
                                "links": [
                                    {
                                        "traceId": f"{link.context.trace_id:032x}",
                                        "spanId": f"{link.context.span_id:016x}",
                                    }
                                    for link in span.links
                                ],
                                "status": {
                                    "code": span.status.status_code.value,
                                    "message": span.status.description or "",
                                },
                            }
                        ],
                    }
                ],
            }
        ]
    }


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)},
        }
        for key, value in attributes.items()
    ]
