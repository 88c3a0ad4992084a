"""The metrics client against a server that answers, and against one that does everything wrong."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from cockpit.backends.metrics import PrometheusMetrics
from cockpit.base.clock import VirtualClock, parse_iso
from cockpit.base.errors import (
    BackendError,
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    UsageError,
)
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.rehearsal.prometheus.faults import FaultMode
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.verdicts.answers import parse_answer

pytestmark = pytest.mark.contract

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile(behaviour: Behaviour, *, until: bytes = b"\r\n\r\n") -> AsyncIterator[str]:
    """A TCP server that reads a request's head and then behaves; yields its URL."""
    connections: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        writers.append(writer)
        try:
            await reader.readuntil(until)
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # what nobody read would keep it open
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def client(
    url: str, *, deadline: float = 20.0, read_timeout: float = 20.0
) -> AsyncIterator[PrometheusMetrics]:
    """The client with patient limits, so that only the tested one can act."""
    metrics = PrometheusMetrics(url, deadline=deadline, read_timeout=read_timeout, connect_timeout=20.0)
    try:
        yield metrics
    finally:
        await metrics.close()
        await no_threads_left()


async def no_threads_left() -> None:
    """Wait until no thread of the client is left: an abandoned one must end by itself, soon."""
    async with asyncio.timeout(20):
        while any(thread.name.startswith("cockpit-metrics") for thread in threading.enumerate()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def says(data: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return behave


def vector(value: object = (1.5, "2")) -> bytes:
    result = [{"metric": {"a": "b"}, "value": value}]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


GOOD = vector()
ERROR = b'{"status":"error","errorType":"bad_data","error":"no \\u001b[31mred\\u001b[0m query"}'

WRONG: dict[str, tuple[bytes, type[BackendError]]] = {
    "html": (http(b"<html>login</html>"), BackendGarbage),
    "empty body": (http(b""), BackendGarbage),
    "truncated json": (http(GOOD[:-20]), BackendGarbage),
    "not utf-8": (http(GOOD.replace(b'"b"', b'"\xff"')), BackendGarbage),
    "json list": (http(b"[]"), BackendGarbage),
    "json null": (http(b"null"), BackendGarbage),
    "deep json": (http(b"[" * 200_000), BackendGarbage),
    "deep result": (
        http(b'{"status":"success","data":{"resultType":"vector","result":' + b"[" * 200_000),
        BackendGarbage,
    ),
    "no data": (http(b'{"status":"success"}'), BackendGarbage),
    "no result": (http(b'{"status":"success","data":{"resultType":"vector"}}'), BackendGarbage),
    "result is null": (
        http(b'{"status":"success","data":{"resultType":"vector","result":null}}'),
        BackendGarbage,
    ),
    "unknown type": (
        http(b'{"status":"success","data":{"resultType":"tensor","result":[]}}'),
        BackendGarbage,
    ),
    "string": (http(b'{"status":"success","data":{"resultType":"string","result":[1,"x"]}}'), BackendGarbage),
    "value is a number": (http(vector([1, 2])), BackendGarbage),
    "value is a word": (http(vector([1, "many"])), BackendGarbage),
    "value with underscore": (http(vector([1, "1_000"])), BackendGarbage),
    "value is null": (http(vector(None)), BackendGarbage),
    "time is text": (http(vector(["1", "2"])), BackendGarbage),
    "time is true": (http(vector([True, "2"])), BackendGarbage),
    "time below zero": (http(vector([-1, "2"])), BackendGarbage),
    "three in a pair": (http(vector([1, "2", 3])), BackendGarbage),
    "label is a number": (http(GOOD.replace(b'"b"', b"7")), BackendGarbage),
    "series twice": (http(GOOD.replace(b"[{", b'[{"metric":{"a":"b"},"value":[1.5,"2"]},{')), BackendGarbage),
    "warnings are text": (http(GOOD[:-1] + b',"warnings":"many"}'), BackendGarbage),
    "error with 200": (http(ERROR), BackendGarbage),
    "204": (http(b"", "204 No Content"), BackendGarbage),
    "206": (http(GOOD, "206 Partial Content"), BackendGarbage),
    "redirect": (http(b"", "302 Found", "Location: http://127.0.0.1:1/elsewhere"), BackendGarbage),
    "redirect for ever": (http(b"", "307 Temporary Redirect", "Location: /api/v1/query"), BackendGarbage),
    "gzip": (http(GOOD, "200 OK", "Content-Encoding: gzip"), BackendGarbage),
    "not http": (b"SSH-2.0-OpenSSH_9.2\r\n", BackendGarbage),
    "header without end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, BackendGarbage),
    "announced 100 MB": (http(GOOD, length=100_000_000), BackendGarbage),
    "400": (http(ERROR, "400 Bad Request"), BackendRefused),
    "400 html": (http(b"<html>", "400 Bad Request"), BackendRefused),
    "401": (http(b"", "401 Unauthorized"), BackendRefused),
    "404": (http(b"404 page not found", "404 Not Found"), BackendRefused),
    "422": (http(ERROR, "422 Unprocessable Entity"), BackendRefused),
    "429": (http(b"", "429 Too Many Requests"), BackendUnreachable),
    "500": (http(ERROR, "500 Internal Server Error"), BackendUnreachable),
    "502": (http(b"<html>", "502 Bad Gateway"), BackendUnreachable),
    "503": (http(b"Service Unavailable", "503 Service Unavailable"), BackendUnreachable),
    "503 with a good body": (http(GOOD, "503 Service Unavailable"), BackendUnreachable),
    "cut body": (http(GOOD, length=len(GOOD) + 10), BackendUnreachable),
    "cut head": (b"HTTP/1.1 200 OK\r\nContent-Le", BackendUnreachable),
    "cut status": (b"HTTP/1.1 20", BackendUnreachable),
    "cut version": (b"H", BackendUnreachable),
    "cut chunks": (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"st', BackendUnreachable),
    "closed": (b"", BackendUnreachable),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_answers_become_errors_of_the_tree(case: str) -> None:
    data, kind = WRONG[case]
    async with hostile(says(data)) as url, client(url) as metrics:
        with pytest.raises(BackendError) as caught:
            await metrics.query("up")
    assert type(caught.value) is kind, caught.value
    assert caught.value.where == url
    assert "\x1b" not in str(caught.value)


async def test_a_refusal_carries_status_and_reason() -> None:
    async with hostile(says(http(ERROR, "400 Bad Request"))) as url, client(url) as metrics:
        with pytest.raises(BackendRefused, match="bad_data: no ␛") as caught:
            await metrics.query("up")
    assert caught.value.status == 400


async def test_a_redirect_is_not_followed() -> None:
    asked: list[bytes] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(b"elsewhere")

    async with hostile(count) as elsewhere:
        answer = http(b"", "302 Found", f"Location: {elsewhere}/api/v1/query")
        async with hostile(says(answer)) as url, client(url) as metrics:
            with pytest.raises(BackendGarbage, match="redirect"):
                await metrics.query("up")
    assert asked == []


async def test_nothing_is_retried() -> None:
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(http(b"", "503 Service Unavailable", "Retry-After: 0"))

    async with hostile(refuse) as url, client(url) as metrics:
        with pytest.raises(BackendUnreachable):
            await metrics.query("up")
    assert asked == 1


async def test_an_endless_body_is_cut_at_the_limit() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b" " * 100_000)
            sent += 100_000
            await writer.drain()

    async with hostile(flood) as url, client(url) as metrics:
        with pytest.raises(BackendGarbage, match="larger than"):
            await metrics.query("up")
    assert MAX_ANSWER_BYTES <= sent < 100_000_000


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def drip(start: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    return behave


SLOW: dict[str, Behaviour] = {
    "hangs": silence,
    "drips its body": drip(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"),
    "drips its head": drip(b"HTTP/1.1 200 OK\r\nX-Long:"),
    "drips chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"),
}


@pytest.mark.parametrize("case", SLOW)
async def test_the_deadline_holds_and_leaves_no_thread_behind(case: str) -> None:
    async with hostile(SLOW[case]) as url, client(url, deadline=0.5) as metrics:
        with pytest.raises(BackendUnreachable):
            await metrics.query("up")
        await no_threads_left()


async def test_silence_ends_at_the_read_timeout() -> None:
    async with hostile(silence) as url, client(url, read_timeout=0.2) as metrics:
        with pytest.raises(BackendUnreachable, match="no answer in time"):
            await metrics.query("up")


async def test_a_cancelled_query_leaves_no_thread_behind() -> None:
    arrived = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await silence(reader, writer)

    async with hostile(hold) as url, client(url) as metrics:
        query = asyncio.create_task(metrics.query("up"))
        await arrived.wait()
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        await no_threads_left()


async def test_closing_ends_running_queries() -> None:
    arrived = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await silence(reader, writer)

    async with hostile(hold) as url, client(url) as metrics:
        query = asyncio.create_task(metrics.query("up"))
        await arrived.wait()
        await metrics.close()
        with pytest.raises(BackendUnreachable):
            await query


async def test_a_reset_connection_is_unreachable() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with hostile(reset) as url, client(url) as metrics:
        with pytest.raises(BackendUnreachable):
            await metrics.query("up")


async def test_nothing_listening_is_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        async with client(f"http://127.0.0.1:{port}") as metrics:
            with pytest.raises(BackendUnreachable, match="nothing listens"):
                await metrics.query("up")


async def test_plain_text_where_tls_was_asked_for_is_unreachable() -> None:
    hello = b"\x16"  # the first byte of a TLS handshake
    async with (
        hostile(says(http(GOOD)), until=hello) as url,
        client(url.replace("http:", "https:")) as metrics,
    ):
        with pytest.raises(BackendUnreachable, match="TLS"):
            await metrics.query("up")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9090",
        "ftp://x",
        "http://",
        "http://u:p@x/",
        "http://x:no/",
        "http://x/?q=1",
        "http://x/#f",
    ],
)
def test_urls_that_cannot_be_right_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        PrometheusMetrics(url)
    assert "u:p" not in str(caught.value)


@asynccontextmanager
async def answering(clock_offset_s: float = 0.0) -> AsyncIterator[tuple[PrometheusServer, PrometheusMetrics]]:
    async with PrometheusServer(clock_offset_s=clock_offset_s) as server:
        now = server.now_ms()
        for i, pod in enumerate(("a", "b")):
            for t in range(10):
                labels = {"__name__": "requests_total", "pod": pod}
                server.store.append(labels, now - 10_000 + t * 1000, (i + 1) * t)
        async with client(server.url) as metrics:
            yield server, metrics


async def test_a_vector_comes_with_its_raw_bytes() -> None:
    async with answering() as (_, metrics):
        answer = await metrics.query('requests_total{pod="b"}')
    assert [(dict(s.labels), s.value) for s in answer.samples] == [
        ({"__name__": "requests_total", "pod": "b"}, 18.0)
    ]
    assert parse_answer(answer.raw) == (answer.samples, answer.warnings)
    assert json.loads(answer.raw)["status"] == "success"
    assert answer.evaluated_at == answer.samples[0].timestamp
    assert (answer.result_type, answer.warnings) == ("vector", ())
    assert parse_iso(answer.asked_at).tzinfo is UTC


async def test_the_back_ends_clock_offset_is_measured() -> None:
    async with answering(clock_offset_s=3600.0) as (_, metrics):
        answer = await metrics.query("requests_total")
        assert answer.clock_offset_s is not None
        assert 3590 < answer.clock_offset_s < 3610
        asked = parse_iso(answer.asked_at).timestamp()
        assert 3590 < answer.evaluated_at - asked < 3610


async def test_an_empty_answer_measures_its_clock_from_the_date_header() -> None:
    async with answering() as (_, metrics):
        answer = await metrics.query("missing")
    assert answer.samples == ()
    assert answer.clock_offset_s is not None
    assert abs(answer.clock_offset_s) < 10


async def test_asked_at_comes_from_the_given_clock() -> None:
    clock = VirtualClock(datetime(2025, 9, 23, 8, 0, tzinfo=UTC))
    async with PrometheusServer() as server:
        metrics = PrometheusMetrics(server.url, clock=clock)
        answer = await metrics.query("vector(1)")
        await metrics.close()
    assert answer.asked_at == "2025-09-23T08:00:00.000000Z"


async def test_a_query_at_a_time_says_so() -> None:
    async with answering() as (server, metrics):
        at = datetime.fromtimestamp(server.now_ms() / 1000, UTC) - timedelta(seconds=5.5)
        answer = await metrics.query("requests_total", at=at)
    assert len(answer.samples) == 2
    assert math.isclose(answer.evaluated_at, at.timestamp(), abs_tol=0.001)


async def test_a_range_keeps_fractions_of_a_second() -> None:
    async with answering() as (server, metrics):
        end = datetime.fromtimestamp(server.now_ms() // 1000 + 0.25, UTC)
        answer = await metrics.query_range(
            'requests_total{pod="a"}', start=end - timedelta(seconds=2), end=end, step=0.5
        )
    expected = [end.timestamp() - 2 + i * 0.5 for i in range(5)]
    assert [s.timestamp for s in answer.samples] == expected
    assert answer.result_type == "matrix"


async def test_connections_are_used_again() -> None:
    ports: set[int] = set()

    async def keep_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        while True:
            writer.write(http(GOOD))
            await writer.drain()
            await reader.readuntil(b"\r\n\r\n")

    async with hostile(keep_alive) as url, client(url) as metrics:
        for _ in range(5):
            await metrics.query("up")
    assert len(ports) == 1


async def test_many_queries_at_once_do_not_mix() -> None:
    async with answering() as (_, metrics):
        answers = await asyncio.gather(*(metrics.query(f"vector({n})") for n in range(20)))
    assert [answer.samples[0].value for answer in answers] == list(range(20))


FAULTS: dict[FaultMode, type[BackendError]] = {
    "unavailable": BackendUnreachable,
    "hang": BackendUnreachable,
    "drop": BackendUnreachable,
    "drip": BackendUnreachable,
    "garbage": BackendGarbage,
    "truncated": BackendGarbage,
}


@pytest.mark.parametrize("mode", FAULTS)
async def test_each_fault_of_the_stand_in_shows_and_clears(mode: FaultMode) -> None:
    async with answering() as (server, metrics):
        assert (await metrics.query("requests_total")).samples
        server.faults.set(mode, matching="requests")
        with pytest.raises(FAULTS[mode]):
            await metrics.query("requests_total", deadline=0.5)
        assert (await metrics.query("vector(1)")).samples  # only matching queries suffer
        server.faults.clear()
        assert (await metrics.query("requests_total")).samples


async def test_a_partial_answer_carries_its_warning() -> None:
    async with answering() as (server, metrics):
        server.faults.set("partial")
        answer = await metrics.query("requests_total")
    assert len(answer.samples) == 1
    assert answer.warnings
    assert parse_answer(answer.raw) == (answer.samples, answer.warnings)


async def test_nan_arrives_as_nan() -> None:
    async with answering() as (server, metrics):
        server.faults.set("nan")
        answer = await metrics.query("requests_total")
    assert [math.isnan(sample.value) for sample in answer.samples] == [True, True]


def test_importing_the_module_loads_no_http_library() -> None:
    code = "import sys, cockpit.backends.metrics; print(sorted({'requests', 'urllib3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
