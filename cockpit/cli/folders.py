"""Run folders: where a new one goes, which one a command means."""

from __future__ import annotations

from pathlib import Path

from cockpit.base.errors import UsageError
from cockpit.base.files import write_private

DEFAULT_ROOT = Path("artifacts/release")
JOURNAL = "journal.jsonl"
RUN_ID = "run.id"


def new_run(out: Path | None, version: str, run_id: str) -> Path:
    """Make the folder of a new run, called by its id, and return it.

    Raises UsageError when it holds a run already, or cannot be made. The id is left in `run.id`, where the
    conductor finds it.
    """
    folder = (out or DEFAULT_ROOT / version / run_id).absolute()
    if (folder / JOURNAL).exists():
        raise UsageError(
            "a run was recorded here already", where=str(folder), hint="give another --out, or `run --resume`"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(folder / RUN_ID, run_id.encode())
    except OSError as error:
        raise UsageError(f"cannot write there: {error.strerror}", where=str(folder)) from None
    return folder


def find_run(given: Path | None) -> Path:
    """Return the run folder meant: the one given, this folder, or the newest below artifacts/release."""
    if given is not None:
        if not (given / JOURNAL).is_file():
            raise UsageError(
                "no run is recorded there", where=str(given), hint="name a run folder with --run"
            )
        return given
    if Path(JOURNAL).is_file():
        return Path.cwd()
    found = sorted(DEFAULT_ROOT.glob(f"*/*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError("no run was found", where=str(DEFAULT_ROOT), hint="name a run folder with --run")
    return found[-1].parent
