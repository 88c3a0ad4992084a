"""An agent that is not ours, for tests: `external_agent.py HOW [FILE]` behaves as HOW says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STAY = "import time; time.sleep(600)"


def answer(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "phase": request["phase"], "agent": os.environ["COCKPIT_AGENT_NAME"], "result": "ok",
        "notes": "measured elsewhere", "next": "go on", "trace_id": request["trace_id"], **changes,
    }  # fmt: skip


def verdict(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    release = request["inputs"]["params"]["release"]
    details = {
        "phase_gate": "supply_chain", "outcome": "pass", "reason": "all signed",
        "judged": {**release["judged"], "valid_s": 9e9}, **changes.pop("details", {}),
    }  # fmt: skip
    return {
        "gate": "supply_chain", "env": request["scope"]["env"], "verdict": "pass", "details": details,
        "metrics": {"unsigned": 0}, "thresholds": ["unsigned==0"], **changes,
    }  # fmt: skip


def say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main() -> int:
    how = sys.argv[1]
    file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if how == "deaf":
        say({"not": "an answer"})
        return 0
    request = json.loads(sys.stdin.readline())
    if how == "good":
        print("a word to standard error", file=sys.stderr)
        say(answer(request, verdicts=[verdict(request)] if request["op"] == "VERIFY" else []))
    elif how == "fail":
        say(answer(request, result="fail"))
    elif how == "says-pass":
        say(answer(request, verdicts=[verdict(request, metrics={"unsigned": 3})]))
    elif how == "no-threshold":
        say(answer(request, verdicts=[verdict(request, thresholds=[])]))
    elif how == "environment":
        assert file is not None
        file.write_text(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "request": request}))
        say(answer(request))
    elif how == "artifact":
        Path(os.environ["COCKPIT_ARTIFACTS"], "report.json").write_bytes(b"{}")
        say(answer(request, artifacts=[
            {"path": "A15/report.json", "sha256": hashlib.sha256(b"{}").hexdigest(), "type": "report"}
        ]))  # fmt: skip
    elif how == "artifact-named":
        Path(os.environ["COCKPIT_ARTIFACTS"], "report.json").write_bytes(b"{}")
        assert file is not None
        say(answer(request, artifacts=[
            {"path": str(file), "sha256": hashlib.sha256(b"{}").hexdigest(), "type": "report"}
        ]))  # fmt: skip
    elif how == "artifact-link":
        folder = Path(os.environ["COCKPIT_ARTIFACTS"])
        assert file is not None
        (folder / "report.json").unlink(missing_ok=True)
        (folder / "report.json").symlink_to(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        say(answer(request, artifacts=[{"path": "A15/report.json", "sha256": digest, "type": "report"}]))
    elif how == "artifact-pipe":
        folder = Path(os.environ["COCKPIT_ARTIFACTS"])
        if not (folder / "report.json").exists():
            os.mkfifo(folder / "report.json")
        say(answer(request, artifacts=[{"path": "A15/report.json", "sha256": "0" * 64, "type": "report"}]))
    elif how == "other-trace":
        say(answer(request, trace_id="f" * 32))
    elif how == "other-agent":
        say(answer(request, agent="Somebody Else"))
    elif how == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x00 not json\n")
    elif how == "half":
        sys.stdout.write(json.dumps(answer(request))[:-5])
    elif how == "two":
        say(answer(request))
        say(answer(request))
    elif how == "silent":
        pass
    elif how == "status":
        say(answer(request))
        print("token=hunter2secret", file=sys.stderr)
        return 3
    elif how == "huge":
        for _ in range(1600):
            sys.stdout.buffer.write(b"x" * 65536)
    elif how == "noisy":
        for _ in range(800):
            sys.stderr.buffer.write(b"x" * 65536)
        sys.stderr.write("the end")
        sys.stderr.flush()
        say(answer(request))
    elif how == "late":
        assert file is not None
        file.write_text(str(os.getpid()))
        time.sleep(600)
    elif how in ("leaves", "leaves-session"):
        assert file is not None
        left = subprocess.Popen(
            [sys.executable, "-c", STAY], start_new_session=how == "leaves-session"
        )  # it holds our standard output open
        file.write_text(str(left.pid))
        say(answer(request))
        left.returncode = 0  # not waited for
    elif how == "late-with-child":
        assert file is not None
        left = subprocess.Popen([sys.executable, "-c", STAY], start_new_session=True)
        file.write_text(str(left.pid))
        time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
