"""A stand-in for the conductor: `python conductor.py RUN_DIR ACTS [--resume]`.

`ACTS` has one word for each start, the last one for all that follow: `crash`, `hang` (no heartbeat after the
first), `deaf` (beats, ignores everything), `wait` (beats until SIGTERM, then ends with 30), `hard` (ends at
the second SIGTERM, its run open), or an exit code. `halted` holds what a HALT said that lay
there when it began, `told` what it was told.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    folder, acts = Path(sys.argv[1]), sys.argv[2].split(",")
    log = folder / "starts"
    starts = log.read_text().splitlines() if log.exists() else []
    act = acts[min(len(starts), len(acts) - 1)]
    asked: list[int] = []
    if act == "deaf":
        signal.signal(signal.SIGTERM, lambda *_: None)
    else:
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    with log.open("a") as file:
        file.write(f"{act} {os.getpid()} {'resume' if '--resume' in sys.argv else 'first'}\n")
    if (folder / "halt.request").exists():
        (folder / "halted").write_text((folder / "halt.request").read_text())
    if "--told" in sys.argv:
        (folder / "told").write_text(sys.argv[sys.argv.index("--told") + 1])
    beat = folder / "heartbeat"
    if act == "crash":
        return 1
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act.isdigit():
        (folder / "exit").write_text(act)
        return int(act)
    beat.touch()
    while True:
        time.sleep(0.02)
        if act != "hang":
            os.utime(beat)
        if act == "hard":
            (folder / "asked").write_text(str(len(asked)))
            if len(asked) > 1:
                return 75
        if act == "wait" and asked:
            (folder / "exit").write_text("30")
            return 30


if __name__ == "__main__":
    sys.exit(main())
