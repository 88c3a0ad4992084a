"""The demo platform's history, v2.9.0 to v3.0.0: the same commits, with the same ids, each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cockpit.rehearsal.forge import files
from cockpit.rehearsal.forge.files import Files
from cockpit.rehearsal.forge.objects import Author, ObjectStore

BASE_REF, FROM_REF, TO_REF = "v2.9.0", "v2.9.4", "v3.0.0"
MAIN = "main"

_BEGIN = datetime(2025, 8, 4, 9, 0, tzinfo=UTC)
_ANN = Author("Ann Example", "ann@rehearsal.invalid")
_BOB = Author("Bob Example", "bob@rehearsal.invalid")
_CHI = Author("Chi Example", "chi@rehearsal.invalid")


@dataclass(frozen=True)
class _Step:
    author: Author
    message: str
    changes: Files = field(default_factory=dict)
    tag: str = ""


@dataclass(frozen=True)
class Forge:
    """The repository that was made: its path, and the commit behind each tag."""

    path: Path
    tags: Mapping[str, str]

    @property
    def candidate(self) -> str:
        """Return the commit of v3.0.0, which the candidate images are built from."""
        return self.tags[TO_REF]

    @property
    def stable(self) -> str:
        """Return the commit of v2.9.4, which runs in prod."""
        return self.tags[FROM_REF]


def _note(service: str, text: str) -> Files:
    return {f"services/{service}/NOTES.md": f"{text}\n".encode()}


def _steps() -> list[_Step]:
    return [
        _Step(_ANN, "chore: the platform as of v2.9.0", files.base(), BASE_REF),
        _Step(_BOB, "fix(web): show the error a search ended with (#372)", _note("web", "Errors are shown.")),
        _Step(_CHI, "fix(ingest): refuse items without an id (#377)", _note("ingest", "Ids are required.")),
        _Step(_ANN, "chore(release): v2.9.4 (#380)", files.versions(FROM_REF), FROM_REF),
        _Step(
            _BOB,
            "feat(search): rank answers by recency (#401)\n\nTies are broken by the item's sequence number.",
            _note("search", "Answers are ranked by recency."),
        ),
        _Step(
            _CHI,
            "feat(realtime)!: resume streams by sequence number (#405)\n\n"
            "BREAKING CHANGE: clients that reconnect must send `since`; the old cursor is no longer read.",
            _note("realtime", "Streams resume with ?since=<sequence number>."),
        ),
        _Step(
            _ANN,
            "fix(gateway): no longer drop one request in two thousand (#407)\n\nFixes #398",
            _note("gateway", "Connections are drained before they are closed."),
        ),
        _Step(
            _BOB,
            "feat(reports): render weekly reports from saved queries (#410)",
            _note("reports", "Weekly reports."),
        ),
        _Step(_CHI, "perf(ingest): write items in batches (#412)", _note("ingest", "Items are batched.")),
        _Step(_ANN, "feat(db): add items.tenant_key (expand) (#415)", files.migration(1, "expand")),
        _Step(
            _ANN,
            "feat(db): fill items.tenant_key in batches (backfill) (#416)",
            files.migration(2, "backfill"),
        ),
        _Step(
            _ANN,
            "feat(db): read items by tenant_key (cutover, contract later) (#418)\n\n"
            "The old column is dropped seven days after the release.",
            {**files.migration(3, "cutover"), **files.migration(4, "contract"), **files.migration_plan()},
        ),
        _Step(_CHI, "feat(contracts): item-created carries the tenant (#419)", files.contracts_after()),
        _Step(
            _BOB,
            "docs(runbooks): what to do when streams lag (#420)",
            {"runbooks/realtime-lag.md": files.RUNBOOK},
        ),
        _Step(
            _CHI,
            "ci(release): sign images and attest their provenance (#423)",
            {".github/workflows/release.yml": files.WORKFLOW},
        ),
        _Step(
            _BOB,
            "fix(web): keep the reader's place after a reload (#426)\n\nCloses #399",
            _note("web", "The reader's place is kept."),
        ),
        _Step(_ANN, "chore(release): v3.0.0 (#430)", files.versions(TO_REF), TO_REF),
    ]


def make_repository(path: Path, *, released: bool = True) -> Forge:
    """Write the bare repository at `path` and return it; the same bytes each time.

    Not `released`, v3.0.0 is the head of `main` and its tag is still to be cut.
    """
    store = ObjectStore(path)
    content: Files = {}
    parents: list[str] = []
    tags: dict[str, str] = {}
    when = _BEGIN
    for step in _steps():
        content |= step.changes
        commit = store.commit(store.tree(content), parents, step.author, when, step.message)
        parents = [commit]
        if step.tag:
            tags[step.tag] = commit
        if step.tag and (released or step.tag != TO_REF):
            store.tag(step.tag, commit, step.author, when, f"Release {step.tag}")
        when += timedelta(days=2, hours=3, minutes=17)
    store.ref(f"refs/heads/{MAIN}", parents[0])
    return Forge(path, tags)
