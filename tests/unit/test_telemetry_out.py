"""Telemetry that leaves the run folder: spans to a collector, metrics, the log file, the dashboard.

Whatever a collector does, the release's side of it neither waits nor fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from cockpit.base.clock import SystemClock, VirtualClock
from cockpit.base.redact import Redactor
from cockpit.dashboard import PANELS, dashboard, rendered
from cockpit.journal.events import (
    AgentCalled,
    AgentFailed,
    AnyEvent,
    EffectIntended,
    HaltBegan,
    HaltEnded,
    LookTaken,
    Noted,
    Question,
    RollbackStarted,
    RollbackVerified,
    RunOpened,
    WeightSeen,
)
from cockpit.journal.events_people import ApprovalRequested, ApprovalSettled
from cockpit.journal.writer import JournalWriter
from cockpit.loglines import LOGS, logged_up_to
from cockpit.meters import ADDRESS, Meters
from cockpit.otlp import OtlpShipper
from cockpit.spans import Spans
from cockpit.telemetry import Outlets, Telemetry, observed
from tests.ui.sample import green, rolled_back, write_journal

ROOT = Path(__file__).resolve().parents[2]
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


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


class Collector:
    """A collector on loopback: answers as told, keeps what came."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, _lower(dict(self.headers)), body))
                collector.hold.wait(30)
                try:
                    self.send_response(collector.status)
                    if 300 <= collector.status < 400:
                        self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # whoever asked has gone

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[str]:
        """Return the names of the spans that came."""
        names = []
        for _, _, body in self.requests:
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return names


@contextmanager
def collector(status: int = 200) -> Iterator[Collector]:
    made = Collector(status)
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.hold.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def telemetry_of(folder: Path, events: list[AnyEvent], **outlets: Any) -> Telemetry:
    """Let telemetry take in a whole journal and close it."""
    write_journal(folder, events)
    telemetry = Telemetry(folder, VirtualClock(), dict(LABELS), outlets=Outlets(**outlets))
    telemetry.close()
    return telemetry


# -- OTLP ---------------------------------------------------------------------------------------------


def test_every_span_of_the_file_reaches_the_collector(tmp_path: Path) -> None:
    with collector() as made:
        telemetry = telemetry_of(tmp_path, green(), otlp=made.url, otlp_token="a-token-of-a-test")
    kept = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert telemetry.failures == 0
    assert len(made.spans()) == len(kept) > 10
    path, headers, _ = made.requests[0]
    assert path == "/v1/traces"
    assert headers["authorization"] == "Bearer a-token-of-a-test"


@pytest.mark.parametrize("status", [400, 307])
def test_a_collector_that_refuses_costs_spans_and_nothing_else(tmp_path: Path, status: int) -> None:
    with collector(status) as made:
        telemetry = telemetry_of(tmp_path, green(), otlp=made.url)
    kept = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert telemetry.failures == len(kept)
    assert {path for path, _, _ in made.requests} == {"/v1/traces"}


def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    with collector() as made:
        pass
    telemetry = telemetry_of(tmp_path, green(), otlp=made.url)
    assert telemetry.failures == len((tmp_path / "traces.jsonl").read_text().splitlines())


def test_a_collector_that_hangs_holds_nobody_up_and_the_queue_is_bounded(tmp_path: Path) -> None:
    with collector() as made:
        made.hold.clear()
        shipper = OtlpShipper(made.url, most_queued=4)
        spans = Spans(tmp_path / "t.jsonl", LABELS, also=shipper)
        for event in green():
            spans.take(event)
        spans.close("2025-09-23T12:00:00.000000Z")
        assert not made.hold.is_set()  # we are here while it still hangs
        shipper.close(0.01)
        kept = (tmp_path / "t.jsonl").read_text().splitlines()
        assert len(kept) > 20
        assert shipper.lost == len(kept)
        assert shipper.sent == 0


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "https://127.0.0.1:9"])
def test_no_address_makes_telemetry_raise(tmp_path: Path, address: str) -> None:
    telemetry = telemetry_of(tmp_path, green()[:20], otlp=address)
    assert telemetry.failures >= 0


# -- metrics ------------------------------------------------------------------------------------------


def folded(events: list[AnyEvent]) -> Meters:
    meters = Meters(LABELS)
    for event in events:
        meters.take(event)
    return meters


def value(meters: Meters, name: str, **labels: str) -> float | None:
    return meters.registry.get_sample_value(
        name, {"release": "v3.0.0", "env": "prod", "tenant": "*", **labels}
    )


def total(meters: Meters, name: str) -> float:
    return sum(
        sample.value
        for family in meters.registry.collect()
        for sample in family.samples
        if sample.name == name
    )


def test_counts_are_those_of_the_journal() -> None:
    events = rolled_back()
    meters = folded(events)
    kinds = [type(event).__name__ for event in events]
    ended = kinds.count("AgentAnswered") + kinds.count("AgentFailed")
    assert ended and total(meters, "cockpit_agent_calls_total") == ended
    assert total(meters, "cockpit_agent_call_seconds_count") == ended
    assert total(meters, "cockpit_canary_looks_total") == kinds.count("LookTaken") > 0
    assert total(meters, "cockpit_gate_verdicts_total") == kinds.count("GateJudged") > 0
    done = sum(kinds.count(kind) for kind in ("EffectDone", "EffectFailed", "EffectUnknown"))
    assert total(meters, "cockpit_effects_total") == done > 0
    assert value(meters, "cockpit_journal_records") == len(events)


def test_gauges_are_the_last_of_the_journal() -> None:
    events = rolled_back()
    meters = folded(events)
    weights = [event for event in events if isinstance(event, WeightSeen)]
    assert value(meters, "cockpit_canary_weight_percent", kind="desired") == weights[-1].desired
    assert value(meters, "cockpit_rollback_state", state="verified") == 1
    assert value(meters, "cockpit_rollback_state", state="running") == 0
    assert (value(meters, "cockpit_rollback_seconds") or 0) >= 0
    assert value(meters, "cockpit_canary_step") == max(
        event.step for event in events if isinstance(event, LookTaken)
    )


def at(event: AnyEvent, seq: int, second: int) -> AnyEvent:
    from msgspec.structs import replace

    return replace(event, seq=seq, at=f"2025-09-23T08:00:{second:02d}.000000Z")


def test_halts_waits_and_the_time_of_a_rollback() -> None:
    opened = next(event for event in green() if isinstance(event, RunOpened))
    ask = ApprovalRequested(
        request="r1", asked="promote", subject="v3.0.0", text="", requester="ann", threshold=1, groups=[],
        from_each=False, step_up="", expires="2025-09-23T09:00:00.000000Z", blob="",
    )  # fmt: skip
    steps: list[tuple[AnyEvent, dict[str, float]]] = [
        (opened, {f"cockpit_{name}": 0 for name in ("halt_in_force", "approvals_waiting")}),
        (HaltBegan(by="ann", trigger="key", reason="", epoch=1), {"cockpit_halt_in_force": 1}),
        (Question(question="q1", text="?", options=["a"]), {"cockpit_questions_waiting": 1}),
        (HaltEnded(by="ann", choice="resume", reason="x"), {"cockpit_halt_in_force": 0}),
        (ask, {"cockpit_approvals_waiting": 1}),
        (ApprovalSettled(request="r1", result="granted", by=["bob"], reason=""),
         {"cockpit_approvals_waiting": 0}),
        (RollbackStarted(reason="manual", cause="", by="ann"), {}),
        (RollbackVerified(proof={}), {"cockpit_rollback_seconds": 1}),
    ]  # fmt: skip
    meters = Meters(LABELS)
    for number, (event, wanted) in enumerate(steps):
        meters.take(at(event, number, number))
        for name, number_wanted in wanted.items():
            assert value(meters, name) == number_wanted, (name, event)


def test_every_series_names_release_environment_and_tenant() -> None:
    for family in folded(rolled_back()).registry.collect():
        for sample in family.samples:
            assert {"release", "env", "tenant"} <= sample.labels.keys(), sample
            assert sample.labels["release"] == "v3.0.0"


def test_durations_carry_their_trace_as_an_exemplar() -> None:
    text = openmetrics(folded(green()).registry).decode()  # type: ignore[no-untyped-call]
    assert re.search(r'cockpit_agent_call_seconds_bucket\{.*\} .* # \{trace_id="[0-9a-f]{32}"\}', text)


def test_what_a_crash_left_under_way_is_not_counted_as_running() -> None:
    from cockpit.journal.events import RunResumed

    events = green()
    called = next(n for n, event in enumerate(events) if isinstance(event, AgentCalled))
    intended = next(n for n, event in enumerate(events) if isinstance(event, EffectIntended))
    cut = events[: max(called, intended) + 1]
    meters = folded([*cut, at(RunResumed(reason="crash", into="abort"), len(cut), 59)])
    assert value(meters, "cockpit_agent_calls_running") == 0


async def test_metrics_are_served_on_loopback_while_the_run_lasts(tmp_path: Path) -> None:
    async with (
        JournalWriter.open(tmp_path, clock=SystemClock()) as writer,
        observed(
            tmp_path, SystemClock(), Redactor(), dict(LABELS), outlets=Outlets(metrics_port=0)
        ) as telemetry,
    ):
        for event in green():
            await writer.append(event)
        async with asyncio.timeout(30):
            while True:
                await asyncio.sleep(0.01)
                if not (tmp_path / ADDRESS).exists():
                    continue
                address = (tmp_path / ADDRESS).read_text().strip()
                async with httpx.AsyncClient(trust_env=False) as client:
                    text = (await client.get(f"http://{address}/metrics")).text
                if "cockpit_agent_calls_total" in text:
                    break
        assert stat.S_IMODE((tmp_path / ADDRESS).stat().st_mode) == 0o600
        assert address == telemetry.metrics_address and address.startswith("127.0.0.1:")
        assert 'cockpit_run_info{env="prod",release="v3.0.0"' in text
    assert not (tmp_path / ADDRESS).exists()
    assert telemetry.failures == 0


def test_a_port_that_is_taken_costs_the_metrics_and_nothing_else(tmp_path: Path) -> None:
    with collector() as made:
        telemetry = telemetry_of(tmp_path, green(), metrics_port=made.server.server_port)
    assert telemetry.failures == 1
    assert (tmp_path / "traces.jsonl").exists()


def test_a_second_sitting_counts_on_from_the_first(tmp_path: Path) -> None:
    events = green()
    write_journal(tmp_path, events)
    telemetry = Telemetry(
        tmp_path, VirtualClock(), dict(LABELS), since=len(events), outlets=Outlets(metrics_port=0)
    )
    telemetry.catch_up()
    text = httpx.get(f"http://{telemetry.metrics_address}/metrics", trust_env=False).text
    telemetry.close()
    assert re.search(rf"cockpit_journal_records\{{.*\}} {float(len(events))}", text)


# -- the log file -------------------------------------------------------------------------------------


async def sitting(folder: Path, events: list[AnyEvent], redactor: Redactor | None = None) -> None:
    """Record events while telemetry watches, as one sitting of a conductor does."""
    labels = dict(LABELS)

    async def commit() -> str:
        return "c0ffee"

    async with JournalWriter.open(folder, clock=SystemClock()) as writer:
        since = writer.position.records
        async with observed(
            folder, SystemClock(), redactor or Redactor(), labels, commit=commit, since=since
        ):
            while "sha" not in labels:  # noqa: ASYNC110 - it is asked for beside us
                await asyncio.sleep(0.001)
            for event in events:
                await writer.append(event)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOGS).read_text(encoding="utf-8").splitlines()]


async def test_the_log_file_is_private_json_with_what_guardrails_ask_for(tmp_path: Path) -> None:
    redactor = Redactor(("hunter2-hunter2",))
    note = Noted(level="warning", text="the secret is hunter2-hunter2")
    await sitting(tmp_path, [*green(), note], redactor)
    lines = lines_of(tmp_path)
    assert stat.S_IMODE((tmp_path / LOGS).stat().st_mode) == 0o600
    for line in lines:
        assert (line["release"], line["env"], line["tenant"], line["sha"]) == (
            "v3.0.0",
            "prod",
            "*",
            "c0ffee",
        )
        assert {"trace_id", "message", "at", "level"} <= line.keys()
    traced = {line["trace_id"] for line in lines} - {""}
    assert traced <= {event.trace_id for event in green() if isinstance(event, AgentCalled)} and traced
    assert "hunter2" not in (tmp_path / LOGS).read_text()
    said = " ".join(line["message"] for line in lines)
    for word in ("began", "look 1", "GO".lower(), "step 1", "released", "closed"):
        assert word in said, word


async def test_a_second_sitting_goes_on_where_the_log_ended(tmp_path: Path) -> None:
    events = green()
    half = len(events) // 2
    await sitting(tmp_path, events[:half])
    # The last lines of the first sitting were not written before it died, the very last one only in part.
    whole = (tmp_path / LOGS).read_text().splitlines(keepends=True)
    kept = whole[:-5]
    (tmp_path / LOGS).write_text("".join(kept) + whole[-5][:20])
    await sitting(tmp_path, events[half:])
    text = (tmp_path / LOGS).read_text()
    found = [json.loads(line)["seq"] for line in text.splitlines() if line.startswith("{") and _whole(line)]
    assert found == sorted(set(found))
    first = [json.loads(line)["seq"] for line in whole]
    assert set(first) - set(found) <= {first[-5]}  # its half line stands before the one that tells it again


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_a_log_that_says_nothing_begins_where_the_sitting_does(tmp_path: Path) -> None:
    path = tmp_path / LOGS
    assert logged_up_to(path, 7) == 7
    path.write_bytes(b"\xff\xfe\n[1]\n{}\n" + b'{"seq": "9"}\n')
    assert logged_up_to(path, 7) == 7
    path.write_bytes(b'{"seq": 3}\n{"message": "no seq"}\n{"se')
    assert logged_up_to(path, 7) == 4


async def test_a_log_that_cannot_be_written_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / LOGS).mkdir()
    await sitting(tmp_path, green()[:30])


# -- the dashboard ------------------------------------------------------------------------------------


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bcockpit_[a-z_]+", query))


def exposed(registry: CollectorRegistry) -> set[str]:
    found = set()
    for family in registry.collect():
        for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(
            family.type, ("",)
        ):
            found.add(family.name + suffix)
    return found


def test_the_dashboard_in_the_repository_is_what_the_code_makes() -> None:
    kept = (ROOT / "runbooks" / "dashboards" / "cockpit.json").read_text(encoding="utf-8")
    assert kept == rendered(), "stale: python -m cockpit.dashboard > runbooks/dashboards/cockpit.json"


def test_every_metric_the_dashboard_asks_for_is_exposed_and_every_one_exposed_is_shown() -> None:
    there = exposed(Meters(LABELS).registry)
    asked = {name for panel in PANELS for _, query in panel.queries for name in names_in(query)}
    made = dashboard()
    queries = [one["query"] for one in made["templating"]["list"]]
    queries += [one["expr"] for one in made["annotations"]["list"]]
    assert asked - there == set()
    assert {name for query in queries for name in names_in(query)} <= there
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in there} == shown


def test_every_query_of_the_dashboard_is_promql_about_the_chosen_release() -> None:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            promql_parser.parse(target["expr"])
            assert "$release" in target["expr"]


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        where = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert not cells & taken and where["x"] + where["w"] <= 24
        taken |= cells


def test_labels_a_query_groups_by_exist() -> None:
    meters = folded(rolled_back())
    labels = {
        family.name: set().union(*(sample.labels.keys() for sample in family.samples)) - {"le"}
        for family in meters.registry.collect()
        if family.samples
    }
    for panel in PANELS:
        for legend, query in panel.queries:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
            for name in names_in(query):
                base = re.sub(r"_(total|bucket|count|sum)$", "", name)
                if base in labels:
                    assert wanted <= labels[base] | {"le"}, (panel.title, name)


def test_failed_calls_are_named_by_what_failed() -> None:
    failed = [event for event in rolled_back() if isinstance(event, AgentFailed)]
    meters = folded(rolled_back())
    assert all(
        value(
            meters, "cockpit_agent_calls_total", agent=one.agent, phase=one.phase, op=one.op, result=one.kind
        )
        for one in failed
    )
