"""Makes the sample recordings again: `make recordings`. Needed after an event, the state or a rule changed.

A sample is what replaying and verifying need: journal, heads, final state, summary, plan. Blobs and packs are
left out for their size.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.e2e.rehearsals import rehearse

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"
SAMPLES = {"green": ("green", 0), "breach": ("slo-breach-50", 20)}
KEPT = ("journal.jsonl", "state.json", "summary.json", "release.yaml", "release_notes.md", "junit.xml")


def main() -> int:
    """Rehearse each sample and keep its recording; return 0, or 1 when a rehearsal ended otherwise."""
    for name, (scenario, code) in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            ended = rehearse(Path(folder) / "run", scenario)
            if ended.code != code:
                print(
                    f"{scenario} ended with {ended.code}, not {code}:\n{ended.out}{ended.err}",
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
