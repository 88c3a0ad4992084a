"""What the panes paint: one frozen view of the run, made at most ten times a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from cockpit.control.keys import Keys
from cockpit.journal.projection import Projection
from cockpit.journal.standing import Standing, standing
from cockpit.journal.state import ReleaseState
from cockpit.screens.look import seconds_of, span
from cockpit.screens.planned import Planned

Mode = Literal["live", "follow", "replay"]
Checked = Literal["as read", "unverified", "verified", "not closed", "broken"]


@dataclass(frozen=True, slots=True)
class Chain:
    """How far the journal can be trusted: `as read` (live: each link is checked as it comes), or the verdict.

    `not closed`: whole as far as it goes, but its end is missing or was never written.

    `seq` is the first record that cannot be trusted when broken.
    """

    checked: Checked = "as read"
    seq: int = -1
    text: str = ""

    @property
    def verdict(self) -> str:
        """What to call a break: at which record, when it is at one (else a head or the end is wrong)."""
        return f"BROKEN AT #{self.seq}" if self.seq >= 0 else "BROKEN"


@dataclass(frozen=True, slots=True)
class Sent:
    """A command on its way: what was sent, how long ago (seconds), and what went wrong, if anything."""

    kind: str
    age: float
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """What this screen can do to the release. `reason` says why it cannot, when it cannot."""

    control: bool = False
    reason: str = "this screen was opened without control"
    attached: bool = False
    alone: float = 0.0
    """Seconds for which no conductor has answered."""
    sent: tuple[Sent, ...] = ()
    run_dir: str = ""


@dataclass(frozen=True, slots=True)
class Playback:
    """Where a replay stands; times in Unix seconds."""

    position: int
    length: int
    begin: float
    finish: float
    playing: bool
    speed: float
    loading: bool = False

    @property
    def speed_word(self) -> str:
        """The speed as people write it."""
        return "max" if math.isinf(self.speed) else f"{self.speed:g}×"


Role = Literal["bad", "warn", "good", "busy"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to know: a line for the banner, more for the list. `banner` false: the list only."""

    role: Role
    text: str
    more: tuple[str, ...] = ()
    banner: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """Everything a pane may look at. `now` is Unix seconds: the wall clock, or the moment replayed."""

    state: ReleaseState
    projection: Projection
    now: float
    mode: Mode = "live"
    chain: Chain = field(default_factory=Chain)
    desk: Desk = field(default_factory=Desk)
    playback: Playback | None = None
    plan: Planned = field(default_factory=Planned)
    """The plan's facts; empty when it cannot be read."""
    keys: Keys = field(default_factory=Keys)
    """The keys in force."""
    trouble: str = ""
    """Why the journal cannot be read at present."""
    stands: Standing = field(init=False)
    """Where the run stands at the moment shown, as `cockpit status` says it."""

    def __post_init__(self) -> None:
        """Work out where the run stands, once for all panes."""
        object.__setattr__(self, "stands", standing(self.state, self.moment))

    @property
    def factors(self) -> tuple[float, ...]:
        """Burn rates at which the alert fires."""
        return self.plan.factors

    @property
    def moment(self) -> datetime:
        """The moment shown."""
        try:
            return datetime.fromtimestamp(self.now, UTC)
        except (OverflowError, ValueError, OSError):
            return datetime.max.replace(tzinfo=UTC)

    def age(self, at: str) -> str:
        """Return how old something recorded at `at` is, in words; `no data` when there is none."""
        moment = seconds_of(at)
        return "no data" if moment is None else f"{span(self.now - moment)} ago"
