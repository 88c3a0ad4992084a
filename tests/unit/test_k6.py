"""The k6 generator against programs that speak k6's form, rightly and wrongly (real: tests/real)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cockpit.backends.k6 import K6Generator, generator_for, installed, version_of
from cockpit.backends.k6_child import schedules, script, ticks
from cockpit.backends.load import LoadProfile, OpenLoopGenerator
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from cockpit.verdicts.rules.load_result import read_result

URL = "http://127.0.0.1:9"
Make = Callable[[str], Path]

# What stands in for k6: its flags, its script by standard input, its lines where --console-output says.
_PROGRAM = """#!{python}
import json, os, re, sys, time
if sys.argv[1:] == ["version"]:
    print({version!r})
    sys.exit(0)
flags = [one for one in sys.argv[2:-1]]
assert sys.argv[1] == "run" and sys.argv[-1] == "-", sys.argv
assert {{"--no-usage-report", "--address=", "--log-format=raw"}} <= set(flags), sys.argv
[place] = [one.partition("=")[2] for one in flags if one.startswith("--console-output=")]
first = sys.stdin.readline()
sys.stdin.read()
plan = json.loads(json.loads(re.fullmatch(r"const plan = JSON.parse\\((.*)\\);\\n", first)[1]))
out = open(place, "a")
def say(text): out.write(text + "\\n"); out.flush()
def due(name):
    one = plan["options"]["scenarios"][name]
    period = 10**15 // one["rate"]
    return [n * period // 1000 + 1 for n in range(int(one["duration"][:-2]) // period + 1)]
lines = [
    (own["index"], n, begun, 5000, 200) if n < own["count"] else (own["index"], n, begun, 0, "not-sent")
    for name, own in plan["services"].items()
    for n, begun in enumerate(due(name))
]
def tell(lines):
    for one in lines: say("%d %d %d %d %s" % one)
def end(iterations, *dropped):
    say(" ".join(map(str, ("end", iterations, *(dropped or [0] * len(plan["services"]))))))
{body}
"""
WELL = "tell(lines); end(len(lines))"


@pytest.fixture
def k6(tmp_path: Path) -> Make:
    """Return what makes a program named k6 that ends as told."""

    def make(body: str, version: str = "k6 v1.8.1 (go1.26.8, linux/amd64)") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "k6"
        text = _PROGRAM.format(python=sys.executable, version=version, body=textwrap.dedent(body))
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        return program

    return make


def profile(rps: float = 20, seconds: float = 1, *services: str) -> LoadProfile:
    return LoadProfile("baseline", rps, seconds, dict.fromkeys(services or ("web",), ("/a", "/b?c=1")))


async def test_what_k6_tells_becomes_a_result(k6: Make) -> None:
    result = await K6Generator(URL, "stage", k6(WELL)).run(profile(20, 1.5, "web", "gateway"))
    assert [one.service for one in result.services] == ["gateway", "web"]
    for one in result.services:
        assert (one.intended, one.good, one.errors, one.dropped, one.cut) == (30, 30, 0, 0, 0)
        assert one.good_in_window == 30 and 5 <= one.percentile_ms(0.95) <= 5.1 and one.late_ms <= 1
    assert result.by == "k6 1.8.1"
    assert read_result(result.raw) == result


async def test_dropped_late_cut_and_failed_requests_all_count(k6: Make) -> None:
    body = """
    sent = [lines[n] for n in range(20) if n not in (3, 4, 5)]  # k6 numbers on, whatever it dropped
    sent[0] = (0, 0, 40000, 5000, 200)  # 40 ms after it was due
    sent[1] = (0, 1, 50000, 5000, 503)
    sent[2] = (0, 2, 100000, 900000, 0)
    sent[-1] = (0, 99, 950000, 100000, 404)  # good, and after the sending ended
    tell(sent); end(len(sent), 3)
    """
    [one] = (await K6Generator(URL, "stage", k6(body)).run(profile())).services
    assert (one.intended, one.good, one.errors, one.dropped, one.cut) == (20, 15, 1, 3, 1)
    assert one.good_in_window == 14
    assert one.error_rate == pytest.approx(0.25)
    assert one.percentile_ms(0.95) == math.inf  # 4 of 20 were never answered
    assert max(one.late) == max(one.late, key=lambda index: index) and sum(one.late.values()) == 17
    assert 40 <= 1.01 ** max(one.late) <= 41


async def test_a_load_of_less_than_a_second_sends_no_more_than_it_says(k6: Make) -> None:
    [one] = (await K6Generator(URL, "stage", k6(WELL)).run(profile(20, 0.5))).services
    assert (one.intended, one.good, one.dropped) == (10, 10, 0)


async def test_what_was_due_and_not_begun_at_the_end_is_dropped(k6: Make) -> None:
    [one] = (await K6Generator(URL, "stage", k6("tell(lines[:15]); end(15)")).run(profile())).services
    assert (one.intended, one.good, one.dropped) == (20, 15, 5)


async def test_what_k6_sends_after_the_end_makes_up_for_nothing(k6: Make) -> None:
    body = """
    sent = [lines[n] for n in range(10)] + [(0, 10 + n, 1000001 + n * 50000, 5000, 200) for n in range(5)]
    tell(sent); end(15, 10)
    """
    [one] = (await K6Generator(URL, "stage", k6(body)).run(profile())).services
    assert (one.intended, one.good, one.dropped) == (20, 10, 10)


WRONG = {
    "no end": ("tell(lines)", "did not tell of its end"),
    "nothing": ("", "did not tell of its end"),
    "cut in a line": ("tell(lines[:5]); out.write('0 5 2500'); out.flush()", "something else"),
    "cut lines": ("tell(lines[:5]); end(len(lines))", "told of 5 requests and counted 26"),
    "one too many": ("tell(lines); end(len(lines) - 1)", "told of 26 requests and counted 25"),
    "twice": ("tell(lines + lines[:1]); end(len(lines) + 1)", "told twice of request 0"),
    "goes on": ("tell(lines); end(len(lines)); tell(lines[:1])", "went on after its end"),
    "of another load": ("tell(lines); end(len(lines), 0, 0)", "did not tell of its end"),
    "too many sent": ("tell([(0, n, n, 1, 200) for n in range(21)]); end(21)", "21 requests instead of 20"),
    "another service": ("say('1 0 0 5000 200'); end(1)", "something else"),
    "negative": ("say('0 0 0 -5 200'); end(1)", "something else"),
    "garbage": ("out.buffer.write(b'\\xff\\x00\\n'); out.flush()", "something else"),
    "a line without end": ("out.write('0' * 100000); out.flush()", "something else"),
    "too much": (
        "\nfor n in range(10**9): say('0 %d 0 1 200' % n)\n",
        "more than the 1050 requests",
    ),
    "fails": (
        "sys.stderr.write('x' * 10**6 + '\\nwhat\\x1b[2J it was\\n'); sys.exit(107)",
        "status 107: what.* it was",
    ),
    "fails at the end": (f"{WELL}; sys.exit(99)", "status 99"),
    "killed": ("os.kill(os.getpid(), 9)", "status -9"),
}


@pytest.mark.parametrize(("body", "said"), WRONG.values(), ids=WRONG.keys())
async def test_what_k6_must_not_tell_is_no_result(k6: Make, body: str, said: str) -> None:
    with pytest.raises(BackendGarbage, match=said):
        await K6Generator(URL, "stage", k6(body)).run(profile())


async def test_much_log_holds_nothing_up(k6: Make) -> None:
    body = f"sys.stderr.write('warning\\n' * 10**6); sys.stdout.write('x' * 10**6); {WELL}"
    [one] = (await K6Generator(URL, "stage", k6(body)).run(profile())).services
    assert one.good == 20


async def test_no_answer_at_all_is_unreachable(k6: Make) -> None:
    body = "tell([(*one[:4], 0) if one[4] == 200 else one for one in lines]); end(len(lines))"
    with pytest.raises(BackendUnreachable):
        await K6Generator(URL, "stage", k6(body)).run(profile())


def state(pid: int) -> str:
    """Return the kernel's letter for what a process does; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while state(pid) not in "ZX":  # noqa: ASYNC110 - the kernel tells nobody here
            await asyncio.sleep(0.02)


def written(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


async def pid_of(path: Path) -> int:
    async with asyncio.timeout(20):
        while not written(path).endswith("\n"):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
    return int(written(path))


HELD = "open({path!r}, 'w').write('%d\\n' % os.getpid())\nwhile True: time.sleep(60)"


async def test_a_cancelled_load_leaves_no_k6(k6: Make, tmp_path: Path) -> None:
    program = k6(HELD.format(path=str(tmp_path / "pid")))
    running = asyncio.create_task(K6Generator(URL, "stage", program).run(profile()))
    pid = await pid_of(tmp_path / "pid")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(pid)


async def test_k6_ends_with_a_cockpit_that_is_killed(k6: Make, tmp_path: Path) -> None:
    program = k6(HELD.format(path=str(tmp_path / "pid")))
    code = f"""
    import asyncio, pathlib
    from cockpit.backends.k6 import K6Generator
    from cockpit.backends.load import LoadProfile
    generator = K6Generator({URL!r}, "stage", pathlib.Path({str(program)!r}))
    asyncio.run(generator.run(LoadProfile("x", 20, 1, {{"web": ("/",)}})))
    """
    cockpit = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(code))
    try:
        pid = await pid_of(tmp_path / "pid")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(cockpit.pid, signal.SIGKILL)
        await cockpit.wait()
    await gone(pid)


# -- which one is chosen -------------------------------------------------------------------------------


def test_auto_takes_k6_where_it_is_installed(k6: Make, tmp_path: Path) -> None:
    program = k6(WELL)
    here, nowhere = str(program.parent), str(tmp_path)
    assert installed(here) == program.resolve() and installed(nowhere) is None
    assert isinstance(generator_for("auto", URL, "stage", path=here), K6Generator)
    assert isinstance(generator_for("auto", URL, "stage", path=nowhere), OpenLoopGenerator)
    assert isinstance(generator_for("builtin", URL, "stage", path=here), OpenLoopGenerator)
    assert generator_for("k6", URL, "stage", path=here).lacking == ""


async def test_k6_that_is_not_there_is_never_replaced(tmp_path: Path) -> None:
    generator = generator_for("k6", URL, "stage", path=str(tmp_path))
    assert isinstance(generator, K6Generator)
    assert "targets.load.generator" in generator.lacking
    with pytest.raises(UsageError, match="not on the PATH"):
        await generator.run(profile())


async def test_k6_that_is_gone_since_is_an_error(k6: Make) -> None:
    program = k6(WELL)
    generator = K6Generator(URL, "stage", program)
    program.unlink()
    with pytest.raises(BackendGarbage, match="No such file"):
        await generator.run(profile())


async def test_the_version_is_told(k6: Make) -> None:
    assert await version_of(k6(WELL)) == "1.8.1"
    assert await version_of(_versioned(k6, "k6 v0.57.0-rc1 (commit/50afd82c18, go1.23.6)")) == "0.57.0-rc1"
    with pytest.raises(BackendGarbage, match="does not tell a version"):
        await version_of(_versioned(k6, "something else"))


def _versioned(make: Make, version: str) -> Path:
    program = make(WELL)
    text = program.read_text(encoding="utf-8")
    program.write_text(text.replace("k6 v1.8.1 (go1.26.8, linux/amd64)", version), encoding="utf-8")
    return program


@pytest.mark.parametrize("environment", ["prod", "", "production"])
def test_load_goes_to_dev_and_stage_only(environment: str) -> None:
    with pytest.raises(BackendRefused):
        K6Generator(URL, environment, Path("/bin/true"))


@pytest.mark.parametrize(
    "wrong",
    [
        LoadProfile("x", 0, 1, {"a": ("/",)}),
        LoadProfile("x", 3000, 1, {"a": ("/",), "b": ("/",)}),
        LoadProfile("x", 1, 10_000, {"a": ("/",)}),
        LoadProfile("x", 1, 1, {"a": ()}),
        LoadProfile("x", 1, 1, {"a": ("@else.invalid/",)}),
        LoadProfile("x", 1, 1, {"a": ("/" + "x" * 2_000_000,)}),
    ],
)
async def test_load_out_of_bounds_is_refused(wrong: LoadProfile) -> None:
    with pytest.raises(UsageError):
        await K6Generator(URL, "stage", Path("/bin/true")).run(wrong)


# -- the script and the schedule -----------------------------------------------------------------------


def request(paths: list[str], rps: float = 20, seconds: float = 1) -> dict[str, object]:
    return {"url": URL, "rps": rps, "seconds": seconds, "timeout": 1, "under_way": 8, "paths": {"web": paths}}


@given(st.lists(st.text(), min_size=1))
def test_paths_are_data_in_the_script_never_code(paths: list[str]) -> None:
    due = schedules(20, 1, 1)
    first, _, code = script(request(paths), due).decode("ascii").partition("\n")
    literal = first.removeprefix("const plan = JSON.parse(").removesuffix(");")
    assert json.loads(json.loads(literal))["services"]["s0"]["paths"] == paths
    assert literal.isprintable() and '"' not in literal[1:-1].replace("\\\\", "").replace('\\"', "")
    assert code == script(request(["/"]), due).decode("ascii").partition("\n")[2]


@given(st.floats(0.5, 5000), st.floats(0.1, 60), st.integers(1, 5))
def test_k6_is_told_to_send_what_is_intended(rps: float, seconds: float, services: int) -> None:
    for one in schedules(rps, seconds, services):
        assert one.count == max(1, int(rps * seconds))
        assert one.count * one.period_ns + 0.2e9 <= one.lasts_ns and one.lasts_ns >= 1e9
        assert one.shift_ns < one.period_ns


@given(st.lists(st.integers(0, 10_000_000), max_size=40), st.integers(0, 10), st.integers(1, 10**8))
def test_every_request_has_a_tick_of_its_own(begun: list[int], dropped: int, period: int) -> None:
    begun = sorted(begun)
    found = ticks(begun, dropped, period)
    assert all(place <= tick <= place + dropped for place, tick in enumerate(found))
    assert sorted(set(found)) == found
    assert ticks(begun, 0, period) == list(range(len(begun)))


def test_a_stall_shows_as_lateness_and_a_drop_does_not() -> None:
    ms = 1_000_000
    assert ticks([0, 10_000, 50_000, 60_000], 3, 10 * ms) == [0, 1, 5, 6]  # 2, 3 and 4 found nobody free
    assert ticks([0, *[40_000] * 4, 50_000], 0, 10 * ms) == [0, 1, 2, 3, 4, 5]
