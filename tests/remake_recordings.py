"""Makes the sample recordings again: `make recordings`. Needed after an event, the state or a rule changed.

A sample is what replaying and verifying need: journal, heads, final state, summary, plan. Blobs and packs are
left out for their size.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cockpit.journal.events import HaltBegan, LookTaken
from tests.e2e.rehearsals import Rehearsed, Running, cockpit, rehearse

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"
KEPT = ("journal.jsonl", "state.json", "summary.json", "release.yaml", "release_notes.md", "junit.xml")


def halted(folder: Path) -> Rehearsed:
    """Rehearse a release that broke glass; halt it at its second step, then roll it back."""
    running = Running(folder, "break-glass")
    try:
        running.wait_for(lambda event: isinstance(event, LookTaken) and event.step == 2, within=240.0)
        cockpit("halt", "--run", str(folder), "--reason", "support reports slow searches")
        running.wait_for(lambda event: isinstance(event, HaltBegan))
        reason = "the reports are confirmed; no risk is taken under broken glass"
        cockpit("rollback", "--run", str(folder), "--reason", reason, "--wait")
        return running.end()
    finally:
        if running.process.poll() is None:
            running.stop()


SAMPLES: dict[str, tuple[Callable[[Path], Rehearsed], int]] = {
    "green": (lambda folder: rehearse(folder, "green"), 0),
    "breach": (lambda folder: rehearse(folder, "slo-breach-50"), 20),
    "halt": (halted, 20),
}


def main() -> int:
    """Rehearse each sample and keep its recording; return 0, or 1 when a rehearsal ended otherwise."""
    for name, (make, code) in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            ended = make(Path(folder) / "run")
            if ended.code != code:
                print(
                    f"{name} ended with {ended.code}, not {code}:\n{ended.out}{ended.err}",
                    file=sys.stderr,
                )
                return 1
            target = RECORDINGS / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ended.folder / "heads", target / "heads")
            for file in KEPT:
                shutil.copyfile(ended.folder / file, target / file)
            print(f"{name}: {len(ended.events)} records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
