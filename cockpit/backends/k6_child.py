"""The child process of the k6 generator: starts k6, reads what it tells of each request, adds it up.

In a process of its own, as the built-in generator is: thousands of lines a second must not hold up what
moves traffic. The kernel ends both with whoever started them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from cockpit.base.text import visible
from cockpit.verdicts.rules.load_result import bucket_of

_SCRIPT = """
import http from 'k6/http';
import exec from 'k6/execution';

export const options = plan.options;

export function send() {
  const scenario = exec.scenario;
  const own = plan.services[scenario.name];
  const number = scenario.iterationInTest;
  const progress = scenario.progress;
  // Exact while the sending goes on; afterwards milliseconds must do.
  const begun = Math.round(
    progress < 1 ? progress * own.lasts_us : (Date.now() - scenario.startTime) * 1000,
  );
  if (number >= own.count) {
    console.log(`${own.index} ${number} ${begun} 0 not-sent`);
    return;
  }
  const before = exec.instance.currentTestRunDuration;
  let status = 0;
  try {
    const answer = http.get(plan.url + own.paths[number % own.paths.length], {
      redirects: 0,
      timeout: plan.timeout,
      responseType: 'none',
    });
    // 1000 to 1399, and from 1600 on: what went wrong below HTTP, even after a status was read.
    const code = answer.error_code;
    if (code < 1000 || (code >= 1400 && code < 1600)) status = answer.status;
  } catch (_) {
    status = 0;
  }
  const took = Math.round((exec.instance.currentTestRunDuration - before) * 1000);
  console.log(`${own.index} ${number} ${begun} ${took} ${status}`);
}

export function handleSummary(data) {
  const count = (name) => (name in data.metrics ? data.metrics[name].values.count : 0);
  const dropped = Object.keys(plan.services).map((name) => count(`dropped_iterations{scenario:${name}}`));
  console.log(`end ${count('iterations')} ${dropped.join(' ')}`);
  return {};
}
"""
# A service's index, the request's number, when it began (µs from the service's start), how long it took (µs).
_REQUEST = re.compile(rb"(\d{1,4}) (\d{1,9}) (\d{1,12}) (\d{1,12}) (\d{1,3}|not-sent)\n")
_END = re.compile(rb"end (\d{1,9})((?: \d{1,9})+)\n")
"""How many requests were begun, and how many of each service found nobody free."""
_VERSION = re.compile(r"\bv(\d+\.\d+\.\d+[-+.\w]{0,40})")
_MAX_LINE = 4096
_MAX_SAID = 4096
_SHORTEST_NS = 1_000_000_000
"""k6 runs no scenario for less than a second."""

_SLACK_NS = 250_000_000
"""k6 forgets what is due and not begun at the end. What it begins too many in that time is not sent."""

_PR_SET_PDEATHSIG = 1


class Garbage(Exception):
    """k6 did not say what it must; the text is for people."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When one service's requests are due: `count` of them, one each `period_ns`, from its own start on."""

    count: int
    period_ns: int
    shift_ns: int
    """Services take turns within an interval instead of all sending at once."""

    @property
    def lasts_ns(self) -> int:
        """How long k6 is told to send."""
        return max(self.count * self.period_ns + _SLACK_NS, _SHORTEST_NS)


@dataclass(slots=True)
class Sent:
    """What k6 told of one service's requests: when each began and how long it took, in µs; its status."""

    begun: list[tuple[int, int, int]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)


def schedules(rps: float, seconds: float, services: int) -> list[Schedule]:
    """Return the schedule of each service."""
    # k6 takes whole numbers: a millionth of a request a second is as near as it gets.
    period = int(1e15) // round(rps * 1e6)
    return [
        Schedule(max(1, int(rps * seconds)), period, number * period // services)
        for number in range(services)
    ]


def script(request: dict[str, Any], due: list[Schedule]) -> bytes:
    """Return what k6 runs; whatever comes from a plan is a string within it, read as JSON."""
    services, scenarios = {}, {}
    # Enough for answers that take as long as they may, within what may be under way in all.
    wanted = math.ceil(request["rps"] * request["timeout"])
    users = max(1, min(request["under_way"] // len(due), wanted))
    for index, (paths, one) in enumerate(zip(request["paths"].values(), due, strict=True)):
        services[f"s{index}"] = {
            "index": index,
            "paths": paths,
            "lasts_us": one.lasts_ns / 1000,
            "count": one.count,
        }
        scenarios[f"s{index}"] = {
            "executor": "constant-arrival-rate",
            "exec": "send",
            "rate": round(request["rps"] * 1e6),
            "timeUnit": "1000000s",
            "duration": f"{one.lasts_ns}ns",
            "startTime": f"{one.shift_ns}ns",
            "preAllocatedVUs": users,
            "maxVUs": users,
            "gracefulStop": f"{math.ceil(request['timeout']) + 5}s",
        }
    plan = {
        "url": request["url"],
        "timeout": f"{round(request['timeout'] * 1000)}ms",
        "services": services,
        "options": {
            "scenarios": scenarios,
            "discardResponseBodies": True,
            "systemTags": ["scenario"],
            # None to be held: with a name there, k6 counts for each service.
            "thresholds": {f"dropped_iterations{{scenario:{name}}}": [] for name in scenarios},
            "summaryTrendStats": ["max"],
        },
    }
    literal = json.dumps(json.dumps(plan, allow_nan=False))  # ASCII alone, quotes and backslashes escaped
    return f"const plan = JSON.parse({literal});\n{_SCRIPT}".encode("ascii")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Run k6 on a request and return the load result's document; raises Garbage, OSError."""
    version = version_of(request["program"])
    due = schedules(request["rps"], request["seconds"], len(request["paths"]))
    sent = [Sent() for _ in due]
    # Its end comes late on a busy machine, so there may be more than fit; this is against a flood.
    most = 1000 + 2 * sum(one.lasts_ns // one.period_ns for one in due)
    dropped: list[int] = []
    told = 0
    told_of = _lines(request["program"], script(request, due), request.get("authorities", ""))
    with contextlib.closing(told_of) as lines:
        for line in lines:
            if dropped:
                raise Garbage("k6 went on after its end")
            if end := _END.fullmatch(line):
                dropped = [int(one) for one in end[2].split()]
                if int(end[1]) != told:
                    raise Garbage(f"k6 told of {told} requests and counted {int(end[1])}")
                continue
            told += 1
            if told > most:
                raise Garbage(f"k6 told of more than the {most} requests it was to send")
            _read(line, sent)
    if len(dropped) != len(due):
        raise Garbage("k6 did not tell of its end")
    services = {
        service: _counted(one, own, lost, request["seconds"])
        for service, one, own, lost in zip(request["paths"], sent, due, dropped, strict=True)
    }
    return {
        "profile": request["profile"],
        "rps": request["rps"],
        "seconds": request["seconds"],
        "by": f"k6 {version}",
        "generator": "constant arrival rate, latency from the intended start",
        "dropped_iterations": sum(dropped),
        "services": services,
    }


def version_of(program: str) -> str:
    """Return the version k6 tells of itself, e.g. `1.8.1`; raises Garbage, OSError."""
    with _started([program, "version"], (), {}, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.read(_MAX_SAID).decode(errors="replace")
    found = _VERSION.search(said)
    if child.returncode != 0 or found is None:
        raise Garbage(f"{visible(program, limit=200)} does not tell a version of k6")
    return found[1]


def _read(line: bytes, sent: list[Sent]) -> None:
    found = _REQUEST.fullmatch(line)
    if found is None or int(found[1]) >= len(sent):
        raise Garbage("k6 told something else than its requests")
    one, number = sent[int(found[1])], int(found[2])
    if number in one.numbers:
        raise Garbage(f"k6 told twice of request {number}")
    one.numbers.add(number)
    if found[5] != b"not-sent":
        one.begun.append((int(found[3]), int(found[4]), int(found[5])))


def _counted(sent: Sent, due: Schedule, lost: int, seconds: float) -> dict[str, Any]:
    """Return a service's counts and buckets; what was never sent, for whatever reason, is dropped."""
    begun = sorted(sent.begun)
    if len(begun) > due.count:
        raise Garbage(f"k6 sent {len(begun)} requests instead of {due.count}")
    # After drops k6 sends in the slack what it lacks: that was not due any more, and counts for nothing.
    timely = [
        (tick, *one)
        for tick, one in zip(ticks([start for start, _, _ in begun], lost, due.period_ns), begun, strict=True)
        if tick < due.count
    ]
    good = good_in_window = errors = cut = 0
    buckets: dict[int, int] = {}
    late: dict[int, int] = {}
    for tick, start, took, status in timely:
        behind = max(0.0, start - tick * due.period_ns / 1000) / 1e6
        _add(late, behind)
        if not 100 <= status <= 599:
            cut += 1
            continue
        _add(buckets, behind + took / 1e6)
        if status >= 500:
            errors += 1
        else:
            good += 1
            good_in_window += (start + took) * 1000 + due.shift_ns <= seconds * 1e9
    return {
        "intended": due.count,
        "good": good,
        "good_in_window": good_in_window,
        "errors": errors,
        "dropped": due.count - len(timely),
        "cut": cut,
        "buckets": {str(index): buckets[index] for index in sorted(buckets)},
        "late": {str(index): late[index] for index in sorted(late)},
    }


def ticks(begun: list[int], dropped: int, period_ns: int) -> list[int]:
    """Return which tick of the schedule each request was due at; `begun` is sorted, in µs.

    Without drops that is its place in the order. k6 does not say at which ticks it dropped: between the
    first and the last tick a request can have been due at, the last one it can have begun for is taken.
    """
    found = [0] * len(begun)
    following = len(begun) + dropped
    for place in range(len(begun) - 1, -1, -1):
        passed = begun[place] * 1000 // period_ns
        following = found[place] = max(place, min(place + dropped, passed, following - 1))
    return found


def _add(buckets: dict[int, int], seconds: float) -> None:
    index = bucket_of(seconds)
    buckets[index] = buckets.get(index, 0) + 1


def _lines(program: str, text: bytes, authorities: str) -> Generator[bytes, None, None]:
    """Run k6 on a script and yield what the script tells, line by line; raises Garbage when k6 fails.

    The script's lines come by a pipe of their own: in k6's log are texts of the server as well.
    """
    told, telling = os.pipe()
    command = [
        *(program, "run", "--no-usage-report", "--address=", "--quiet", "--no-color", "--no-thresholds"),
        *("--log-format=raw", "--log-output=stderr", f"--console-output=/dev/fd/{telling}", "-"),
    ]
    with open(told, "rb") as lines, _in_memory(authorities) as trusted:  # noqa: PTH123 - a descriptor
        # In place of the machine's bundle; its folders of authorities are read all the same.
        more = {"SSL_CERT_FILE": f"/dev/fd/{trusted}"} if authorities else {}
        streams = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            child = _started(command, (telling, trusted), more, **streams)
        finally:
            os.close(telling)
        with child:
            tail = _Tail(child.stderr)
            try:
                assert child.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(text)
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
                while line := lines.readline(_MAX_LINE):
                    yield line
                status = child.wait()
            finally:
                child.kill()
                said = tail.last()
        if status != 0:
            raise Garbage(f"k6 ended with status {status}: {said}".rstrip(": "))


@contextlib.contextmanager
def _in_memory(text: str) -> Generator[int, None, None]:
    with open(os.memfd_create("authorities"), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(text.encode())
        file.flush()
        yield file.fileno()


def _started(
    command: list[str], keep: tuple[int, ...], more: Mapping[str, str], **streams: int
) -> subprocess.Popen[bytes]:
    environment = {
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",  # no configuration of somebody's
        "K6_NO_USAGE_REPORT": "true",
        "K6_AUTO_EXTENSION_RESOLUTION": "false",  # nothing is brought from anywhere
        **more,
    }
    streams = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    } | streams
    parent = os.getpid()

    def ended_with_it() -> None:
        end_with_parent()
        if os.getppid() != parent:  # it ended before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)

    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # noqa: S603 - no shell
        command, cwd="/", env=environment, pass_fds=keep, preexec_fn=ended_with_it, **streams
    )


def end_with_parent() -> None:
    """Have the kernel kill this process with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class _Tail:
    """The last of what k6 logs; the rest is read and forgotten."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._read, name="k6's log", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while said := self._stream.read1(_MAX_SAID):  # type: ignore[attr-defined]
            self._kept = (self._kept + said)[-_MAX_SAID:]

    def last(self) -> str:
        """Return the last line, of a k6 that has ended."""
        self._thread.join(timeout=5)
        return visible(self._kept.decode(errors="replace").strip().rpartition("\n")[2], limit=300)


def main() -> int:
    """Measure one profile, or tell the version."""
    end_with_parent()
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    try:
        found = measure(request) if "paths" in request else {"version": version_of(request["program"])}
    except (Garbage, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.write(json.dumps(found, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
