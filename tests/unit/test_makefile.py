"""What `make test` takes for a success: a run that passed, or whose failures passed alone; nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.parametrize(
    ("codes", "runs", "well"),
    [
        ((0,), 1, True),
        ((1, 0), 2, True),
        ((1, 1), 2, False),
        ((1, 5), 2, False),  # nothing was found to run again
        ((2, 0), 1, False),  # interrupted
        ((3, 0), 1, False),  # pytest itself broke
        ((5, 0), 1, False),  # nothing was collected
        ((137, 0), 1, False),  # killed
    ],
)
def test_only_failures_are_tried_again(tmp_path: Path, codes: tuple[int, ...], runs: int, well: bool) -> None:
    said = tmp_path / "said"
    said.touch()
    program = tmp_path / "pytest"
    cases = "".join(f"{number}) exit {code};; " for number, code in enumerate(codes, 1))
    program.write_text(f'#!/bin/sh\necho "$*" >> {said}\ncase $(wc -l < {said}) in {cases}esac\n')
    program.chmod(0o755)
    rules = f'include {MAKEFILE}\ntry:\n\t@$(call tested,{program},-n 2,"a and not b")\n'
    done = subprocess.run(
        ["make", "-f", "-", "try"], input=rules, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode == 0) is well, done
    calls = said.read_text().splitlines()
    assert len(calls) == runs
    assert calls[0] == "-n 2 -m a and not b tests"
    assert all("--last-failed" in call and "no:xdist" in call for call in calls[1:])
