"""What is said to the outside, before it has a shape: a text in parts, what it is about, of which release."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from cockpit.base.text import visible

Style = Literal["plain", "bold", "code", "outside"]
Severity = Literal["info", "warning", "critical"]
Status = Literal["firing", "acknowledged", "resolved"]

_MAX_PART = 1000
_SOURCE = "https://release-cockpit.dev/releases/"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a text. `outside`: it came from outside and is never taken for markup in any shape."""

    text: str
    style: Style = "plain"


def markdown(parts: tuple[Part, ...]) -> str:
    """Return a text as the seed writes it: `**bold**`, backticks for code; outside text as it is."""
    marks = {"bold": "**", "code": "`"}
    return "".join(
        f"{marks.get(part.style, '')}{visible(part.text, limit=_MAX_PART)}{marks.get(part.style, '')}"
        for part in parts
    )


def plain(parts: tuple[Part, ...]) -> str:
    """Return a text without any markup."""
    return "".join(visible(part.text, limit=_MAX_PART) for part in parts)


@dataclass(frozen=True, slots=True)
class ServiceFact:
    """A service of the release: the image it is given, and the one it had (empty: not known)."""

    name: str
    image: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """Which release and run a message is of."""

    run_id: str
    repo: str
    version: str
    environment: str = "prod"
    rehearsal: bool = False
    services: tuple[ServiceFact, ...] = ()

    @property
    def source(self) -> str:
        """Return the URI that stands for all releases of this repository (CloudEvents' `source`)."""
        return f"{_SOURCE}{quote(self.repo, safe='')}"

    @property
    def link(self) -> str:
        """Return the URI that stands for this run."""
        return f"{self.source}/{quote(self.run_id, safe='')}"


@dataclass(frozen=True, slots=True)
class Alert:
    """A matter that has a beginning and an end, for receivers that keep alerts open.

    `matter` names it within the run; with the run's id it identifies the alert, so the same matter told twice
    is one alert. `since` is RFC 3339; `severity` belongs to the matter and never changes with its status.
    """

    matter: str
    name: str
    severity: Severity
    status: Status
    since: str

    def dedup(self, about: About) -> str:
        """Return the key of the alert: equal for its beginning, acknowledgement and end."""
        return f"{about.run_id}:{self.matter}"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened, as CDEvents knows it: `subject.predicate`, e.g. `service.deployed`.

    `content` is the subject's content of that event type; `name` tells several of one message apart.
    """

    type: str
    subject: str
    content: dict[str, object]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `key` is the same at each attempt at it and `at` is when it first was to be sent.

    `alerts` are for receivers that keep alerts open (the first is what the message is about, others are ended
    by it); `occurrences` for receivers of CDEvents. A receiver whose shape has nothing to say gets nothing.
    """

    key: str
    kind: str
    parts: tuple[Part, ...]
    about: About
    at: str
    step: int = 0
    weight: int = 0
    gate: str = ""
    trace_id: str = ""
    alerts: tuple[Alert, ...] = ()
    occurrences: tuple[Occurrence, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    """More that a person may want to see, by name."""

    @property
    def text(self) -> str:
        """Return the text as the seed writes it."""
        return markdown(self.parts)
