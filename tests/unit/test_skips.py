"""What was skipped is counted by reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_three(number): pytest.skip("opa not there: run make backends")

@pytest.mark.skipif(True, reason="needs git")
def test_one(): pass

def test_well(): pass
"""


def test_the_reasons_are_counted_most_frequent_first(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [sys.executable, *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.skips")]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.partition("skipped, and why")[2].splitlines()
    assert re.split(r"\s+", told[1].strip(), maxsplit=1) == ["3", "opa not there: run make backends"]
    assert re.split(r"\s+", told[2].strip(), maxsplit=1) == ["1", "needs git"]
