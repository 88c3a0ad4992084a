"""The stops of a run: each rollback begun since the release last went forward, and what followed it.

A resumed conductor begins an abort again; that is the same stop. One that comes after another step was begun,
or after the release was out, is the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cockpit.journal.events import AnyEvent, Released, RollbackStarted, StepStarted
from cockpit.journal.events_people import HardStopStage


@dataclass
class StopSeen:
    """A stop: `number` counts from 1, `since` is the record from which on what led to it is to be told."""

    number: int
    since: int
    began: RollbackStarted
    stages: dict[str, HardStopStage] = field(default_factory=dict)
    open: bool = True
    """Whether the release has not gone forward since."""

    @property
    def done(self) -> frozenset[str]:
        """The stages of seed section 8 that are recorded as done."""
        return frozenset(name for name, stage in self.stages.items() if stage.ok)


class Stops:
    """Takes a journal in, record by record."""

    def __init__(self) -> None:
        self.all: list[StopSeen] = []
        self._forward = True
        self._since = 0

    def take_all(self, events: Iterable[AnyEvent]) -> None:
        """Take in records, in their order."""
        for event in events:
            self.take(event)

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        if isinstance(event, StepStarted):
            # A promotion is told from its first step on.
            self._since = event.seq if event.step == 1 or not self._since else self._since
            self._went_on()
        elif isinstance(event, Released):
            self._since = event.seq
            self._went_on()
        elif isinstance(event, RollbackStarted):
            if self._forward:
                self.all.append(StopSeen(len(self.all) + 1, self._since, event))
            self._forward = False
        elif isinstance(event, HardStopStage) and self.all:
            self.all[-1].stages[event.stage] = event

    def _went_on(self) -> None:
        self._forward = True
        if self.all:
            self.all[-1].open = False

    @property
    def last(self) -> StopSeen | None:
        """The last stop, if there was one."""
        return self.all[-1] if self.all else None
