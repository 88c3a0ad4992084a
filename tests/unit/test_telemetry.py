"""Spans and log lines as views of the journal."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cockpit.base.clock import SystemClock, VirtualClock
from cockpit.base.redact import Redactor
from cockpit.journal.events import AgentCalled, AnyEvent
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.writer import JournalWriter
from cockpit.loglines import JsonLines, log_as_json
from cockpit.telemetry import TRACES, Telemetry, observed
from tests.ui.sample import green, rolled_back, write_journal

LABELS = {"release": "v3.0.0", "env": "prod"}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("cockpit")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


def run_of(folder: Path, events: list[AnyEvent]) -> list[dict[str, Any]]:
    """Let telemetry take in a whole journal; return its spans."""
    write_journal(folder, events)
    telemetry = Telemetry(folder, VirtualClock(), dict(LABELS))
    telemetry.close()
    assert telemetry.failures == 0
    return spans_in(folder)


def spans_in(folder: Path) -> list[dict[str, Any]]:
    spans = []
    for line in (folder / TRACES).read_text(encoding="utf-8").splitlines():
        (resource,) = json.loads(line)["resourceSpans"]
        (scope,) = resource["scopeSpans"]
        (span,) = scope["spans"]
        span["attributes"] = {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}
        spans.append(span)
    return spans


def test_there_is_one_span_a_phase_and_one_a_call(tmp_path: Path) -> None:
    events = green()
    spans = run_of(tmp_path, events)
    of_calls = [span for span in spans if "agent" in span["attributes"]]
    of_phases = [span for span in spans if span["name"].startswith("P")]
    kinds = [type(event).__name__ for event in events]
    assert len(of_calls) == kinds.count("AgentCalled")
    assert len(of_phases) == kinds.count("PhaseStarted")
    assert len(spans) == len(of_calls) + len(of_phases) + 1


def test_a_call_has_the_trace_id_of_its_request_and_links_to_its_phase(tmp_path: Path) -> None:
    events = [_with_trace(event, f"{number + 1:032x}") for number, event in enumerate(green())]
    asked = [event.trace_id for event in events if isinstance(event, AgentCalled)]
    spans = run_of(tmp_path, events)
    phases = {span["spanId"] for span in spans if span["name"].startswith("P")}
    of_calls = [span for span in spans if "agent" in span["attributes"]]
    assert sorted(span["traceId"] for span in of_calls) == sorted(asked)
    for span in of_calls:
        assert span["attributes"]["trace_id"] == span["traceId"]
        assert "parentSpanId" not in span
        assert all(link["spanId"] in phases for link in span["links"])
    assert any(span["links"] for span in of_calls)


def _with_trace(event: AnyEvent, trace_id: str) -> AnyEvent:

    return replace(event, trace_id=trace_id) if isinstance(event, AgentCalled) else event


def test_spans_say_release_environment_and_result_and_last_as_long_as_recorded(tmp_path: Path) -> None:
    for span in run_of(tmp_path, rolled_back()):
        attributes = span["attributes"]
        assert attributes["release"] == "v3.0.0"
        assert attributes["env"] == "prod"
        assert attributes["tenant"] == "*"
        assert attributes["result"]
        assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 0


def test_what_has_no_end_is_unfinished(tmp_path: Path) -> None:
    events = green()
    started = next(n for n, event in enumerate(events) if isinstance(event, AgentCalled))
    results = [span["attributes"]["result"] for span in run_of(tmp_path, events[: started + 1])]
    assert results and set(results) == {"unfinished"}


def test_a_second_sitting_does_not_repeat_the_spans_of_the_first(tmp_path: Path) -> None:
    events = green()
    write_journal(tmp_path, events)
    telemetry = Telemetry(tmp_path, VirtualClock(), dict(LABELS), since=len(events))
    telemetry.close()
    assert spans_in(tmp_path) == []


def test_a_journal_that_is_broken_hurts_nobody(tmp_path: Path) -> None:
    path = write_journal(tmp_path, green())
    journal = path if path.is_file() else tmp_path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes().replace(b'"seq":3', b'"seq":4', 1))
    telemetry = Telemetry(tmp_path, VirtualClock(), dict(LABELS))
    telemetry.catch_up()
    telemetry.close()
    assert telemetry.failures


def test_spans_that_cannot_be_written_hurt_nobody(tmp_path: Path) -> None:
    write_journal(tmp_path, green())
    (tmp_path / TRACES).mkdir()
    telemetry = Telemetry(tmp_path, VirtualClock(), dict(LABELS))
    telemetry.close()
    assert telemetry.failures


def test_records_that_are_taken_back_are_not_told_twice(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL_NAME
    write_journal(tmp_path, green())
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    telemetry = Telemetry(tmp_path, VirtualClock(), dict(LABELS))
    journal.write_bytes(b"".join(lines[:30]))
    telemetry.catch_up()
    journal.write_bytes(b"".join(lines[:20]))
    telemetry.catch_up()
    journal.write_bytes(whole)
    telemetry.catch_up()
    telemetry.close()
    calls = [span["attributes"]["trace_id"] for span in spans_in(tmp_path) if "agent" in span["attributes"]]
    assert len(calls) == sum(isinstance(event, AgentCalled) for event in green())


async def test_it_follows_a_live_journal_and_names_the_commit(tmp_path: Path) -> None:
    async def commit() -> str:
        return "c0ffee"

    labels = dict(LABELS)
    async with JournalWriter.open(tmp_path, clock=SystemClock()) as writer:
        async with observed(tmp_path, SystemClock(), Redactor(), labels, commit=commit) as telemetry:
            while labels.get("sha") != "c0ffee":  # noqa: ASYNC110 - it is asked for beside us
                await asyncio.sleep(0)
            for event in green():
                await writer.append(event)
        assert telemetry.failures == 0
    assert all(span["attributes"]["sha"] == "c0ffee" for span in spans_in(tmp_path))
    assert any("agent" in span["attributes"] for span in spans_in(tmp_path))


def test_log_lines_are_json_without_secrets_and_with_the_trace_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redactor = Redactor()
    redactor.add("hunter2-hunter2")
    labels = dict(LABELS)
    log_as_json(labels, redactor, VirtualClock())
    labels["sha"] = "c0ffee"
    run_of(tmp_path, green())
    logging.getLogger("cockpit").warning("the password is %s\n", "hunter2-hunter2")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines
    for line in lines:
        assert {"at", "level", "message", "release", "env", "tenant", "trace_id", "sha"} <= line.keys()
        assert (line["release"], line["env"], line["sha"]) == ("v3.0.0", "prod", "c0ffee")
    assert any(line["trace_id"] for line in lines)
    assert "hunter2" not in lines[-1]["message"]


def test_an_error_is_one_line(tmp_path: Path) -> None:
    formatter = JsonLines({}, Redactor(), VirtualClock())
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
    line = formatter.format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["error"]
