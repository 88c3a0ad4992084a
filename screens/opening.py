"""Opening the details and pages, and reading what belongs to them from the run folder, in a thread."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.journal.blobs import BlobStore
from cockpit.journal.reader import JOURNAL_NAME, read_lines
from cockpit.journal.state_people import RequestView
from cockpit.screens.detail import Detail, Help
from cockpit.screens.facts import blob_of, pretty
from cockpit.screens.feed import ReplayFeed
from cockpit.screens.planned import Planned, planned
from cockpit.screens.recording import read_recording
from cockpit.screens.sheet import Stored, Subject
from cockpit.screens.view import Chain, View

if TYPE_CHECKING:
    from cockpit.screens.app import CockpitApp

_NOTES = "artifacts/release_notes.md"
_FALLBACK = "fallback.txt"
_MOST_BYTES = 200_000
_GONE = "This cannot be read: it is not in the run folder, or was redacted."


class Opening:
    """Shows subjects in full."""

    def __init__(self, app: CockpitApp, run_dir: Path | None) -> None:
        self._app = app
        self._run_dir = run_dir

    def page(self, kind: str) -> None:
        """Show a page; the key of the page that is open closes it."""
        screen = self._app.screen
        if isinstance(screen, Detail) and screen.subject.kind == kind:
            self._app.pop_screen()
        else:
            self.subject(Subject(kind))

    def subject(self, subject: Subject) -> None:
        """Show all about something; what is stored in the run folder follows when it has been read."""
        app, view = self._app, self._app.view
        detail = Detail(app.look, subject)
        if isinstance(app.screen, (Detail, Help)):
            app.pop_screen()
        app.push(detail)
        if self._has_more(view, subject):
            app.run_worker(
                lambda: self._read(detail, view), name="stored", group="stored", exclusive=True, thread=True
            )

    def plan(self, digest: str) -> Planned | None:
        """Read the facts of the run's plan; nothing when it is not there. In a thread."""
        data = self._blob(digest)
        return planned(data) if data is not None else None

    def verify(self, feed: ReplayFeed) -> None:
        """Read and judge a recording. In a thread."""
        if self._run_dir is not None:
            app = self._app
            chain = read_recording(
                self._run_dir, lambda events: app.call_from_thread(feed.replay.extend, events)
            )
            app.call_from_thread(self._judged, feed, chain)

    def _judged(self, feed: ReplayFeed, chain: Chain) -> None:
        feed.loading = False
        feed.judged(chain)
        self._app.repaint()

    def about(self, request: RequestView) -> list[tuple[str, str]]:
        """Return what a signature on a request is bound to, as the request says it. In a thread."""
        data = self._blob(request.blob)
        try:
            found = msgspec.json.decode(data, type=_Request).about if data is not None else {}
        except msgspec.DecodeError:
            return []
        return [(visible(name, limit=60), visible(value, limit=300)) for name, value in sorted(found.items())]

    # -- what is stored ---------------------------------------------------------------------------------

    def _has_more(self, view: View, subject: Subject) -> bool:
        if subject.kind == "record":
            return subject.key.isdigit()
        if subject.kind in ("contents", "preview", "fallback"):
            return True
        return bool(blob_of(view, subject))

    def _read(self, detail: Detail, view: View) -> None:
        stored = self._stored(detail.subject, view)
        if stored is not None:
            self._app.call_from_thread(self._show, detail, stored)

    def _stored(self, subject: Subject, view: View) -> Stored | None:
        match subject.kind:
            case "contents":
                return self._notes(view)
            case "preview":
                return self._answers(view)
            case "fallback":
                return self._by_hand(view)
            case "record":
                title, data = "The line as it is stored", self._app.feed.record(int(subject.key))
            case _:
                title, data = "As it came over the wire", self._blob(blob_of(view, subject))
        return Stored(title, pretty(data) if data is not None else _GONE)

    def _show(self, detail: Detail, stored: Stored) -> None:
        if detail in self._app.screen_stack:
            detail.add(stored)

    def _notes(self, view: View) -> Stored:
        """Return the release notes: commits, pull requests, images, flags, migrations."""
        written = [one for one in view.state.artifacts if one.path.endswith("release_notes.md")]
        if not written:
            how = "A preview before that: cockpit run PLAN --preview"
            return Stored("Release notes", f"Not written yet: A41 writes them when the release begins. {how}")
        data = self._file(_NOTES) or self._file("release_notes.md")
        if data is None:
            return Stored("Release notes", "They are recorded, and not in this folder.")
        digest = hashlib.sha256(data).hexdigest()
        same = any(digest in one.sha256 for one in written)
        title = "Release notes, as recorded" if same else "Release notes, NOT AS RECORDED"
        return Stored(title, data.decode("utf-8", "replace"))

    def _by_hand(self, view: View) -> Stored | None:
        rollback = view.state.rollback
        if rollback is not None and rollback.fallback:
            return None
        title = "Exactly these commands, in this order"
        data = self._file(_FALLBACK)
        if data is not None:
            # Long ones are wrapped on the screen: the sign says where each begins.
            lines = [f"  $ {line}" for line in data.decode("utf-8", "replace").splitlines()]
            lines += ["", f"The same, one a line, to copy: cat {self._run_dir}/{_FALLBACK}"]
            return Stored(title, "\n".join(lines))
        how = f"cockpit status --fallback --run {self._run_dir or 'DIR'}"
        return Stored(title, f"They are not in this folder ({_FALLBACK}). Where the plan is: {how}")

    def _answers(self, view: View) -> Stored:
        """Return what the agents answered to PLAN, up to the moment shown."""
        title = "What agents answered to PLAN"
        if self._run_dir is None:
            return Stored(title, "There is no run folder to read them from.")
        answers: dict[tuple[str, str], str] = {}
        try:
            for seq, line in enumerate(read_lines(self._run_dir / JOURNAL_NAME)):
                if seq > view.state.seq:
                    break
                if b'"agent.answered' in line and b'"op":"PLAN"' in line:
                    _take(line, answers)
        except CockpitError as error:
            return Stored(title, f"The journal cannot be read: {error}")
        names = {one.entry.id: one.entry for one in view.state.agents}
        asked = {agent for _, agent in answers}
        lines: list[str] = []
        phase = ""
        for (at, agent), text in sorted(answers.items(), key=_by_phase):
            if at != phase:
                lines += [""] if lines else []
                lines.append(at)
                phase = at
            name = names[agent].name if agent in names else ""
            lines.append(f"  {agent:<4} {name}: {text}")
        later = [one for one in names.values() if one.required and one.id not in asked]
        if later:
            lines += ["", "Not asked yet"]
            lines += [f"  {one.id:<4} {one.name} ({', '.join(one.phases)})" for one in later]
        return Stored(title, "\n".join(lines) or "No agent was asked yet.")

    def _blob(self, digest: str) -> bytes | None:
        if self._run_dir is None or not digest:
            return None
        try:
            return BlobStore(self._run_dir / "blobs").get(digest)
        except CockpitError:
            return None

    def _file(self, name: str) -> bytes | None:
        if self._run_dir is None:
            return None
        try:
            with (self._run_dir / name).open("rb") as file:
                return file.read(_MOST_BYTES)
        except OSError:
            return None


class _Request(msgspec.Struct):
    about: dict[str, str] = {}


class _Answer(msgspec.Struct):
    agent: str
    phase: str
    result: str = ""
    notes: str = ""
    next: str = ""


def _take(line: bytes, answers: dict[tuple[str, str], str]) -> None:
    try:
        one = msgspec.json.decode(line, type=_Answer)
    except msgspec.DecodeError:
        return
    then = f" · next: {one.next}" if one.next and one.result != "ok" else ""
    said = one.notes if one.result == "ok" else f"{one.result}: {one.notes}{then}"
    answers[(visible(one.phase, limit=20), visible(one.agent, limit=20))] = visible(said, limit=600)


def _by_phase(item: tuple[tuple[str, str], str]) -> tuple[str, int]:
    (phase, agent), _ = item
    return phase, int(agent[1:]) if agent[1:].isdigit() else 0


def with_factors(plan: Planned | None, factors: tuple[float, ...]) -> Planned:
    """Return a plan's facts with other burn rates at which the alert fires."""
    return replace(plan or Planned(), factors=factors)
