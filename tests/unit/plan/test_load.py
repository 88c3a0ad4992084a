"""Loading a plan: every problem at once, with its line and what would be right, whatever the bytes are."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cockpit.base.errors import PlanError, UsageError
from cockpit.plan.load import MAX_PLAN_BYTES, load_plan, parse_plan
from cockpit.rehearsal.release_plan import dump
from tests.unit.plan.test_refuse import data

GOOD = dump(data())


def problems(text: str | bytes) -> tuple[str, ...]:
    """Return what is wrong with a plan's text; each with the line it stands on."""
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(PlanError) as error:
        parse_plan(raw, "release.yaml", base=Path())
    found = error.value.problems
    assert found
    assert len(str(error.value)) < 1000
    for problem in found:
        assert re.match(r"release\.yaml:\d+: ", problem), problem
        assert "Traceback" not in problem
        assert len(problem) < 1000
        assert not set(problem) & {"\x1b", "\x00", "\n"}
    return found


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new, 1)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def only(text: str, part: str) -> str:
    """Return the one problem of a plan, which must stand at the line that holds `part`."""
    (problem,) = problems(text)
    assert problem.startswith(f"release.yaml:{line_of(text, part)}: "), problem
    return problem


def test_a_good_plan_is_read_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(GOOD, encoding="utf-8")
    loaded = load_plan(path)
    assert loaded.raw == GOOD.encode()
    assert re.fullmatch("[0-9a-f]{64}", loaded.sha256)
    assert loaded.base == tmp_path.resolve()
    assert loaded.plan.target_version == "v3.0.0"
    assert loaded.plan.window_utc.start < loaded.plan.window_utc.end


def test_the_window_of_the_seed_is_understood() -> None:
    text = re.sub(r"window_utc: .*", "window_utc: 2025-09-23 08:00 → 12:00", GOOD)
    window = parse_plan(text.encode(), "release.yaml", base=Path()).plan.window_utc
    assert (window.start, window.end) == (
        datetime(2025, 9, 23, 8, tzinfo=UTC),
        datetime(2025, 9, 23, 12, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("old", "new", "part", "says"),
    [
        ("required_passes:", "required_pases:", "required_pases", "did you mean `required_passes`?"),
        ("namespace: intelgraph", "namespase: intelgraph", "namespase", "did you mean `namespace`?"),
        ("bake: 8s", "bake: soon", "bake: soon", "30s, 5m or 1h30m"),
        ("bake: 8s", "bake: 0s", "bake: 0s", "longer than nothing"),
        ("bake: 8s", "bake: 0.4ms", "bake: 0.4ms", "a millisecond at least"),
        ("on_halt: ask", "on_halt: whatever", "on_halt", "'ask' or 'rollback'"),
        ("headroom_target: 0.2", "headroom_target: 1.5", "headroom_target", "less than 1"),
        ("target_version: v3.0.0", "target_version: three", "target_version", "form"),
        ("agent_deadline: 60s", "agent_deadline: never", "agent_deadline", "30s"),
        ("environment: prod", "environment: moon", "environment", "prod"),
        ("format: 1", "format: 2", "format", "1"),
        ("failure_limit: 2", "failure_limit: 99", "failure_limit: 99", "cannot be reached"),
        ("min_requests: 50", "min_requests: 1", "min_requests: 1", "prove nothing"),
        ("threshold: error_rate<0.01", "threshold: error_rate<=1", "error_rate<=1", "every value"),
        ("repo: intelgraph-platform", "repo: [a]", "repo: [a]", "string"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_line_and_what_would_be_right(
    old: str, new: str, part: str, says: str
) -> None:
    found = problems(changed(old, new))
    line = line_of(changed(old, new), part)
    assert any(p.startswith(f"release.yaml:{line}: ") and says in p for p in found), found


def test_all_problems_come_at_once_in_their_order() -> None:
    text = GOOD.replace("on_halt: ask", "on_halt: whatever").replace(
        "headroom_target: 0.2", "headroom_target: 7"
    )
    text = text.replace("repo: intelgraph-platform\n", "").replace("bake: 8s", "bake: soon")
    found = problems(text)
    assert len(found) == 4
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert any("repo: is missing" in problem for problem in found)


def test_all_that_cannot_fail_comes_at_once() -> None:
    text = GOOD.replace("failure_limit: 2", "failure_limit: 99").replace(
        "min_requests: 50", "min_requests: 1"
    )
    assert len(problems(text)) == 2


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("format: 1", "format: 1\nformat: 1", ""),
        ("repo: intelgraph-platform", "repo:\tintelgraph\n\tx: 1", ""),
        ("repo: intelgraph-platform", "repo: [intelgraph", ""),
        ("repo: intelgraph-platform", "repo: 'intelgraph", ""),
        ("repo: intelgraph-platform", "repo: *nowhere", "*nowhere"),
        ("repo: intelgraph-platform", "repo: !!python/object/apply:os.system [id]", "python"),
        ("repo: intelgraph-platform", "repo: {{ version }}", ""),
    ],
)  # fmt: skip
def test_what_is_not_yaml_says_where(old: str, new: str, part: str) -> None:
    text = changed(old, new)
    found = problems(text)
    if part:
        assert any(problem.startswith(f"release.yaml:{line_of(text, part)}: ") for problem in found), found


def test_a_key_that_stands_twice_is_named() -> None:
    problem = only(changed("on_halt: ask", "on_halt: ask\non_halt: rollback"), "on_halt: rollback")
    assert "on_halt" in problem
    assert "http" not in problem


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n", b"- a\n", b"just text", b"7", b"~", b"--- \n...\n",
     b"%YAML 9.9\n---\na: 1\n", b"a: 1\n---\nb: 2\n"],
)  # fmt: skip
def test_what_is_no_plan_at_all_is_one_clear_problem(raw: bytes) -> None:
    assert problems(raw)


def test_text_that_is_not_utf8_says_at_which_line() -> None:
    (problem,) = problems(b"format: 1\nrepo: caf\xe9\n")
    assert problem.startswith("release.yaml:2: ")
    assert "UTF-8" in problem
    assert problems(GOOD.encode("utf-16"))


SECRETS = [
    ("token: file:t", "token: hunter2-hunter2", "token: hunter2"),
    ("token: file:t", "token: 1234567890123", "token: 1234"),
    ("token: file:t", "token: {ref: hunter2-hunter2}", "ref: hunter2"),
    ("token: file:t", "token: [hunter2-hunter2]", "token: [hunter2"),
    ("token: file:t", "token: 'env:'", "token: 'env:'"),
    ("url: http://127.0.0.1:1", "url: http://ann:hunter2-hunter2@127.0.0.1:1", "ann:hunter2"),
    ("repo: intelgraph-platform", "repo: ghp_hunter2hunter2hunter2hunter2", "ghp_"),
    ("path: repo", "path: https://ann:hunter2-hunter2@forge.example/repo", "ann:hunter2"),
]


@pytest.mark.parametrize(("old", "new", "part"), SECRETS)
def test_a_secret_written_into_the_plan_is_refused_and_not_repeated(old: str, new: str, part: str) -> None:
    text = changed(old, new)
    found = problems(text)
    assert any(problem.startswith(f"release.yaml:{line_of(text, part)}: ") for problem in found), found
    assert any("env:NAME or file:PATH" in problem for problem in found), found
    for problem in found:
        assert "hunter2" not in problem
        assert "1234567890123" not in problem


NUMBERS = {
    "inf": ".inf", "nan": ".nan", "-inf": "-.inf", "1e999": "1e999", "long duration": "9" * 400 + "s",
    "long number": "9" * 5000, "long hex": "0x" + "f" * 5000, "underscores": "1" + "_0" * 3000, "-1s": "-1s",
}  # fmt: skip


@pytest.mark.parametrize("value", list(NUMBERS))
@pytest.mark.parametrize(
    "field", ["bake", "rto", "drain", "headroom_target", "failure_limit", "query_deadline"]
)
def test_numbers_no_clock_can_wait_for_are_refused(field: str, value: str) -> None:
    text = re.sub(rf"(?m)^( *){field}: .*$", rf"\g<1>{field}: {NUMBERS[value]}", GOOD, count=1)
    line = line_of(text, f" {field}: " if f" {field}: " in text else f"{field}: ")
    assert any(problem.startswith(f"release.yaml:{line}: ") for problem in problems(text))


@pytest.mark.parametrize(
    "window",
    [
        "never", "2025-09-23 08:00", "2025-09-23 12:00 → 2025-09-23 08:00", "9999-12-31 23:00 → 01:00",
        "2025-13-45 08:00 → 12:00", "2025-09-23 25:00 → 26:00", "[a, b]",
        "{start: 2025-09-23, end: 2025-09-24}",
        "{start: 0001-01-01T00:00:00+23:00, end: 2025-09-24T00:00:00Z}",
        "'0001-01-01T00:00:00+23:00 → 12:00'",
    ],
)  # fmt: skip
def test_a_window_that_is_none_is_refused(window: str) -> None:
    text = re.sub(r"(?m)^window_utc: .*$", lambda _: f"window_utc: {window}", GOOD)
    assert any("window_utc" in problem for problem in problems(text))


def test_aliases_cannot_make_a_plan_explode() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert problems(laughs)
    assert problems("a: &a [*a]\n")
    assert problems("a: &a {b: *a}\n")


def test_very_many_problems_are_told_in_part() -> None:
    found = problems("".join(f"k{number}: 1\n" for number in range(2000)))
    assert len(found) <= 110
    assert any(" more" in problem for problem in found)


def test_a_file_that_cannot_be_read_is_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "huge.yaml").write_bytes(b"#" * (MAX_PLAN_BYTES + 1))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for path in (
        tmp_path / "none.yaml",
        tmp_path,
        tmp_path / "huge.yaml",
        tmp_path / "loop.yaml",
        Path("/dev/zero"),
    ):
        with pytest.raises(UsageError) as error:
            load_plan(path)
        assert str(path) in str(error.value)


def _read(raw: bytes) -> None:
    try:
        parse_plan(raw, "release.yaml", base=Path())
    except (PlanError, UsageError) as error:
        str(error)


@given(
    st.one_of(
        st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
    )
)
@settings(max_examples=100, deadline=None, derandomize=True)
@example(b"? [a]: b")
@example(b"? {a: b}\n: c")
@example(b"!!set {a, b}")
@example(b"!!omap [a: 1]")
@example(b"!!binary aGk=")
@example(b"!!timestamp 2025-99-99")
@example(b"a: 2025-99-99")
@example(b"a: 2025-01-01T99:99:99Z")
@example(b"<<: {a: 1}\n<<: [b]")
@example(b"<<: 7")
@example(b"a: !!int x")
@example(b"a: !!float x")
@example(b"a: !!bool x")
@example(b"a: 0b2\nb: 0o9\nc: 1:99:99")
@example(b"[" * 200)
@example(b"a:\n" + b"".join(b" " * n + b"-\n" for n in range(300)))
@example(b"%TAG ! tag:x,1:\n--- !a b")
@example(b"&a &b c")
@example(b"\xef\xbb\xbfformat: 1")
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    _read(raw)


SNIPPETS = st.sampled_from(
    ["~", "[]", "{}", "-1", ".nan", "''", "1e999", "[1, 2]", "{a: b}", "true", "2025-09-23", "&x 1", "*x",
     "!!x y", "|", "0x" + "f" * 5000, "?", "- -", "\t", "@", "`", "%", "'", "env:", "sha256:"]
)  # fmt: skip


@given(st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_change_of_a_plan_raises_anything_else(data: st.DataObject) -> None:
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        change: Callable[[str], str] = data.draw(
            st.sampled_from([lambda _: "", lambda line: line + " " + line.strip(), lambda line: " " + line])
        )
        key = re.match(r"[ -]*[\w\"]+:", lines[at])
        if key and data.draw(st.booleans()):
            lines[at] = f"{key.group()} {data.draw(SNIPPETS)}"
        else:
            lines[at] = change(lines[at])
    _read("\n".join(lines).encode())
