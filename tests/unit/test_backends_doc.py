"""docs/backends.md counts its contract tests as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| [^|]+ \| [^|]+ \| ([a-z_, ]+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def _collected(expression: str) -> Counter[str]:
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"),
            *("-m", expression, "tests/contract"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    files = [line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line]
    return Counter(Path(file).stem.removeprefix("test_") for file in files)


@pytest.mark.long
def test_the_numbers_of_contract_tests_are_those_collected() -> None:
    counted = [_collected("not real and not long"), _collected("real and not long")]
    rows = ROW.findall((ROOT / "docs" / "backends.md").read_text(encoding="utf-8"))
    assert len(rows) >= 6
    for suites, *numbers in rows:
        found = [sum(counts[suite] for suite in suites.split(", ")) for counts in counted]
        assert [int(number) for number in numbers] == found, suites
